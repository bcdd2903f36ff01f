"""Checkouts: sending a large tree to a new agent, and again after a small change."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figures import Row
from tests.acceptance.cluster import Cluster
from tests.patience import wait_until

FILES = 10_000
FILE_BYTES = 10_000
CHANGES = 5
PATIENCE_S = 300.0
WORKFLOW = "on: {push: {}}\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: 'true'\n"


def checkouts(folder: Path) -> list[Row]:
    """Time from the offer to the first process of the job: for a new tree, and the median after changes of one file."""
    cluster = Cluster(folder)
    try:
        clone = cluster.make_repository()
        cluster.start_daemon()
        cluster.add_agent("web-1", "web")
        for number in range(FILES):
            path = clone / f"data/{number % 100}/{number}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(FILE_BYTES))
        cluster.push(clone, {"workflows/a.yml": WORKFLOW})
        first = _begun_s(cluster, 1)
        plain = _written_s(clone, folder / "copy")
        later, made = [], cluster.agent_dir("web-1") / "trees/made"
        for number in range(CHANGES):
            wait_until(lambda: len(list(made.glob("*/data/*/*"))) == FILES, "the spare directory", PATIENCE_S)
            cluster.push(clone, {"data/0/0": f"change {number}"})
            later.append(_begun_s(cluster, number + 2))
    finally:
        cluster.close()
    changed = sorted(later)[CHANGES // 2]
    size = f"{FILES:,} files, {FILES * FILE_BYTES // 1_000_000} MB"
    return [
        Row(
            f"{size}, to a new agent",
            f"{first:.2f} s",
            "8 s",
            first <= 8,
            f"copying them on this disk takes {plain:.2f} s",
        ),
        Row(
            "the same again after a change of one file", f"{changed:.3f} s", "0.3 s", changed <= 0.3, f"{CHANGES} times"
        ),
    ]


def _begun_s(cluster: Cluster, count: int) -> float:
    """Seconds from the offer of the newest run's step to the start of its process."""

    def newest() -> dict[str, Any] | None:
        rows = cluster.api("GET", "/v1/runs").json()["runs"]
        return rows[0] if len(rows) == count else None

    run = wait_until(newest, f"run {count}", PATIENCE_S)["id"]
    step = cluster.wait_for(run, PATIENCE_S)["jobs"][0]["steps"][0]
    offered = next(event["at"] for event in cluster.events(run) if event["type"] == "attempt-dispatched")
    started = step["attempts"][0]["started_at"]
    return (datetime.fromisoformat(started) - datetime.fromisoformat(offered)).total_seconds()


def _written_s(clone: Path, target: Path) -> float:
    """Seconds to write the same files on this disk, one after the other."""
    contents = [path.read_bytes() for path in sorted(clone.glob("data/*/*"))]
    began = time.perf_counter()
    for number, content in enumerate(contents):
        path = target / str(number % 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return time.perf_counter() - began
