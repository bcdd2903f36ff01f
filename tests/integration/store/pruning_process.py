"""A process that prunes a filled data directory, to be killed at any moment: `python pruning_process.py DIRECTORY`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.host.driver import Driver
from waterflowd.host.feed import Feed
from waterflowd.host.live_state import LiveState
from waterflowd.host.queries import RunQueries
from waterflowd.host.retention import pruner
from waterflowd.host.retention.policy import Retention
from waterflowd.host.retention.pruner import Pruner
from waterflowd.host.timers import Timers
from waterflowd.model import ids, records
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.store.log import LmdbLog
from waterflowd.store.opening import Store, open_store
from waterflowd.testing.host import ManualClock, RecordingLink, codec
from waterflowd.testing.old_runs import EVENTS, fill, old_run

DAY_MS = 86_400_000
FIRST_AT = 1_700_000_000_000
EVERY_MS = 60_000
RUNS = 60
WORKFLOWS = 3
#: One run in five has a large log, which is partly in a file, and one in three a small one.
LARGE, SMALL = 100_000, 300
RULES = Retention(run_max_age_ms=DAY_MS, failed_run_max_age_ms=200 * DAY_MS)


def run(number: int) -> RunId:
    return old_run(number, FIRST_AT + number * EVERY_MS)


def attempt(number: int) -> AttemptId:
    return AttemptId(run(number), JobId("a"), StepId("b"), AttemptNo(1))


def output_bytes(number: int) -> int:
    return LARGE if number % 5 == 1 else SMALL if number % 3 == 0 else 0


def is_kept(number: int) -> bool:
    """Failed runs are kept for longer, and so are the newest run and the newest good run of each workflow."""
    newest_good = {
        max(n for n in range(RUNS) if n % WORKFLOWS == workflow and n % 5 != 0) for workflow in range(WORKFLOWS)
    }
    return number % 5 == 0 or number >= RUNS - WORKFLOWS or number in newest_good


def prepare(path: Path) -> int:
    """Fills a data directory; returns its last sequence."""
    with open_store(path, codec()) as store:
        fill(store.log, RUNS, first_at=FIRST_AT, every_ms=EVERY_MS, workflows=WORKFLOWS)

        async def print_all() -> None:
            for number in range(RUNS):
                for offset in range(0, output_bytes(number), 50_000):
                    data = b"x" * min(50_000, output_bytes(number) - offset)
                    piece = records.OutputPiece(offset=offset, at=1, stream=1, data=data)
                    await store.outputs.append([records.OutputAppend(attempt=attempt(number), pieces=[piece])])

        asyncio.run(print_all())
        return store.log.last_seq


def check(store: Store) -> int:
    """Each run is there with all of its events, row, key and output, or gone; returns how many are gone."""
    store.verify()
    gone = 0
    hidden = {found for found, _ in store.log.unfinished_removals()}
    seen: dict[str, int] = {}
    after = 0
    while page := store.log.feed(after, 500):
        for record in page:
            seen[record.stream] = seen.get(record.stream, 0) + 1
        after = page[-1].seq
    for number in range(RUNS):
        of = run(number)
        events = len(store.log.read(ids.run_stream(of)))
        key = store.log.run_for_key(f"push/shop/{number}")
        assert seen.get(ids.run_stream(of), 0) == events, "streams and feed agree"
        if store.log.run(of) is not None:
            assert (events, key, store.log.removed_run(of)) == (EVENTS, of, None)
            assert store.outputs.size(attempt(number)) == output_bytes(number)
            continue
        gone += 1
        assert not is_kept(number), f"run {number} must stay"
        assert (events, key) == (0, None)
        memory = store.log.removed_run(of)
        assert memory is not None
        assert (memory.rule, memory.path) == (records.RemovalRule.RUN_AGE, f"w{number % WORKFLOWS}.yml")
        assert of in hidden or store.log.head(ids.run_stream(of)) == 0
    for workflow in range(WORKFLOWS):
        assert store.log.plan(f"plan of w{workflow}.yml") is not None, "a plan with runs stays"
    return gone


def check_done(store: Store) -> None:
    """Everything that must go is gone, with its files."""
    assert check(store) == sum(not is_kept(number) for number in range(RUNS))
    assert store.log.unfinished_removals() == []
    assert all(is_kept(number) for number in range(RUNS) if store.outputs.has_files(run(number)))


@contextlib.asynccontextmanager
async def driving(log: LmdbLog, clock: ManualClock) -> AsyncIterator[Driver]:
    """A driver over a log, without agents."""
    queries, registry = RunQueries(log), Registry()
    state = LiveState(
        runs={}, stalled={}, placement=Placement(registry), locks=Locks(), registry=registry, timers=Timers(), epoch=1
    )
    driver = Driver(state, log, RecordingLink(), clock, Feed(log), queries)
    task = asyncio.create_task(driver.run())
    try:
        yield driver
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def prune(path: Path, *, events_max: int) -> None:
    """Prunes everything, in pieces that are smaller than a run, so that there are many moments between them."""
    pruner.EVENTS_MAX = pruner.IDLE_EVENTS_MAX = events_max
    with open_store(path, codec()) as store:
        clock = ManualClock(FIRST_AT + 100 * DAY_MS)
        async with driving(store.log, clock) as driver:
            await Pruner(RULES, store.log, store.outputs, driver, clock).round()
            print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(prune(Path(sys.argv[1]), events_max=10))
