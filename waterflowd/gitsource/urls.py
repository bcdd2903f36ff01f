"""Which repository urls are opened, and what they say.

A url is taken apart here, when the configuration is read, and never handed to a program or a library as a whole: a local
path is opened in place; https, ssh (as a url or like `user@host:path`) and git are remotes. Everything else is refused, the
dangerous forms (`ext::`, options, control characters) for good. Secrets do not belong into a url, because urls are shown.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

import msgspec

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.reconcile import codes

Scheme = Literal["https", "http", "ssh", "git"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMES: dict[str, Scheme] = {
    "https": "https",
    "http": "http",
    "ssh": "ssh",
    "git+ssh": "ssh",
    "ssh+git": "ssh",
    "git": "git",
}
PORTS: dict[Scheme, int] = {"https": 443, "http": 80, "ssh": 22, "git": 9418}
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*::")
#: `user@host:path` and `host:path`, as Git reads it: a colon before the first slash.
_SCP_LIKE = re.compile(r"(?:([^/@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^/:@\[\]]+):(.*)")
_AUTHORITY = re.compile(r"(?:(.*)@)?(\[[0-9A-Fa-f:.]+\]|[^:@\[\]]*)(?::([0-9]{0,5}))?")
#: No leading hyphen: it would be an option of ssh.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")


class RemoteUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A remote repository's place, in parts that are safe to hand on. Holds no secret."""

    scheme: Scheme
    #: A name or an address, without brackets.
    host: str
    port: int
    #: Of ssh; empty for the remote's own default.
    user: str = ""
    #: As the server gets it: absolute, or for ssh relative to the user's home directory.
    path: str

    @property
    def authority(self) -> str:
        """`host`, or `host:port` when the port is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse(url: str, relative_to: Path | None = None, *, allow_http: bool = False) -> Path | RemoteUrl:
    """The local path or the remote that a repository's `url` names; raises `Rejected` WF502 for every other form.

    A relative path counts from `relative_to` (the configuration file's folder), and is refused without it.
    """
    if not url or not url.isprintable():
        raise _refused(url, "it is empty or holds characters that do not print")
    if url.startswith("-"):
        raise _refused(url, "it looks like an option")
    if _HELPER.match(url):
        raise _refused(url, "remote helpers such as ext:: run programs, and are never used")
    scheme = _SCHEME.match(url)
    if scheme is not None:
        return _remote(url, scheme[1].lower(), url[scheme.end() :], allow_http)
    scp_like = _SCP_LIKE.fullmatch(url)
    if scp_like is not None:
        return _ssh_like_scp(url, scp_like)
    path = Path(url)
    if not path.is_absolute():
        if relative_to is None:
            raise _refused(url, "a local path begins with /")
        path = relative_to / path
    return path


def local_path(url: str, relative_to: Path | None = None) -> Path:
    """The path that the `url` of a local repository names; raises `Rejected` WF502 for everything else."""
    place = parse(url, relative_to)
    if isinstance(place, RemoteUrl):
        raise _refused(url, "it is no local path")
    return place


def _remote(url: str, name: str, rest: str, allow_http: bool) -> RemoteUrl:
    if name == "file":
        raise _refused(url, "write the path itself, without file://")
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise _refused(url, "nobody knows this kind of url; https, ssh, git and local paths are opened")
    authority, slash, path = rest.partition("/")
    found = _AUTHORITY.fullmatch(authority)
    if found is None or "?" in rest or "#" in rest:
        raise _refused(url, f"expected {name}://host/path")
    user, host, port = found[1], found[2].strip("[]"), found[3]
    _check_user(url, scheme, user)
    _check_host(url, host)
    if scheme == "http" and not allow_http:
        raise _refused(url, "http shows the code and the credentials to everybody on the way: use https")
    if port is not None and not 0 < int(port or 0) < 65_536:
        raise _refused(url, "its port is none")
    if not path.strip("/"):
        raise _refused(url, "it names no repository: a path is missing")
    return RemoteUrl(
        scheme=scheme,
        host=host,
        port=int(port) if port else PORTS[scheme],
        user=user or "",
        # For https the path stays escaped as it was written; the others send it as it is meant.
        path=slash + path if scheme in ("https", "http") else _checked_path(url, unquote(slash + path)),
    )


def _ssh_like_scp(url: str, found: re.Match[str]) -> RemoteUrl:
    user, host, path = found[1], found[2].strip("[]"), found[3]
    _check_user(url, "ssh", user)
    _check_host(url, host)
    if not path.strip("/"):
        raise _refused(url, "it names no repository: a path is missing")
    return RemoteUrl(scheme="ssh", host=host, port=22, user=user or "", path=_checked_path(url, path))


def _check_user(url: str, scheme: Scheme, user: str | None) -> None:
    if user is None:
        return
    if ":" in user:
        what = "use ssh-key-file" if scheme == "ssh" else "write user:password into a file with mode 0600 and name it"
        where = "" if scheme == "ssh" else " with credentials-file"
        raise _refused(url, f"a password in a url is shown to everybody: take it out, and {what}{where}")
    if scheme != "ssh":
        text = "a user in it may be a token: take it out, write user:token into a file with mode 0600 and name it with"
        raise _refused(url, f"{text} credentials-file")
    if not _USER.fullmatch(user):
        raise _refused(url, "its user is none")


def _check_host(url: str, host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise _refused(url, "its host is none") from None


def _checked_path(url: str, path: str) -> str:
    if not path.isprintable():
        raise _refused(url, "its path holds characters that do not print")
    if path.startswith("-"):
        raise _refused(url, "its path looks like an option")
    return path


def without_secrets(url: str) -> str:
    """The url for people: without whatever stands before the host, unless it is a user of ssh alone."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        before, at, rest = url.partition("@")
        return rest if at and ":" in before and "/" not in before else url
    authority, slash, path = url[scheme.end() :].partition("/")
    user, at, host = authority.rpartition("@")
    if at and (_SCHEMES.get(scheme[1].lower()) != "ssh" or ":" in user):
        return f"{scheme[0]}{host}{slash}{path}"
    return url


def _refused(url: str, why: str) -> Rejected:
    return Rejected(
        codes.URL_REFUSED, f'url "{escape_for_display(without_secrets(url))}": {why}', where="url", status=422
    )
