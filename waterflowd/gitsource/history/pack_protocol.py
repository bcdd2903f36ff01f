"""The protocol between the daemon and the process that writes packs: one request, one response, as msgpack."""

from __future__ import annotations

import msgspec


class PackRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Write what is reachable from `wants` and not from `haves`: commits and tags, or trees if it is for shallow checkouts."""

    #: The object directory of the repository.
    objects: str
    #: The directory that gets the packs.
    target: str
    #: This commit must exist.
    revision: str
    #: Whether `wants` and `haves` are trees, so that no commit is written.
    is_shallow: bool = False
    #: Commits and tags that do not exist are ignored.
    wants: tuple[str, ...]
    #: What earlier packs have.
    haves: tuple[str, ...] = ()
    #: The commits whose parents do not exist.
    shallow: tuple[str, ...] = ()
    #: Of all packs together.
    bytes_max: int
    time_s: float


class PackFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was written: its name, and its Git id and size as a file."""

    name: str
    blob: bytes
    size: int


class Packed(msgspec.Struct, frozen=True, kw_only=True, tag="packed"):
    """The packs and their indexes; none if there was nothing to write."""

    files: tuple[PackFile, ...]
    objects: int


class PackFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """Why nothing was written: a code of `reconcile.codes`, and a message."""

    code: str
    text: str
    #: True if it may succeed later.
    is_retryable: bool = True


PackResponse = Packed | PackFailed
