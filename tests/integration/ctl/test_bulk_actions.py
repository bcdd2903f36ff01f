"""Several runs at once: selecting them, previews, questions, and what becomes of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ctl.served import Server, started_id
from tests.integration.ctl.terminals import shown
from waterflowd.admin.ports import DefinitionPlan
from waterflowd.ctl import bulk_actions
from waterflowd.ctl.failures import Refused
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind

HOLDING = "name: NAME\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n"
FAILING = "name: NAME\njobs:\n  a:\n    runs-on: web\n    steps:\n      - {id: go, run: exit 7}\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "s.sock") as made:
        yield made


def started(server: Server, text: str, name: str) -> str:
    """Starts a workflow, and returns the id of the run."""
    file = server.path.parent / f"{name}.yml"
    file.write_text(text.replace("NAME", name))
    return started_id(server.ctl("run", str(file), "--detach"))


def failed(server: Server, name: str) -> str:
    run = started(server, FAILING, name)
    assert server.ctl("watch", run).exit_code == 1
    return run


def conclusions(server: Server, *arguments: str) -> dict[str, str | None]:
    return {row["id"]: row["conclusion"] for row in json.loads(server.ctl("runs", "--json", *arguments).stdout)}


def test_open_runs_of_a_workflow_are_cancelled_after_a_preview(server: Server) -> None:
    """Without a terminal nobody can be asked: the command shows what it would do, and needs --yes. Others continue."""
    first, second = (started(server, HOLDING, "deploy") for _ in range(2))
    other = started(server, HOLDING, "backup")
    asked = server.ctl("cancel", "--all", "--name", "deploy")
    assert asked.exit_code == 2
    assert "this would cancel 2 runs" in asked.output
    assert first in asked.output
    assert server.ctl("cancel", "--all", "--name", "deploy", "--dry-run").exit_code == 0
    assert set(conclusions(server).values()) == {None}
    done = server.ctl("cancel", "--all", "--name", "deploy", "--yes")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "cancelling 2 of 2 runs"
    for run in (first, second):
        assert server.ctl("watch", run).exit_code == 3
    assert conclusions(server)[other] is None
    assert server.ctl("cancel", "--all", "--name", "deploy", "--yes").output == "no matching runs: nothing to cancel\n"


def test_only_so_many_runs_at_once_and_the_rest_is_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest runs first; the same command continues."""
    monkeypatch.setattr(bulk_actions, "RUNS_MAX", 2)
    runs = [started(server, HOLDING, "deploy") for _ in range(3)]
    first = server.ctl("cancel", "--all", "--yes")
    assert "1 older run would be left: at most 2 at a time" in first.output
    assert first.output.splitlines()[-1] == "cancelling 2 of 3 runs; 1 left: run the command again"
    for run in runs[1:]:
        server.ctl("watch", run)
    assert conclusions(server)[runs[0]] is None
    assert server.ctl("cancel", "--all", "--yes").output.splitlines()[-1] == "cancelling 1 of 1 run"


def test_failed_runs_are_re_run_once(server: Server) -> None:
    """Those that have been re-run already are left out, and runs of other workflows, or that succeeded."""
    runs = [failed(server, "deploy") for _ in range(2)]
    failed(server, "backup")
    server.ctl("run", "hello")
    options = ("rerun", "--all", "--failed", "--name", "deploy", "--since", "2h", "--yes")
    done = server.ctl(*options, "--json")
    assert done.exit_code == 0, done.output
    answers = json.loads(done.stdout)
    assert {answer["rerun_of"] for answer in answers} == set(runs)
    for answer in answers:
        assert server.ctl("watch", answer["id"]).exit_code == 1
    again = server.ctl(*options)
    assert "left out, because re-run already: 2 runs" in again.output
    assert again.output.splitlines()[-2] == "re-running 2 of 2 runs"
    assert len(conclusions(server, "--name", "backup")) == 1


def test_a_refused_run_does_not_stop_the_others(server: Server) -> None:
    """It is reported with the reason, the others are acted on, and the exit code is 5."""
    runs = [failed(server, "deploy"), failed(server, "deploy")]
    rows = json.loads(server.ctl("runs", "--json").stdout)
    words = bulk_actions.Words("cancel", "cancelling", "waterflowctl cancel --all")
    acted: list[str] = []

    def act(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == runs[1]:
            raise Refused(409, {"detail": "it has ended"})
        acted.append(row["id"])
        return row

    assert bulk_actions.apply(bulk_actions.Selected(rows, 0, 0), words, act, as_json=False) == 5
    assert acted == [runs[0]]


def test_a_terminal_asks_and_no_changes_nothing(server: Server) -> None:
    """The question comes after the preview."""
    run = started(server, HOLDING, "deploy")
    lines = shown(server, "cancel", "--all", typed=b"n\n")
    assert any(run in line for line in lines)
    assert any(line.startswith("cancel 1 run? [y/N]") for line in lines)
    assert lines[-1].endswith("nothing was changed")
    assert conclusions(server) == {run: None}
    assert shown(server, "cancel", "--all", typed=b"y\n")[-1].endswith("cancelling 1 of 1 run")
    assert server.ctl("watch", run).exit_code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["cancel"],
        ["cancel", "--all", "hello"],
        ["cancel", "hello", "--name", "x"],
        ["rerun"],
        ["rerun", "--all"],
        ["rerun", "--all", "--failed", "--from", "a"],
        ["rerun", "hello", "--yes"],
    ],
)
def test_contradictory_options_are_usage_errors_with_a_next_step(server: Server, arguments: list[str]) -> None:
    """Nothing is done."""
    result = server.ctl(*arguments)
    assert (result.exit_code, "next: waterflowctl " in result.output) == (2, True), result.output


def test_runs_are_selected_by_branch(server: Server) -> None:
    """By the name of a branch, or the whole name of a ref."""
    assert server.harness is not None
    repositories, driver = server.harness.repositories, server.harness.driver
    for ref in ("refs/heads/main", "refs/heads/main/x", "refs/tags/v1"):
        found = server.call(repositories.plan("workflows/hello.yml", None))
        assert isinstance(found, DefinitionPlan)
        trigger = Trigger(kind=TriggerKind.PUSH, by="Ada", ref=ref)
        row = server.call(
            driver.start(StartRequest(plan=found.plan, repository="ops", revision="a" * 40, trigger=trigger))
        )
        assert isinstance(row, RunSummary)
        branch = ref.removeprefix("refs/heads/")
        assert list(conclusions(server, "--branch", branch)) == [row.id]
    assert server.ctl("runs", "--branch", "nope").output == "no matching runs\n"
