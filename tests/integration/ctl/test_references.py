"""All commands take the same references to runs, and say what may have been meant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from tests.integration.ctl.served import Server, started_id
from tests.patience import PATIENCE_S
from tests.unit.artifacts.harness import attempt, new_store, put, reader_of
from waterflowd.ctl.client import Client
from waterflowd.ctl.failures import Unreachable
from waterflowd.ctl.main import cli
from waterflowd.ctl.settings import Settings
from waterflowd.model.ids import RunId

FAILING = "name: failing\njobs:\n  ab:\n    runs-on: web\n    steps:\n      - {id: break, run: exit 7}\n"
GATED = (
    "name: gated\njobs:\n  ask:\n    runs-on: web\n    steps:\n      - {id: ok, uses: approval, with: {message: go?}}\n"
)
#: What belongs to HTTP, and not on a terminal.
HTTP_WORDS = re.compile(
    r"HTTP\b|\?repository|\b4[0-9][0-9]\b|query\.|request body|Idempotency|/v1/|/openapi", re.IGNORECASE
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "s.sock") as made:
        yield made


def _started(server: Server, folder: Path, name: str, text: str) -> str:
    file = folder / f"{name}.yml"
    file.write_text(text)
    return started_id(server.ctl("run", str(file), "--detach"))


def test_every_command_takes_the_same_references(server: Server, tmp_path: Path) -> None:
    """Id, prefix, name, and name with number; with a job or step after a slash."""
    first = _started(server, tmp_path, "failing", FAILING)
    assert server.ctl("watch", first).exit_code == 1
    second = _started(server, tmp_path, "failing", FAILING)
    assert server.ctl("watch", "failing").exit_code == 1
    for reference, run in (
        (first, first), (second[:-1].lower(), second), ("failing", second), ("failing#1", first), ("failing#2", second),
        ("failing.yml", second), ("failing#1/ab", first), (f"{first}/ab/break", first), ("failing/ab/break", second),
    ):  # fmt: skip
        shown = server.ctl("show", reference)
        assert (shown.exit_code, run in shown.output) == (0, True), (reference, shown.output)
        assert "exit code 7" in server.ctl("why", reference).output
        assert server.ctl("logs", reference).exit_code == 0
        assert server.ctl("watch", reference).exit_code == 1
        planned = server.ctl("rerun", reference, "--dry-run", "--json")
        assert json.loads(planned.stdout)["rerun_of"] == run
    assert server.ctl("events", "failing#1").exit_code == 0
    ended = server.ctl("cancel", "failing#1")
    assert (ended.exit_code, first in ended.output) == (5, True)


def test_an_approval_and_a_cancel_take_them_too(server: Server, tmp_path: Path) -> None:
    """A part may be in the reference or an argument of its own."""
    _started(server, tmp_path, "gated", GATED)
    _started(server, tmp_path, "gated", GATED)
    wrong = server.ctl("reject", "gated/ask/okk")
    assert (wrong.exit_code, 'did you mean "ask/ok"?' in wrong.output) == (5, True)
    assert server.ctl("reject", "gated#1/ask/ok").exit_code == 0
    assert server.ctl("watch", "gated#1").exit_code == 1
    part = server.ctl("cancel", "gated/ask")
    assert (part.exit_code, "takes a whole run" in part.output) == (5, True)
    assert server.ctl("cancel", "gated").exit_code == 0
    assert server.ctl("watch", "gated#2").exit_code == 3


@pytest.mark.parametrize("command", ["show", "why", "watch", "logs", "events", "rerun", "cancel", "approve", "reject"])
def test_a_misspelt_reference_is_explained(server: Server, tmp_path: Path, command: str) -> None:
    """With the name that was probably meant, without a word of HTTP, and with the next command."""
    run = _started(server, tmp_path, "failing", FAILING)
    for reference, sentence in (
        ("faling", 'run "faling" not found; did you mean "failing"?'),
        ("failing#7", '"failing" has no run 7; its newest is #1'),
        ("hello", 'workflow "hello" has no runs yet'),
        ("zzz", 'run "zzz" not found'),
    ):
        refused = server.ctl(command, reference)
        assert (refused.exit_code, sentence in refused.output) == (5, True), refused.output
        assert not HTTP_WORDS.search(refused.output.replace(run, "")), refused.output
        assert "next: waterflowctl" in refused.output


@pytest.mark.parametrize("command", ["show", "why", "watch"])
def test_a_misspelt_part_is_explained(server: Server, tmp_path: Path, command: str) -> None:
    """With the parts that there are."""
    _started(server, tmp_path, "failing", FAILING)
    refused = server.ctl(command, "failing/abb")
    assert (refused.exit_code, 'job "abb" not found; did you mean "ab"?' in refused.output) == (5, True), refused.output


def test_the_first_request_waits_for_a_daemon_that_is_starting(tmp_path: Path) -> None:
    """It is sent before anything listens; with `--wait 0` it fails at once."""
    path = tmp_path / "s.sock"
    with pytest.raises(Unreachable):
        Client(Settings(server=f"unix:{path}", token=None, wait_s=0)).get("/health")
    answers: list[Any] = []
    client = Client(Settings(server=f"unix:{path}", token=None, wait_s=PATIENCE_S))
    asking = Thread(target=lambda: answers.append(client.get("/health")))
    asking.start()
    with Server(path) as server:
        asking.join(PATIENCE_S)
        assert answers[0]["status"] == "ok"
        assert server.ctl("--wait", "0", "runs").exit_code == 0
        assert server.ctl("runs", "--wait=0").exit_code == 0
    client.close()


def test_a_wrong_input_is_not_answered_with_advice_about_the_file(server: Server) -> None:
    """The file is right; the next command shows which inputs there are."""
    refused = server.ctl("run", "hello", "-i", "whoo=me")
    assert refused.exit_code == 5
    assert "fix the file" not in refused.output
    assert "next: waterflowctl workflows" in refused.output


def test_a_waiting_run_has_no_output_and_a_reason(server: Server, tmp_path: Path) -> None:
    """Nothing at all would look like a fault. A re-run that reuses nothing does not claim to."""
    run = _started(server, tmp_path, "gated", GATED)
    waiting = server.ctl("logs", run)
    assert (waiting.stdout, "no output yet; ask/ok: waiting: " in waiting.stderr) == ("", True)
    assert server.ctl("logs", run, "--json").output == ""
    assert server.ctl("reject", run).exit_code == 0
    assert server.ctl("watch", run).exit_code == 1
    assert server.ctl("logs", run).stderr == "no step printed anything\n"
    again = json.loads(server.ctl("rerun", run, "--detach", "--json").stdout.splitlines()[0])["id"]
    assert f"re-run of {run}\n" in server.ctl("show", again).stdout
    assert server.ctl("runs", "--name", "nosuch").output == "no matching runs\n"


def test_attempts_are_marked_in_logs(server: Server, tmp_path: Path) -> None:
    """From the second one on."""
    retried = FAILING.replace(
        "run: exit 7}", 'retry: {max-attempts: 2, initial-interval: 1ms}, run: "print once\\nexit 7"}'
    )
    run = _started(server, tmp_path, "r", retried)
    assert server.ctl("watch", run).exit_code == 1
    assert server.ctl("logs", run).output == "ab/break | once\nab/break: attempt 2\nab/break | once\n"
    for options in (("--tail", "1"), ("--attempt", "2")):
        (row,) = (json.loads(line) for line in server.ctl("logs", run, *options, "--json").output.splitlines())
        assert (row["attempt"], row["text"]) == (2, "once")
    assert server.ctl("logs", run, "--tail", "1", "-f").exit_code == 2
    assert [row["id"] for row in json.loads(server.ctl("runs", "--failed", "--json").stdout)] == [run]
    assert server.ctl("runs", "--failed", "--status", "failure").exit_code == 2
    for option, name in (("--group", "web"), ("--agent", "web-1")):
        assert json.loads(server.ctl("runs", option, name, "--json").stdout)[0]["id"] == run
        assert server.ctl("runs", option, "nosuch", "--json").stdout == "[]\n"
    assert server.ctl("repositories").output.splitlines()[1].split()[:2] == ["ops", "ready"]
    assert json.loads(server.ctl("repositories", "--json").stdout)[0]["name"] == "ops"


def test_a_configuration_with_a_token_must_be_private(server: Server, tmp_path: Path) -> None:
    """Others could use the token."""
    file = tmp_path / "waterflow" / "config.toml"
    file.parent.mkdir()
    file.write_text(f'context = "a"\n[contexts.a]\nserver = "unix:{server.path}"\ntoken = "wf_x"\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "WATERFLOW_SERVER": ""}
    for mode, code in ((0o644, 2), (0o640, 2), (0o600, 0)):
        file.chmod(mode)
        done = CliRunner().invoke(cli, ["runs"], env=environment)
        assert (done.exit_code, "chmod 600" in done.output) == (code, code == 2), done.output


def test_other_yaml_files_are_no_workflows(tmp_path: Path) -> None:
    """Below a folder: those in a folder for workflows, and those with jobs. A file that is named is always checked."""
    (tmp_path / "workflows").mkdir()
    (tmp_path / "compose.yml").write_text("services:\n  web: {image: x}\n")
    (tmp_path / "other.yml").write_text(FAILING)
    (tmp_path / "workflows" / "broken.yml").write_text("name: x\n")
    checked = CliRunner().invoke(cli, ["validate", str(tmp_path)])
    assert "compose.yml" not in checked.output
    assert "other.yml: valid" in checked.output
    assert "broken.yml:1:1" in checked.output
    named = CliRunner().invoke(cli, ["validate", str(tmp_path / "compose.yml")])
    assert (named.exit_code, "compose.yml:1:1" in named.output) == (1, True)


def test_a_shell_completes_values_of_the_daemon(server: Server, tmp_path: Path) -> None:
    """Runs by id, name and number; repositories; and files where a workflow may be one."""
    run = _started(server, tmp_path, "failing", FAILING)
    assert server.ctl("watch", run).exit_code == 1

    def offered(*words: str) -> list[str]:
        environment = {
            "WATERFLOW_SERVER": f"unix:{server.path}",
            "_WATERFLOWCTL_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("waterflowctl", *words)),
            "COMP_CWORD": str(len(words)),
        }
        return CliRunner().invoke(cli, env=environment, prog_name="waterflowctl").output.splitlines()

    assert offered("show", "fail") == ["plain,failing", "plain,failing#1"]
    assert offered("cancel", run[:10]) == [f"plain,{run}"]
    assert offered("sync", "o") == ["plain,ops"]
    assert offered("run", "./fail") == ["file,./fail"]
    assert offered("runs", "--status", "wait") == ["plain,waiting"]


SPLIT = """\
name: split
jobs:
  a:
    runs-on: web
    steps:
      - {id: fine, run: print all is well}
      - id: break
        run: |
          print preparing
          print ERROR it broke
          exit 7
"""


def test_lines_of_output_are_selected(server: Server, tmp_path: Path) -> None:
    """By the outcome of their step, a pattern, and a time; a pattern is a regular expression."""
    file = tmp_path / "split.yml"
    file.write_text(SPLIT)
    server.ctl("run", str(file))
    assert server.ctl("logs", "split", "--failed").output == "a/break | preparing\na/break | ERROR it broke\n"
    assert server.ctl("logs", "split", "--failed", "--tail", "1").output == "a/break | ERROR it broke\n"
    assert server.ctl("logs", "split", "a/fine", "--failed").output == "no line matches\n"
    assert server.ctl("logs", "split", "--grep", "(?i)error|WELL$").output.count("\n") == 2
    assert server.ctl("logs", "split", "-f", "--grep", "well").output == "a/fine | all is well\n"
    assert server.ctl("logs", "split", "--since", "2h").output == server.ctl("logs", "split").output
    assert server.ctl("logs", "split", "--since", "2099-01-01").output == "no line matches\n"
    for arguments in (["--grep", "x["], ["-f", "--failed"]):
        refused = server.ctl("logs", "split", *arguments)
        assert (refused.exit_code, "next: waterflowctl logs" in refused.output) == (2, True), refused.output


SUMMARIZING = """\
name: summarizing
jobs:
  a:
    runs-on: web
    steps:
      - id: tell
        run: |
          summarize # Deployed ESC[2J
          summarize it works
      - {id: quiet, run: print x}
      - id: long
        run: |
LINES
"""


def test_a_summary_is_shown_as_text(server: Server, tmp_path: Path) -> None:
    """Escaped, and the beginning of a long one; a part is shown with all of it. The API has it in the attempt."""
    file = tmp_path / "summarizing.yml"
    lines = "\n".join(f"          summarize line {number}" for number in range(30))
    file.write_text(SUMMARIZING.replace("LINES", lines))
    server.ctl("run", str(file))
    shown = server.ctl("show", "summarizing").output.splitlines()
    at = shown.index("summary of a/tell")
    assert shown[at + 1 : at + 3] == ["  # Deployed ESC[2J", "  it works"]
    assert "  ... and 10 more lines" in shown
    assert not any("a/quiet" in line for line in shown)
    command = next(line for line in shown if line.startswith("  next: waterflowctl show "))
    assert "  line 29" in server.ctl("show", command.split()[-1]).output.splitlines()
    run = json.loads(server.ctl("show", "summarizing", "--json").stdout)
    assert run["jobs"][0]["steps"][0]["attempts"][0]["summary"] == "# Deployed ESC[2J\nit works\n"


def test_reports_and_artifacts_of_two_runs_are_compared(server: Server, tmp_path: Path) -> None:
    """Rows, columns and cells; names, sizes and digests of artifacts, and their files."""
    file = tmp_path / "x.yml"
    text = (
        "name: x\nvars: {size: 1}\njobs:\n  look:\n    runs-on: web\n    strategy: {matrix: {zone: ZONES}}\n"
        "    report: {columns: {Size: '${{ vars.size }}', COLUMN: x}}\n    steps: [{run: print x}]\n"
    )
    file.write_text(text.replace("ZONES", "[eu, us]").replace("COLUMN", "Old"))
    first = RunId(started_id(server.ctl("run", str(file))))
    file.write_text(text.replace("ZONES", "[eu, asia]").replace("COLUMN", "New"))
    second = RunId(started_id(server.ctl("run", str(file), "--var", "size=2")))
    store = new_store(tmp_path)
    assert server.harness is not None
    services = server.harness.services
    services.artifacts = reader_of(store, services.history, server.harness.clock)
    now = server.harness.clock.now()
    put(store, "site", {"a": b"1", "b/c": b"22", "e": b"3"}, attempt(first), now=now)
    put(store, "site", {"a": b"1", "b/c": b"2222", "d": b"5"}, attempt(second), now=now)
    put(store, "log", {"x": b"1"}, attempt(first), now=now)
    put(store, "log", {"x": b"2"}, attempt(second), now=now)
    put(store, "new", {"x": b"x" * 2048}, attempt(second), now=now)

    lines = server.ctl("diff", second, first).output.splitlines()

    at = lines.index("reports")
    assert lines[at + 1 : at + 6] == [
        "  + look, column New",
        "  - look, column Old",
        "  + look, row asia",
        "  - look, row us",
        "  look, eu, Size: 1 -> 2",
    ]
    digests = {record.name: record.digest.hex()[:12] for record in store.records.of_run(second)}
    was = {record.name: record.digest.hex()[:12] for record in store.records.of_run(first)}
    at = lines.index("artifacts")
    assert lines[at + 1 : at + 8] == [
        f"  log: 1 file, 1 B, {was['log']} -> 1 file, 1 B, {digests['log']}",
        "    files: the same names and sizes, other content or permissions",
        f"  + new: 1 file, 2.0 KiB, {digests['new']}",
        f"  site: 3 files, 4 B, {was['site']} -> 3 files, 6 B, {digests['site']}",
        "    ~ b/c: 2 B -> 4 B",
        "    + d: 1 B",
        "    - e: 1 B",
    ]


def test_a_run_is_compared_with_the_last_good_one_or_another(server: Server, tmp_path: Path) -> None:
    """Parts that are equal are named, and those that cannot be compared have a reason."""
    file = tmp_path / "x.yml"
    text = "name: x\ninputs:\n  n: {default: 0}\njobs: {a: {runs-on: web, steps: [{id: go, run: 'exit ${{ inputs.n }}'}]}}\n"
    file.write_text(text.replace("run: 'exit ${{ inputs.n }}'", "run: 'print fine'"))
    missing = server.ctl("diff", started_id(server.ctl("run", str(file))))
    assert (missing.exit_code, "before this one has succeeded" in missing.output) == (5, True)
    assert "against=" not in missing.output
    file.write_text(text.replace("run: 'exit ${{ inputs.n }}'", "run: 'exit 7'"))
    server.ctl("run", str(file), "-i", "n=7")
    lines = server.ctl("diff", "x").output.splitlines()
    assert lines[0].startswith("from ok x #1  success") or lines[0].startswith("from ✓ x #1  success")
    assert lines[1].split()[2:4] == ["x", "#2"]
    assert "  n: 0 -> 7" in lines
    assert any(line.startswith("  a/go: success in ") and " -> failure in " in line for line in lines)
    assert "servers" in lines[-1]
    assert server.ctl("diff", "x#1", "x#2").output.splitlines()[0].split()[2:4] == ["x", "#2"]
    assert json.loads(server.ctl("diff", "x", "--json").stdout)["against"]["number"] == 1
