"""Artifacts under attack: kills at random moments of a transfer, very many files, full disks on both sides, used-up quotas.

Only at night, when the artifact has 1 GB, or 100,000 files; the acceptance tests have a small transfer with kills, and a quota.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import living
from tests.acceptance.cluster import Cluster, jobs_of
from tests.attack.arena import Arena
from tests.attack.small_disk import fill, small_disk
from tests.chance import IS_FULL, SEED
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if IS_FULL else 1200), pytest.mark.usefixtures("nightly")]

MIB = 1 << 20
BYTES = 1_000_000_000 if IS_FULL else 24 * MIB
FILES = 100_000 if IS_FULL else 2_000
#: For a whole transfer.
TRANSFER_S = 10 * PATIENCE_S if IS_FULL else 2 * PATIENCE_S
#: Steps of a job that stores `SOURCE`, and of one that fetches it to `TARGET`; each shell step leaves a line.
SHIP = """name: ship
jobs:
  build:
    runs-on: build
    steps:
      - run: echo build >> MARKERS
      - uses: artifact/upload
        with: {name: shop, path: SOURCE/}
  deploy:
    needs: build
    runs-on: web
    steps:
      - uses: artifact/download
        with: {name: shop, path: release}
      - run: echo deploy >> MARKERS && COLLECT
"""
BESIDE = "jobs: {a: {runs-on: GROUP, steps: [{run: echo beside}]}}"


def _ship(arena: Arena, source: Path, collect: str = "true") -> str:
    text = SHIP.replace("MARKERS", str(arena.markers)).replace("SOURCE", str(source))
    return arena.start(text.replace("COLLECT", collect))


def _random_files(folder: Path, dice: random.Random) -> Path:
    """Creates `BYTES`: a few large files, and many that share blocks."""
    folder.mkdir()
    small = 1_000
    for number in range(small):
        (folder / f"small-{number:04}").write_bytes(dice.randbytes(dice.randrange(2_000)))
    for number, share in enumerate((2, 4, 8, 8)):
        with (folder / f"large-{number}").open("wb") as file:
            for _ in range(BYTES // share // MIB):
                file.write(dice.randbytes(MIB))
    return folder


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _size(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _attempts(found: dict[str, Any]) -> list[int]:
    return [len(step["attempts"]) for job in jobs_of(found).values() for step in job["steps"]]


def _connect(arena: Arena) -> None:
    arena.start_daemon()
    arena.add_agent("build-1", "build")
    arena.add_agent("web-1", "web")


# Kills ----------------------------------------------------------------------------------------------------------------


def test_a_transfer_survives_kills_at_random_moments(empty_arena: Arena) -> None:
    """The daemon and both agents are killed twice each while files are stored, and again while they are fetched."""
    arena, dice = empty_arena, random.Random(SEED)
    print(f"WATERFLOW_SEED={SEED}")
    _connect(arena)
    source = _random_files(arena.folder / "source", dice)
    target = arena.folder / "target"
    run = _ship(arena, source, f"cp -r release {target}")

    _kill_during(arena, run, dice, "build-1", lambda: living.found(arena.daemon_dir / "artifacts/blocks", "*/*/*"))
    work = arena.agent_dir("web-1") / "work"
    _kill_during(arena, run, dice, "web-1", lambda: living.found(work, "**/.artifacts-*/0/*"))
    found = arena.wait_for(run, TRANSFER_S)

    assert found["conclusion"] == "success", (found["reason"], arena.lines(run))
    assert _digests(target) == _digests(source)
    assert _attempts(found) == [1, 1, 1, 1]
    assert arena.markers.read_text() == "build\ndeploy\n"


def _kill_during(arena: Arena, run: str, dice: random.Random, agent: str, written: Callable[[], list[Path]]) -> None:
    """Kills the daemon and the agent twice each, in any order, each once some more of the files is `written`."""
    victims = ["daemon", agent] * 2
    dice.shuffle(victims)
    moments = sorted(dice.uniform(0, 0.9) * BYTES for _ in victims)
    for victim, moment in zip(victims, moments, strict=True):
        wait_until(
            lambda moment=moment: _size(written()) > moment or arena.run(run)["status"] == "completed",  # type: ignore[misc]
            f"{moment:.0f} bytes to be written",
            TRANSFER_S,
        )
        print(f"kill {victim} at {moment:.0f} bytes", flush=True)
        if victim == "daemon":
            arena.kill_daemon()
            arena.start_daemon()
        else:
            arena.kill_agent(agent)
            arena.start_agent(agent)


# Many files -----------------------------------------------------------------------------------------------------------


def test_very_many_small_files_arrive_and_cost_few_blocks(empty_arena: Arena) -> None:
    """Files in deep and wide folders, empty ones, and ones with unusual names; people see and download them as well."""
    arena, dice = empty_arena, random.Random(SEED)
    _connect(arena)
    source, target = arena.folder / "source", arena.folder / "target"
    for number in range(FILES):
        folder = source / f"{number % 97}" / f"{number % 11} ünï"
        if number < 97 * 11:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(dice.randbytes(number % 300))

    run = _ship(arena, source, f"cp -r release {target}")
    found = arena.wait_for(run, TRANSFER_S)

    assert found["conclusion"] == "success", (found["reason"], arena.lines(run))
    assert _digests(target) == _digests(source)
    blocks = living.found(arena.daemon_dir / "artifacts/blocks", "*/*/*")
    assert len(blocks) < FILES / 20
    (row,) = arena.api("GET", f"/v1/runs/{run}/artifacts").json()["artifacts"]
    assert row["files"] == FILES
    loaded = arena.ctl(
        "artifacts", "download", run, "shop", "--output", str(arena.folder / "out"), timeout_s=TRANSFER_S
    )
    assert loaded.returncode == 0, loaded.stderr
    assert _digests(arena.folder / "out") == _digests(source)


# Space ----------------------------------------------------------------------------------------------------------------


def _failed_step(found: dict[str, Any], job: str) -> dict[str, Any]:
    (step,) = [step for step in jobs_of(found)[job]["steps"] if step["conclusion"] == "failure"]
    return dict(step)


def _works(arena: Cluster, *groups: str) -> None:
    for group in groups:
        found = arena.wait_for(arena.start(BESIDE.replace("GROUP", group)))
        assert found["conclusion"] == "success", found


@contextlib.contextmanager
def _daemon_on(arena: Arena, kind: str, mib: int, reserved: int) -> Iterator[Path]:
    with small_disk(arena.folder, kind, mib) as directory:
        arena.daemon_dir = directory / "daemon"
        arena.write_config()
        arena.config.write_text(arena.config.read_text() + f"\n[artifacts]\nreserved-bytes = {reserved}\n")
        _connect(arena)
        try:
            yield directory
        finally:
            arena.close()


@pytest.mark.root
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_an_artifact_that_does_not_fit_on_the_daemons_disk_harms_nothing_else(empty_arena: Arena, kind: str) -> None:
    """The step fails with WF302; runs start and end meanwhile and afterwards; with room, the same job succeeds."""
    arena = empty_arena
    with _daemon_on(arena, kind, 64, 24 * MIB) as directory:
        in_the_way = directory / "in the way"
        # Half of the artifact fits above what stays reserved.
        in_the_way.write_bytes(bytes(shutil.disk_usage(directory).free - 24 * MIB - 6 * MIB))
        source = arena.folder / "source"
        source.mkdir()
        (source / "image").write_bytes(random.Random(SEED).randbytes(12 * MIB))

        run = _ship(arena, source)
        found = arena.wait_for(run, TRANSFER_S)

        assert found["conclusion"] == "failure"
        assert "artifacts.reserved-bytes" in _failed_step(found, "build")["reason"]["text"]
        assert arena.api("GET", f"/v1/runs/{run}/artifacts").json() == {"artifacts": []}
        assert arena.api("GET", "/ready").status_code == 200
        _works(arena, "build", "web")
        in_the_way.unlink()
        again = arena.api("POST", f"/v1/runs/{run}/rerun", json={"failed": True}).json()["id"]
        assert arena.wait_for(again, TRANSFER_S)["conclusion"] == "success"


@pytest.mark.root
@pytest.mark.usefixtures("root")
def test_a_daemons_disk_that_becomes_full_during_a_transfer_costs_at_most_the_step(empty_arena: Arena) -> None:
    """Something else takes the last byte: the step fails and says why, and everything works once there is space."""
    arena = empty_arena
    with _daemon_on(arena, "tmpfs", 64, 1) as directory:
        source = arena.folder / "source"
        source.mkdir()
        (source / "image").write_bytes(random.Random(SEED).randbytes(48 * MIB))
        run = _ship(arena, source)
        wait_until(lambda: living.found(directory / "daemon/artifacts/blocks", "*/*/*"), "blocks to be stored")
        filler = fill(directory)
        wait_until(lambda: _has_ended_or_is_full(arena, run), "the step to notice")
        filler.unlink()
        wait_until(lambda: arena.api("GET", "/ready").status_code == 200, "new work to be taken again")
        found = arena.wait_for(run, TRANSFER_S)

        if found["conclusion"] != "success":
            reason = _failed_step(found, "build")["reason"]["text"]
            assert "full" in reason or "reserved-bytes" in reason, reason
        _works(arena, "build", "web")
        again = arena.api("POST", f"/v1/runs/{run}/rerun", json={}).json()["id"]
        assert arena.wait_for(again, TRANSFER_S)["conclusion"] == "success"


def _has_ended_or_is_full(arena: Arena, run: str) -> bool:
    """Whether the upload has ended; the run itself may not be able to say so on a full disk."""
    return arena.run(run)["status"] == "completed" or arena.api("GET", "/ready").status_code == 507


@pytest.mark.root
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("files", "size", "reason"),
    [(1, 64 * MIB, "left; free some space"), (12_000, 1, "No space left on device")],
    ids=["known before", "found while writing"],
)
def test_an_artifact_that_does_not_fit_on_the_agents_disk_fails_only_its_step(
    empty_arena: Arena, files: int, size: int, reason: str
) -> None:
    """What was fetched is removed, the agent works on, and with room the same job succeeds."""
    arena = empty_arena
    with small_disk(arena.folder, "tmpfs", 32) as directory:
        arena.agent_places["web-1"] = directory / "agent"
        _connect(arena)
        try:
            source, dice = arena.folder / "source", random.Random(SEED)
            source.mkdir()
            for number in range(files):
                # Each needs a page of the disk, however small it is.
                (source / f"f{number}").write_bytes(dice.randbytes(size))

            run = _ship(arena, source)
            found = arena.wait_for(run, TRANSFER_S)

            assert found["conclusion"] == "failure"
            text = _failed_step(found, "deploy")["reason"]["text"]
            assert reason in text, text
            assert "release" in text, text
            wait_until(lambda: not living.found(directory / "agent/work", "**/.artifacts-*"), "what was fetched to go")
            _works(arena, "build", "web")
            subprocess.run(["mount", "-o", "remount,size=256m", str(directory)], check=True)
            again = arena.api("POST", f"/v1/runs/{run}/rerun", json={"failed": True}).json()["id"]
            assert arena.wait_for(again, TRANSFER_S)["conclusion"] == "success"
        finally:
            arena.close()


# Quotas ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["artifact-max-bytes", "artifact-max-files", "run-max-bytes", "max-bytes"])
def test_a_used_up_quota_fails_the_step_that_exceeds_it_and_nothing_else(empty_arena: Arena, key: str) -> None:
    """The reason names the key; with a larger quota, the same job succeeds."""
    arena = empty_arena
    arena.config.write_text(arena.config.read_text() + f"\n[artifacts]\n{key} = 3\n")
    _connect(arena)
    source = arena.folder / "source"
    source.mkdir()
    for number in range(4):
        (source / f"f{number}").write_bytes(os.urandom(1_000))

    run = _ship(arena, source)
    found = arena.wait_for(run)

    assert found["conclusion"] == "failure"
    assert f"artifacts.{key}" in json.dumps(_failed_step(found, "build"))
    assert arena.api("GET", f"/v1/runs/{run}/artifacts").json() == {"artifacts": []}
    _works(arena, "build", "web")
    arena.config.write_text(arena.config.read_text().replace(f"{key} = 3", f"{key} = 100000"))
    assert arena.stop_daemon() == 0
    arena.start_daemon()
    wait_until(lambda: arena.connected() == {"build-1", "web-1"}, "the agents to connect")
    again = arena.api("POST", f"/v1/runs/{run}/rerun", json={"failed": True}).json()["id"]
    assert arena.wait_for(again)["conclusion"] == "success"
