"""The list of a tree's files, as the daemon sends it and the agent checks it. Pure.

On the wire it is a msgpack array of entries `[path, kind, blob]` in the order of the paths. `decode` refuses every path that
could leave the directory, so only its result may be used to write files. Only the daemon itself adds files of `.git`, which
have a kind of their own: a tree never contains any.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import msgspec

from waterflow_agent.errors import Rejected

#: Files in one tree; the largest public repositories have a few times as many.
FILES_MAX = 200_000
#: Of the encoded list: enough for `FILES_MAX` paths of 100 bytes.
BYTES_MAX = 32 << 20
#: The limit of Linux, less the path of the working directory.
PATH_BYTES_MAX = 3_000
#: Of one file in a repository. The daemon has the whole file in memory, as Git stores it.
FILE_BYTES_MAX = 64 << 20
#: Of one file in Git LFS, which is never in memory as a whole. GitHub stores 5 GB at most.
LARGE_FILE_BYTES_MAX = 5 << 30
BLOB_ID_BYTES = 20
GIT_DIRECTORY = b".git/"
_UNSAFE_PARTS = frozenset({b"", b".", b"..", b".git"})


class FileKind(IntEnum):
    """The kind of a path."""

    FILE = 0
    EXECUTABLE = 1
    #: Its content is the target of the link.
    LINK = 2
    #: An empty directory in place of another repository. Its blob is the other repository's commit, or empty.
    SUBMODULE = 3
    #: A file of the directory `.git` that a checkout with history has.
    GIT = 4


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """One path of a tree, relative to its root, with `/` between its parts."""

    path: bytes
    kind: FileKind
    #: The Git id of the content: SHA-1 of `blob SIZE\\0` and the content.
    blob: bytes
    #: The Git id that the commit has in its place: that of the pointer, for a file in Git LFS; empty if it is the same.
    pointer: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[FileEntry])


def encode(entries: Iterable[FileEntry]) -> bytes:
    """Encodes a list."""
    return _encoder.encode(list(entries))


def decode(content: bytes | bytearray) -> list[FileEntry]:
    """Decodes a list. Raises `Rejected` WF750 for an invalid list, and for a path that is not allowed."""
    try:
        entries = _decoder.decode(content)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Rejected("WF750", f"the server sent an invalid list of files: {error}") from error
    for entry in entries:
        if not _is_allowed(entry):
            raise Rejected(
                "WF750", f"the server sent a list of files with a path that is not allowed: {entry.path!r:.200}"
            )
    return entries


def _is_allowed(entry: FileEntry) -> bool:
    if entry.kind is not FileKind.SUBMODULE and len(entry.blob) != BLOB_ID_BYTES:
        return False
    if entry.pointer and len(entry.pointer) != BLOB_ID_BYTES:
        return False
    if entry.kind is FileKind.GIT:
        root = git_root(entry.path)
        return root is not None and is_safe(root + entry.path[len(root) + len(GIT_DIRECTORY) :])
    return is_safe(entry.path)


def git_root(path: bytes) -> bytes | None:
    """The directory of a work tree, with a slash at its end unless it is the root, for a file of its `.git`; else None."""
    before, git, after = (b"/" + path).partition(b"/" + GIT_DIRECTORY)
    return (before + b"/")[1:] if git and after else None


def is_safe(path: bytes) -> bool:
    """Whether a path stays below its directory, and does not belong to Git itself."""
    return b"\0" not in path and len(path) <= PATH_BYTES_MAX and _UNSAFE_PARTS.isdisjoint(path.split(b"/"))
