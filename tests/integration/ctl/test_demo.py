"""The demo: it works without a terminal, exits with its run's result, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dulwich.refs import Ref
from dulwich.repo import Repo

from tests.patience import PATIENCE_S
from waterflowd.ctl.demo import repository as demo_repository
from waterflowd.ctl.demo.processes import free_port
from waterflowd.dsl import compile_workflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "waterflowd.ctl.main", "demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )


def processes_in(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in line:
                found.append(line.decode(errors="replace"))
    return found


def test_the_demo_exits_with_its_first_run_s_result_and_leaves_nothing(tmp_path: Path) -> None:
    """A push starts the run, the demo watches it and prints the next steps; no process and no file is left."""
    with start(tmp_path) as process:
        output, _ = process.communicate(timeout=4 * PATIENCE_S)
    assert process.returncode == 0, output
    assert "deploy: success" in output
    assert "frontend runs on schema 7" in output
    assert "kill -9" in output
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_concurrent_demos_use_different_ports(tmp_path: Path) -> None:
    """Each demo finds its own daemon, although a port that was free a moment ago may be taken by now."""
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    processes = [start(folder) for folder in folders]
    outputs = [process.communicate(timeout=4 * PATIENCE_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert [list(folder.iterdir()) for folder in folders] == [[]] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_either(tmp_path: Path, number: signal.Signals) -> None:
    """The signal arrives during the first run, while steps are running."""
    with start(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "(Back up): started" in line:
                process.send_signal(number)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=PATIENCE_S) == 130, rest
    assert "stopping the demo" in rest
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_the_demo_needs_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git, Python commits and pushes; the remote then has the workflow on its branch."""
    monkeypatch.setenv("PATH", str(tmp_path))
    bare, work = demo_repository.create(tmp_path)
    assert "git is not installed" in demo_repository.push_first(bare, work)
    with Repo(str(bare)) as repository:
        assert repository.refs[Ref(b"refs/heads/main")] == repository.head()
    compiled = compile_workflow(demo_repository.WORKFLOW_PATH, (work / demo_repository.WORKFLOW_PATH).read_bytes())
    assert compiled.plan is not None, compiled.diagnostics


def test_a_port_in_use_is_skipped() -> None:
    """If the preferred port is in use, another one is chosen."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        preferred = taken.getsockname()[1]
        assert free_port(preferred) != preferred
