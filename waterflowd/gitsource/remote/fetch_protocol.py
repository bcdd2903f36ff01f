"""What the daemon and a fetch child say to each other: one request on the child's input, one answer on its output.

Rules of this file: a frame is its length as four bytes, big-endian, then msgpack. The child's input stays open behind the
request, and its end means that the daemon is gone. Secrets travel in the request alone, never in arguments or environment.
"""

from __future__ import annotations

import struct

import msgspec

from waterflowd.gitsource.urls import RemoteUrl

LENGTH = struct.Struct(">I")
#: A hundred thousand refs take some ten megabytes.
ANSWER_BYTES_MAX = 64 << 20


class HttpCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """Name and password or token for https."""

    user: str
    secret: str

    def __repr__(self) -> str:
        # A record that ends up in a traceback or a log tells nothing.
        return "HttpCredentials(...)"


class RemoteCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """How the remote is entered, and how it proves what it is. Empty paths stand for nothing."""

    login: HttpCredentials | None = None
    ca_file: str = ""
    ssh_key_file: str = ""
    known_hosts_file: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one fetch may take."""

    time_s: float = 120.0
    pack_bytes: int = 1 << 30
    objects: int = 2_000_000
    #: Python with its libraries, and room for the index of a large pack. The pack itself is mapped, and comes on top.
    memory_bytes: int = 1 << 30


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One fetch: the remote's refs, and what the watched ones lead to."""

    url: RemoteUrl
    credentials: RemoteCredentials
    limits: Limits
    #: The directory of objects that packs are added to.
    objects: str
    #: Which refs are watched, as configured.
    patterns: tuple[str, ...]
    #: Tips (commits and tags) whose content is there already, so they are not asked for.
    complete: tuple[str, ...] = ()
    #: Commits whose trees are complete here, for the server to leave them out; those without their parents are `shallow`.
    commits: tuple[str, ...] = ()
    shallow: tuple[str, ...] = ()


class Fetched(msgspec.Struct, frozen=True, kw_only=True, tag="fetched"):
    """The remote's refs, and what came."""

    head_ref: str | None
    object_ids: dict[str, str]
    #: Tips that were asked for and came, and the commits that they lead to.
    complete: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    #: Those of the commits that came without their parents.
    shallow: tuple[str, ...] = ()
    pack_bytes: int = 0
    objects: int = 0


class FetchFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Why nothing was fetched: a code of `reconcile.codes`, and one sentence without secrets."""

    code: str
    text: str
    #: True when it may work later by itself.
    is_retryable: bool = True


Answer = Fetched | FetchFailed


def encode_frame(payload: bytes) -> bytes:
    """The payload with its length in front."""
    return LENGTH.pack(len(payload)) + payload
