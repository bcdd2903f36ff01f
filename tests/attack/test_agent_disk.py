"""The disk of an agent's host: failed writes of its journal and of the runner's records, and no space left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attack.arena import Arena
from tests.attack.injection import Attached, Fault, is_alive, requires_strace, wait_for_end
from tests.attack.small_disk import fill, small_disk
from tests.attack.sweep import sweep
from tests.attack.test_hostile_steps import job, step
from tests.chance import IS_FULL
from tests.patience import PATIENCE_S, wait_until
from waterflow_agent.execution.runner_client import RunnerClient
from waterflow_agent.runner.reports import StepExited, StepResult, StepSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if IS_FULL else 1200)]


def test_an_agent_with_a_failing_journal_stops_with_a_message_and_loses_nothing(arena: Arena) -> None:
    """EIO at the N-th flush ends the agent with WF303, or is harmless; the next start settles everything."""
    requires_strace()

    def strike(fault: Fault) -> bool:
        if arena.agent_process("web-1").poll() is not None:
            # The previous fault struck after the last run had completed, and after the last check.
            arena.start_agent("web-1")
        pid = arena.agent_process("web-1").pid
        log_size = arena.agent_log("web-1").stat().st_size
        with Attached(pid, fault):
            answers = {key: arena.post(key) for key in (arena.key(), arena.key())}
            runs = [run for run in answers.values() if run]
            wait_until(lambda: not is_alive(pid) or all(map(arena.has_ended, runs)), "an end")
        is_struck = wait_for_end(pid, 0.3)
        if is_struck:
            code = arena.agent_process("web-1").wait(PATIENCE_S)
            text = arena.agent_log("web-1").read_text()[log_size:]
            assert code > 0, f"it ended with {code}: {text[-3000:]}"
            assert "[WF303]" in text, text[-3000:]
            assert "Traceback" not in text, text[-3000:]
            arena.start_agent("web-1")
        for run in runs:
            arena.judge.run(run)
        return is_struck

    assert sweep([("fdatasync", 5)], strike, [("fdatasync", 1)], effect="error=EIO", rounds=2), "no fault struck"


@contextlib.contextmanager
def agent_disk(arena: Arena, kind: str) -> Iterator[Path]:
    """Starts the daemon; the data directory of `web-1` will be on a disk of 24 MiB, whose directory is the value."""
    arena.start_daemon()
    with small_disk(arena.folder, kind, 24) as directory:
        arena.agent_places["web-1"] = directory / "agent"
        try:
            yield directory
        finally:
            arena.close()


@pytest.mark.root
@pytest.mark.usefixtures("root")
def test_an_agent_without_disk_space_keeps_results_and_recovers(empty_arena: Arena) -> None:
    """Running steps end; output that does not fit is counted as dropped; nothing is wrongly reported as a success."""
    arena = empty_arena
    with agent_disk(arena, "tmpfs") as directory:
        arena.add_agent("web-1", "web")
        assert arena.wait_for(arena.start(job("echo warm")))["conclusion"] == "success"
        gate, marker = arena.folder / "gate", arena.folder / "marker"
        script = f"echo begin\nwhile [ ! -e {gate} ]; do sleep 0.05; done\nseq 2000\necho x >> {marker}"
        run = arena.start(job(script))
        arena.lines(run, count=1)
        filler = fill(directory)
        gate.touch()
        wait_until(marker.exists, "the step to go on")
        during = arena.start(job("echo during"))
        wait_until(lambda: _has_said(arena, during), "the start on a full disk to be answered")
        filler.unlink()
        found = arena.wait_for(run)
        attempt = step(found)["attempts"][0]
        assert attempt["outcome"] == "success", attempt
        assert marker.read_text() == "x\n"
        displayed = arena.lines(run, count=2001 if attempt["output_dropped"] == 0 else None)
        assert displayed[0] == "begin"
        marks = [line for line in displayed if "bytes of output were dropped here" in line]
        assert bool(marks) == (attempt["output_dropped"] > 0), displayed[-3:]
        if attempt["output_dropped"] == 0:
            assert displayed == ["begin", *map(str, range(1, 2001))]
        arena.wait_for(during)
        assert arena.wait_for(arena.start(job("echo after")))["conclusion"] == "success"


@pytest.mark.root
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_an_agent_that_starts_on_a_full_disk_reports_it_and_works_once_there_is_space(
    empty_arena: Arena, kind: str
) -> None:
    """It stays connected without slots, says why in its status and in the list of agents, and then runs what has waited."""
    arena = empty_arena
    with agent_disk(arena, kind) as directory:
        arena.add_agent("web-1", "web")
        assert arena.wait_for(arena.start(job("echo warm")))["conclusion"] == "success"
        _delete_leftovers(arena, directory / "agent")
        arena.stop_agent("web-1")
        filler = fill(directory)

        arena.start_agent("web-1")
        wait_until(lambda: "disk is full" in _row(arena)["text"], "the daemon to know")
        assert _row(arena)["slots"] == 0
        wait_until(lambda: "disk is full" in arena.agent_status("web-1"), "the status to say it")
        waiting = arena.start(job("echo waited"))
        wait_until(lambda: arena.run(waiting)["status"] == "running", "the run to wait for a slot")
        assert arena.agent_process("web-1").poll() is None

        filler.unlink()
        found = arena.wait_for(waiting)
        assert found["conclusion"] == "success", found
        assert len(step(found)["attempts"]) == 1
        wait_until(lambda: (_row(arena)["text"], _row(arena)["slots"]) == ("connected", 4), "the slots to be back")
        wait_until(lambda: "disk is full" not in arena.agent_status("web-1"), "the status to say so")


@pytest.mark.root
@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_an_agent_that_first_starts_on_a_full_disk_waits_and_then_enrolls(empty_arena: Arena, kind: str) -> None:
    """It keeps running, says why in its log and to `status`, uses its token once, and works as soon as there is space."""
    arena = empty_arena
    with agent_disk(arena, kind) as directory:
        arena.configure_agent("web-1", "web")
        filler = fill(directory)

        arena.launch_agent("web-1")
        wait_until(lambda: "disk is full" in arena.agent_log("web-1").read_text(), "the log to say it")
        assert "disk is full" in arena.agent_status("web-1")
        assert arena.agent_process("web-1").poll() is None

        filler.unlink()
        wait_until(lambda: "web-1" in arena.connected(), "the agent to be connected")
        assert arena.wait_for(arena.start(job("echo enrolled")))["conclusion"] == "success"
        assert arena.agent_log("web-1").read_text().count("disk is full") == 1


@pytest.mark.root
@pytest.mark.usefixtures("root")
def test_a_missing_installation_file_on_a_full_disk_is_a_state(empty_arena: Arena) -> None:
    """The agent waits for space; then it is another installation, which a person accepts."""
    arena = empty_arena
    with agent_disk(arena, "tmpfs") as directory:
        arena.add_agent("web-1", "web")
        arena.stop_agent("web-1")
        (directory / "agent" / "installation").unlink()
        filler = fill(directory)

        arena.launch_agent("web-1")
        wait_until(lambda: "disk is full" in arena.agent_log("web-1").read_text(), "the log to say it")
        assert arena.agent_process("web-1").poll() is None

        filler.unlink()
        wait_until((directory / "agent" / "installation").exists, "the file to be written")
        wait_until(lambda: _row(arena)["status"] != "away", "the daemon to see the other installation")
        assert arena.agent_process("web-1").poll() is None


def _delete_leftovers(arena: Arena, data_dir: Path) -> None:
    """Restarts the agent until it has deleted what it holds of the run, which would be space for its journal."""
    work, attempts = data_dir / "work", data_dir / "runner" / "attempts"
    wait_until(lambda: set(os.listdir(work)) <= {".trash", ".kept", ".temp"}, "the release of the job")
    wait_until(lambda: all(name.startswith(".") for name in os.listdir(attempts)), "the release of the attempt")
    arena.stop_agent("web-1")
    arena.start_agent("web-1")
    wait_until(lambda: not os.listdir(work / ".trash"), "the trash to be empty")


def _row(arena: Arena) -> dict[str, Any]:
    (row,) = arena.api("GET", "/v1/agents").json()["agents"]
    return dict(row)


@pytest.fixture
def mute_runner(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a step runner that cannot write to its own log."""
    command = [sys.executable, "-m", "waterflow_agent.runner", "--data-dir", str(tmp_path)]
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=full, stderr=full)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_a_runner_that_cannot_write_its_log_keeps_its_steps(
    tmp_path: Path, mute_runner: subprocess.Popen[bytes]
) -> None:
    """A runner that cannot write to its log keeps running: its steps continue, and every start is answered."""
    ends: dict[str, StepResult] = {}
    runner = RunnerClient(tmp_path, starts_runner=False)
    async with asyncio.timeout(PATIENCE_S):
        await runner.connect()
        runner.start(_spec("good", "sleep 1; echo done"))
        (tmp_path / "attempts" / "bad").write_text("in the way of a directory")
        runner.start(_spec("bad", "echo never"))
        while len(ends) < 2:
            for report in await runner.receive():
                if isinstance(report, StepExited):
                    ends[report.name] = report.result
        await runner.close()
    assert ends["bad"].reason == "spawn-failed"
    assert ends["good"].exit_code == 0
    assert mute_runner.poll() is None, "the runner has ended"


def _spec(name: str, script: str) -> StepSpec:
    return StepSpec(
        name=name,
        argv=["sh", "-c", script],
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        timeout_ms=None,
        stop_signal=15,
        grace_ms=100,
        output_bytes_max=1 << 20,
    )


def _has_said(arena: Arena, run: str) -> bool:
    """Returns whether an attempt has finished or the agent has exited."""
    if not is_alive(arena.agent_process("web-1").pid):
        arena.agent_process("web-1").wait()
        return True
    return any(attempt["status"] == "finished" for attempt in step(arena.run(run))["attempts"])
