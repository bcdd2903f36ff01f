"""Where a transfer begins or ends, as it stands in `source` and `destination`.

Names are taken as they are: nothing is percent-decoded, except by the server of an `http` address, which is passed on
untouched.
"""

from __future__ import annotations

import datetime
from enum import Enum
from urllib.parse import urlsplit

import msgspec

from waterflow_agent.nodes.node import NodeFailure

_KNOWN = "a local path, s3://bucket/key, sftp://user@host/path, https://host/path, or repo:path"


class AddressKind(Enum):
    """What kind of place."""

    LOCAL = "local"
    #: Below the job's working directory, which has the repository's files.
    REPOSITORY = "repo"
    S3 = "s3"
    SFTP = "sftp"
    WEB = "http"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One place. `path` is the local path, the key, the path on the server, or the whole of an http address."""

    kind: AddressKind
    path: str
    #: The bucket or the server.
    host: str = ""
    port: int | None = None
    user: str | None = None

    def __str__(self) -> str:
        """As people may see it: an http address without its login, query and fragment, any of which may be a secret."""
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
    """`text` with `{date}` (2026-01-31) and `{time}` (235959) of this instant, which is in UTC."""
    return text.replace("{date}", now.strftime("%Y-%m-%d")).replace("{time}", now.strftime("%H%M%S"))


def parse(text: str, name: str) -> Address:
    """The address that the parameter `name` gives. Raises `NodeFailure`."""
    if "\0" in text:
        raise NodeFailure(f"{name}: it has a NUL character in it")
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
    raise NodeFailure(f'{name}: "{scheme}://" is not known; expected {_KNOWN}')


def _s3(rest: str, name: str) -> Address:
    bucket, _, key = rest.partition("/")
    if not bucket or "@" in bucket or ":" in bucket:
        raise NodeFailure(f"{name}: expected s3://bucket/key")
    return Address(kind=AddressKind.S3, host=bucket, path=key)


def _sftp(text: str, name: str) -> Address:
    # Nothing in a path is special, so it does not go through the parser of addresses.
    authority, slash, path = text.partition("://")[2].partition("/")
    host, port, user, has_password = _split(f"sftp://{authority}/", name)
    if has_password:
        raise NodeFailure(f"{name}: a password does not belong into the address; use password, with a secret")
    if not slash or not path:
        raise NodeFailure(f"{name}: expected sftp://[user@]host[:port]/path")
    return Address(kind=AddressKind.SFTP, host=host, port=port, user=user, path=f"/{path}")


def _split(text: str, name: str) -> tuple[str, int | None, str | None, bool]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NodeFailure(f"{name} is no address") from None
    if not host:
        raise NodeFailure(f"{name}: the address names no server")
    return host, port, parts.username, parts.password is not None
