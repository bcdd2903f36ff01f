"""An artifact as a tar archive that is never made: any range of its bytes can be computed.

The archive has the GNU format: for each file a header, preceded by two blocks for a long path, and the content, filled up to
512 bytes; two empty blocks at the end. All sizes follow from the list of files, so a download can be continued anywhere.
"""

from __future__ import annotations

import itertools
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Sequence

from waterflow_agent.artifacts.content import ArtifactFile

_BLOCK = 512
_END = bytes(2 * _BLOCK)


class TarLayout:
    """Where each file is in the archive."""

    def __init__(self, files: Sequence[ArtifactFile], created_at_s: int) -> None:
        self._files = files
        self._created_at_s = created_at_s
        #: Where each file's content begins in the content of the artifact.
        self._contents = [0, *itertools.accumulate(file.size for file in files)]
        sizes = (_header_size(file.path) + file.size + _padding(file.size) for file in files)
        self._offsets = [0, *itertools.accumulate(sizes)]

    @property
    def size(self) -> int:
        """Size of the archive."""
        return self._offsets[-1] + len(_END)

    def read(self, begin: int, end: int, read_content: Callable[[int, int], bytes]) -> bytes:
        """The bytes from `begin` to before `end`. `read_content` returns a range of the artifact's content."""
        pieces: list[bytes] = []
        index = bisect_right(self._offsets, begin) - 1
        while begin < end and index < len(self._files):
            file, at = self._files[index], self._offsets[index]
            stop = min(end, self._offsets[index + 1])
            pieces.append(self._read_file(index, file, (begin - at, stop - at), read_content))
            begin, index = stop, index + 1
        if begin < end:
            at = self._offsets[-1]
            pieces.append(_END[begin - at : end - at])
        return b"".join(pieces)

    def _read_file(
        self, index: int, file: ArtifactFile, wanted: tuple[int, int], read_content: Callable[[int, int], bytes]
    ) -> bytes:
        """A range of a file's header, content and padding."""
        begin, end = wanted
        header_size = _header_size(file.path)
        pieces = []
        if begin < header_size:
            pieces.append(_header(file, self._created_at_s)[begin:end])
        content_end = header_size + file.size
        first, last = max(begin, header_size), min(end, content_end)
        if first < last:
            start = self._contents[index] - header_size
            pieces.append(read_content(start + first, start + last))
        padding = min(end, content_end + _padding(file.size)) - max(begin, content_end)
        if padding > 0:
            pieces.append(bytes(padding))
        return b"".join(pieces)


def _padding(size: int) -> int:
    return -size % _BLOCK


def _header_size(path: str) -> int:
    length = len(path.encode())
    if length <= tarfile.LENGTH_NAME:
        return _BLOCK
    # The long path, with its terminator, is the content of an entry of its own.
    return 2 * _BLOCK + length + 1 + _padding(length + 1)


def _header(file: ArtifactFile, created_at_s: int) -> bytes:
    member = tarfile.TarInfo(file.path)
    member.size, member.mode, member.mtime = file.size, 0o755 if file.is_executable else 0o644, created_at_s
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
