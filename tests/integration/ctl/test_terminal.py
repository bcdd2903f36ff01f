"""What commands show on a terminal of 80 columns."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.ctl.served import HELLO, Server, started_id
from tests.integration.ctl.terminals import COLUMNS, heed_interrupts, shown
from tests.patience import PATIENCE_S
from waterflowd.admin.ports import RepositoryRow
from waterflowd.ctl.display.terminal import localized

NAME = "infrastructure-operations"
REASON = (
    f'repository "{NAME}" has used its quota of 3 runs per hour; the next run may start at 2026-11-30T18:15:29Z;'
    " to allow more, raise runs-per-hour in its quotas, or in [quotas], in waterflowd.toml"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "s.sock") as made:
        yield made


def test_a_long_problem_is_shown_once_and_broken_between_words(server: Server) -> None:
    """The row of the repository does not repeat it. A pipe gets one line for each problem."""
    assert server.harness is not None
    server.harness.repositories.repositories.append(
        RepositoryRow(name=NAME, url="/r", is_ready=False, text=REASON, fetched_at=1_700_000_000_000)
    )
    lines = shown(server, "status")
    assert max(map(len, lines)) <= COLUMNS
    start = next(number for number, line in enumerate(lines) if line.startswith("  ! "))
    end = lines.index("repositories")
    assert " ".join(line.strip() for line in lines[start:end]) == f"! {localized(REASON)}"
    assert all(line.startswith("    ") for line in lines[start + 1 : end])
    assert "".join(lines).count("has used its quota") == 1
    assert f"  ! {localized(REASON)}" in server.ctl("status").stdout.splitlines()


def test_an_empty_list_of_runs_is_a_sentence_on_any_terminal(server: Server) -> None:
    """Also where not even the headings fit; it is broken between words."""
    lines = shown(server, "runs", columns=30)
    assert lines == ["no runs yet; start one:", "  waterflowctl run FILE.yml"]


def test_runs_fit_with_whole_ids_that_other_commands_accept(server: Server, tmp_path: Path) -> None:
    """Long names are continued in the next line."""
    file = tmp_path / "long.yml"
    file.write_text(HELLO.replace("name: hello", "name: nightly-reports"))
    runs = [started_id(server.ctl("run", str(file), "--detach")) for _ in range(3)]
    heading, zone, *rows, left_out = shown(server, "runs")
    assert heading.split() == ["RUN", "NAME", "STATUS", "CREATED", "DURATION"]
    assert zone.split() == [datetime.now().astimezone().strftime("(%Z)")]
    assert max(map(len, (heading, *rows))) <= COLUMNS
    assert left_out == f"(not shown in {COLUMNS} columns: TRIGGER; --json has all)"
    assert [row.split()[1] for row in rows if len(row.split()) > 3] == runs[::-1]
    assert runs[0] in server.ctl("runs").stdout


def test_a_watched_status_survives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    """Meanwhile it says since when it is not up to date, and Ctrl-C ends it without a failure."""
    path = tmp_path / "s.sock"
    main, terminal = pty.openpty()
    address = ["--server", f"unix:{path}", f"--wait={PATIENCE_S}"]
    command = [sys.executable, "-m", "waterflowd.ctl", *address, "status", "--watch"]
    environment = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    with Server(path):
        process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=environment,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )
        os.close(terminal)
        assert _read_until(main, lambda frame: "waterflowd" in frame and "web-1" in frame), "it has ended"
    lost = _read_until(main, lambda frame: "connection lost since" in frame)
    assert "web-1" in lost, "what was known stays on the screen"
    with Server(path):
        resumed = _read_until(main, lambda frame: "waterflowd" in frame and "connection lost" not in frame)
        assert resumed, "it has ended"
        process.send_signal(signal.SIGINT)
        assert _read_until(main, lambda frame: False) == "", "it has not ended"
        assert process.wait(PATIENCE_S) == 0
    os.close(main)


def _read_until(main: int, is_found: Callable[[str], bool]) -> str:
    """Returns the first whole frame of a live screen that fits, or "" if the command ends before."""
    give_up_at = time.monotonic() + PATIENCE_S
    output = b""
    while time.monotonic() < give_up_at:
        ready, _, _ = select.select([main], [], [], 0.1)
        try:
            piece = os.read(main, 1 << 16) if ready else None
        except OSError:
            # Linux reports the end of the other side as an error.
            return ""
        output += piece or b""
        # Each frame begins with the cursor at the top; the last one may still be incomplete.
        for frame in output.decode("utf-8", "replace").split("\x1b[H")[:-1]:
            if is_found(frame):
                return frame
    raise AssertionError(f"not seen: {output[-4000:]!r}")


@pytest.mark.parametrize("columns", [80, 200])
def test_every_list_fits_the_terminal(server: Server, tmp_path: Path, columns: int) -> None:
    """Also with long names, and with the time zone of the times in the heading."""
    assert server.harness is not None
    name = "a-rather-long-name-of-a-workflow-or-of-a-server.example.org"
    server.harness.repositories.files[f"workflows/{name}.yml"] = HELLO.replace("name: hello", f"name: {name}").encode()
    server.harness.connect(name, "web", "a-group-of-servers-with-a-long-name")
    server.ctl("run", name, "--detach")
    server.ctl("tokens", "create", "--role", "viewer", "--name", name[:40])
    server.ctl("watch", name)
    commands = (
        *("runs", "workflows", "repositories", "schedules", "agents", "groups", "nodes", "tokens", "audit"),
        *(
            "agents tokens",
            f"show {name}",
            f"why {name}",
            f"diff {name} {name}",
            "status",
            "cancel --all",
            f"events {name}",
        ),
    )
    for command in commands:
        lines = shown(server, *command.split(), columns=columns)
        too_long = [line for line in lines if len(line) > columns and not line.startswith("next: ")]
        assert not too_long, (command, too_long)
        if command == "agents":
            assert any(" connected " in line for line in lines), "words are whole"
