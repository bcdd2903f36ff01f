"""The protocol between the daemon and the process that fetches contents of Git LFS: one request, one response, as msgpack.

Rule of this file: secrets are only in the request, never in arguments or environment.
"""

from __future__ import annotations

import msgspec

from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.remote.fetch_protocol import RemoteCredentials
from waterflowd.gitsource.urls import RemoteUrl

#: What is being fetched has a name that begins with this.
PARTIAL_PREFIX = "tmp_"


def partial_name(oid: str) -> str:
    """The name of the file with what was fetched of a content so far."""
    return f"{PARTIAL_PREFIX}{oid}"


class TransferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Write these contents into a directory."""

    files: tuple[LargeFile, ...]
    #: The directory that gets the contents.
    target: str
    #: The remote; None for a repository on this machine.
    url: RemoteUrl | None = None
    credentials: RemoteCredentials = RemoteCredentials()
    #: Whether the remote may be on this machine.
    allow_loopback: bool = True
    #: The contents of a repository on this machine.
    source: str = ""
    time_s: float


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A content that was written: its SHA-256 and size, and its Git id as a file."""

    oid: str
    size: int
    blob: bytes

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.oid}.{self.blob.hex()}"


class Transferred(msgspec.Struct, frozen=True, kw_only=True, tag="transferred"):
    """All contents were written."""

    files: tuple[StoredFile, ...]


class TransferFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Why not all of them were: a code of `reconcile.codes`, and a message without secrets."""

    code: str
    text: str
    #: True if it may succeed later.
    is_retryable: bool = True
    #: The SHA-256 of the content that is the reason, if it is a single one.
    oid: str = ""


TransferResponse = Transferred | TransferFailed
