"""What the web pages need of the daemon: filters among 100,000 runs, and steps while 20 pages follow everything."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from datetime import datetime
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path

from bench.figures import Latencies, Row
from tests.acceptance.cluster import Cluster
from waterflowd.engine import events
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory
from waterflowd.model import ids
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import Batch, RunFilter, RunSummary, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.store.opening import Store, open_store
from waterflowd.time_slices import TimeSlices

RUNS = 100_000
PAGES = 20
STEPS = 200
#: The first runs' times are not those of a run at work.
_BEGINNING = 20
_BATCH = 2_000
_BEGAN_AT = 1_700_000_000_000
_ASKED = 20

FILTERS = {
    "the three oldest": RunFilter(status="lost"),
    "a workflow of three runs": RunFilter(name="old"),
    "failures": RunFilter(status="failure"),
    "four conditions": RunFilter(status="failure,lost", repository="ops", by="Ada", trigger="push"),
    "text": RunFilter(text="flow1"),
    "a revision that no run has": RunFilter(revision="abcdef"),
    "a principal": RunFilter(by="Ada"),
}


def run_filters(folder: Path) -> list[Row]:
    """Measures filters on a log with 100,000 runs of 200 workflows."""
    store = open_store(folder / "data", {"run": events.RunEvent})
    try:
        _write(store)
        return asyncio.run(_filter(store))
    finally:
        store.close()


def _write(store: Store) -> None:
    chance = random.Random(1)
    reason = Reason(code=ReasonCode.SUCCEEDED, text="all jobs succeeded")
    for begin in range(0, RUNS, _BATCH):
        rows = []
        for number in range(begin, begin + _BATCH):
            name = "old" if number < 3 else f"flow{chance.randrange(200)}"
            conclusion = chance.choices([Conclusion.SUCCESS, Conclusion.FAILURE, Conclusion.CANCELLED], [90, 8, 2])[0]
            trigger = Trigger(
                kind=chance.choice([*TriggerKind]), by=chance.choice(["Ada", "Bo"]), ref="refs/heads/main"
            )
            row = RunSummary(
                id=ids.run_id(_BEGAN_AT + number, number),
                number=number,
                name=name,
                path=f"workflows/{name}.yml",
                repository=chance.choice(["ops", "shop"]),
                revision=f"{chance.getrandbits(160):040x}",
                trigger=trigger,
                status=Status.COMPLETED,
                conclusion=Conclusion.LOST if number < 3 else conclusion,
                reason=reason,
                created_at=_BEGAN_AT + number,
                completed_at=_BEGAN_AT + number,
                seq=9,
            )
            rows.append(row)
        store.log.append_blocking(Batch(summaries=rows))


async def _filter(store: Store) -> list[Row]:
    history = LogHistory(store.log, Feed(store.log), TimeSlices())
    began = time.perf_counter()
    await history.count_runs(RunFilter())
    made_s = time.perf_counter() - began
    rows = [Row(f"index of {RUNS:,} runs", f"{made_s:.2f} s", "", None, "when somebody first filters")]
    slowest, name = 0.0, ""
    for title, selected in FILTERS.items():
        asked = Latencies()
        for _ in range(_ASKED):
            began = time.perf_counter()
            await history.runs(selected, limit=100)
            asked.add(time.perf_counter() - began)
        if asked.quantile_ms(0.95) > slowest:
            slowest, name = asked.quantile_ms(0.95), title
    rows.append(Row(f"filter of {RUNS:,} runs, p95", f"{slowest:.1f} ms", "50 ms", slowest <= 50, f"slowest: {name}"))
    return rows


_READER = """
import asyncio, sys

async def follow():
    port, topics = sys.argv[1], sys.argv[2]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(f"GET /v1/live?topics={topics} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n\\r\\n".encode())
    while await reader.read(65536):
        pass

async def main():
    await asyncio.gather(*[follow() for _ in range(int(sys.argv[3]))])

asyncio.run(main())
"""


def live_pages(folder: Path) -> list[Row]:
    """Measures the time from one step to the next, alternately at rest and while 20 pages follow everything."""
    cluster = Cluster(folder)
    rest, busy = Latencies(), Latencies()
    try:
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        _steps(cluster, Latencies(), 0)
        for _ in range(5):
            _steps(cluster, rest, 0)
            _steps(cluster, busy, PAGES)
    finally:
        cluster.close()
    share = busy.quantile_ms(0.99) / max(rest.quantile_ms(0.99), 1.0)
    note = f"p50 {busy.quantile_ms(0.5):.0f} ms, at rest {rest.quantile_ms(0.5):.0f} ms"
    measured = f"{busy.quantile_ms(0.99):.0f} ms"
    goal = f"2x that at rest ({rest.quantile_ms(0.99):.0f} ms)"
    return [Row(f"step to step with {PAGES} pages, p99", measured, goal, share <= 2, note)]


def _steps(cluster: Cluster, gaps: Latencies, pages: int) -> None:
    lines = "\n".join("      - {uses: log, with: {message: x}}" for _ in range(STEPS))
    run = cluster.start(f"name: no-op\njobs:\n  one:\n    runs-on: web\n    steps:\n{lines}\n")
    topics = f"overview,runs,agents,repositories,run:{run}"
    command = [sys.executable, "-c", _READER, str(cluster.api_port), topics, str(pages)]
    readers = subprocess.Popen(command) if pages else None
    try:
        _wait_for(cluster, run)
    finally:
        if readers is not None:
            readers.kill()
            readers.wait()
    ended = [_ms(event["at"]) for event in cluster.events(run) if event["type"] == "attempt-finished"]
    for before, after in pairwise(ended[_BEGINNING:]):
        gaps.add((after - before) / 1000)


def _wait_for(cluster: Cluster, run: str) -> None:
    """Asks rarely, and for little: these requests and the pages are one client, which has a limit."""
    while True:
        time.sleep(0.2)
        answered = cluster.api("GET", "/v1/runs?limit=1")
        if answered.status_code == HTTPStatus.OK:
            row = answered.json()["runs"][0]
            if (row["id"], row["status"]) == (run, "completed"):
                return


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
