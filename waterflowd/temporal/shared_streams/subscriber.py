"""Follows a shared stream: folds its facts as they are recorded, from all daemons.

Rules of this file:

- Every fact is folded once and in order, also over new executions, and after the cluster was away. A snapshot is folded only by
  a daemon that has missed what it replaces.
- Whether a daemon is up to date cannot be seen from a stream in which nothing happens. So the subscriber asks every `PROBE_S`
  how long the stream is, and is up to date as of that question once it has read as much.
- A fact that this release does not know is never skipped: the subscriber waits there, and is no longer up to date.
- A stream that does not exist is started, with what `seed` returns. One that an operator has terminated begins again with all
  of its facts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from waterflow_agent.errors import Retryable, WaterflowError
from waterflowd.temporal import facts, orders
from waterflowd.temporal.facts import FactCodec
from waterflowd.temporal.reading.stream_reader import NotFoundError, StreamEvent, StreamReader, reported
from waterflowd.temporal.workflow import messages

_logger = logging.getLogger("waterflow.temporal")

#: How often the subscriber asks for the length of the stream, and how long it waits for that answer.
PROBE_S = 2.0
#: How long it waits after an error.
RETRY_S = 1.0
_RPC_TIMEOUT = timedelta(seconds=5)


async def _nothing() -> list[bytes]:
    return []


class StreamSubscriber:
    """See the file's docstring. `run` must run while it is used."""

    def __init__(
        self,
        client: Client,
        stream: str,
        codec: FactCodec,
        *,
        fold: Callable[[Any], None],
        clear: Callable[[], None],
        seed: Callable[[], Awaitable[list[bytes]]] = _nothing,
        summary: str = "",
    ) -> None:
        """`fold` gets each event; `clear` is called before all facts are folded from the beginning."""
        self._client = client
        self._stream = stream
        self._codec = codec
        self._fold = fold
        self._clear = clear
        self._seed = seed
        self._summary = summary
        self._reader = StreamReader(client)
        #: The position of the newest fact that was folded.
        self.position = 0
        #: Why the stream cannot be followed at the moment; empty if it can.
        self.problem = ""
        #: The execution that is being followed, and its newest event.
        self._execution = ""
        self._event = 0
        #: The time (monotonic) as of which everything is folded.
        self._current_at: float | None = None
        self._changed = asyncio.Event()

    # What others ask --------------------------------------------------------------------------------------------------

    @property
    def behind_s(self) -> float:
        """How long ago everything that was recorded then had been folded; infinite before the first time."""
        return float("inf") if self._current_at is None else time.monotonic() - self._current_at

    async def reached(self, position: int) -> None:
        """Returns once the fact at this position was folded."""
        await self._until(lambda: self.position >= position)

    async def caught_up(self) -> None:
        """Returns once everything that is recorded at the moment was folded."""
        now = time.monotonic()
        await self._until(lambda: self._current_at is not None and self._current_at >= now)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # Following --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follows the stream forever. No error ends it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name=f"follow {self._stream}")
            tasks.create_task(self._probe(), name=f"probe {self._stream}")

    async def _follow(self) -> None:
        while True:
            try:
                execution = await self._open_execution()
                await self._follow_execution(execution)
            except NotFoundError:
                # It has ended in the meantime, or was started by another daemon.
                pass
            except WaterflowError as error:
                self._report(error)
            await asyncio.sleep(RETRY_S)

    def _report(self, error: WaterflowError) -> None:
        if self.problem != str(error):
            self.problem = str(error)
            _logger.error("the stream %s cannot be followed: %s", self._stream, error)

    async def _describe(self) -> WorkflowExecutionDescription:
        with reported():
            return await self._client.get_workflow_handle(self._stream).describe(rpc_timeout=_RPC_TIMEOUT)

    async def _open_execution(self) -> str:
        """The execution to follow; starts one if there is none."""
        try:
            found = await self._describe()
        except NotFoundError:
            return await self._start(await self._seed(), WorkflowIDReusePolicy.REJECT_DUPLICATE)
        if found.status is WorkflowExecutionStatus.RUNNING:
            return found.run_id or ""
        stored = await self._reader.read(self._stream)
        _logger.error("the stream %s was ended with Temporal's tools; it begins again", self._stream)
        return await self._start(stored.facts if stored is not None else [], WorkflowIDReusePolicy.ALLOW_DUPLICATE)

    async def _start(self, begin: list[bytes], policy: WorkflowIDReusePolicy) -> str:
        try:
            with reported():
                handle = await self._client.start_workflow(
                    messages.WORKFLOW_TYPE,
                    messages.Begin(facts=begin),
                    id=self._stream,
                    task_queue=orders.STREAMS_QUEUE,
                    id_reuse_policy=policy,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                    static_summary=self._summary,
                )
        except WorkflowAlreadyStartedError as error:
            raise NotFoundError("another daemon was faster") from error
        return handle.result_run_id or ""

    async def _follow_execution(self, execution: str) -> None:
        """Folds what an execution records, until it ends."""
        position = 0
        async for event in self._reader.follow_events(self._stream, execution):
            if event.number == 1:
                self._check_begin(event, execution)
            position = self._take(event, position)
            self._execution, self._event, self.problem = execution, event.number, ""
            self._wake()

    def _check_begin(self, event: StreamEvent, execution: str) -> None:
        """A new execution begins with everything. If it does not, facts were lost: the database was restored, for example."""
        begin = facts.parts(event.facts)
        if execution != self._execution and begin.base + len(begin.later) < self.position:
            _logger.error("the stream %s has lost facts: everything is folded again", self._stream)
            self._restart()

    def _restart(self) -> None:
        self._clear()
        self.position = 0

    def _take(self, event: StreamEvent, position: int) -> int:
        """Folds what is new in an event; returns the stream's position after it."""
        later = event.facts
        if event.replaces:
            found = facts.parts(event.facts)
            if self.position < found.base:
                self._restart()
                for fact in found.snapshot:
                    self._fold(self._codec.unpack(self._stream, fact).event)
                self.position = found.base
            position, later = found.base, list(found.later)
        for fact in later:
            position += 1
            if position > self.position:
                self._fold(self._codec.unpack(self._stream, fact).event)
                self.position = position
        return position

    # Being up to date -------------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        while True:
            began = time.monotonic()
            with contextlib.suppress(Retryable, NotFoundError, TimeoutError):
                await self._read_until(await self._describe())
                self._current_at = began
                self._wake()
            await asyncio.sleep(max(0.0, PROBE_S - (time.monotonic() - began)))

    async def _read_until(self, found: WorkflowExecutionDescription) -> None:
        async with asyncio.timeout(PROBE_S):
            await self._until(lambda: self._execution == found.run_id and self._event >= found.history_length)
