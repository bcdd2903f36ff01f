"""Compiles plans again that a restart has lost.

A plan is kept in memory until a run puts it into the log, so after a restart some plans of valid files are gone. They are
compiled a few at a time between two reads of the repository, and at once when a run needs one. The repository's loop calls
the `compile_*` methods, because a source serves one call at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Retryable, WaterflowError
from waterflowd.dsl.reporting import codes as dsl_codes
from waterflowd.ports import Clock
from waterflowd.reconcile import codes, events, state
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.loop.live_repository import LiveRepository
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.reconcile.loop.workflow_files import WorkflowFiles

#: Files that are compiled between two reads of the repository.
_FILES_AT_ONCE = 16
#: How long `plan` waits for the compiler.
_PLAN_WAIT_S = 10.0

_logger = logging.getLogger("waterflow.reconcile")


class PlanRecovery:
    """The plans of one repository's valid files. `wake` makes the loop call `compile_requested` soon."""

    def __init__(
        self,
        repository: LiveRepository,
        files: WorkflowFiles,
        plans: PlanCache,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._repository = repository
        self._files = files
        self._plans = plans
        self._clock = clock
        self._wake = wake
        #: Refs and files whose plans are lost; None until they have been counted.
        self._missing: deque[tuple[str, FileApplied]] | None = None
        #: Ref and file by path, to compile at once.
        self._urgent: dict[str, tuple[str, FileApplied]] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def request(self, ref: str, file: FileApplied) -> None:
        """Asks for the plan of a valid file with the next batch."""
        if self._missing is not None and (ref, file) not in self._missing:
            self._missing.append((ref, file))
            self._wake()

    def request_now(self, ref: str, file: FileApplied) -> None:
        """Asks for the plan at once, even while the repository cannot be read. The repository's subscribers are notified."""
        if file.path not in self._urgent:
            self._urgent[file.path] = (ref, file)
            self._wake()

    async def plan(self, ref: state.RefState, file: FileApplied) -> bytes:
        """The plan of a valid file, compiled again if it is lost; `Retryable` WF513 when that takes too long."""
        plan = await self._plans.get(file.plan_hash or "")
        if plan is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self.request_now(ref.ref, file)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PLAN_WAIT_S):
                    await waiter
            plan = await self._plans.get(file.plan_hash or "")
        if plan is None:
            raise not_ready(file.path)
        return plan

    async def plan_to_start(self, file: FileApplied) -> bytes | FileApplied:
        """The plan of a valid file, or the file with its errors if the current version of the language refuses it."""
        plan = await self._plans.get(file.plan_hash or "")
        if plan is not None:
            return plan
        refused = await self._files.compile_again([file])
        return refused[0] if refused else await self._plans.get(file.plan_hash or "") or b""

    def count_again(self) -> None:
        """Looks for lost plans again: another daemon may have applied files."""
        self._missing = None

    async def compile_requested(self) -> None:
        """Compiles what was asked for at once."""
        urgent, self._urgent = self._urgent, {}
        waiters, self._waiters = self._waiters, []
        for ref, file in urgent.values():
            if await self._plans.get(file.plan_hash or "") is None:
                await self._compile(ref, [file])
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if urgent:
            self._repository.notify()

    async def compile_missing(self) -> bool:
        """Compiles some of the lost plans; True if there may be more of them."""
        if self._missing is None:
            files = [(ref.ref, file.newest) for ref in self._repository.watched() for file in ref.files.values()]
            self._missing = deque(
                [item for item in files if item[1].plan_hash and await self._plans.get(item[1].plan_hash) is None]
            )
        if not self._missing or self._repository.state.is_suspended:
            return False
        ref, _ = self._missing[0]
        batch: list[FileApplied] = []
        # A file that cannot be read now is not tried again here; its next start asks for it.
        while self._missing and self._missing[0][0] == ref and len(batch) < _FILES_AT_ONCE:
            batch.append(self._missing.popleft()[1])
        return await self._compile(ref, batch) and bool(self._missing)

    async def _compile(self, ref: str, files: Sequence[FileApplied]) -> bool:
        """Compiles the files and records those that are no longer valid. False if that is not possible now."""
        try:
            refused = self._current(ref, await self._files.compile_again(files))
            if refused:
                await self._repository.record(events.FilesApplied(at=self._clock.now(), ref=ref, files=refused))
        except WaterflowError as error:
            name = self._repository.name
            text = "repository %s: could not recompile workflows after the restart, will retry: %s"
            _logger.warning(text, name, error, extra={"repository": name})
            return False
        return True

    def _current(self, ref: str, files: Iterable[FileApplied]) -> tuple[FileApplied, ...]:
        """The files that no update has replaced meanwhile, and whose errors are the compiler's verdict."""
        current = self._repository.state.refs[ref].files
        return tuple(
            file
            for file in files
            if file.path in current
            and current[file.path].newest.blob == file.blob
            # A compiler that was killed says nothing about a file that was valid before.
            and all(error.code != dsl_codes.COMPILER_STOPPED for error in file.errors)
        )


def not_ready(path: str) -> Retryable:
    """The error for a plan that is still being compiled."""
    text = f'workflow "{escape_for_display(path)}" is being recompiled after a restart; try again in a moment'
    return Retryable(codes.PLAN_NOT_READY, text, after_s=_PLAN_WAIT_S)
