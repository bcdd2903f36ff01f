"""The addresses in `source` and `destination`.

Names are used as they are: nothing is percent-decoded. `http` URLs are passed on unchanged.
"""

from __future__ import annotations

import datetime
from enum import Enum
from urllib.parse import urlsplit

import msgspec

from waterflow_agent.nodes.node import NodeFailure

_KNOWN = "a local path, s3://bucket/key, sftp://user@host/path, https://host/path, or repo:path"


class AddressKind(Enum):
    """The kinds of sources and targets."""

    LOCAL = "local"
    #: Inside the job's working directory, which contains the files of the repository.
    REPOSITORY = "repo"
    S3 = "s3"
    SFTP = "sftp"
    WEB = "http"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A source or target. `path` is the local path, the key, the path on the server, or a whole http URL."""

    kind: AddressKind
    path: str
    #: The bucket or the server.
    host: str = ""
    port: int | None = None
    user: str | None = None

    def __str__(self) -> str:
        """For messages: an http URL without login, query and fragment, which may be secrets."""
        match self.kind:
            case AddressKind.LOCAL:
                return self.path
            case AddressKind.REPOSITORY:
                return f"repo:{self.path}"
            case AddressKind.S3:
                return f"s3://{self.host}/{self.path}"
            case AddressKind.WEB:
                parts = urlsplit(self.path)
                return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"sftp://{'' if self.user is None else f'{self.user}@'}{host}{port}{self.path}"


def fill(text: str, now: datetime.datetime) -> str:
    """Replace `{date}` (2026-01-31) and `{time}` (235959) by this time, which is in UTC."""
    return text.replace("{date}", now.strftime("%Y-%m-%d")).replace("{time}", now.strftime("%H%M%S"))


def parse(text: str, name: str) -> Address:
    """Parse the value of the parameter `name`. Raises `NodeFailure`."""
    if "\0" in text:
        raise NodeFailure(f"{name}: contains a NUL character")
    scheme, separator, rest = text.partition("://")
    if not separator:
        if text.startswith("repo:"):
            return Address(kind=AddressKind.REPOSITORY, path=text.removeprefix("repo:").lstrip("/"))
        return Address(kind=AddressKind.LOCAL, path=text)
    match scheme.lower():
        case "s3":
            return _s3(rest, name)
        case "sftp":
            return _sftp(text, name)
        case "http" | "https":
            return Address(kind=AddressKind.WEB, path=text, host=_split(text, name)[0])
    raise NodeFailure(f'{name}: unknown scheme "{scheme}://"; expected {_KNOWN}')


def _s3(rest: str, name: str) -> Address:
    bucket, _, key = rest.partition("/")
    if not bucket or "@" in bucket or ":" in bucket:
        raise NodeFailure(f"{name}: expected s3://bucket/key")
    return Address(kind=AddressKind.S3, host=bucket, path=key)


def _sftp(text: str, name: str) -> Address:
    # The path is not parsed, because no character is special in it.
    authority, slash, path = text.partition("://")[2].partition("/")
    host, port, user, has_password = _split(f"sftp://{authority}/", name)
    if has_password:
        raise NodeFailure(f"{name}: do not put a password into the address; use the parameter password with a secret")
    if not slash or not path:
        raise NodeFailure(f"{name}: expected sftp://[user@]host[:port]/path")
    return Address(kind=AddressKind.SFTP, host=host, port=port, user=user, path=f"/{path}")


def _split(text: str, name: str) -> tuple[str, int | None, str | None, bool]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NodeFailure(f"{name}: invalid URL") from None
    if not host:
        raise NodeFailure(f"{name}: the URL has no host")
    return host, port, parts.username, parts.password is not None
