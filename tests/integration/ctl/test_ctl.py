"""The command line against a real server with an in-memory API: output and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.integration.ctl.served import HELLO, Server, started_id
from tests.integration.ctl.terminals import heed_interrupts
from tests.patience import PATIENCE_S
from waterflow_agent import join_token
from waterflowd.access.roles import Role
from waterflowd.admin.ports import DefinitionPlan, PendingRow, RepositoryRow, ScheduleRow
from waterflowd.ctl.main import cli
from waterflowd.model.plan import CatchUp, Overlap
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.reconcile.events import ScheduleOutcome

FAILING = """\
name: failing
jobs:
  a:
    runs-on: web
    steps:
      - id: break
        run: |
          print about to break
          exit 7
  b: {runs-on: web, needs: a, steps: [{run: print never}]}
"""
HOLDING = "name: holding\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "s.sock") as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    made = {}
    for name, text in {"hello": HELLO, "failing": FAILING, "holding": HOLDING}.items():
        path = tmp_path / f"{name}.yml"
        path.write_text(text)
        made[name] = str(path)
    return made


def test_run_waits_and_exits_with_the_run_s_result(server: Server, files: dict[str, str]) -> None:
    """The exit code is 0 or 1; after a failure the command prints the last lines and the next command."""
    good = server.ctl("run", files["hello"])
    assert good.exit_code == 0, good.output
    assert "hello: success" in good.output
    assert "\x1b" not in good.output
    bad = server.ctl("run", files["failing"])
    assert bad.exit_code == 1
    assert "a/break | about to break" in bad.output
    assert "next: waterflowctl logs" in bad.output


def test_run_by_name_accepts_inputs_and_refuses_unknown_ones(server: Server) -> None:
    """`-i k=v` sets an input; an unknown input is refused with exit code 5, a malformed one with 2."""
    done = server.ctl("run", "hello", "-i", "who=me")
    assert done.exit_code == 0
    displayed = json.loads(server.ctl("show", started_id(done), "--json").stdout)
    assert displayed["inputs"] == {"who": "me"}
    assert server.ctl("run", "hello", "-i", "whoo=me").exit_code == 5
    assert server.ctl("run", "hello", "-i", "who").exit_code == 2
    missing = server.ctl("run", "nothing.yml")
    assert (missing.exit_code, "next: waterflowctl workflows" in missing.output) == (5, True)
    assert server.ctl("run", "hello", "--dry-run").exit_code == 0


def test_a_file_with_errors_is_refused_with_locations(server: Server, tmp_path: Path) -> None:
    """The exit code is 5, and the message has the position and a caret."""
    path = tmp_path / "bad.yml"
    path.write_text(HELLO.replace("runs-on", "runs-onn"))
    result = server.ctl("run", str(path))
    assert result.exit_code == 5
    assert "bad.yml:6:5" in result.output
    assert 'did you mean "runs-on"?' in result.output


def test_detach_cancel_and_watch(server: Server, files: dict[str, str]) -> None:
    """A detached run continues; after a cancel its `watch` exits with 3, and a second cancel is refused with 5."""
    started = server.ctl("run", files["holding"], "--detach")
    run = started_id(started)
    assert f"next: waterflowctl watch {run}" in started.output
    assert server.harness is not None
    server.call(server.harness.held())
    cancelled = server.ctl("cancel", run)
    assert cancelled.exit_code == 0, cancelled.output
    assert server.ctl("watch", run).exit_code == 3
    again = server.ctl("cancel", run, "--force")
    assert (again.exit_code, "error: " in again.output) == (5, True)


def test_logs_and_events_print_lines_and_json(server: Server, files: dict[str, str]) -> None:
    """Plain lines have a prefix, `--json` prints objects; following a completed run ends at once."""
    run = started_id(server.ctl("run", files["failing"]))
    assert server.ctl("logs", run).output == "a/break | about to break\n"
    assert server.ctl("logs", run, "a/break").output == "about to break\n"
    assert server.ctl("logs", "-f", run, "a").output == "a/break | about to break\n"
    assert server.ctl("logs", run, "zzz").exit_code == 5
    rows = [json.loads(line) for line in server.ctl("events", run, "--json").stdout.splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    followed = [json.loads(line) for line in server.ctl("events", "-f", run, "--json").stdout.splitlines()]
    assert followed == rows
    text = server.ctl("events", run).output
    assert "run-created" in text
    assert "exit code 7" in text


def test_why_and_show_give_reasons(server: Server, files: dict[str, str]) -> None:
    """Each failed or skipped part has a reason; a workflow's name works in place of an id."""
    server.ctl("run", files["failing"])
    result = server.ctl("why", "failing")
    assert result.exit_code == 0
    assert "a/break: failure: " in result.output
    assert "skipped as a result: b\n" in result.output
    chain = server.ctl("why", "failing", "b").output.splitlines()
    assert [line.partition(": ")[0] for line in chain] == ["b", "a", "a/break", "next"]
    assert chain[-1].endswith(" a/break")
    displayed = server.ctl("show", "failing").output
    assert displayed.splitlines()[0].split()[1:3] == ["failing", "#1"]
    early = server.ctl("show", "failing", "--at", "1").output
    assert "queued" in early
    assert server.ctl("show", "failing", "--at", "9999").exit_code == 5
    server.ctl("run", files["hello"])
    assert "succeeded" in server.ctl("why", "hello").output
    assert server.ctl("show", "no-such-run").exit_code == 5


def test_one_failure_is_reported_once_on_a_screen(server: Server, files: dict[str, str]) -> None:
    """By every command that shows it; other places refer to the part that failed."""
    for arguments in (["run", files["failing"]], ["show", "failing"], ["why", "failing"], ["status"]):
        output = server.ctl(*arguments).output
        assert output.count("exit code 7") == 1, output


def test_hostile_names_do_nothing_to_the_terminal(server: Server, files: dict[str, str]) -> None:
    """An escape sequence in a step's name is printed as text."""
    server.ctl("run", files["hello"])
    displayed = server.ctl("show", "hello").output
    assert "\x1b" not in displayed
    assert "pwn" in displayed


def test_list_commands_print_a_json_array(server: Server, files: dict[str, str]) -> None:
    """The output of every list command is a single JSON array."""
    server.ctl("run", files["hello"])
    server.ctl("run", files["failing"])
    for command, key in [
        ("runs", "id"), ("workflows", "path"), ("agents", "fingerprint"), ("groups", "name"), ("nodes", "name"),
    ]:  # fmt: skip
        result = server.ctl(command, "--json")
        rows = json.loads(result.stdout)
        assert rows, command
        assert all(key in row for row in rows)
        assert server.ctl(command).exit_code == 0
    assert len(json.loads(server.ctl("runs", "--json", "--limit", "1").stdout)) == 1
    assert json.loads(server.ctl("runs", "--json", "--status", "failure").stdout)[0]["name"] == "failing"
    assert server.ctl("runs", "--status", "odd").exit_code == 5


def test_schedules_list_due_times_in_utc_and_local_time_and_the_last_outcome(server: Server) -> None:
    """There is one line for each requested instant; the status shows the next one."""
    assert "no schedules yet" in server.ctl("schedules").output
    assert server.harness is not None
    nightly = ScheduleRow(
        path="workflows/backup.yml", name="backup", repository="ops", ref="refs/heads/main", revision="a" * 40,
        cron="30 2 * * *", timezone="Europe/Berlin", overlap=Overlap.SKIP, catch_up=CatchUp.LAST,
        next_at=1_792_801_800_000, last_due_at=1_792_715_400_000, last_outcome=ScheduleOutcome.STARTED,
    )  # fmt: skip
    server.harness.repositories.schedule_rows.append(nightly)
    lines = server.ctl("schedules", "backup", "--next", "3").output.splitlines()
    assert len(lines) == 4
    displayed = [" ".join(line.split()) for line in lines]
    assert displayed[1] == (
        "ops:workflows/backup.yml 30 2 * * * Sat 2026-10-24 00:30 Sat 2026-10-24 02:30 CEST skip last"
        " started Fri 2026-10-23 02:30 CEST"
    )
    assert displayed[3] == "Mon 2026-10-26 01:30 Mon 2026-10-26 02:30 CET"
    (row,) = json.loads(server.ctl("schedules", "--json").stdout)
    assert (row["next"], row["next_local"]) == (["2026-10-24T00:30:00.000Z"], ["2026-10-24T02:30:00+02:00"])
    assert "next scheduled runs" in server.ctl("status").output
    assert server.ctl("schedules", "nope").exit_code == 5


def test_status_exits_with_0_if_healthy_and_1_otherwise(server: Server) -> None:
    """The status fits on one screen and says what is wrong."""
    healthy = server.ctl("status")
    assert (healthy.exit_code, "healthy" in healthy.output) == (0, True)
    assert server.harness is not None
    server.harness.repositories.repositories[0] = RepositoryRow(
        name="ops", url="/r", is_ready=False, text="the remote is unreachable"
    )
    assert "no repositories" not in healthy.output
    degraded = server.ctl("status")
    assert (degraded.exit_code, "the remote is unreachable" in degraded.output) == (1, True)
    assert json.loads(server.ctl("status", "--json").stdout)["status"] == "degraded"


def test_status_of_a_new_daemon_suggests_the_next_command(server: Server) -> None:
    """The daemon is healthy but has no repository; a missing server is not reported, because there is one."""
    assert server.harness is not None
    server.harness.repositories.repositories.clear()
    new = server.ctl("status")
    assert new.exit_code == 0
    assert "no repositories: waterflowctl repositories add NAME URL" in new.output
    assert "no agents" not in new.output


def test_a_token_grants_its_role_over_tcp(server: Server) -> None:
    """The secret is the last line; TCP works with it, and without it fails with exit code 5 and the next command."""
    made = server.ctl("tokens", "create", "--role", "viewer", "--name", "ci")
    secret = made.stdout.splitlines()[-1]
    assert secret.startswith("wf_")
    address = f"http://127.0.0.1:{server.port}"
    with_token = CliRunner().invoke(cli, ["runs", "--server", address], env={"WATERFLOW_TOKEN": secret})
    assert with_token.exit_code == 0, with_token.output
    without = CliRunner().invoke(cli, ["--server", address, "runs"], env={"WATERFLOW_TOKEN": ""})
    assert (without.exit_code, "WATERFLOW_TOKEN" in without.output) == (5, True)
    denied = CliRunner().invoke(cli, ["--server", address, "tokens"], env={"WATERFLOW_TOKEN": secret})
    assert denied.exit_code == 5
    assert secret not in server.ctl("tokens").output
    assert server.ctl("tokens", "revoke", "ci").exit_code == 0
    rejected = CliRunner().invoke(cli, ["--server", address, "runs"], env={"WATERFLOW_TOKEN": secret})
    assert rejected.exit_code == 5


def test_agents_are_enrolled_and_revoked_from_the_command_line(server: Server) -> None:
    """The join token is the last line of the output; approval and revocation name the agent."""
    assert server.harness is not None
    fingerprint = "SHA256:" + "a/b+" * 10 + "abc"
    waiting = PendingRow(fingerprint=fingerprint, name="db-1", groups=("db",), hostname="h", requested_at=5)
    server.harness.agents.waiting.append(waiting)
    made = server.ctl("agents", "tokens", "create", "--group", "web", "--uses", "0")
    assert join_token.decode(made.stdout.splitlines()[-1]).token_id == "1"
    assert "connect to tcp://127.0.0.1:7233;" in made.stderr
    here = server.ctl("agents", "token", "--group", "web", "--address", "wf.example.org,fd00::1", "--json")
    addresses = ("tcp://wf.example.org:7233,tcp://[fd00::1]:7233", "tcp://wf.example.org:7234,tcp://[fd00::1]:7234")
    made_here = json.loads(here.stdout)
    assert (made_here["address"], made_here["enroll_address"]) == addresses
    decoded = join_token.decode(made_here["token"])
    assert (decoded.work_endpoint, decoded.enroll_endpoint) == addresses
    assert server.ctl("agents", "tokens", "create", "--group", "web", "--address", "tcp://x:1").exit_code == 5
    assert server.harness.agents.join_tokens[0].uses is None
    assert "0/any" in server.ctl("agents", "tokens").output
    assert server.ctl("agents", "tokens", "revoke", "1").exit_code == 0
    assert "revoked" in server.ctl("agents", "tokens").output
    assert server.ctl("agents", "tokens", "revoke", "9").exit_code == 5
    assert f"agents approve {fingerprint}" in server.ctl("agents").output
    assert server.ctl("agents", "approve", fingerprint, "--group", "db").exit_code == 0
    assert server.ctl("agents", "revoke", "db-1").exit_code == 0
    assert server.ctl("agents", "revoke", "db-1").exit_code == 5
    assert server.ctl("agents", "tokens", "create").exit_code == 2


def test_a_server_is_taken_out_of_service_and_put_back_from_the_command_line(server: Server) -> None:
    """Draining, groups and removal name the agent; `list --all` shows revoked keys until they are removed."""
    assert server.ctl("agents", "remove", "web-1").exit_code == 5
    drained = server.ctl("agents", "drain", "web-1", "--wait")
    assert (drained.exit_code, drained.output) == (0, "web-1 is drained: nothing runs there, and no new jobs start\n")
    assert json.loads(server.ctl("agents", "drain", "web-1", "--json").stdout)["drained"] is True
    assert server.ctl("agents", "undrain", "web-1").output == "web-1 starts new jobs again\n"
    assert server.ctl("groups", "set", "web-1", "web", "edge").output == "web-1 is in web, edge\n"
    assert "edge" in server.ctl("groups").output
    assert server.ctl("groups", "set", "web-1").exit_code == 2
    assert server.ctl("agents", "revoke", "web-1").exit_code == 0
    assert "web-1" not in server.ctl("agents", "list").output
    assert "revoked" in server.ctl("agents", "list", "--all").output
    assert server.ctl("agents", "remove", "web-1").exit_code == 0
    assert "no agents yet" in server.ctl("agents", "list", "--all").output


def test_sync_reaches_every_repository(server: Server) -> None:
    """Without a name it syncs all of them; `--wait` waits for the result."""
    result = server.ctl("sync", "--wait")
    assert (result.exit_code, "ops: ready" in result.output) == (0, True)
    assert server.harness is not None
    assert server.harness.repositories.synced == [("ops", True)]
    assert server.ctl("sync", "zzz").exit_code == 5


def test_a_repository_is_suspended_and_resumed(server: Server) -> None:
    """Both commands print the new state; an unknown name is refused."""
    result = server.ctl("suspend", "ops")
    assert (result.exit_code, "ops: degraded" in result.output, "suspended by" in result.output) == (0, True, True)
    assert json.loads(server.ctl("resume", "ops", "--json").stdout)["status"] == "ready"
    assert server.ctl("suspend", "zzz").exit_code == 5


def test_watch_follows_a_run_to_its_end(server: Server, files: dict[str, str]) -> None:
    """The stream sends the history first, and then new events."""
    run = started_id(server.ctl("run", files["holding"], "--detach"))
    asyncio.run_coroutine_threadsafe(server.release_all(), server.loop)
    result = server.ctl("watch", run, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["conclusion"] == "success"


def test_ctrl_c_leaves_the_run_running_and_prints_the_next_command(server: Server, files: dict[str, str]) -> None:
    """The run continues, and the next command is printed."""
    run = started_id(server.ctl("run", files["holding"], "--detach"))
    words = [sys.executable, "-m", "waterflowd.ctl.main", "--server", f"unix:{server.path}", "watch", run]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # If the tests run in the background, the signal may be ignored.
        preexec_fn=heed_interrupts,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert "started" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        reported = watching.stderr.read()
        assert watching.wait(timeout=PATIENCE_S) == 130
    assert f"come back with: waterflowctl watch {run}" in reported
    assert json.loads(server.ctl("show", run, "--json").stdout)["status"] == "running"


def test_show_says_for_whom_a_run_acts(server: Server, files: dict[str, str]) -> None:
    """The groups of a token follow its runs; the author of a push is shown, but is no principal."""
    assert server.harness is not None
    driver, repositories = server.harness.driver, server.harness.repositories
    secret = server.harness.token(Role.RUNNER, name="ci", groups=("web", "db"))
    by_token = CliRunner().invoke(
        cli,
        ["--server", f"http://127.0.0.1:{server.port}", "run", files["hello"], "--detach"],
        env={"WATERFLOW_TOKEN": secret},
    )
    shown = server.ctl("show", started_id(by_token)).stdout
    assert "cli by ci, created" in shown
    assert "may only use the groups web, db" in shown
    trigger = json.loads(server.ctl("show", started_id(by_token), "--json").stdout)["trigger"]
    assert (trigger["by"], trigger["principal"], trigger["scope"]) == ("ci", "ci", ["web", "db"])

    for kind, by, principal, scope, text in (
        (TriggerKind.PUSH, "Ada", None, None, "push by Ada, created"),
        (TriggerKind.WORKFLOW_RUN, "run:X", "ci", (), "acts for ci\nmay use no group\n"),
    ):
        trigger = Trigger(kind=kind, by=by, principal=principal, scope=scope)
        found = server.call(repositories.plan("workflows/hello.yml", None))
        assert isinstance(found, DefinitionPlan)
        start = StartRequest(plan=found.plan, repository="ops", revision="a" * 40, trigger=trigger)
        row = server.call(driver.start(start))
        assert isinstance(row, RunSummary)
        assert text in server.ctl("show", row.id).stdout
