"""The list of a tree's files, as the daemon sends it and an agent checks it. Pure.

On the wire it is a msgpack array of entries `[path, kind, blob]` in the order of the paths. A list is no path's proof: whoever
writes files by one takes it from `decode`, which refuses whatever could stand outside of the directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import msgspec

from waterflow_agent.errors import Rejected

#: Files of one tree; the largest repositories of the world have a few times as many.
FILES_MAX = 200_000
#: Of the encoded list: files with paths of 100 bytes.
BYTES_MAX = 32 << 20
#: As long as Linux takes them, less what stands before them.
PATH_BYTES_MAX = 3_000
#: Of one file. It is in the daemon's memory as a whole, as Git keeps it.
FILE_BYTES_MAX = 64 << 20
BLOB_ID_BYTES = 20
_UNSAFE_PARTS = frozenset({b"", b".", b"..", b".git"})


class FileKind(IntEnum):
    """What stands at a path."""

    FILE = 0
    EXECUTABLE = 1
    #: Its content is where it leads.
    LINK = 2
    #: An empty directory, where another repository would be.
    SUBMODULE = 3


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """One path of a tree, relative to its root, with `/` between its parts."""

    path: bytes
    kind: FileKind
    #: The Git id of the content: SHA-1 of `blob SIZE\\0` and the content. Of a submodule nothing.
    blob: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[FileEntry])


def encode(entries: Iterable[FileEntry]) -> bytes:
    """The list's bytes."""
    return _encoder.encode(list(entries))


def decode(content: bytes | bytearray) -> list[FileEntry]:
    """The entries. Raises `Rejected` WF750 for what is no list, and for a path that may not be."""
    try:
        entries = _decoder.decode(content)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Rejected("WF750", f"the server sent a list of files that cannot be read: {error}") from error
    for entry in entries:
        if not is_safe(entry.path) or (entry.kind is not FileKind.SUBMODULE and len(entry.blob) != BLOB_ID_BYTES):
            raise Rejected("WF750", f"the server sent a list of files with a path that may not be: {entry.path!r:.200}")
    return entries


def is_safe(path: bytes) -> bool:
    """Whether a path stays below the directory that it is relative to, and is none of Git's own."""
    return b"\0" not in path and len(path) <= PATH_BYTES_MAX and _UNSAFE_PARTS.isdisjoint(path.split(b"/"))
