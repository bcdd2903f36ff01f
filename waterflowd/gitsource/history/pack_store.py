"""The packs of one repository, as agents receive them: of all its commits, or of the files of single commits for shallow
checkouts. Files block in threads; the event loop only waits.

Rules of this file:

- What changes is added as one more pack, so that agents fetch only that. After many packs, or when the repository is another
  one, everything is written anew, and the old packs are removed: an agent that still needs one begins its checkout again.
  Packs of single commits are also written anew when they have twice the size of the first one, because a shallow checkout
  gets all of them.
- The state file is written when the packs are in place. What it does not list is removed before the next ones are written.
- Calls run one at a time: a second one for the same commits finds the packs of the first.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Sequence
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
#: How much packs of single commits may grow.
_GROWTH_MAX = 2
#: Commits and tags, or trees, that are remembered as packed; without the older ones a pack has some objects twice.
_TIPS_MAX = 10_000
#: A history of a gigabyte takes a minute.
TIME_S = 600.0
_responses: msgspec.msgpack.Decoder[PackResponse] = msgspec.msgpack.Decoder(PackResponse)


class PackState(msgspec.Struct, frozen=True, kw_only=True):
    """What the packs contain."""

    #: The repository's URL.
    url: str
    shallow: tuple[str, ...] = ()
    #: Commits and tags, or trees.
    tips: tuple[str, ...] = ()
    files: tuple[PackFile, ...] = ()
    #: The size of those that were written first.
    first_bytes: int = 0


class PackStore:
    """The packs in `directory`."""

    def __init__(self, directory: Path, url: str, slots: child_process.Slots, *, is_shallow: bool = False) -> None:
        """`is_shallow` packs trees with all that is in them, and no commits."""
        self._directory = directory
        self._url = url
        self._slots = slots
        self._is_shallow = is_shallow
        self._lock = asyncio.Lock()
        self._state: PackState | None = None

    def path(self, name: str) -> Path:
        """The path of a pack or an index."""
        return self._directory / name

    async def update(
        self, objects: str, revision: str, wants: Sequence[str], shallow: Sequence[str], bytes_max: int
    ) -> tuple[PackFile, ...]:
        """The files of all packs, with everything that is reachable from `wants`, and the commit unless they are trees.

        Raises `Retryable` and `Stalled`: WF503 if the disk cannot be written, WF505 after a time limit, WF506 if an object
        cannot be read, WF508 if it is too large.
        """
        async with self._lock:
            wanted = tuple(dict.fromkeys(wants if self._is_shallow else (*wants, revision)))
            state = self._state = await self._current(tuple(shallow))
            if set(wanted).issubset(state.tips):
                return state.files
            if self._is_outgrown(state):
                state = self._state = await self._cleared(state.shallow)
            request = PackRequest(
                objects=objects,
                target=str(self._directory),
                revision=revision,
                is_shallow=self._is_shallow,
                wants=wanted,
                shallow=state.shallow,
                bytes_max=bytes_max,
                time_s=TIME_S,
            )
            try:
                return await self._add(state, request)
            except Stalled as error:
                if error.code != codes.LIMIT or not state.files:
                    raise
                # Many packs of a few commits each are larger than those that are written at once.
                state = self._state = await self._cleared(state.shallow)
                return await self._add(state, request)

    async def _add(self, state: PackState, request: PackRequest) -> tuple[PackFile, ...]:
        """Writes what of the request is not in packs yet, and returns the files of all packs."""
        await _in_thread(lambda: self._sweep(state))
        known, wanted = set(state.tips), set(request.wants)
        missing = msgspec.structs.replace(
            request,
            wants=tuple(want for want in request.wants if want not in known),
            haves=state.tips,
            bytes_max=request.bytes_max - (0 if self._is_shallow else _size(state.files)),
        )
        packed = await self._slots.run(_pack(missing))
        older = (tip for tip in state.tips if tip not in wanted)
        state = msgspec.structs.replace(
            state,
            # All that were asked for are remembered, or the next call would pack them again.
            tips=(*older, *request.wants)[-max(_TIPS_MAX, len(request.wants)) :],
            files=(*state.files, *packed.files),
            first_bytes=state.first_bytes or _size(packed.files),
        )
        await self._record(state)
        return state.files

    async def _current(self, shallow: tuple[str, ...]) -> PackState:
        """What there is; an empty state if that is of another repository."""
        state = self._state
        # The repository may have been removed, with its packs, and added again.
        if state is None or not await _in_thread((self._directory / _STATE_FILE).exists):
            state = await _in_thread(self._open)
        is_same = state.url == self._url and state.shallow == shallow
        return state if is_same else await self._cleared(shallow)

    async def _cleared(self, shallow: tuple[str, ...]) -> PackState:
        return msgspec.structs.replace(await _in_thread(self._clear), shallow=shallow)

    def _is_outgrown(self, state: PackState) -> bool:
        """Whether everything is to be written anew."""
        is_large = self._is_shallow and _size(state.files) > _GROWTH_MAX * state.first_bytes
        return len(state.files) > _FILES_MAX or is_large

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


def _size(files: Iterable[PackFile]) -> int:
    return sum(file.size for file in files)


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
