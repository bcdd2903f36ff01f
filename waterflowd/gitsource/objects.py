"""Reads objects of a repository by id, with a bound on their inflated size.

Theory: an object of a few kilobytes may inflate to gigabytes, directly or as a small delta against a huge base. Git objects
declare their size before their content, and a delta declares the sizes of its base and of its result. So the sizes along the
delta chain are read first, from a few bytes each, and dulwich inflates only what is within the bound.

Alternates of the repository are read as Git does: they are part of the repository, and no push can set them.
"""

from __future__ import annotations

import hashlib
import os
import struct
import traceback
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from dulwich.errors import ChecksumMismatch, ObjectFormatException
from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID, RawObjectID
from dulwich.pack import Pack, PackFileDisappeared, UnresolvedDeltas

from waterflow_agent.errors import Retryable
from waterflowd.reconcile import codes

COMMIT, TREE, BLOB, TAG = 1, 2, 3, 4
_OFFSET_DELTA, _REFERENCE_DELTA = 6, 7
_LOOSE_KINDS = {b"commit": COMMIT, b"tree": TREE, b"blob": BLOB, b"tag": TAG}
_NAMES = {kind: name for name, kind in _LOOSE_KINDS.items()}
#: Git itself creates chains of 50 deltas, and never more than 4,095.
_CHAIN_LENGTH_MAX = 4_096
#: A base may be larger than the result, within reason.
_BASE_BYTES_MAX = 64 << 20
#: As deep as Git follows them.
_ALTERNATES_DEPTH_MAX = 5
#: Enough for any header and the first bytes of the deflated stream.
_HEAD_BYTES = 256

#: What dulwich, zlib and the parsers raise for damaged content.
DAMAGE = (
    AssertionError,
    ChecksumMismatch,
    IndexError,
    ObjectFormatException,
    PackFileDisappeared,
    UnresolvedDeltas,
    ValueError,
    struct.error,
    zlib.error,
)


class TooLarge(Exception):
    """The object, or a delta base of it, is larger than the bound."""


class ObjectStore:
    """The objects of one repository. It belongs to one thread and must be closed."""

    def __init__(self, directory: str) -> None:
        self._store = DiskObjectStore(directory, loose_object_size_limit=_BASE_BYTES_MAX)
        self._stores = list(_with_alternates(self._store, 0))
        self._packs: list[Pack] | None = None

    def close(self) -> None:
        """Closes packs and files."""
        self._store.close()

    def read(self, object_id: str, bytes_max: int) -> tuple[int, bytes]:
        """Kind and content; `TooLarge` beyond the bound, `Retryable` WF506 if it is missing or damaged."""
        try:
            self._check_size(object_id, bytes_max)
            kind, content = self._store.get_raw(ObjectID(object_id.encode("ascii")))
        except KeyError as error:
            raise unreadable(object_id, "is missing") from error
        except DAMAGE as error:
            # The frames of the failed calls still refer to the pack, which could not be closed otherwise.
            traceback.clear_frames(error.__traceback__)
            raise unreadable(object_id, "is damaged") from error
        except OSError as error:
            # For example because another process is replacing the pack.
            raise unreadable(object_id, "cannot be read now") from error
        if _id_of(kind, content) != object_id:
            raise unreadable(object_id, "is damaged")
        return kind, content

    def _check_size(self, object_id: str, bytes_max: int) -> None:
        for store in self._stores:
            with suppress(FileNotFoundError, NotADirectoryError):
                _check_loose(os.path.join(os.fspath(store.path), object_id[:2], object_id[2:]), bytes_max)
                return
        if self._packs is not None and self._is_checked_in(self._packs, object_id, bytes_max):
            return
        # Listing the packs costs more than reading a small object, so it is repeated only for an object that is in none.
        self._packs = [pack for store in self._stores for pack in store.packs]
        if not self._is_checked_in(self._packs, object_id, bytes_max):
            raise KeyError(object_id)

    def _is_checked_in(self, packs: list[Pack], object_id: str, bytes_max: int) -> bool:
        for pack in packs:
            with suppress(KeyError):
                self._check_packed(pack, object_id, bytes_max)
                return True
        return False

    def _check_packed(self, pack: Pack, object_id: str, bytes_max: int) -> None:
        """Follows the delta chain; raises `KeyError` if the pack does not hold the object."""
        offset = pack.index.object_offset(ObjectID(object_id.encode("ascii")))
        bound = bytes_max
        with open(pack.data.path, "rb") as file:
            for _ in range(_CHAIN_LENGTH_MAX):
                head = _PackedHead(file, offset)
                if head.declared_bytes > bound or head.result_bytes > bound:
                    raise TooLarge(object_id)
                if head.base_offset is None and head.base_id is None:
                    return
                bound = _BASE_BYTES_MAX
                offset = head.base_offset if head.base_offset is not None else self._base_in(pack, head.base_id or b"")
        raise ValueError("the delta chain is too long")

    def _base_in(self, pack: Pack, base_id: bytes) -> int:
        try:
            return pack.index.object_offset(RawObjectID(base_id))
        except KeyError as error:
            # A pack on disk is complete; only a pack on the wire may use bases elsewhere.
            raise ValueError("a delta base is not in the pack") from error


def _with_alternates(store: DiskObjectStore, depth: int) -> Iterator[DiskObjectStore]:
    yield store
    if depth < _ALTERNATES_DEPTH_MAX:
        for alternate in store.alternates:
            if isinstance(alternate, DiskObjectStore):
                yield from _with_alternates(alternate, depth + 1)


class _PackedHead:
    """The first bytes of a packed object: its declared size, and for a delta its base and both sizes."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        if offset < 12:
            raise ValueError("an offset before the first object")
        file.seek(offset)
        head = file.read(_HEAD_BYTES)
        kind = (head[0] >> 4) & 7
        at = 1
        size, shift = head[0] & 15, 4
        while head[at - 1] & 0x80:
            size |= (head[at] & 0x7F) << shift
            shift += 7
            at += 1
        self.declared_bytes = size
        self.result_bytes = 0
        self.base_offset: int | None = None
        self.base_id: bytes | None = None
        if kind == _OFFSET_DELTA:
            back = head[at] & 0x7F
            while head[at] & 0x80:
                at += 1
                back = ((back + 1) << 7) | (head[at] & 0x7F)
            at += 1
            self.base_offset = offset - back
        elif kind == _REFERENCE_DELTA:
            self.base_id = head[at : at + 20]
            at += 20
        else:
            return
        # The size of the base is checked in the next step.
        sizes = zlib.decompressobj().decompress(head[at:], 40)
        _, at = _varint(sizes, 0)
        self.result_bytes, _ = _varint(sizes, at)


def _id_of(kind: int, content: bytes) -> str:
    """The id that the content has; dulwich does not verify it on reading."""
    digest = hashlib.sha1(_NAMES[kind] + b" %d\0" % len(content), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if not byte & 0x80:
            return value, at


def _check_loose(path: str, bytes_max: int) -> None:
    with open(path, "rb") as file:
        head = zlib.decompressobj().decompress(file.read(_HEAD_BYTES), 64)
    kind, _, rest = head.partition(b" ")
    size, separator, _ = rest.partition(b"\0")
    if not separator or kind not in _LOOSE_KINDS or not size.isdigit():
        raise ValueError("no header")
    if int(size) > bytes_max:
        raise TooLarge(path)


def unreadable(object_id: str, problem: str) -> Retryable:
    """The error for an object that cannot be read now; a later push or a repair may fix that."""
    return Retryable(codes.OBJECT_UNREADABLE, f"object {object_id[:12]} {problem}", after_s=5)
