"""Parses the URLs of repositories, and refuses those that are never opened.

A URL is parsed here, when the configuration is read, and never handed to a program or a library as a whole: a local path is
opened in place; https, ssh (as a URL or as `user@host:path`) and git are remotes. Everything else is refused, in particular the
dangerous forms (`ext::`, options, control characters). Secrets do not belong in a URL, because URLs are displayed.
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
#: No leading hyphen: ssh would take it for an option.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")


class RemoteUrl(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed URL of a remote repository; all parts are safe to pass on. Holds no secret."""

    scheme: Scheme
    #: A name or an address, without brackets.
    host: str
    port: int
    #: For ssh; empty for the default.
    user: str = ""
    #: As it is sent to the server: absolute, or for ssh relative to the user's home directory.
    path: str

    @property
    def authority(self) -> str:
        """`host`, or `host:port` if the port is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def full_name(url: str, name: str) -> str:
    """The owner and name of a remote, as its address has them: `acme/shop`. For a local repository its configured `name`."""
    try:
        found = parse(url, allow_http=True)
    except Rejected:
        return name
    if isinstance(found, Path):
        return name
    return found.path.strip("/").removesuffix(".git") or name


def parse(url: str, relative_to: Path | None = None, *, allow_http: bool = False) -> Path | RemoteUrl:
    """The local path or the remote of a repository's `url`; raises `Rejected` WF502 for every other form.

    A relative path is relative to `relative_to` (the configuration file's folder), and refused without it.
    """
    if not url or not url.isprintable():
        raise _refused(url, "it is empty or has characters that are not printable")
    if url.startswith("-"):
        raise _refused(url, "it looks like an option")
    if _HELPER.match(url):
        raise _refused(url, "remote helpers such as ext:: run programs and are not supported")
    scheme = _SCHEME.match(url)
    if scheme is not None:
        return _remote(url, scheme[1].lower(), url[scheme.end() :], allow_http)
    scp_like = _SCP_LIKE.fullmatch(url)
    if scp_like is not None:
        return _ssh_like_scp(url, scp_like)
    path = Path(url)
    if not path.is_absolute():
        if relative_to is None:
            raise _refused(url, "a local path must be absolute")
        path = relative_to / path
    return path


def local_path(url: str, relative_to: Path | None = None) -> Path:
    """The path of a local repository's `url`; raises `Rejected` WF502 for everything else."""
    parsed = parse(url, relative_to)
    if isinstance(parsed, RemoteUrl):
        raise _refused(url, "it is not a local path")
    return parsed


def _remote(url: str, name: str, rest: str, allow_http: bool) -> RemoteUrl:
    if name == "file":
        raise _refused(url, "write the path without file://")
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise _refused(url, "unsupported scheme; use https, ssh, git or a local path")
    authority, slash, path = rest.partition("/")
    found = _AUTHORITY.fullmatch(authority)
    if found is None or "?" in rest or "#" in rest:
        raise _refused(url, f"expected {name}://host/path")
    user, host, port = found[1], found[2].strip("[]"), found[3]
    _check_user(url, scheme, user)
    _check_host(url, host)
    if scheme == "http" and not allow_http:
        raise _refused(url, "http exposes the code and the credentials to the network; use https")
    if port is not None and not 0 < int(port or 0) < 65_536:
        raise _refused(url, "its port is invalid")
    if not path.strip("/"):
        raise _refused(url, "it has no path to a repository")
    return RemoteUrl(
        scheme=scheme,
        host=host,
        port=int(port) if port else PORTS[scheme],
        user=user or "",
        # For https the path stays percent-encoded as written; the other schemes send it decoded.
        path=slash + path if scheme in ("https", "http") else _checked_path(url, unquote(slash + path)),
    )


def _ssh_like_scp(url: str, found: re.Match[str]) -> RemoteUrl:
    user, host, path = found[1], found[2].strip("[]"), found[3]
    _check_user(url, "ssh", user)
    _check_host(url, host)
    if not path.strip("/"):
        raise _refused(url, "it has no path to a repository")
    return RemoteUrl(scheme="ssh", host=host, port=22, user=user or "", path=_checked_path(url, path))


def _check_user(url: str, scheme: Scheme, user: str | None) -> None:
    if user is None:
        return
    if ":" in user:
        advice = (
            "use ssh-key-file"
            if scheme == "ssh"
            else "put user:password into a file with mode 0600 and set credentials-file"
        )
        raise _refused(url, f"a password in a URL is visible to everybody; remove it and {advice}")
    if scheme != "ssh":
        text = "a user in a URL may be a token; remove it, put user:token into a file with mode 0600 and set credentials-file"
        raise _refused(url, text)
    if not _USER.fullmatch(user):
        raise _refused(url, "its user is invalid")


def _check_host(url: str, host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise _refused(url, "its host is invalid") from None


def _checked_path(url: str, path: str) -> str:
    if not path.isprintable():
        raise _refused(url, "its path has characters that are not printable")
    if path.startswith("-"):
        raise _refused(url, "its path looks like an option")
    return path


def without_secrets(url: str) -> str:
    """The URL for display: without credentials; only an ssh user without a password is kept."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        before, at, rest = url.partition("@")
        return rest if at and ":" in before and "/" not in before else url
    authority, slash, path = url[scheme.end() :].partition("/")
    user, at, host = authority.rpartition("@")
    if at and (_SCHEMES.get(scheme[1].lower()) != "ssh" or ":" in user):
        return f"{scheme[0]}{host}{slash}{path}"
    return url


def _refused(url: str, problem: str) -> Rejected:
    return Rejected(
        codes.URL_REFUSED, f'url "{escape_for_display(without_secrets(url))}": {problem}', where="url", status=422
    )
