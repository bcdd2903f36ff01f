"""The daemon's disk: write errors at every call, no space left, flipped bytes, truncated files."""

from __future__ import annotations

import functools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.attack.arena import GOOD, Arena
from tests.attack.injection import Attached, Fault, is_alive, requires_strace
from tests.attack.small_disk import fill, small_disk
from tests.attack.sweep import sweep
from tests.attack.test_hostile_steps import job
from tests.chance import IS_FULL, SEED
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if IS_FULL else 1200)]

_PAGE_BYTES = 4096


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_write_error_stops_the_daemon_with_a_message_and_loses_nothing(arena: Arena) -> None:
    """EIO at the N-th write or flush ends the daemon with WF303; the next start has all acknowledged runs."""
    requires_strace()

    def strike(fault: Fault) -> bool:
        pid = arena.daemon_pid
        log_size = arena.log.stat().st_size
        answers: dict[str, str | None] = {}
        with Attached(pid, fault):
            for _ in range(3):
                key = arena.key()
                answers[key] = arena.post(key)
            known = [run for run in answers.values() if run]
            wait_until(lambda: not is_alive(pid) or all(map(arena.has_ended, known)), "an end")
        is_struck = not _still_works(arena, answers)
        if is_struck:
            code = arena.daemon_process.wait(PATIENCE_S)
            text = arena.log.read_text()[log_size:]
            assert code == 1, f"it ended with {code}: {text[-3000:]}"
            assert "WF303" in text.splitlines()[-1], text[-3000:]
            assert "Traceback" not in text, text[-3000:]
            arena.start_daemon()
        for key, answered in answers.items():
            run = arena.post(key)
            assert run is not None
            assert answered in (None, run)
            arena.judge.run(run)
        return is_struck

    calls = [("fdatasync", 12), ("pwrite64", 30)]
    # A regression: a start that waited for the commit was answered with a bare 500, five seconds later.
    found = [("pwrite64", 2)]
    assert sweep(calls, strike, found, effect="error=EIO", rounds=2), "no fault struck"


def _still_works(arena: Arena, answers: dict[str, str | None]) -> bool:
    """Returns whether one more run starts and completes; if not, a write failed and the daemon has exited."""
    process, key = arena.daemon_process, arena.key()
    run = answers[key] = arena.post(key)
    wait_until(
        lambda: process.poll() is not None or (run is not None and arena.has_ended(run)),
        "the daemon to end or to go on",
    )
    return process.poll() is None


# Space ----------------------------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.usefixtures("root")
def test_a_full_disk_refuses_starts_keeps_results_and_recovers_by_itself(empty_arena: Arena, kind: str) -> None:
    """Starts are refused with 507 and a message, running steps continue, and once there is space everything arrives."""
    arena = empty_arena
    with small_disk(arena.folder, kind, 64) as directory:
        arena.daemon_dir = directory / "daemon"
        arena.write_config()
        arena.start_daemon()
        try:
            arena.add_agent("web-1", "web")
            assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"
            gate = arena.folder / "gate"
            marker = arena.folder / "marker"
            script = f"echo begin\nwhile [ ! -e {gate} ]; do sleep 0.05; done\nseq 5000\necho x >> {marker}"
            run = arena.start(job(script, then="      - run: echo second\n"))
            arena.lines(run, count=1)
            filler = fill(directory)
            refused = wait_until(lambda: _refusal(arena, directory), "a start to be refused")
            assert refused["status"] == 507, refused
            assert refused["code"] == "WF302", refused
            assert "full" in refused["detail"] or "space" in refused["detail"], refused
            assert arena.api("GET", "/ready").status_code == 507
            assert arena.api("GET", f"/v1/runs/{run}").status_code == 200, "reading still works"
            known = arena.count_runs()
            gate.touch()
            wait_until(marker.exists, "the step to go on")
            filler.unlink()
            wait_until(lambda: arena.api("GET", "/ready").status_code == 200, "new work to be taken again")
            assert arena.wait_for(run)["conclusion"] == "success"
            lines = arena.lines(run, count=5_002)
            assert lines == ["begin", *map(str, range(1, 5_001)), "second"]
            assert marker.read_text() == "x\n"
            assert arena.count_runs() == known, "a refused start became a run"
            assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"
            assert arena.stop_daemon() == 0
        finally:
            arena.close()


def _refusal(arena: Arena, directory: Path) -> dict[str, Any] | None:
    """Returns the answer to a start once one is refused; fills the disk again first, in case space was freed."""
    fill(directory)
    headers = {"content-type": "application/yaml"}
    answer = arena.api("POST", "/v1/runs", content=GOOD.encode(), headers=headers)
    assert answer.status_code in (201, 507), answer.text
    refused: dict[str, Any] = answer.json()
    return None if answer.status_code == 201 else refused


@pytest.mark.root
@pytest.mark.usefixtures("root")
def test_a_daemon_that_is_killed_on_a_full_disk_starts_again(empty_arena: Arena) -> None:
    """The daemon needs a little space to start, which the ballast provides; otherwise it reports a full disk."""
    arena = empty_arena
    with small_disk(arena.folder, "tmpfs", 64) as directory:
        arena.daemon_dir = directory / "daemon"
        arena.write_config()
        arena.start_daemon()
        try:
            arena.add_agent("web-1", "web")
            run = arena.start(GOOD)
            arena.wait_for(run)
            fill(directory)
            for _ in range(3):
                arena.kill_daemon()
                arena.spawn_daemon()
                if not _is_up(arena, _answers):
                    assert "WF302" in arena.log.read_text().splitlines()[-1], arena.log.read_text()[-2000:]
                    break
                assert arena.run(run)["conclusion"] == "success"
                fill(directory)
            (directory / "filler").unlink()
            if arena.daemon_process.poll() is None:
                arena.kill_daemon()
            arena.start_daemon()
            assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"
        finally:
            arena.close()


def _is_up(arena: Arena, is_ready: Callable[[Arena], bool]) -> bool:
    """Waits until the daemon that was spawned is ready; returns false if it exits instead."""
    process = arena.daemon_process
    wait_until(lambda: process.poll() is not None or is_ready(arena), "the daemon to be ready or to end")
    return process.poll() is None


def _answers(arena: Arena) -> bool:
    try:
        return arena.api("GET", "/health").status_code == 200
    except httpx.HTTPError:
        return False


# Damage ---------------------------------------------------------------------------------------------------------------


def _history(arena: Arena) -> list[str]:
    """Makes a data directory with some work in it, with the daemon stopped; returns the runs."""
    arena.start_daemon()
    arena.add_agent("web-1", "web")
    runs = [arena.start(job("seq 300")) for _ in range(5)]
    for run in runs:
        arena.wait_for(run)
        # A run may complete before all of its output is stored.
        arena.lines(run, count=300)
    assert arena.stop_daemon() == 0
    arena.kill_agent("web-1")
    return runs


def _starts(arena: Arena) -> bool:
    """Returns whether the daemon starts; otherwise it must report WF304 and exit with 1, not by a signal."""
    log_size = arena.log.stat().st_size
    process = arena.spawn_daemon()
    if _is_up(arena, Arena.is_daemon_ready):
        return True
    text = arena.log.read_text()[log_size:]
    assert process.returncode == 1, f"it ended with {process.returncode}: {text[-3000:]}"
    assert "Traceback" not in text, text[-3000:]
    assert "WF304" in text.splitlines()[-1], text[-3000:]
    return False


def test_a_truncated_log_is_refused_with_a_clear_message(empty_arena: Arena) -> None:
    """At every tested page boundary and at size 0 the daemon exits with 1 and WF304, never by SIGBUS."""
    arena = empty_arena
    runs = _history(arena)
    file = arena.daemon_dir / "log.mdb" / "data.mdb"
    whole = file.read_bytes()
    pages = len(whole) // _PAGE_BYTES
    dice = random.Random(SEED)
    print(f"WATERFLOW_SEED={SEED}")
    lengths = range(pages) if IS_FULL else [0, 1, *dice.sample(range(2, pages), 2), pages - 1]
    refused = 0
    for length in lengths:
        file.write_bytes(whole[: length * _PAGE_BYTES])
        if _starts(arena):
            _same(arena, runs, f"cut to {length} of {pages} pages")
            arena.kill_daemon()
        else:
            refused += 1
    print(f"{refused} of {len(lengths)} lengths refused, the others lost nothing")
    assert refused
    file.write_bytes(whole)
    arena.start_daemon()
    _same(arena, runs, "restored")


@pytest.mark.usefixtures("nightly")
def test_a_flipped_byte_is_refused_or_reported_and_never_served(empty_arena: Arena) -> None:
    """Wherever the byte is, the start is refused, a read returns WF304, or the byte was unused."""
    arena = empty_arena
    runs = _history(arena)
    file = arena.daemon_dir / "log.mdb" / "data.mdb"
    whole = file.read_bytes()
    arena.start_daemon()
    truth = _shown(arena, runs)
    arena.kill_daemon()
    whole = file.read_bytes()
    dice = random.Random(SEED)
    print(f"WATERFLOW_SEED={SEED}")
    counts = {"refused": 0, "told": 0, "untouched": 0}
    for _ in range(300 if IS_FULL else 5):
        at = dice.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[at] ^= 1 << dice.randrange(8)
        file.write_bytes(damaged)
        if not _starts(arena):
            counts["refused"] += 1
            continue
        displayed = _shown(arena, runs)
        counts["untouched" if displayed == truth else "told"] += 1
        for got, true in zip(displayed, truth, strict=True):
            assert got == true or "WF304" in got, f"byte {at} changed: {got[:2000]} is not {true[:2000]}"
        if arena.daemon_process.poll() is None:
            arena.kill_daemon()
    print(counts)


@pytest.mark.usefixtures("nightly")
def test_a_salvaged_log_starts_and_shows_a_true_prefix_of_each_run(empty_arena: Arena) -> None:
    """After `fsck --salvage` of zeroed pages and flipped bits, a daemon shows a true prefix of each run."""
    arena = empty_arena
    runs = _history(arena)
    arena.start_daemon()
    truth = {run: _events(arena, run) for run in runs}
    arena.kill_daemon()
    damaged = arena.folder / "damaged"
    arena.daemon_dir.rename(damaged)
    file = damaged / "log.mdb" / "data.mdb"
    whole = file.read_bytes()
    dice = random.Random(SEED)
    print(f"WATERFLOW_SEED={SEED}")
    verdicts = {0: 0, 3: 0, 4: 0}
    for number in range(40 if IS_FULL else 4):
        content = bytearray(whole)
        at = dice.randrange(len(whole))
        if number % 2:
            content[at] ^= 1 << dice.randrange(8)
        else:
            page = at // _PAGE_BYTES * _PAGE_BYTES
            content[page : page + _PAGE_BYTES] = bytes(_PAGE_BYTES)
        file.write_bytes(content)
        command = ["fsck", "--data-dir", str(damaged), "--salvage", str(arena.daemon_dir)]
        process = arena.spawn("waterflowd", *command, log=arena.folder / "salvage.log")
        verdict = process.wait(PATIENCE_S)
        verdicts[verdict] += 1
        if verdict != 4:
            arena.start_daemon()
            for run, true in truth.items():
                if arena.api("GET", f"/v1/runs/{run}").status_code == 404:
                    assert verdict == 3, f"byte {at}: {run} is gone without a word"
                    continue
                displayed = _events(arena, run)
                kept = [event for event in displayed if event in true]
                assert kept == true[: len(kept)], f"byte {at}: {run} has a false event"
                assert displayed == true or verdict == 3, f"byte {at}: {run} is cut without a word"
            arena.kill_daemon()
        shutil.rmtree(arena.daemon_dir, ignore_errors=True)
    print(verdicts)


def _events(arena: Arena, run: str) -> list[dict[str, Any]]:
    """Returns the events of a run, without their positions in the whole log."""
    answer = arena.api("GET", f"/v1/runs/{run}/events")
    assert answer.status_code == 200, answer.text
    events: list[dict[str, Any]] = answer.json()["events"]
    return [{name: value for name, value in event.items() if name != "seq"} for event in events]


def test_damaged_output_is_a_503_with_a_problem(empty_arena: Arena) -> None:
    """The answer is 503 with WF304 and no output, the log has no traceback, and other runs stay readable."""
    arena = empty_arena
    runs = _history(arena)
    file = arena.daemon_dir / "log.mdb" / "data.mdb"
    content = bytearray(file.read_bytes())
    at = content.find(b"\n150\n151\n")
    while at >= 0:
        content[at] ^= 4
        at = content.find(b"\n150\n151\n", at)
    file.write_bytes(content)
    arena.start_daemon()
    for run in runs:
        answer = arena.api("GET", f"/v1/runs/{run}/logs")
        assert answer.status_code == 503, answer.text[:500]
        assert answer.json()["code"] == "WF304"
        assert arena.run(run)["conclusion"] == "success"
    assert "Traceback" not in arena.log.read_text()


def _shown(arena: Arena, runs: list[str]) -> list[str]:
    """Returns what the API answers about the runs, or the error code that it answers instead."""
    displayed = []
    for run in runs:
        for part in ("", "/events", "/logs"):
            log_size = arena.log.stat().st_size
            try:
                answer = arena.api("GET", f"/v1/runs/{run}{part}")
            except httpx.RemoteProtocolError:
                # The daemon met the damage while answering; its own log has the message a moment later.
                displayed.append(
                    wait_until(functools.partial(_reported, arena, log_size), "the daemon to say what is wrong")
                )
            else:
                displayed.append(answer.text if answer.status_code == 200 else f"{answer.status_code} {answer.text}")
    return displayed


def _reported(arena: Arena, start: int) -> str | None:
    """Returns what the daemon's log says from that position on, once it reports damage."""
    text = arena.log.read_text()[start:]
    return text if "WF304" in text else None


def _same(arena: Arena, runs: list[str], what: str) -> None:
    for run in runs:
        assert arena.run(run)["conclusion"] == "success", what
        assert arena.lines(run) == [str(number) for number in range(1, 301)], what


def test_damaged_files_of_the_data_directory_are_refused_with_a_clear_message(empty_arena: Arena) -> None:
    """With an empty, garbled or missing FORMAT, key or clock, the daemon starts properly or exits with 1 and a code."""
    arena = empty_arena
    _history(arena)
    kept = arena.folder / "kept"
    shutil.copytree(arena.daemon_dir, kept)
    ends: dict[str, str] = {}
    names = ["FORMAT", "keys/server.key", "clock.json", "owner", "log.mdb/lock.mdb", "log.mdb/data.mdb"]
    for name in names:
        ways = [("empty", b""), ("garbled", os.urandom(200)), ("gone", None)]
        for how, content in ways if IS_FULL else [ways[names.index(name) % 2]]:
            shutil.rmtree(arena.daemon_dir)
            shutil.copytree(kept, arena.daemon_dir)
            path = arena.daemon_dir / name
            if content is None:
                path.unlink(missing_ok=True)
            elif path.exists():
                path.write_bytes(content)
            log_size = arena.log.stat().st_size
            process = arena.spawn_daemon()
            is_up = _is_up(arena, Arena.is_daemon_ready)
            text = arena.log.read_text()[log_size:]
            if is_up:
                ends[f"{name} {how}"] = "started"
                arena.kill_daemon()
            else:
                ends[f"{name} {how}"] = text.splitlines()[-1]
                assert process.returncode == 1, text[-2000:]
                assert "Traceback" not in text, text[-3000:]
                assert "[WF" in text.splitlines()[-1], text[-2000:]
    print("\n".join(f"{what}: {end}" for what, end in ends.items()))
