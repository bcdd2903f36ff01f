"""What an artifact consists of: blocks of content, a table of them, and a list of files. Pure.

    listing   the files in order: path, size, whether it is executable; msgpack, compressed
    content   the bytes of these files one after the other, cut into blocks
    table     digest and size of each block of the content, in order

Table and listing are blobs, which are themselves sent and stored as blocks. So an artifact is named by the digests of a few
blocks, every byte is covered by a SHA-256, and equal blocks are sent and stored once.

A block ends where a larger file begins or ends. Small files share blocks, which also end after some files that a checksum
selects: a file that is added or changed affects the blocks around it only. So small files cost no message and no file each.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import msgspec

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflow_agent.wire.messages import ARTIFACT_BLOCK_BYTES_MAX, ARTIFACT_INDEX_BLOCKS_MAX, DIGEST_BYTES

#: The name of an artifact may have these bytes; it becomes the name of a folder on any system.
NAME_LENGTH_MAX = 255
PATH_BYTES_MAX = 4_096
#: Of a listing before its compression: more than half a million files.
LISTING_BYTES_MAX = 64 << 20
_BAD_IN_NAMES = re.compile(r'["<>|*?:/\\\x00-\x1f\x7f]')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENTRY = struct.Struct(">32sI")
#: A file of at least this size has blocks of its own.
_LARGE_BYTES = ARTIFACT_BLOCK_BYTES_MAX // 4
#: A shared block ends after one file in so many, once it is large enough.
_ENDS_AFTER = 8


class ArtifactFile(msgspec.Struct, frozen=True, array_like=True):
    """A file of an artifact. The path is relative, with slashes."""

    path: str
    size: int
    is_executable: bool = False


def check_name(name: str) -> None:
    """Raises `Rejected` WF763 for a name that an artifact cannot have."""
    if not name or len(name.encode("utf-8", "replace")) > NAME_LENGTH_MAX or name in (".", ".."):
        shown = escape_for_display(name, 80)
        raise Rejected("WF763", f'invalid artifact name "{shown}": it needs 1 to {NAME_LENGTH_MAX} bytes')
    found = _BAD_IN_NAMES.search(name)
    if found is not None:
        raise Rejected(
            "WF763",
            f'invalid artifact name "{escape_for_display(name, 80)}": it must not contain {escape_for_display(found[0])!r}',
        )


def check_path(path: str) -> None:
    """Raises `Rejected` WF763 for the path of a file that an artifact cannot contain."""
    parts = path.split("/")
    if (
        _CONTROL.search(path)
        or any(part in ("", ".", "..") for part in parts)
        or len(path.encode("utf-8", "surrogateescape")) > PATH_BYTES_MAX
    ):
        raise Rejected("WF763", f'an artifact cannot contain the file "{escape_for_display(path, 200)}"')
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Rejected("WF763", f'the name of the file "{escape_for_display(path, 200)}" is not UTF-8') from None


def digest_of(data: bytes) -> bytes:
    """The digest of a block."""
    return hashlib.sha256(data).digest()


def artifact_digest(table: Iterable[bytes], listing: Iterable[bytes]) -> bytes:
    """Identifies an artifact by its content and its files, whatever its name."""
    return hashlib.sha256(b"".join(table) + b"/" + b"".join(listing)).digest()


# Listing --------------------------------------------------------------------------------------------------------------


def encode_listing(files: Sequence[ArtifactFile]) -> bytes:
    """The list of files as a blob. Raises `Rejected` WF763 if it is too large."""
    content = msgspec.msgpack.encode(files)
    if len(content) > LISTING_BYTES_MAX:
        raise Rejected("WF763", f"the paths of the artifact's files have more than {LISTING_BYTES_MAX} bytes")
    return zlib.compress(content, 6)


def decode_listing(blob: bytes, files_max: int) -> list[ArtifactFile]:
    """The list of at most `files_max` files. Raises `Rejected` WF762 for an invalid one, and WF763; anyone may have made it."""
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(blob, LISTING_BYTES_MAX)
        if not decompressor.eof:
            raise Rejected("WF762", "the artifact's list of files is incomplete or too large")
        # The number is checked before anything is decoded, so a small blob cannot become many objects.
        files: list[ArtifactFile] = msgspec.msgpack.decode(
            content, type=Annotated[list[ArtifactFile], msgspec.Meta(max_length=files_max)]
        )
    except (zlib.error, msgspec.MsgspecError) as error:
        raise Rejected("WF762", f"the artifact's list of files is damaged: {error}") from None
    for file in files:
        check_path(file.path)
        if file.size < 0:
            raise Rejected("WF762", "the artifact's list of files is damaged: a size is negative")
    if len({file.path for file in files}) != len(files):
        raise Rejected("WF762", "the artifact's list of files is damaged: a path occurs twice")
    return files


# Table ----------------------------------------------------------------------------------------------------------------


def encode_table(blocks: Iterable[tuple[bytes, int]]) -> bytes:
    """Digests and sizes of the content's blocks as a blob."""
    return b"".join(itertools.starmap(_ENTRY.pack, blocks))


class BlockTable:
    """The blocks of a content."""

    def __init__(self, blob: bytes) -> None:
        """Raises `Rejected` WF762 for an invalid table."""
        if len(blob) % _ENTRY.size:
            raise Rejected("WF762", "the artifact's table of blocks is damaged")
        self._blob = blob
        #: Numbers are in arrays, because a table may be large.
        self.sizes = array("I", (size for _, size in _ENTRY.iter_unpack(blob)))
        if any(not 0 < size <= ARTIFACT_BLOCK_BYTES_MAX for size in self.sizes):
            raise Rejected("WF762", "the artifact's table of blocks is damaged: a block has an invalid size")
        #: Where each block begins in the content; the last one is the size of the content.
        self._offsets = array("Q", itertools.accumulate(self.sizes, initial=0))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def size(self) -> int:
        """Size of the content."""
        return int(self._offsets[-1])

    def digest(self, index: int) -> bytes:
        """The digest of a block."""
        begin = index * _ENTRY.size
        return self._blob[begin : begin + DIGEST_BYTES]

    def digests(self) -> Iterator[bytes]:
        """The digests of all blocks, in order."""
        return map(self.digest, range(len(self)))

    def find(self, offset: int) -> tuple[int, int]:
        """The block that contains an offset of the content, and the offset in it."""
        index = bisect_right(self._offsets, offset) - 1
        return index, offset - self._offsets[index]


def table_blocks_max(size: int) -> int:
    """How many blocks the table of a content of this size may have itself: larger ones are not from `BlockCutter`."""
    entries = 2 * (size // _LARGE_BYTES) + 2
    return -(-entries * _ENTRY.size // ARTIFACT_BLOCK_BYTES_MAX)


def index_blocks(blob: bytes) -> Iterator[bytes]:
    """The blocks of a table or a listing. Raises `Rejected` WF763 if it is too large."""
    if len(blob) > ARTIFACT_INDEX_BLOCKS_MAX * ARTIFACT_BLOCK_BYTES_MAX:
        raise Rejected("WF763", "the artifact has too many files or too many bytes for its index")
    for begin in range(0, len(blob), ARTIFACT_BLOCK_BYTES_MAX):
        yield blob[begin : begin + ARTIFACT_BLOCK_BYTES_MAX]


# Blocks ---------------------------------------------------------------------------------------------------------------


class BlockCutter:
    """Cuts the content of files into blocks. Feed the bytes of one file, then call `end_file`, and finally `end`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._is_large = False

    def begin_file(self, size: int) -> Iterator[bytes]:
        """Yields the block that ends before a file of about this size."""
        self._is_large = size >= _LARGE_BYTES
        if self._is_large:
            yield from self.end()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields the blocks that are full now."""
        self._buffer += data
        while len(self._buffer) >= ARTIFACT_BLOCK_BYTES_MAX:
            yield bytes(self._buffer[:ARTIFACT_BLOCK_BYTES_MAX])
            del self._buffer[:ARTIFACT_BLOCK_BYTES_MAX]

    def end_file(self, path: str) -> Iterator[bytes]:
        """Yields the block that ends after this file."""
        is_selected = len(self._buffer) >= _LARGE_BYTES and zlib.crc32(path.encode()) % _ENDS_AFTER == 0
        if self._is_large or is_selected:
            yield from self.end()

    def end(self) -> Iterator[bytes]:
        """Yields the last block."""
        if self._buffer:
            yield bytes(self._buffer)
            self._buffer.clear()
