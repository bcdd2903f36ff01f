"""Caches with real processes: pushes to branches, hits and misses, limits, the commands, and kills in the middle of a save."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.cluster import Cluster, jobs_of
from tests.patience import wait_until

pytestmark = pytest.mark.slow
_needs_log = pytest.mark.log_engine("shared caches are not available on Temporal")

EXAMPLE = Path(__file__).parents[3] / "examples/cache.yml"
#: A few hundred blocks, so that there is time to kill something while they are sent.
LARGE_BYTES = 48 << 20


def _workflow(source: Path, scope: str = "shared") -> str:
    """Restores `data`, says what it has found, and replaces it, by the key in `key.txt`."""
    return f"""name: cached
on: push
jobs:
  build:
    runs-on: web-servers
    steps:
      - id: c
        uses: actions/cache@v4
        with: {{path: data, key: "k-${{{{ hashFiles('key.txt') }}}}", restore-keys: k-, scope: {scope}}}
      - run: echo "hit=${{{{ steps.c.outputs.cache-hit }}}}"
      - run: test -e data && sha256sum < data/image || true
      - run: rm -rf data && cp -r {source} data
"""


class Watched:
    """A cluster with a repository whose pushes start runs."""

    def __init__(self, cluster: Cluster, settings: str = "") -> None:
        self.cluster = cluster
        self.clone = cluster.make_repository()
        repository = f'[[repositories]]\nname = "ops"\nurl = "{cluster.repository}"\nrefs = ["*"]\n'
        cluster.write_config(repository + settings)
        cluster.start_daemon()
        cluster.add_agent("web-1", "web-servers")
        wait_until(lambda: cluster.connected() == {"web-1"}, "the agent to connect")
        self._count = 0

    def push(self, files: dict[str, str], branch: str = "main") -> str:
        """Pushes to a branch; returns the run that starts."""
        self.cluster.git("checkout", "--quiet", "-B", branch, cwd=self.clone)
        for name, content in files.items():
            path = self.clone / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.cluster.git("add", "--all", cwd=self.clone)
        self.cluster.git("commit", "--quiet", "--allow-empty", "--message", f"{self._count}", cwd=self.clone)
        self.cluster.git("push", "--quiet", "origin", branch, cwd=self.clone)
        self._count += 1
        runs = wait_until(self._new_runs, f"run {self._count} to start")
        return str(runs[0]["id"])

    def _new_runs(self) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.cluster.api("GET", "/v1/runs").json()["runs"]
        return runs if len(runs) == self._count else []

    def pushed(self, files: dict[str, str], branch: str = "main") -> tuple[list[str], str]:
        """Pushes, and waits for the end; returns the output, and how the step that saves has ended."""
        run = self.push(files, branch)
        found = self.cluster.wait_for(run)
        assert found["conclusion"] == "success", self.cluster.lines(run)
        steps = jobs_of(found)["build"]["steps"]
        assert [step["name"] for step in steps][-1] == "Post actions/cache@v4"
        return self.cluster.lines(run), steps[-1]["conclusion"]

    def caches(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.cluster.api("GET", "/v1/caches").json()["caches"]
        return rows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "image").write_bytes(random.Random(1).randbytes(1_000))
    return folder


@_needs_log
def test_later_runs_restore_by_key_and_prefix_on_their_own_branch_or_from_the_default_one(
    empty_cluster: Cluster, source: Path
) -> None:
    """A miss that saves, a prefix, a hit that saves nothing, branches, the list, and the removal."""
    watched = Watched(empty_cluster)
    workflow = {"workflows/cached.yml": _workflow(source), "key.txt": "1"}

    lines, saved = watched.pushed(workflow)
    assert "hit=" in lines
    assert saved == "success"
    (first,) = watched.caches()
    assert (first["repository"], first["ref"], first["files"]) == ("ops", "refs/heads/main", 2)
    lines, saved = watched.pushed({"key.txt": "2"})
    assert "hit=false" in lines
    assert any("restored from key " + first["key"] in line for line in lines)
    assert saved == "success"
    lines, saved = watched.pushed({"other.txt": "1"})
    assert "hit=true" in lines
    assert saved == "skipped"

    lines, _ = watched.pushed({"key.txt": "3"}, "feature")
    assert "hit=false" in lines
    assert any("restored" in line for line in lines)
    (own,) = [row for row in watched.caches() if row["ref"] == "refs/heads/feature"]
    lines, _ = watched.pushed({"more.txt": "1"}, "feature")
    assert "hit=true" in lines
    # The same key on another branch that began at the same commit: it never sees that of the first.
    lines, _ = watched.pushed({}, "other")
    assert "hit=false" in lines

    listed = watched.cluster.ctl("caches", "list")
    assert listed.returncode == 0, listed.stderr
    assert "4 caches" in listed.stdout
    rows = json.loads(watched.cluster.ctl("caches", "list", "--ref", "feature", "--json").stdout)
    assert [row["key"] for row in rows] == [own["key"]]
    assert watched.cluster.ctl("caches", "list", "--key", "nothing").stdout.strip() == "no caches"
    deleted = watched.cluster.ctl("caches", "delete", own["key"], "--ref", "feature")
    assert (deleted.returncode, deleted.stdout.strip()) == (0, "ops: 1 cache deleted"), deleted.stderr
    again = watched.cluster.ctl("caches", "delete", own["key"], "--ref", "feature")
    assert (again.returncode, own["key"] in again.stderr) == (5, True)
    emptied = watched.cluster.ctl("caches", "delete", "--all")
    assert emptied.stdout.strip() == "ops: 3 caches deleted", emptied.stderr
    assert watched.caches() == []
    metrics = watched.cluster.api("GET", "/metrics").text
    for line in ('lookups_total{found="key"} 2.0', 'entries_removed_total{reason="deleted"} 4.0', "entries 0.0"):
        assert f"waterflow_cache_{line}" in metrics


@_needs_log
def test_the_example_makes_its_tools_once(empty_cluster: Cluster) -> None:
    """Started twice, as its comment says."""
    watched = Watched(empty_cluster)
    cluster = watched.cluster
    first = watched.push({"workflows/cache.yml": EXAMPLE.read_text(), "tools.txt": "make"})
    assert cluster.wait_for(first)["conclusion"] == "success", cluster.lines(first)
    assert "made the tools" in cluster.lines(first)

    again = cluster.ctl("run", "cache")

    assert again.returncode == 0, again.stderr
    second = cluster.api("GET", "/v1/runs").json()["runs"][0]["id"]
    assert second != first
    lines = cluster.lines(second)
    assert "made the tools" not in lines
    assert sum("cache restored from key" in line for line in lines) == 2
    assert any("exists already; nothing was saved" in line for line in lines)


@_needs_log
def test_the_oldest_caches_make_room(empty_cluster: Cluster, source: Path) -> None:
    """The limit of the repository holds two; the daemon says what it removes, and why."""
    watched = Watched(empty_cluster, "[caches]\nrepository-max-bytes = 2500\n")
    keys = []
    for number in range(3):
        watched.pushed({"workflows/cached.yml": _workflow(source), "key.txt": f"{number}"})
        keys.append(max(watched.caches(), key=lambda row: row["created_at"])["key"])

    assert {row["key"] for row in watched.caches()} == set(keys[1:])
    log = watched.cluster.log.read_text()
    assert f"cache {keys[0]} of refs/heads/main removed: the repository has reached caches.repository-max-bytes" in log


@_needs_log
def test_a_kill_in_the_middle_of_a_save_leaves_nothing_half_saved(empty_cluster: Cluster, source: Path) -> None:
    """The daemon is killed twice, and the agent once: nothing is listed until everything is there, and the next run has it."""
    (source / "image").write_bytes(random.Random(2).randbytes(LARGE_BYTES))
    watched = Watched(empty_cluster)
    cluster, blocks = watched.cluster, watched.cluster.folder / "daemon/artifacts/blocks"
    run = watched.push({"workflows/cached.yml": _workflow(source), "key.txt": "1"})
    for number in range(2):
        stored = sum(1 for _ in blocks.rglob("*"))
        wait_until(
            lambda stored=stored: (
                sum(1 for _ in blocks.rglob("*")) > stored + 20 or cluster.run(run)["status"] == "completed"  # type: ignore[misc]
            ),
            "more blocks to be stored",
        )
        cluster.kill_daemon()
        if number:
            cluster.kill_agent("web-1")
        cluster.start_daemon()
        if number:
            cluster.start_agent("web-1")
        # Before the run has ended, there is nothing, or all of it.
        assert [row["bytes"] for row in watched.caches()] in ([], [LARGE_BYTES])
    found = cluster.wait_for(run)
    assert found["conclusion"] == "success", cluster.lines(run)
    assert [len(step["attempts"]) for step in jobs_of(found)["build"]["steps"]] == [1] * 5
    assert [row["bytes"] for row in watched.caches()] == [LARGE_BYTES]

    lines, _ = watched.pushed({})

    assert "hit=true" in lines
    assert any(line.startswith(_sha256(source / "image")) for line in lines)


def test_a_server_keeps_caches_itself(empty_cluster: Cluster, source: Path) -> None:
    """Across a kill of its agent; the daemon has nothing of it."""
    watched = Watched(empty_cluster)
    cluster = watched.cluster
    lines, saved = watched.pushed({"workflows/cached.yml": _workflow(source, "server"), "key.txt": "1"})
    assert "hit=" in lines
    assert saved == "success"
    cluster.kill_agent("web-1")
    cluster.start_agent("web-1")

    lines, saved = watched.pushed({})

    assert "hit=true" in lines
    assert any(line.startswith(_sha256(source / "image")) for line in lines)
    assert saved == "skipped"
    assert not list((cluster.folder / "daemon").glob("artifacts/blocks/*"))
    lines, _ = watched.pushed({"key.txt": "2"}, "feature")
    assert "hit=false" in lines
    lines, _ = watched.pushed({}, "other")
    assert "hit=false" in lines


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
