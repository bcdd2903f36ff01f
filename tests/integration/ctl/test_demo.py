"""The demo: it works without a terminal, exits with its run's result, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest
from dulwich.refs import Ref
from dulwich.repo import Repo

from tests.patience import PATIENCE_S
from waterflowd.ctl.demo import repository as demo_repository
from waterflowd.ctl.demo.processes import free_port
from waterflowd.dsl import compile_workflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "waterflowd.ctl.main", "demo", *options],
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
    (link,) = re.findall(r"^.*/signin#.*$", output, re.MULTILINE)
    # A terminal would wrap a longer line, and the address could not be opened with a click.
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/signin#\S+", link)
    assert len(link) <= 80
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_a_run_on_temporal_continues_after_the_daemon_was_killed(tmp_path: Path) -> None:
    """The demo kills one of two daemons while a step is running; the other continues the run, and each step has run once."""
    if not Path(sys.executable).with_name("temporal").exists():
        pytest.skip("Temporal's development server is not installed: its package has no file for this platform")
    with start(tmp_path, "--engine", "temporal") as process:
        output, _ = process.communicate(timeout=6 * PATIENCE_S)
    assert process.returncode == 0, output
    killed, _, after = output.partition("its agents connect to the other daemon, which continues the run")
    assert re.search(r"kill -9 \d+   # (waterflowd|waterflowd-2), to which web-[12] is connected", killed)
    assert len(re.findall(r"^agent .* connected to waterflowd", killed, re.MULTILINE)) == 3
    assert "deploy: success" in after
    assert after.count("| copying assets") == 1
    assert re.search(r"started (waterflowd|waterflowd-2) again", after)
    assert "temporal workflow show" in after
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_a_demo_whose_terminal_is_closed_leaves_nothing(tmp_path: Path) -> None:
    """Nobody reads its output any longer: it cannot say that it stops, and stops all the same."""
    with start(tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("agent"):
                break
        process.stdout.close()
        process.wait(4 * PATIENCE_S)
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def tried_as_nobody(code: str) -> str:
    """Returns what Python code prints when another user of the machine runs it; as the same user where that is impossible."""
    # Imported first: the other user may not be able to read this Python's library.
    become = "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    child = f"import encodings.idna, http.client, os, socket\n{become}\n{code}"
    done = subprocess.run([sys.executable, "-S", "-c", child], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip() or done.stderr


def test_another_user_of_the_machine_gets_nothing_from_a_demo() -> None:
    """The port wants a token, also for reading and for starting runs; socket, files and join tokens are out of reach."""
    # Not below pytest's own directory, which other users cannot enter anyway.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with start(Path(folder)) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "(Back up): started" in line:
                    break
            [demo] = Path(folder).iterdir()
            port = tomllib.loads((demo / "waterflowd.toml").read_text())["api"]["listen"].rpartition(":")[2]
            answers = {}
            for method, path in (
                ("GET", "/v1/runs"),
                ("POST", "/v1/runs"),
                ("POST", "/v1/tokens"),
                ("GET", "/metrics"),
            ):
                answers[path, method] = tried_as_nobody(
                    f"c = http.client.HTTPConnection('127.0.0.1', {port})\n"
                    f"c.request({method!r}, {path!r}, body='{{}}', headers={{'Content-Type': 'application/json'}})\n"
                    "print(c.getresponse().status)"
                )
            reached = tried_as_nobody(f"socket.socket(socket.AF_UNIX).connect({str(demo / 'waterflowd.sock')!r})")
            listed = tried_as_nobody(f"print(os.listdir({str(demo)!r}))")
            output = process.stdout.read()
        assert process.returncode == 0, output
    assert set(answers.values()) == {"401"}, answers
    assert "export WATERFLOW_TOKEN=wf_" in output
    if os.getuid() == 0:
        assert "PermissionError" in reached
        assert "PermissionError" in listed


def test_a_deep_directory_still_has_a_socket(tmp_path: Path) -> None:
    """Where the path of the socket would be too long, the socket gets a directory of its own, which is removed too."""
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    before = set(Path("/tmp").glob("waterflow-demo-*"))
    with start(deep) as process:
        output, _ = process.communicate(timeout=4 * PATIENCE_S)
    assert process.returncode == 0, output
    assert "daemon     unix:/tmp/waterflow-demo-" in output
    socket_path = Path(output.split("daemon     unix:")[1].split(" ")[0])
    assert socket_path.parent not in before
    assert not socket_path.parent.exists()


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
