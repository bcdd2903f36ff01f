"""The contents of one repository's files in Git LFS, as agents receive them. Files block in threads; the loop only waits.

Rules of this file:

- A content is a file that is named by its SHA-256 and its Git id. It is complete, because it is renamed when it was verified.
- Contents that were not needed for the longest time are removed when all of them together would have more than twice the bytes
  of one checkout. An agent that still needs one begins its checkout again.
- Calls run one at a time: a second one for the same files finds the contents of the first.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from waterflow_agent.checkout import file_list
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource import child_process
from waterflowd.gitsource.lfs.pointers import LargeFile
from waterflowd.gitsource.lfs.transfer_protocol import (
    StoredFile,
    TransferFailed,
    Transferred,
    TransferRequest,
    TransferResponse,
)
from waterflowd.reconcile import codes

Result = TypeVar("Result")
#: Makes the request for some files into a directory, with the credentials as they are now.
MakeRequest = Callable[[tuple[LargeFile, ...], str], Awaitable[TransferRequest]]

_CHILD = "waterflowd.gitsource.lfs.transfer_child"
#: A second attempt continues where this one ended. An agent waits for two of them.
TIME_S = 240.0
_responses: msgspec.msgpack.Decoder[TransferResponse] = msgspec.msgpack.Decoder(TransferResponse)


class ContentStore:
    """The contents in `directory`."""

    def __init__(self, directory: Path, slots: child_process.Slots, make_request: MakeRequest) -> None:
        self._directory = directory
        self._slots = slots
        self._make_request = make_request
        self._lock = asyncio.Lock()
        #: By SHA-256, in the order of use; None until the directory was read, and after a failure.
        self._known: OrderedDict[str, StoredFile] | None = None

    def path(self, stored: StoredFile) -> str:
        """The path of a content."""
        return str(self._directory / stored.name)

    async def contents(self, files: Mapping[bytes, LargeFile], bytes_max: int) -> dict[str, StoredFile]:
        """The contents of the files of one checkout, which are given by path, by SHA-256.

        Raises `Stalled` WF534 if they are too large, or the server does not have one, and what a fetch raises.
        """
        _check_sizes(files, bytes_max)
        wanted = {large.oid: large for large in files.values()}
        async with self._lock:
            known = await _in_thread(self._open) if self._known is None else self._known
            # After a failure the directory says what there is.
            self._known = None
            missing = tuple(large for oid, large in wanted.items() if oid not in known)
            if missing:
                await _in_thread(lambda: self._make_room(known, wanted, 2 * bytes_max))
                for stored in await self._slots.run(self._fetch(missing)):
                    known[stored.oid] = stored
            await _in_thread(lambda: self._touch(known, wanted))
            self._known = known
            return {oid: known[oid] for oid in wanted}

    async def _fetch(self, missing: tuple[LargeFile, ...]) -> Sequence[StoredFile]:
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
            raise (Retryable if response.is_retryable else Stalled)(response.code, response.text)
        assert isinstance(response, Transferred)
        return response.files

    def _open(self) -> OrderedDict[str, StoredFile]:
        """Reads the directory, and removes what a fetch has left incomplete."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found: list[tuple[float, StoredFile]] = []
        for entry in os.scandir(self._directory):
            status = entry.stat(follow_symlinks=False)
            oid, _, blob = entry.name.partition(".")
            if not blob:
                os.unlink(entry.path)
                continue
            found.append((status.st_mtime, StoredFile(oid=oid, size=status.st_size, blob=bytes.fromhex(blob))))
        return OrderedDict((stored.oid, stored) for _, stored in sorted(found, key=lambda item: item[0]))

    def _make_room(self, known: OrderedDict[str, StoredFile], wanted: Mapping[str, LargeFile], bytes_max: int) -> None:
        missing = sum(large.size for oid, large in wanted.items() if oid not in known)
        total = missing + sum(stored.size for stored in known.values())
        for oid in [oid for oid in known if oid not in wanted]:
            if total <= bytes_max:
                break
            stored = known.pop(oid)
            total -= stored.size
            with suppress(FileNotFoundError):
                os.unlink(self.path(stored))

    def _touch(self, known: OrderedDict[str, StoredFile], wanted: Iterable[str]) -> None:
        """Remembers that contents were needed, also for the next process."""
        for oid in wanted:
            known.move_to_end(oid)
            os.utime(self.path(known[oid]))


def _check_sizes(files: Mapping[bytes, LargeFile], bytes_max: int) -> None:
    for path, large in files.items():
        if large.size > file_list.FILE_BYTES_MAX:
            name = escape_for_display(os.fsdecode(path))
            text = (
                f"{name}: the file in Git LFS has {large.size:,} bytes, more than {file_list.FILE_BYTES_MAX >> 20} MiB"
            )
            raise Stalled(codes.LFS, f"{text}; exclude it in the job's checkout, or run git lfs pull in a step")
    total = sum({large.oid: large.size for large in files.values()}.values())
    if total > bytes_max:
        text = f"the files in Git LFS have {total:,} bytes, more than {bytes_max:,}"
        raise Stalled(codes.LFS, f"{text}; raise fetch-max-bytes, or exclude files in the job's checkout")


async def _in_thread(function: Callable[[], Result]) -> Result:
    try:
        return await asyncio.to_thread(function)
    except OSError as error:
        raise Retryable(codes.NOT_THERE, f"cannot write objects of Git LFS: {error.strerror}", after_s=5) from error
