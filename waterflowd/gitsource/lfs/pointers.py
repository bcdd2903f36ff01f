"""Pointers of Git LFS: small text files in place of the contents. Blocking only where objects are read.

    version https://git-lfs.github.com/spec/v1
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
    size 12345

Rules of this file: whatever does not follow the specification is an ordinary file. Only sizes of larger files are read. A
repository without `filter=lfs` in a `.gitattributes` has no pointers, so it costs nothing to ask.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress

import msgspec

from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflowd.gitsource import objects
from waterflowd.gitsource.objects import ObjectStore

#: By the specification.
_POINTER_BYTES_MAX = 1_023
_ATTRIBUTES_BYTES_MAX = 1 << 20
_ATTRIBUTES = b".gitattributes"
_FILTER = re.compile(rb"(^|\s)filter=lfs(\s|$)", re.MULTILINE)
#: Lines of extensions have a key in between; the contents of such files would have to go through a program.
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,17})\n?"
)


class LargeFile(msgspec.Struct, frozen=True):
    """A content: its SHA-256 in hexadecimal, and its size."""

    oid: str
    size: int


def parse(content: bytes) -> LargeFile | None:
    """The content that a pointer names; None for any other file."""
    found = _POINTER.fullmatch(content)
    return LargeFile(found[1].decode("ascii"), int(found[2])) if found else None


def find(directory: str, entries: Sequence[FileEntry]) -> dict[bytes, LargeFile]:
    """The contents that the pointers among the files of a commit name, by path.

    Raises `Retryable` WF506 for a file that cannot be read.
    """
    with closing(ObjectStore(directory)) as store:
        if not _has_filter(store, entries):
            return {}
        files = (entry for entry in entries if entry.kind in (FileKind.FILE, FileKind.EXECUTABLE))
        read = ((entry, _read(store, entry, _POINTER_BYTES_MAX)) for entry in files)
        return {entry.path: large for entry, content in read if content is not None and (large := parse(content))}


def _has_filter(store: ObjectStore, entries: Iterable[FileEntry]) -> bool:
    """Whether attributes of the tree send any file through Git LFS."""
    return any(
        _FILTER.search(_read(store, entry, _ATTRIBUTES_BYTES_MAX) or b"")
        for entry in entries
        if entry.kind is FileKind.FILE and posixpath.basename(entry.path) == _ATTRIBUTES
    )


def _read(store: ObjectStore, entry: FileEntry, bytes_max: int) -> bytes | None:
    with suppress(objects.TooLarge):
        return store.read(entry.blob.hex(), bytes_max)[1]
    return None
