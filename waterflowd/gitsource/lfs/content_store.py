"""The contents of one repository's files in Git LFS, as agents receive them. Files block in threads; the loop only waits.

Rules of this file:

- A content is a file that is named by its SHA-256 and its Git id. It is complete, because it is renamed when it was verified.
- What was fetched of a content before a failure is kept, so that the next attempt continues.
- Contents that were not needed for the longest time are removed when all of them together would have more than twice the bytes
  of one checkout, those that are incomplete first. An agent that still needs one begins its checkout again.
- Fetches run one at a time: a second one for the same files finds the contents of the first. A call whose contents were
  all fetched before does not wait for them: agents that receive large files ask every few seconds.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from waterflow_agent.checkout import file_list
from waterflow_agent.display import escape_for_display, size_text
from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.machine import RESERVED_BYTES
from waterflowd.gitsource import child_process
from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.lfs.transfer_protocol import (
    PARTIAL_PREFIX,
    StoredFile,
    TransferFailed,
    Transferred,
    TransferRequest,
    TransferResponse,
    partial_name,
)
from waterflowd.reconcile import codes

Result = TypeVar("Result")
#: Makes the request for some files into a directory, with the credentials as they are now.
MakeRequest = Callable[[tuple[LargeFile, ...], str], Awaitable[TransferRequest]]

_CHILD = "waterflowd.gitsource.lfs.transfer_child"
#: How long an attempt may take at least, and the speed from which on it is long enough for large contents.
_TIME_S = 240.0
_BYTES_PER_S_MIN = 1 << 20
_PARTIAL = re.compile(f"{PARTIAL_PREFIX}[0-9a-f]{{64}}")
_responses: msgspec.msgpack.Decoder[TransferResponse] = msgspec.msgpack.Decoder(TransferResponse)


class ContentStore:
    """The contents in `directory`."""

    def __init__(self, directory: Path, slots: child_process.Slots, make_request: MakeRequest) -> None:
        self._directory = directory
        self._slots = slots
        self._make_request = make_request
        self._lock = asyncio.Lock()
        #: By SHA-256, in the order of use; None until the directory was read.
        self._known: OrderedDict[str, StoredFile] | None = None
        #: Whether these are all; not so after a failure.
        self._is_current = False

    def path(self, stored: StoredFile) -> str:
        """The path of a content."""
        return str(self._directory / stored.name)

    async def contents(self, files: Mapping[bytes, LargeFile], bytes_max: int) -> dict[str, StoredFile]:
        """The contents of the files of one checkout, which are given by path, by SHA-256.

        Raises `Stalled` WF534 if they are too large, or the server does not have one, and what a fetch raises.
        """
        _check_sizes(files, bytes_max)
        wanted = {large.oid: large for large in files.values()}
        known = self._known
        if known is None or not known.keys() >= wanted.keys():
            async with self._lock:
                known = await self._with_missing(wanted, files, bytes_max)
        found = {oid: known[oid] for oid in wanted}
        for oid in wanted:
            known.move_to_end(oid)
        try:
            await _in_thread(lambda: self._touch(found.values()))
        except Retryable:
            # One of them was removed by somebody else.
            self._is_current = False
            self._known = None
            raise
        return found

    async def _with_missing(
        self, wanted: Mapping[str, LargeFile], files: Mapping[bytes, LargeFile], bytes_max: int
    ) -> OrderedDict[str, StoredFile]:
        """All contents, after those that are wanted and missing were fetched."""
        known = self._known
        if known is None or not self._is_current:
            known = self._known = await _in_thread(self._read)
            self._is_current = True
        missing = tuple(large for oid, large in wanted.items() if oid not in known)
        if not missing:
            return known
        # After a failure the directory says what there is.
        self._is_current = False
        size = sum(large.size for large in missing)
        evicted = _evicted(known, wanted, 2 * bytes_max - size)
        left = 2 * bytes_max - size - _total(known)
        await _in_thread(lambda: self._make_room(evicted, missing, left))
        for stored in await self._slots.run(self._fetch(missing, files)):
            known[stored.oid] = stored
        self._is_current = True
        return known

    async def _fetch(self, missing: tuple[LargeFile, ...], files: Mapping[bytes, LargeFile]) -> Sequence[StoredFile]:
        request = await self._make_request(missing, str(self._directory))
        try:
            answer = await child_process.call(_CHILD, msgspec.msgpack.encode(request), request.time_s)
            response = _responses.decode(answer)
        except (OSError, EOFError, TimeoutError, msgspec.MsgspecError) as error:
            text = (
                f"fetching {len(missing)} objects of Git LFS was not complete after {request.time_s:g} s; it continues"
            )
            raise Retryable(codes.TOO_SLOW, text, after_s=5) from error
        if isinstance(response, TransferFailed):
            paths = [path for path, large in files.items() if large.oid == response.oid]
            text = f"{_path_text(paths[0])}: {response.text}" if paths else response.text
            raise (Retryable if response.is_retryable else Stalled)(response.code, text)
        assert isinstance(response, Transferred)
        return response.files

    def _read(self) -> OrderedDict[str, StoredFile]:
        """Reads the directory, and removes what is neither a content nor a part of one."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: list[tuple[float, StoredFile]] = []
        for entry in os.scandir(self._directory):
            status = entry.stat(follow_symlinks=False)
            oid, _, blob = entry.name.partition(".")
            if blob:
                found.append((status.st_mtime, StoredFile(oid=oid, size=status.st_size, blob=bytes.fromhex(blob))))
            elif _PARTIAL.fullmatch(entry.name) is None:
                os.unlink(entry.path)
        return OrderedDict((stored.oid, stored) for _, stored in sorted(found, key=lambda item: item[0]))

    def _make_room(self, evicted: Sequence[StoredFile], missing: Sequence[LargeFile], partial_bytes_max: int) -> None:
        """Removes contents, and parts of contents that are not missing beyond a size. Raises `OSError` without the space."""
        wanted = {partial_name(large.oid) for large in missing}
        begun, others = 0, []
        for entry in os.scandir(self._directory):
            if _PARTIAL.fullmatch(entry.name) is not None:
                status = entry.stat(follow_symlinks=False)
                if entry.name in wanted:
                    begun += status.st_size
                else:
                    others.append((status.st_mtime, entry.path, status.st_size))
        for _, path, size in sorted(others, reverse=True):
            partial_bytes_max -= size
            if partial_bytes_max < 0:
                os.unlink(path)
        for stored in evicted:
            with suppress(FileNotFoundError):
                os.unlink(self.path(stored))
        self._check_space(sum(large.size for large in missing), begun)

    def _check_space(self, size: int, begun: int) -> None:
        disk = shutil.disk_usage(self._directory)
        # Some file systems do not know their size.
        needed = size - begun + min(size, RESERVED_BYTES)
        if disk.total and disk.free < needed:
            text = (
                f"the daemon's disk has only {size_text(disk.free)} left, and {size_text(size)} of contents need"
                f" {size_text(needed)}; free some space"
            )
            raise OSError(errno.ENOSPC, text)

    def _touch(self, found: Iterable[StoredFile]) -> None:
        """Remembers that contents were needed for the next process."""
        for stored in found:
            os.utime(self.path(stored))


def time_s(files: Iterable[LargeFile]) -> float:
    """How long an attempt to fetch contents may take; the next one continues where it ended."""
    return _TIME_S + sum(large.size for large in files) / _BYTES_PER_S_MIN


def _total(known: Mapping[str, StoredFile]) -> int:
    return sum(stored.size for stored in known.values())


def _evicted(known: OrderedDict[str, StoredFile], wanted: Mapping[str, LargeFile], bytes_max: int) -> list[StoredFile]:
    """Takes contents that were not needed for the longest time away until the others have at most `bytes_max`."""
    evicted: list[StoredFile] = []
    total = _total(known)
    for oid in [oid for oid in known if oid not in wanted]:
        if total <= bytes_max:
            break
        evicted.append(known.pop(oid))
        total -= evicted[-1].size
    return evicted


def _check_sizes(files: Mapping[bytes, LargeFile], bytes_max: int) -> None:
    for path, large in files.items():
        if large.size > file_list.LARGE_FILE_BYTES_MAX:
            text = (
                f"{_path_text(path)}: the file in Git LFS has {size_text(large.size)},"
                f" more than {size_text(file_list.LARGE_FILE_BYTES_MAX)}"
            )
            raise Stalled(codes.LFS, f"{text}; exclude it in the job's checkout, or run git lfs pull in a step")
    total = sum({large.oid: large.size for large in files.values()}.values())
    if total > bytes_max:
        path, largest = max(files.items(), key=lambda item: item[1].size)
        text = (
            f"the files in Git LFS have {total:,} bytes, more than {bytes_max:,};"
            f" the largest is {_path_text(path)} with {largest.size:,}"
        )
        raise Stalled(codes.LFS, f"{text}; raise fetch-max-bytes, or exclude files in the job's checkout")


def _path_text(path: bytes) -> str:
    return escape_for_display(os.fsdecode(path))


async def _in_thread(function: Callable[[], Result]) -> Result:
    try:
        return await asyncio.to_thread(function)
    except OSError as error:
        raise Retryable(codes.NOT_THERE, f"cannot write objects of Git LFS: {error.strerror}", after_s=5) from error
