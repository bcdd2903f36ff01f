"""Reads a damaged LMDB file page by page, with plain reads only, and returns every row that its pages still contain.

Rules of this file:

- LMDB never opens the file, so nothing in it can crash the process: an unreadable or invalid page is skipped.
- Nothing is trusted. A page must carry its own number, a node must lie inside its page, and no page is entered twice.
  The caller checks the rows by their checksums.
- Rows of the tree come from the newest valid meta page. Pages that the tree does not reach (below a damaged branch, or old
  copies) are read by `leftovers`: their rows may be outdated, or belong to a transaction that was never committed.

The format is that of LMDB 0.9 in this machine's byte order. A page has a header (number, flags, bounds), then the 16-bit
offsets of its nodes, then the nodes. Large values are in runs of overflow pages. The main database has a row with the root
of each other database.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Row = tuple[bytes, bytes]

#: LMDB's limit for the depth of a tree.
DEPTH_MAX = 32

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)
_NONE = (1 << 64) - 1
_BRANCH, _LEAF, _OVERFLOW = 0x01, 0x02, 0x04
_BIG, _TREE = 0x01, 0x02

#: Number, padding, flags, end of the offsets, start of the nodes; an overflow page has its page count in the last two.
_HEADER = struct.Struct("=QHHHH")
_COUNT = struct.Struct("=I")
_COUNT_AT = 12
#: Low and high half of a size or of a child's number, flags (in a branch: the rest of the number), size of the key.
_NODE = struct.Struct("=HHHH")
_PAGE_NUMBER = struct.Struct("=Q")
#: Magic, version, address, map size; then the rows of the two databases, the last page and the transaction.
_META_START = struct.Struct("=IIQQ")
#: Padding (the page size in the first one), flags, depth, pages of three kinds, entries, root.
_TREE_ROW = struct.Struct("=IHHQQQQQ")
_META_END = struct.Struct("=QQ")


class Tree(NamedTuple):
    """A database: its root page and how many rows it should have."""

    root: int
    entries: int


class _Meta(NamedTuple):
    transaction: int
    page_bytes: int
    main: Tree


class _Page(NamedTuple):
    flags: int
    content: bytes
    offsets: tuple[int, ...]


class PageFile:
    """One `data.mdb`, opened for reading. A context manager that closes itself."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        metas = self._metas()
        newest = max(metas, default=None)
        #: Both meta pages are valid and consecutive, so the newest tree is the last committed one.
        self.is_rooted = len(metas) == 2 and abs(metas[0].transaction - metas[1].transaction) <= 1
        self.page_bytes = newest.page_bytes if newest is not None else 4096
        #: Number of complete pages in the file.
        self.count = self._size // self.page_bytes
        #: Pages that a walk of a tree has entered.
        self._visited = bytearray(self.count)
        #: Pages that a tree refers to and that are missing or invalid.
        self.damaged = 0 if self.is_rooted else 1
        self.trees: dict[str, Tree] = {}
        if newest is not None:
            self._find_trees(newest.main)

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def leaves(self, name: str) -> Iterator[int]:
        """Numbers of a database's leaf pages that can still be reached, in key order."""
        tree = self.trees.get(name)
        if tree is not None and tree.root != _NONE:
            yield from self._leaves(tree.root, DEPTH_MAX)

    def rows(self, leaf: int) -> Iterator[Row]:
        """The readable rows of a leaf page; a value with damaged overflow pages is left out."""
        page = self._page(leaf, _LEAF)
        if page is not None:
            for offset in page.offsets:
                row = self._row(page.content, offset)
                if row is not None and not row[2] & _TREE:
                    yield row[0], row[1]

    def leftovers(self) -> Iterator[int]:
        """Numbers of the leaf pages that no walk has entered. Walk the trees first."""
        for number in range(self.count):
            if not self._visited[number] and self._page(number, _LEAF) is not None:
                yield number

    def _metas(self) -> list[_Meta]:
        found = []
        for offset in (0, *_PAGE_SIZES):
            packed = self._read(offset, 512)
            at = _HEADER.size
            if len(packed) < 512 or _META_START.unpack_from(packed, at)[:2] != (_MAGIC, _VERSION):
                continue
            at += _META_START.size
            page_bytes = _TREE_ROW.unpack_from(packed, at)[0]
            row = _TREE_ROW.unpack_from(packed, at + _TREE_ROW.size)
            _, transaction = _META_END.unpack_from(packed, at + 2 * _TREE_ROW.size)
            # The second meta page follows directly after the first.
            if page_bytes in _PAGE_SIZES and offset in (0, page_bytes):
                found.append(_Meta(transaction, page_bytes, Tree(row[7], row[6])))
        return found

    def _find_trees(self, main: Tree) -> None:
        if main.root == _NONE:
            return
        for leaf in list(self._leaves(main.root, DEPTH_MAX)):
            page = self._page(leaf, _LEAF)
            for offset in page.offsets if page is not None else ():
                row = self._row(page.content, offset) if page is not None else None
                if row is not None and row[2] & _TREE and len(row[1]) == _TREE_ROW.size:
                    values = _TREE_ROW.unpack(row[1])
                    self.trees[row[0].decode(errors="replace")] = Tree(values[7], values[6])

    def _leaves(self, number: int, depth: int) -> Iterator[int]:
        page = self._page(number, _BRANCH | _LEAF) if depth and not self._is_visited(number) else None
        if page is None:
            self.damaged += 1
            return
        self._visited[number] = 1
        if page.flags & _LEAF:
            yield number
            return
        for offset in page.offsets:
            low, high, more, _ = _NODE.unpack_from(page.content, offset)
            yield from self._leaves(low | high << 16 | more << 32, depth - 1)

    def _is_visited(self, number: int) -> bool:
        return number < self.count and self._visited[number] == 1

    def _page(self, number: int, kinds: int) -> _Page | None:
        """The page with this number; None unless it is valid and of one of these kinds."""
        if not 2 <= number < self.count:
            return None
        content = self._read(number * self.page_bytes, self.page_bytes)
        if len(content) < self.page_bytes:
            return None
        found, _, flags, lower, upper = _HEADER.unpack_from(content)
        if found != number or flags not in (_BRANCH, _LEAF) or not flags & kinds:
            return None
        if not _HEADER.size <= lower <= upper <= self.page_bytes or lower & 1:
            return None
        offsets = struct.unpack_from(f"={(lower - _HEADER.size) // 2}H", content, _HEADER.size)
        valid = tuple(offset for offset in offsets if upper <= offset <= self.page_bytes - _NODE.size)
        return _Page(flags, content, valid)

    def _row(self, content: bytes, offset: int) -> tuple[bytes, bytes, int] | None:
        """Key, value and flags of a leaf's node."""
        low, high, flags, key_bytes = _NODE.unpack_from(content, offset)
        size = low | high << 16
        key_at = offset + _NODE.size
        value_at = key_at + key_bytes
        key = content[key_at:value_at]
        if flags & _BIG:
            if value_at + _PAGE_NUMBER.size > len(content):
                return None
            value = self._overflow(_PAGE_NUMBER.unpack_from(content, value_at)[0], size)
            return None if value is None else (key, value, flags)
        if value_at + size > len(content):
            return None
        return key, content[value_at : value_at + size], flags

    def _overflow(self, number: int, size: int) -> bytes | None:
        if not 2 <= number < self.count or number * self.page_bytes + _HEADER.size + size > self._size:
            return None
        content = self._read(number * self.page_bytes, _HEADER.size + size)
        if len(content) < _HEADER.size + size:
            return None
        found, _, flags, _, _ = _HEADER.unpack_from(content)
        count = _COUNT.unpack_from(content, _COUNT_AT)[0]
        if found != number or flags != _OVERFLOW or count * self.page_bytes < _HEADER.size + size:
            return None
        return content[_HEADER.size :]

    def _read(self, offset: int, size: int) -> bytes:
        """Bytes from the disk; an unreadable block counts as missing."""
        try:
            return os.pread(self._file, size, offset)
        except OSError:
            return b""
