"""The stream of notices over a log: what a start reads of it."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.reconcile.reconciler_harness import LogRuns, TickingClock
from tests.patience import PATIENCE_S
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import NOTICES
from waterflowd.notices import events
from waterflowd.notices.channels import Channel
from waterflowd.notices.events import Notice
from waterflowd.notices.log import NoticeLog
from waterflowd.notices.sender import DeliveryError, Message, NoticeSender
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.time_slices import TimeSlices


def opened(log: MemoryLog) -> NoticeLog:
    history = LogHistory(log, Feed(log), TimeSlices())
    return NoticeLog(LogRuns(log), history, TickingClock())


def memory() -> MemoryLog:
    return MemoryLog(Codec({"notices": events.Fact}))


def queued(number: int, *channels: str) -> events.NoticeQueued:
    notice = Notice(id=number, kind="failure", key=f"k{number}", at=number, title=f"t{number}", text="")
    return events.NoticeQueued(at=number, notice=notice, channels=channels)


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 700, 1_203])
async def test_a_start_knows_what_was_recorded_however_long_the_stream_is(count: int) -> None:
    """It reads back to the last recorded state, and no record twice."""
    memory_log = memory()
    before = opened(memory_log)
    await before.open()
    for number in range(1, count + 1):
        await before.record(lambda number=number: [queued(number, "ops")])  # type: ignore[misc]
    after = opened(memory_log)
    await after.open()
    assert after.state == before.state
    assert len(after.state.problems) == count
    assert memory_log.head(NOTICES) == count + count // 500


async def test_a_channel_collects_what_comes_faster_than_it_may_send() -> None:
    """One that fails is tried again, alone; what is given up or has no channel does not wait forever."""
    log = opened(memory())
    await log.open()
    sent: list[tuple[str, list[int]]] = []
    broken = asyncio.Event()

    async def find(name: str) -> Channel | None:
        return None if name == "gone" else Channel(name=name, per_hour=1)

    async def deliver(channel: Channel, message: Message) -> None:
        if channel.name == "broken":
            broken.set()
            raise DeliveryError("refused", may_retry=False)
        sent.append((channel.name, [notice.id for notice in message.notices]))

    sender = NoticeSender(log, find, deliver, give_up_after_ms=1_000)
    await log.record(lambda: [queued(1, "ops", "broken", "gone")])
    task = asyncio.create_task(sender.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            while len(sent) < 1 or log.state.notices:  # noqa: ASYNC110  The sender says nothing to tests.
                await asyncio.sleep(0.005)
        assert sent == [("ops", [1])]
        assert broken.is_set()
        assert log.state.channels["broken"].problem == "refused"
        assert "gone" not in log.state.channels
        # The next message may be sent in an hour, of which this clock has used some milliseconds.
        await log.record(lambda: [queued(2, "ops"), queued(3, "ops")])
        assert sent == [("ops", [1])]
        assert list(log.state.channels["ops"].notices) == [2, 3]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
