"""The packs of one repository's commits, as agents receive them. Files block in threads; the event loop only waits.

Rules of this file:

- What changes is added as one more pack, so that agents fetch only that. After many packs, or when the repository is another
  one, everything is written anew, and the old packs are removed: an agent that still needs one begins its checkout again.
- The state file is written when the packs are in place. What it does not list is removed before the next ones are written.
- Calls run one at a time: a second one for the same commits finds the packs of the first.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource import child_process
from waterflowd.gitsource.history.pack_protocol import Packed, PackFailed, PackFile, PackRequest, PackResponse
from waterflowd.reconcile import codes

Result = TypeVar("Result")

_CHILD = "waterflowd.gitsource.history.pack_child"
_STATE_FILE = "waterflow.json"
#: Files: a pack and its index each.
_FILES_MAX = 100
#: Commits and tags that are remembered as packed; without the older ones a pack has some objects twice.
_TIPS_MAX = 10_000
#: A history of a gigabyte takes a minute.
TIME_S = 600.0
_responses: msgspec.msgpack.Decoder[PackResponse] = msgspec.msgpack.Decoder(PackResponse)


class PackState(msgspec.Struct, frozen=True, kw_only=True):
    """What the packs contain."""

    #: The repository's URL.
    url: str
    shallow: tuple[str, ...] = ()
    tips: tuple[str, ...] = ()
    files: tuple[PackFile, ...] = ()


class PackStore:
    """The packs in `directory`."""

    def __init__(self, directory: Path, url: str, slots: child_process.Slots) -> None:
        self._directory = directory
        self._url = url
        self._slots = slots
        self._lock = asyncio.Lock()
        self._state: PackState | None = None

    def path(self, name: str) -> Path:
        """The path of a pack or an index."""
        return self._directory / name

    async def update(
        self, objects: str, revision: str, wants: Sequence[str], shallow: Sequence[str], bytes_max: int
    ) -> tuple[PackFile, ...]:
        """The files of all packs, with everything that is reachable from the commit and the refs.

        Raises `Retryable` and `Stalled`: WF503 if the disk cannot be written, WF505 after a time limit, WF506 if an object
        cannot be read, WF508 if the history is too large.
        """
        async with self._lock:
            state = self._state = await self._usable(tuple(shallow))
            known = set(state.tips)
            missing = tuple(want for want in dict.fromkeys((*wants, revision)) if want not in known)
            if missing:
                await _in_thread(lambda: self._sweep(state))
                request = PackRequest(
                    objects=objects,
                    target=str(self._directory),
                    revision=revision,
                    wants=missing,
                    haves=state.tips,
                    shallow=state.shallow,
                    bytes_max=bytes_max - sum(file.size for file in state.files),
                    time_s=TIME_S,
                )
                packed = await self._slots.run(_pack(request))
                tips, files = (*state.tips, *missing)[-_TIPS_MAX:], (*state.files, *packed.files)
                state = msgspec.structs.replace(state, tips=tips, files=files)
                await self._record(state)
            return state.files

    async def _usable(self, shallow: tuple[str, ...]) -> PackState:
        """The state to continue with: an empty one if the packs are too many, or those of another repository."""
        state = self._state
        if state is None:
            state = await _in_thread(self._open)
        if state.url == self._url and state.shallow == shallow and len(state.files) <= _FILES_MAX:
            return state
        return msgspec.structs.replace(await _in_thread(self._clear), shallow=shallow)

    async def _record(self, state: PackState) -> None:
        await _in_thread(lambda: self._write(state))
        self._state = state

    def remove(self) -> None:
        """Removes all packs."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._directory)

    def _open(self) -> PackState:
        try:
            state = msgspec.json.decode((self._directory / _STATE_FILE).read_bytes(), type=PackState)
        except (OSError, msgspec.MsgspecError):
            return self._clear()
        present = {path.name for path in self._directory.iterdir()}
        return state if {file.name for file in state.files} <= present else self._clear()

    def _sweep(self, state: PackState) -> None:
        """Removes what an earlier call that failed has left."""
        listed = {file.name for file in state.files} | {_STATE_FILE}
        for path in self._directory.iterdir():
            if path.name not in listed:
                path.unlink()

    def _clear(self) -> PackState:
        self.remove()
        self._directory.mkdir(mode=0o700, parents=True)
        return PackState(url=self._url)

    def _write(self, state: PackState) -> None:
        temporary = self._directory / (_STATE_FILE + ".new")
        temporary.write_bytes(msgspec.json.encode(state))
        temporary.replace(self._directory / _STATE_FILE)


async def _pack(request: PackRequest) -> Packed:
    try:
        response = _responses.decode(await child_process.call(_CHILD, msgspec.msgpack.encode(request), request.time_s))
    except TimeoutError as error:
        text = f"packing the repository's history timed out after {request.time_s:g} s"
        raise Retryable(codes.TOO_SLOW, text, after_s=30) from error
    except (OSError, EOFError, msgspec.MsgspecError) as error:
        text = (
            "packing the repository's history ended without a response; it may have exceeded its memory or time limit:"
            " use a checkout without history"
        )
        raise Stalled(codes.LIMIT, text) from error
    if isinstance(response, PackFailed):
        raise (Retryable if response.is_retryable else Stalled)(response.code, response.text)
    return response


async def _in_thread(function: Callable[[], Result]) -> Result:
    try:
        return await asyncio.to_thread(function)
    except OSError as error:
        raise Retryable(
            codes.NOT_THERE, f"cannot write the repository's history: {error.strerror}", after_s=5
        ) from error
