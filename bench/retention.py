"""Retention: the time from step to step while old runs are removed, and how fast and how small a log becomes.

`python -m bench.retention [RUNS] [DIRECTORY]` fills a log with so many runs (by default 100,000) and removes them all, as fast
as the disk permits.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Row
from bench.steps import STEPS, completed, latencies_of, no_op
from tests.acceptance.cluster import Cluster
from tests.integration.store.pruning_process import driving
from waterflowd.app.bootstrap import UNIONS
from waterflowd.host.retention.policy import Retention
from waterflowd.host.retention.pruner import Pruner
from waterflowd.store import layout
from waterflowd.store.opening import Store, open_store
from waterflowd.testing.host import ManualClock
from waterflowd.testing.old_runs import EVENTS, fill

DAY_MS = 86_400_000
#: More than are removed while the steps run.
BENCH_RUNS = 40_000
_RULES = '[retention]\nrun-max-age = "1d"\n'


def pruning(folder: Path) -> list[Row]:
    """Compares the time between steps while runs are removed with that without."""
    cluster = Cluster(folder)
    os.environ["BENCH_INSTANTS"] = str(folder / "instants")
    first_at = time.time_ns() // 1_000_000 - 40 * DAY_MS
    with open_store(folder / "daemon", UNIONS) as store:
        fill(store.log, BENCH_RUNS, first_at=first_at, every_ms=1_000)
    cluster.write_config(repositories=_RULES)
    p99: list[float] = []
    removed = 0
    try:
        cluster.agent_module = "bench.probe_agent"
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        for is_pruning in (False, True):
            if is_pruning:
                cluster.api("POST", "/v1/retention/prune")
            for _ in range(6):
                completed(cluster, cluster.start(no_op(STEPS)))
            cluster.stop_agent("web-1")
            p99.append(latencies_of(folder / "instants").quantile_ms(0.99))
            if not is_pruning:
                cluster.start_agent("web-1")
        removed = cluster.api("GET", "/v1/retention").json()["removed"]["runs"]
    finally:
        cluster.close()
    at_rest, busy = p99
    return [
        Row(
            "step to step, 1 run, p99, while old runs are removed",
            f"{busy:.2f} ms",
            f"2 x at rest = {2 * at_rest:.1f} ms",
            busy <= 2 * at_rest and removed > 0,
            f"at rest {at_rest:.2f} ms, {removed:,} runs removed meanwhile",
        )
    ]


async def _remove_all(store: Store, now: int) -> float:
    clock, began = ManualClock(now), time.perf_counter()
    async with driving(store.log, clock) as driver:
        pruner = Pruner(Retention(run_max_age_ms=DAY_MS), store.log, store.outputs, driver, clock)
        while not await pruner.round():
            print(f"  {pruner.progress.runs:,} runs removed after {time.perf_counter() - began:.0f} s", flush=True)
        print(f"  {pruner.progress.runs:,} runs removed in {time.perf_counter() - began:.0f} s", flush=True)
    return time.perf_counter() - began


def fill_and_remove(count: int, folder: Path) -> None:
    """Prints figures: size of the file, events removed per second, time of the check, before and after, twice."""
    file = folder / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    first_at = 1_700_000_000_000
    for turn in (1, 2):
        with open_store(folder, UNIONS) as store:
            began = time.perf_counter()
            fill(store.log, count, first_at=first_at, every_ms=1_000, prefix=f"turn {turn}: ")
            print(
                f"turn {turn}: {count:,} runs added in {time.perf_counter() - began:.0f} s: {file.stat().st_size >> 20} MiB"
            )
            took_s = asyncio.run(_remove_all(store, first_at + count * 1_000 + 10 * DAY_MS))
            print(f"turn {turn}: {count * EVENTS / took_s:,.0f} events/s; the file has {file.stat().st_size >> 20} MiB")
            began = time.perf_counter()
            found = store.verify()
            print(
                f"turn {turn}: {found.records:,} records left, checked in {time.perf_counter() - began:.1f} s",
                flush=True,
            )
        first_at += count * 1_000 + 20 * DAY_MS


if __name__ == "__main__":
    RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as path:
        fill_and_remove(RUNS, Path(path) / "data")
