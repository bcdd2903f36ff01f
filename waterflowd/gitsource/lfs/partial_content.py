"""A content of Git LFS while it is fetched. Blocking; for the transfer child.

Rules of this file: a content has a temporary name until its size and its SHA-256 are right, and is on the disk before it gets
its own. What a failed attempt has fetched stays, so that the next one continues.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from waterflow_agent.checkout.blob_cache import blob_digest
from waterflow_agent.checkout.spooled_file import SpooledFile
from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.lfs.transfer_protocol import StoredFile, partial_name
from waterflowd.gitsource.remote.fetch_errors import FetchError
from waterflowd.reconcile import codes


class LfsError(FetchError):
    """A fetch failed because of what the LFS server has or says; `oid` if it is about a single content."""

    def __init__(self, text: str, oid: str = "") -> None:
        super().__init__(codes.LFS, text)
        self.oid = oid


class PartialContent:
    """One content in the directory `target`. A context manager, which closes the file."""

    def __init__(self, large: LargeFile, target: Path) -> None:
        """Continues what an earlier attempt has fetched. Raises `OSError`."""
        self.large = large
        self._target = target
        self._file = SpooledFile(
            target / partial_name(large.oid), large.size, lambda: [hashlib.sha256(), blob_digest(large.size)]
        )

    def __enter__(self) -> PartialContent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def offset(self) -> int:
        """How many bytes have arrived."""
        return self._file.offset

    def append(self, data: bytes) -> None:
        """Writes the next part. Raises `LfsError` if it is more than the size, and `OSError`."""
        if len(data) > self._file.left:
            self._file.discard()
            raise self._wrong("another size")
        self._file.append(data)

    def restart(self) -> None:
        """Begins again without what has arrived. Raises `OSError`."""
        self._file.restart()

    def completed(self, fetch_rest: Callable[[], None]) -> StoredFile:
        """The content, after `fetch_rest` has appended what is missing; called again if what was continued is damaged.

        Raises `LfsError` for another content, what `fetch_rest` raises, and `OSError`.
        """
        if self._file.left or not self.large.size:
            fetch_rest()
        if self._file.is_continued and not self._is_right():
            self.restart()
            fetch_rest()
        if not self._is_right():
            problem = "another size" if self._file.left else "another content"
            self._file.discard()
            raise self._wrong(problem)
        self._file.sync()
        stored = StoredFile(oid=self.large.oid, size=self.large.size, blob=self._file.hashes()[1])
        self._file.path.rename(self._target / stored.name)
        return stored

    def _is_right(self) -> bool:
        return not self._file.left and self._file.hashes()[0].hex() == self.large.oid

    def _wrong(self, problem: str) -> LfsError:
        oid = self.large.oid
        return LfsError(f"the Git LFS object {oid[:12]} that was fetched has {problem} than its pointer says", oid)
