"""Hostile repositories: one that fills the disk with output, and one that starts runs without end."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster, jobs_of
from tests.attack.arena import Arena
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MIB = 1 << 20
QUOTA = 2 * MIB
RUNS = 20
FLOODS = 8
#: More than half of the quota, which a single log may use.
PRINTED = 5 * MIB // 4
FLOOD = f"""name: flood
on: push
jobs:
  flood:
    runs-on: web
    strategy:
      matrix: {{n: {list(range(FLOODS))}}}
    steps:
      - run: head -c {PRINTED} /dev/zero | tr '\\0' 'a'
"""
QUIET = """name: quiet
on: push
jobs:
  quiet:
    runs-on: web
    steps:
      - run: seq 20000
"""
#: The end of the line that counts what is missing.
MARK = "bytes of output were dropped here: the output quota of the repository is used up]"
#: Runs that wait forever.
MANY = "on: push\njobs: {a: {runs-on: nowhere, steps: [{run: 'true'}]}}\n"


def repositories(cluster: Cluster, *names: str) -> list[Path]:
    """Makes repositories with small quotas and starts the daemon; returns their clones."""
    tables, clones = "", []
    for name in names:
        bare, clone = cluster.folder / f"{name}.git", cluster.folder / f"{name}-clone"
        cluster.git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
        cluster.git("clone", "--quiet", str(bare), str(clone))
        cluster.git("checkout", "--quiet", "-B", "main", cwd=clone)
        cluster.push(clone, {"README": name})
        quotas = f"{{ runs-per-hour = {RUNS}, output-bytes-per-hour = {QUOTA} }}"
        tables += f'[[repositories]]\nname = "{name}"\nurl = "{bare}"\nquotas = {quotas}\n'
        clones.append(clone)
    cluster.write_config(tables)
    cluster.start_daemon()
    wait_until(lambda: all(row["revision_applied"] for row in rows(cluster)), "the repositories to be read")
    return clones


def rows(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.api("GET", "/v1/repositories").json()["repositories"]
    return found


def run_of(cluster: Cluster, name: str, commit: str) -> str:
    """Returns the run that a push has started."""

    def find() -> str | None:
        runs = cluster.api("GET", "/v1/runs").json()["runs"]
        return next((row["id"] for row in runs if row["name"] == name and row["revision"] == commit), None)

    return wait_until(find, f"the run of {name}")


def text_of(cluster: Cluster, run: str, job: str, end: str) -> str:
    """Returns the output of a job once `end` has arrived."""

    def read() -> str:
        answer = cluster.api("GET", f"/v1/runs/{run}/logs", params={"job": job})
        assert answer.status_code == 200, answer.text
        return "".join(json.loads(line)["text"] for line in answer.text.splitlines())

    return wait_until(
        lambda: text if end in (text := read()) else None, f"{end} in the output of {job}", 4 * PATIENCE_S
    )


def stored_bytes(arena: Arena) -> int:
    """Returns the size of the data directory without its ballast."""
    command = ["du", "--summarize", "--block-size=1", "--exclude=ballast*", str(arena.daemon_dir)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])


def test_a_matrix_that_floods_fills_no_disk_and_costs_nobody_else_a_line(empty_arena: Arena) -> None:
    """What exceeds the quota is cut off and counted in its place; the steps succeed. A restart gives no new quota."""
    arena = empty_arena
    hostile, quiet = repositories(arena, "hostile", "quiet")
    arena.add_agent("web-1", "web", slots=FLOODS + 2)
    before = stored_bytes(arena)
    flood = run_of(arena, "flood", arena.push(hostile, {"workflows/flood.yml": FLOOD}))
    beside = run_of(arena, "quiet", arena.push(quiet, {"workflows/quiet.yml": QUIET}))
    assert arena.wait_for(beside)["conclusion"] == "success"
    assert text_of(arena, beside, "quiet", "1999920000") == "".join(map(str, range(1, 20_001)))
    found = arena.wait_for(flood, 4 * PATIENCE_S)
    assert found["conclusion"] == "success", found["reason"]
    kept = 0
    for name in jobs_of(found):
        if name != "flood":
            text = text_of(arena, flood, name, MARK)
            kept += text.count("a" * 1000) * 1000
            dropped = int(text.partition("[waterflow: ")[2].split()[0])
            assert text.partition("[")[0].count("a") + text.partition("]")[2].count("a") + dropped == PRINTED
    assert QUOTA // 4 < kept <= QUOTA
    assert stored_bytes(arena) - before < 3 * QUOTA
    problems = arena.api("GET", "/v1/status").json()["problems"]
    assert any("hostile" in text and "output was cut off" in text for text in problems), problems
    assert not any("quiet" in text for text in problems)
    assert "(output-bytes-per-hour)" in arena.ctl("status").stdout
    arena.kill_daemon()
    arena.start_daemon()
    wait_until(lambda: "web-1" in arena.connected(), "the agent")
    again = run_of(arena, "flood", arena.push(hostile, {"README": "again"}))
    assert arena.wait_for(again, 4 * PATIENCE_S)["conclusion"] == "success"
    for name in jobs_of(arena.run(again)):
        if name != "flood":
            text_of(arena, again, name, MARK)
    assert stored_bytes(arena) - before < 3 * QUOTA


def test_a_repository_that_pushes_without_end_starts_no_more_than_its_quota(empty_arena: Arena) -> None:
    """Another repository's push starts at once meanwhile; the refused push is shown, and survives a kill."""
    arena = empty_arena
    hostile, quiet = repositories(arena, "hostile", "quiet")
    arena.add_agent("web-1", "web")
    arena.push(hostile, {f"workflows/{number}.yml": MANY for number in range(4)})
    for number in range(2 * RUNS // 4):
        arena.push(hostile, {"README": str(number)})
        wait_until(lambda: _is_handled(arena, hostile), "the push to be applied or refused")
    began = time.monotonic()
    beside = run_of(arena, "quiet", arena.push(quiet, {"workflows/quiet.yml": QUIET}))
    assert arena.wait_for(beside)["conclusion"] == "success", time.monotonic() - began
    assert RUNS <= _started(arena) <= RUNS + 4
    row = rows(arena)[0]
    assert f'"hostile" has used its quota of {RUNS} runs per hour; the next run may start at' in row["text"], row
    status = arena.ctl("status")
    assert status.returncode == 1
    assert "raise runs-per-hour" in status.stdout
    arena.kill_daemon()
    arena.start_daemon()
    wait_until(lambda: "quota" in rows(arena)[0]["text"], "the push to be refused again")
    assert RUNS <= _started(arena) <= RUNS + 4


def _is_handled(arena: Arena, clone: Path) -> bool:
    row, head = rows(arena)[0], arena.git("rev-parse", "HEAD", cwd=clone).strip()
    return row["revision_applied"] == head or "quota" in row["text"]


def _started(arena: Arena) -> int:
    found = arena.api("GET", "/v1/runs", params={"limit": 100}).json()["runs"]
    return len([row for row in found if row["repository"] == "hostile"])
