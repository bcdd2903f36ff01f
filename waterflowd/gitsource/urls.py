"""Which repository urls this version opens.

A local path is opened in place. Every other form is refused when the configuration is read, so that nothing is ever handed
to a transport: the forms that are planned with a sentence that says so, and the dangerous ones (`ext::`, options) for good.
"""

from __future__ import annotations

import re
from pathlib import Path

from waterflowd.errors import Rejected
from waterflowd.reconcile import codes
from waterflowd.reconcile.shown import shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLANNED = frozenset({"https", "http", "ssh", "git", "git+ssh", "ssh+git"})
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*::")
#: `user@host:path` and `host:path`, as Git reads it: a colon before the first slash.
_SCP_LIKE = re.compile(r"[^/]+:.*")


def local_path(url: str, relative_to: Path | None = None) -> Path:
    """The path that a repository's `url` names; raises `Rejected` WF501 or WF502 for everything that is no local path.

    A relative path counts from `relative_to` (the configuration file's folder), and is refused without it.
    """
    if not url or not url.isprintable():
        raise _refused(url, "it is empty or holds characters that do not print")
    if url.startswith("-"):
        raise _refused(url, "it looks like an option")
    if _HELPER.match(url):
        raise _refused(url, "remote helpers such as ext:: run programs, and are never used")
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1].lower() == "file":
        raise _refused(url, "write the path itself, without file://")
    if scheme is not None and scheme[1].lower() not in _PLANNED:
        raise _refused(url, "nobody knows this kind of url")
    if scheme is not None or _SCP_LIKE.fullmatch(url):
        text = f'url "{shown(_without_password(url))}": remote repositories are known, not built yet; name a local path'
        raise Rejected(codes.URL_NOT_BUILT, text, where="url", status=422)
    path = Path(url)
    if not path.is_absolute():
        if relative_to is None:
            raise _refused(url, "a local path begins with /")
        path = relative_to / path
    return path


def _refused(url: str, why: str) -> Rejected:
    return Rejected(codes.URL_REFUSED, f'url "{shown(_without_password(url))}": {why}', where="url", status=422)


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)
