"""The protocol between the daemon and a fetch child: one request, one response, as msgpack; see `child_process`.

Rule of this file: secrets are only in the request, never in arguments or environment.
"""

from __future__ import annotations

import msgspec

from waterflowd.gitsource.urls import RemoteUrl


class HttpCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """User name and password or token for https."""

    user: str
    secret: str

    def __repr__(self) -> str:
        # The secret must not appear in a traceback or a log.
        return "HttpCredentials(...)"


class RemoteCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """How to authenticate to the remote and verify it. An empty path means none."""

    login: HttpCredentials | None = None
    ca_file: str = ""
    ssh_key_file: str = ""
    known_hosts_file: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one fetch."""

    time_s: float = 120.0
    pack_bytes: int = 1 << 30
    objects: int = 2_000_000
    #: For Python, its libraries and the index of a large pack; the pack itself is mapped and counts in addition.
    memory_bytes: int = 1 << 30


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One fetch: the remote's refs, and the objects of the watched ones."""

    url: RemoteUrl
    credentials: RemoteCredentials
    limits: Limits
    #: The object directory to which packs are added.
    objects: str
    #: The patterns of watched refs.
    patterns: tuple[str, ...]
    #: Whether to fetch all branches and tags with all of their commits, whatever the patterns are.
    has_history: bool = False
    #: Whether the remote may be on this machine.
    allow_loopback: bool = True
    #: Commits and tags that the mirror holds completely, so they are not requested.
    complete: tuple[str, ...] = ()
    #: Commits whose trees are complete, for the server to omit; `shallow` are those without their parents.
    commits: tuple[str, ...] = ()
    shallow: tuple[str, ...] = ()


class Fetched(msgspec.Struct, frozen=True, kw_only=True, tag="fetched"):
    """The remote's refs, and the fetched objects."""

    head_ref: str | None
    object_ids: dict[str, str]
    #: The requested commits and tags, and the commits that they lead to.
    complete: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    #: The commits that came without their parents.
    shallow: tuple[str, ...] = ()
    pack_bytes: int = 0
    objects: int = 0


class FetchFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Why the fetch failed: a code of `reconcile.codes`, and a message without secrets."""

    code: str
    text: str
    #: True if it may succeed later.
    is_retryable: bool = True


FetchResponse = Fetched | FetchFailed
