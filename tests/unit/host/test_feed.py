"""The feed: history and new records without a gap or a repetition, and no state for closed subscriptions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable

from tests.patience import PATIENCE_S
from waterflowd.fleet import events
from waterflowd.host.feed import PAGE, Feed
from waterflowd.model.ids import FLEET, AgentId, RunId, StreamName
from waterflowd.model.records import Batch, Record, StreamAppend
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import HostHarness
from waterflowd.testing.memory_log import MemoryLog

OTHER = StreamName("repo/other")


def append(log: MemoryLog, feed: Feed, count: int, stream: StreamName = FLEET) -> None:
    """Appends this many facts in one commit, and notifies the feed."""
    facts = [events.AgentRevoked(at=1, by="test", agent=AgentId("x")) for _ in range(count)]
    log.append_blocking(Batch(appends=[StreamAppend(stream=stream, expected=log.head(stream), at=1, events=facts)]))
    feed.published([stream])


async def take(records: AsyncIterator[Record], count: int) -> list[int]:
    """Returns the positions of the next records."""
    return [(await anext(records)).position for _ in range(count)]


async def test_history_precedes_the_tail_without_gap_or_repetition() -> None:
    """Several pages of history are read, then records that are appended while a subscriber waits."""
    log = MemoryLog()
    feed = Feed(log)
    append(log, feed, PAGE * 2 + 5)
    records = feed.follow(FLEET, 3)
    assert await take(records, PAGE * 2 + 2) == list(range(4, PAGE * 2 + 6))
    waiting = asyncio.create_task(take(records, 2))
    await asyncio.sleep(0)
    append(log, feed, 1)
    append(log, feed, 1)
    assert await asyncio.wait_for(waiting, PATIENCE_S) == [PAGE * 2 + 6, PAGE * 2 + 7]


async def test_appends_at_every_moment_are_seen_once() -> None:
    """Commits continue while subscribers read one stream or all at their own pace, and each sees every record once."""
    log = MemoryLog()
    feed = Feed(log)

    async def write() -> None:
        for number in range(300):
            append(log, feed, 1 + number % 3, FLEET if number % 2 else OTHER)
            if number % 7 == 0:
                await asyncio.sleep(0)

    async def read(stream: StreamName | None, pauses: int) -> list[int]:
        found = []
        async for record in feed.everything(0) if stream is None else feed.follow(stream, 0):
            found.append(record.seq if stream is None else record.position)
            if len(found) % pauses == 0:
                await asyncio.sleep(0)
            if len(found) == (600 if stream is None else 300):
                return found
        raise AssertionError("a subscription does not end")

    readers = [asyncio.create_task(read(stream, pauses)) for stream in (None, FLEET) for pauses in (1, 3, 50)]
    await write()
    for reader, count in zip(readers, [600] * 3 + [300] * 3, strict=True):
        assert await asyncio.wait_for(reader, PATIENCE_S) == list(range(1, count + 1))


async def test_a_subscriber_of_one_stream_is_not_woken_by_another() -> None:
    """It gets only its own records."""
    log = MemoryLog()
    feed = Feed(log)
    waiting = asyncio.create_task(take(feed.follow(FLEET, 0), 1))
    await asyncio.sleep(0)
    append(log, feed, 1, OTHER)
    await asyncio.sleep(0)
    assert not waiting.done()
    append(log, feed, 1)
    assert await asyncio.wait_for(waiting, PATIENCE_S) == [1]


async def test_output_and_events_of_a_run_wake_those_that_wait_for_output() -> None:
    """Both wake the subscriber; output and events of another run do not."""
    feed = Feed(MemoryLog())
    run = RunId("01J00000000000000000000000")
    reasons: list[Callable[[], None]] = [
        lambda: feed.output_published(run),
        lambda: feed.published([StreamName(f"run/{run}")]),
    ]
    for happens in reasons:
        waiting = asyncio.create_task(feed.output_grew(run))
        await asyncio.sleep(0)
        feed.output_published(RunId("01J00000000000000000000001"))
        await asyncio.sleep(0)
        assert not waiting.done()
        happens()
        await asyncio.wait_for(waiting, PATIENCE_S)


async def test_former_subscribers_use_no_memory() -> None:
    """Streams that never grow again, such as those of completed runs, use no memory without subscribers."""
    feed = Feed(MemoryLog())
    tasks = [asyncio.create_task(take(feed.follow(StreamName(f"run/{number}"), 0), 1)) for number in range(50)] + [
        asyncio.create_task(_wait(feed, RunId(str(number)))) for number in range(50)
    ]
    await asyncio.sleep(0)
    assert (len(feed._streams), len(feed._outputs)) == (50, 50)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    tasks.clear()
    del task
    gc.collect()
    assert (len(feed._streams), len(feed._outputs)) == (0, 0)


async def _wait(feed: Feed, run: RunId) -> list[int]:
    await feed.output_grew(run)
    return []


async def test_the_feed_follows_a_run() -> None:
    """With the real driver, the events of a run arrive in order, each once, and only when durable."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        seen: list[str] = []

        async def watch() -> None:
            async for record in host.feed.everything(0):
                assert host.log.last_seq >= record.seq
                seen.append(type(record.event).__name__)

        watcher = asyncio.create_task(watch())
        summary = await host.start()
        host.finished(agent, host.link.offers()[0])
        await until(lambda: "RunCompleted" in seen)
        assert seen == host.kinds(summary.id)
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
