"""Shared streams on Temporal's real server: several daemons append and follow, over new executions, kills and gaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.worker import Replayer

from tests.integration.temporal.server import Namespace
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.temporal import facts
from waterflowd.temporal.shared_streams import append_turns
from waterflowd.temporal.shared_streams.append_turns import AppendTurns
from waterflowd.temporal.shared_streams.subscriber import StreamSubscriber
from waterflowd.temporal.shared_streams.writer import SharedStreamWriter
from waterflowd.temporal.streams import StreamTurns, take_turns
from waterflowd.temporal.workflow import shell

STREAM = "numbers"


class Counted(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="counted"):
    """A daemon has counted on, to this number."""

    at: int = 0
    number: int
    by: str = ""


CODEC = facts.FactCodec("numbers", Counted)


def compact(stream: str, stored: Sequence[bytes], now: int) -> list[bytes]:
    """Only the newest number matters."""
    return list(stored[-1:])


@dataclass
class Daemon:
    """A daemon, as far as this stream is concerned."""

    client: Client
    name: str
    writer: SharedStreamWriter = field(init=False)
    subscriber: StreamSubscriber = field(init=False)
    folded: list[int] = field(default_factory=list)
    clears: int = 0

    def __post_init__(self) -> None:
        self.subscriber = StreamSubscriber(self.client, STREAM, CODEC, fold=self.fold, clear=self.clear)
        self.writer = SharedStreamWriter(self.client, STREAM, CODEC, self.subscriber)

    def fold(self, event: Counted) -> None:
        """Each number follows the one before."""
        assert not self.folded or event.number == self.folded[-1] + 1, (self.folded, event)
        self.folded.append(event.number)

    def clear(self) -> None:
        """All numbers come again."""
        self.clears += 1
        self.folded.clear()

    def next(self) -> list[Counted]:
        """Decides what this daemon counts."""
        return [Counted(number=self.folded[-1] + 1 if self.folded else 1, by=self.name)]

    async def count(self, times: int) -> None:
        """Counts on."""
        for _ in range(times):
            before = len(self.folded)
            await self.writer.append(self.next)
            assert len(self.folded) > before, "what is appended is folded on return"


@asynccontextmanager
async def running(namespace: Namespace, name: str, engine: AppendTurns | None = None) -> AsyncIterator[Daemon]:
    """A daemon that follows, and takes turns; it ends as if it was killed."""
    client = await namespace.client()
    made = Daemon(client, name)
    turns = StreamTurns({STREAM: engine or AppendTurns(compact)})
    tasks = [
        asyncio.create_task(take_turns(client, turns)),
        asyncio.create_task(made.subscriber.run()),
    ]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def within(work: Awaitable[object]) -> None:
    """Waits for something that must happen."""
    async with asyncio.timeout(PATIENCE_S):
        await work


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_daemons_append_at_once_and_see_the_same(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number exists once and in order, over snapshots and new executions; a daemon that comes later sees the rest."""
    monkeypatch.setattr(append_turns, "FACTS_MAX", 25)
    monkeypatch.setattr(shell, "HISTORY_EVENTS_MAX", 100)
    async with running(namespace, "d1") as first, running(namespace, "d2") as second:
        await within(asyncio.gather(first.count(25), second.count(25)))
        await within(first.subscriber.reached(50))
        await within(second.subscriber.reached(50))
        assert first.folded == second.folded == list(range(1, 51))
        assert (first.clears, second.clears) == (0, 0)
        async with running(namespace, "d3") as third:
            await within(third.subscriber.caught_up())
            assert third.subscriber.position == 50
            assert third.folded == list(range(third.folded[0], 51))
            assert len(third.folded) < 50, "it has folded a snapshot in place of what the snapshot replaces"
            await within(third.count(1))
            await within(first.subscriber.reached(51))
            assert first.folded[-1] == 51
    client = await namespace.client()
    replayer = Replayer(workflows=[shell.Stream], data_converter=client.data_converter)
    executions = [item.run_id async for item in client.list_workflows(f"WorkflowId = '{STREAM}'")]
    assert len(executions) > 1
    for execution in executions:
        await replayer.replay_workflow(await client.get_workflow_handle(STREAM, run_id=execution).fetch_history())


async def test_a_daemon_that_dies_in_the_middle(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has appended, or not, is the same for all; the next daemon follows without a gap, over a snapshot as well."""
    monkeypatch.setattr(append_turns, "FACTS_MAX", 25)
    async with running(namespace, "d1") as first:
        await within(first.count(3))
        async with running(namespace, "d2") as second:
            counting = asyncio.create_task(second.count(100))
            await within(first.subscriber.reached(10))
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        await within(first.count(30))
        assert first.folded == list(range(1, len(first.folded) + 1))
        async with running(namespace, "d2") as again:
            await within(again.subscriber.caught_up())
            assert again.folded[-1] == first.folded[-1]
            assert again.subscriber.position == first.subscriber.position


async def test_a_terminated_stream_begins_again(namespace: Namespace) -> None:
    """An operator ends it with Temporal's tools: nothing is lost."""
    async with running(namespace, "d1") as first:
        await within(first.count(3))
        await first.client.get_workflow_handle(STREAM).terminate(reason="a test")
        await within(first.count(2))
        assert first.folded == [1, 2, 3, 4, 5]
        found = await first.client.get_workflow_handle(STREAM).describe()
        assert found.status is WorkflowExecutionStatus.RUNNING


async def test_a_subscriber_knows_whether_it_is_up_to_date(namespace: Namespace) -> None:
    """Also of a stream in which nothing happens: while the server is away, it falls behind, and catches up by itself."""
    async with running(namespace, "d1") as first:
        await within(first.count(1))
        await within(first.subscriber.caught_up())
        namespace.server.kill()
        try:
            behind_s = first.subscriber.behind_s
            await until(lambda: first.subscriber.behind_s > behind_s + 5)
        finally:
            namespace.server.start()
        await until(lambda: first.subscriber.behind_s < 5)
        await within(first.count(1))
        assert first.folded == [1, 2]


async def test_a_fact_of_a_newer_release_is_not_skipped(namespace: Namespace) -> None:
    """The subscriber stops before it and says why; it is no longer up to date, and decides nothing."""

    class Newer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="of-the-future"):
        at: int = 0

    async with running(namespace, "d1") as first:
        await within(first.count(2))
        newer = facts.FactCodec("numbers", Newer)
        await within(SharedStreamWriter(first.client, STREAM, newer, _Elsewhere(2)).append(_once(Newer())))
        await until(lambda: "of-the-future" in first.subscriber.problem)
        assert "upgrade Waterflow" in first.subscriber.problem
        assert first.folded == [1, 2]
        behind_s = first.subscriber.behind_s
        await until(lambda: first.subscriber.behind_s > behind_s + 3)


def _once(event: object) -> Callable[[], list[object]]:
    events = [event]

    def decide() -> list[object]:
        return [events.pop()] if events else []

    return decide


class _Elsewhere(StreamSubscriber):
    """The subscriber of a newer release."""

    def __init__(self, position: int) -> None:
        self.position = position

    async def reached(self, position: int) -> None:
        """It has no problem with the fact."""


async def test_an_append_without_a_daemon_is_refused(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller hears that nobody answers; a full stream says so at once."""
    monkeypatch.setattr("waterflowd.temporal.updates.ANSWER_S_MAX", 1.0)
    monkeypatch.setattr("waterflowd.temporal.shared_streams.writer.APPEND_S_MAX", 3.0)
    client = await namespace.client()
    made = Daemon(client, "d1")
    tasks = [asyncio.create_task(made.subscriber.run())]
    try:
        with pytest.raises(Retryable, match="no daemon has answered"):
            await made.writer.append(made.next)
        monkeypatch.setattr(append_turns, "BYTES_MAX", 1)
        tasks.append(asyncio.create_task(take_turns(client, StreamTurns({STREAM: AppendTurns()}))))
        with pytest.raises(Rejected, match="is full") as raised:
            await within(_patiently(made))
        assert raised.value.code == "WF813"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _patiently(made: Daemon) -> None:
    while True:
        try:
            await made.writer.append(made.next)
            return
        except Retryable:
            await asyncio.sleep(0.1)
