"""Artifacts: the time of a transfer against copying, and the time between steps while one is in progress."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import steps
from bench.figures import Row
from tests.acceptance.cluster import Cluster, jobs_of

ROUNDS = 3
PATIENCE_S = 300.0
#: Number and size of the files: 1 GB, and very many.
LARGE, SMALL = (100, 10_000_000), (20_000, 2_000)
WORKFLOW = """jobs:
  store:
    runs-on: build
    steps:
      - uses: artifact/upload
        with: {path: "SOURCE/"}
  fetch:
    needs: store
    runs-on: deploy
    steps:
      - uses: artifact/download
        with: {path: fetched}
"""


def artifacts(folder: Path) -> list[Row]:
    """1 GB in 100 files, 20,000 small files, and steps beside a transfer."""
    return [*_against_copying(folder / "copies"), _beside(folder / "beside")]


def _against_copying(folder: Path) -> list[Row]:
    folder.mkdir()
    cluster = Cluster(folder)
    try:
        cluster.start_daemon()
        cluster.add_agent("build-1", "build")
        cluster.add_agent("deploy-1", "deploy")
        large = [_Round(cluster, folder / f"large-{number}", *LARGE) for number in range(ROUNDS)]
        small = [_Round(cluster, folder / f"small-{number}", *SMALL) for number in range(ROUNDS)]
    finally:
        cluster.close()
    return [*_compared("1 GB in 100 files", large), *_compared("20,000 files of 2 kB", small)]


class _Round:
    """The seconds that one set of random files takes."""

    def __init__(self, cluster: Cluster, source: Path, count: int, size: int) -> None:
        _make_files(source, count, size)
        self.cp_s = _timed(f"cp -r {source} {source}-copy")
        self.tar_s = _timed(f"mkdir {source}-piped && tar -c -C {source} . | tar -x -C {source}-piped")
        run = cluster.start(WORKFLOW.replace("SOURCE", str(source)))
        jobs = jobs_of(_succeeded(cluster, run))
        self.stored_s, self.fetched_s = (_duration_s(jobs[name]["steps"][0]) for name in ("store", "fetch"))


def _make_files(folder: Path, count: int, size: int) -> None:
    for number in range(count):
        path = folder / str(number % 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    # What is still to be written must not slow down what is measured.
    os.sync()


def _timed(script: str) -> float:
    """Seconds until a script has ended and everything is on disk, as what the daemon stores is."""
    began = time.perf_counter()
    subprocess.run(["sh", "-ec", script], check=True)
    os.sync()
    return time.perf_counter() - began


def _succeeded(cluster: Cluster, run: str) -> dict[str, Any]:
    found = cluster.wait_for(run, PATIENCE_S)
    assert found["conclusion"] == "success", found["reason"]
    return found


def _duration_s(step: dict[str, str]) -> float:
    began, ended = (datetime.fromisoformat(step[key]) for key in ("started_at", "completed_at"))
    return (ended - began).total_seconds()


def _compared(files: str, rounds: Sequence[_Round]) -> list[Row]:
    cp_s, tar_s = (
        statistics.median(times) for times in zip(*((each.cp_s, each.tar_s) for each in rounds), strict=True)
    )
    stored_s, fetched_s = (
        statistics.median(times) for times in zip(*((each.stored_s, each.fetched_s) for each in rounds), strict=True)
    )
    note = f"on this disk, cp -r takes {cp_s:.1f} s and tar | tar {tar_s:.1f} s"
    return [
        Row(f"{files}, {what} as an artifact", f"{seconds:.1f} s ({seconds / tar_s:.1f} x tar)", "", None, note)
        for what, seconds in (("stored", stored_s), ("fetched", fetched_s))
    ]


def _beside(folder: Path) -> Row:
    """Compares the time between steps of one agent, while another one stores an artifact, with that at rest."""
    rounds = [_round_beside(folder / str(number)) for number in range(ROUNDS)]
    ratio = statistics.median(busy_ms / at_rest_ms for at_rest_ms, busy_ms in rounds)
    return Row(
        "step to step, 1 run, p99, beside the transfer of an artifact",
        f"{ratio:.1f} x at rest",
        "2 x",
        ratio <= 2,
        "at rest and beside it: "
        + ", ".join(f"{at_rest_ms:.1f} and {busy_ms:.1f} ms" for at_rest_ms, busy_ms in rounds),
    )


def _round_beside(folder: Path) -> tuple[float, float]:
    folder.mkdir(parents=True)
    _make_files(folder / "source", *LARGE)
    cluster = Cluster(folder)
    os.environ["BENCH_INSTANTS"] = str(folder / "instants")
    try:
        cluster.start_daemon()
        cluster.add_agent("build-1", "build")
        # Elsewhere this server has processors of its own.
        for thread in os.listdir(f"/proc/{cluster.agent_process('build-1').pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(thread), 19)
        cluster.agent_module = "bench.probe_agent"
        cluster.add_agent("web-1", "web")
        at_rest_ms = _p99_ms(cluster, folder / "instants")
        cluster.start_agent("web-1")
        transfer = cluster.start(WORKFLOW.partition("  fetch:")[0].replace("SOURCE", str(folder / "source")))
        busy_ms = _p99_ms(cluster, folder / "instants")
        assert cluster.run(transfer)["status"] != "completed", "the transfer ended before the steps"
        _succeeded(cluster, transfer)
    finally:
        cluster.close()
    return at_rest_ms, busy_ms


def _p99_ms(cluster: Cluster, instants: Path) -> float:
    """Between two steps of three runs; the agent writes its instants when it stops."""
    for _ in range(4):
        steps.completed(cluster, cluster.start(steps.no_op(steps.STEPS)))
    cluster.stop_agent("web-1")
    return steps.latencies_of(instants).quantile_ms(0.99)
