"""Speed of the store: events per second, latency of one commit, reading, and opening a directory with a long history.

Run it with `python bench/store.py [DIRECTORY]`. The directory (by default a temporary one) should be on the disk to be
measured.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lmdb

from waterflowd.engine import events
from waterflowd.model import ids, records
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.statuses import Conclusion, Outcome, Status
from waterflowd.store.opening import Store, open_store

UNIONS = {"run": events.RunEvent}
REASON = Reason(code=ReasonCode.STARTED, text="the step was started on web-01")
FINISHED_RUNS = 100_000
OPEN_RUNS = 1_000
EVENTS_OF_AN_OPEN_RUN = 20


def run(number: int) -> ids.RunId:
    """A run's id, ascending with `number`."""
    return ids.run_id(1_700_000_000_000 + number, number)


def event(number: int) -> events.AttemptFinished:
    """An event of typical size."""
    return events.AttemptFinished(
        at=1_700_000_000_000 + number,
        job=ids.JobId("deploy"),
        step=ids.StepId("restart"),
        attempt=ids.AttemptNo(1),
        outcome=Outcome.SUCCESS,
        exit_code=0,
        started_at=1_700_000_000_000,
        finished_at=1_700_000_000_000 + number,
        output_bytes=1200,
        reason=REASON,
    )


def batch(of: ids.RunId, expected: int, count: int) -> records.Batch:
    """A batch of `count` events of one run."""
    append = records.StreamAppend(
        stream=ids.run_stream(of), expected=expected, at=expected, events=[event(n) for n in range(count)]
    )
    return records.Batch(appends=[append])


def summary(number: int, status: Status) -> records.RunSummary:
    """The summary row of a run."""
    is_done = status is Status.COMPLETED
    return records.RunSummary(
        id=run(number),
        number=number,
        name="Deploy the shop",
        path=".waterflow/deploy.yaml",
        repository="shop",
        revision="0" * 40,
        trigger=records.Trigger(
            kind=records.TriggerKind.PUSH, by="Ada", key=f"push/shop/{number}", ref="refs/heads/main"
        ),
        status=status,
        conclusion=Conclusion.SUCCESS if is_done else None,
        reason=REASON,
        created_at=number,
        seq=20,
    )


def rate(store: Store, size: int, seconds: float, concurrency: int) -> float:
    """Events per second through `append` on the loop, in batches of `size`, with `concurrency` streams at a time."""

    async def one(stream: int, until: float) -> int:
        of, position = run(size * 1_000 + concurrency * 1_000_000 + stream), 0
        while time.perf_counter() < until:
            await store.log.append(batch(of, position, size))
            position += size
        return position

    async def all_of_them() -> float:
        started = time.perf_counter()
        done = await asyncio.gather(*(one(stream, started + seconds) for stream in range(concurrency)))
        return sum(done) / (time.perf_counter() - started)

    return asyncio.run(all_of_them())


def latencies(store: Store, count: int) -> list[float]:
    """Durations in seconds of appends of one event each, one after the other."""

    async def measure() -> list[float]:
        taken = []
        for position in range(count):
            requested = batch(run(99), position, 1)
            started = time.perf_counter()
            await store.log.append(requested)
            taken.append(time.perf_counter() - started)
        return taken

    return asyncio.run(measure())


def bare_latencies(path: Path, count: int) -> list[float]:
    """Durations in seconds of commits of the same rows (a record and its stream's head) to the same file by LMDB alone.

    The store cannot be used afterwards.
    """
    taken = []
    with lmdb.open(os.fspath(path / "log.mdb"), map_size=64 << 30, max_dbs=12, lib_version=0) as environment:
        rows, heads = environment.open_db(b"records"), environment.open_db(b"heads")
        for position in range(1 << 40, (1 << 40) + count):
            started = time.perf_counter()
            with environment.begin(write=True) as transaction:
                transaction.put(position.to_bytes(8, "big"), b"x" * 250, append=True, db=rows)
                transaction.put(b"stream", b"x" * 36, db=heads)
            taken.append(time.perf_counter() - started)
    return taken


def timed(function: Callable[[], object]) -> float:
    """The duration of a call in seconds."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def fill(store: Store) -> None:
    """Writes a long history: finished runs with one row each, and open runs with interleaved events, as in real use."""
    for start in range(0, FINISHED_RUNS, 5_000):
        rows = [summary(1_000_000 + number, Status.COMPLETED) for number in range(start, start + 5_000)]
        store.log.append_blocking(records.Batch(summaries=rows))
    first = 2_000_000
    rows = [summary(first + number, Status.RUNNING) for number in range(OPEN_RUNS)]
    store.log.append_blocking(records.Batch(summaries=rows))
    for position in range(EVENTS_OF_AN_OPEN_RUN):
        appends = [batch(run(first + number), position, 1).appends[0] for number in range(OPEN_RUNS)]
        store.log.append_blocking(records.Batch(appends=appends))


def recover(path: Path) -> tuple[float, float]:
    """Seconds to open the directory and list its open runs, and seconds to read all of their events."""
    started = time.perf_counter()
    with open_store(path, UNIONS) as store:
        runs = list(store.log.open_runs())
        opened = time.perf_counter() - started
        read = timed(lambda: [store.log.read(ids.run_stream(of)) for of in runs])
    return opened, read


def main() -> None:
    """Measures everything and prints the table."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(sys.argv[1] if len(sys.argv) > 1 else temporary) / "store-bench"
        with open_store(path, UNIONS) as store:
            for size, concurrency in ((100, 1), (100, 4), (1, 100), (1000, 2)):
                events_a_second = rate(store, size, 2.0, concurrency)
                print(f"append, {concurrency:3} batches of {size:4} in flight {events_a_second:12,.0f} events/s")
            ours = sorted(latencies(store, 2_000))
            store.log.append_blocking(batch(run(7), 0, 1_000))
            reading = min(timed(lambda: store.log.read(ids.run_stream(run(7)))) for _ in range(5))
            fill(store)
        opened, read = recover(path)
        bare = sorted(bare_latencies(path, 2_000))
        p50, bare_p50 = statistics.median(ours), statistics.median(bare)
        print(f"one event, p50 / p99          {p50 * 1e6:12,.0f} / {ours[int(len(ours) * 0.99)] * 1e6:,.0f} µs")
        print(f"bare LMDB commit, p50 / p99   {bare_p50 * 1e6:12,.0f} / {bare[int(len(bare) * 0.99)] * 1e6:,.0f} µs")
        print(f"ratio of the medians          {p50 / bare_p50:12.2f}")
        print(f"reading a run of 1,000 events {reading * 1e3:12.1f} ms")
        print(f"opening, {FINISHED_RUNS:,} finished    {opened:12.2f} s")
        print(f"reading {OPEN_RUNS:,} open runs       {read:12.2f} s")


if __name__ == "__main__":
    main()
