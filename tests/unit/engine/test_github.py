"""The variables of scripts, and the owner and name of a repository."""

from __future__ import annotations

import pytest

from waterflow_agent.nodes import shell, step_files
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages
from waterflowd.dsl import compile_workflow
from waterflowd.dsl.models import github_names
from waterflowd.engine.rules import github
from waterflowd.engine.state.runs import Run
from waterflowd.gitsource import urls
from waterflowd.model import plan
from waterflowd.model.ids import RunId
from waterflowd.model.records import Trigger, TriggerKind

FILE = b"jobs:\n  build:\n    runs-on: web\n    steps:\n      - run: x\n"
GIT = {
    "sha": "a" * 40,
    "ref": "refs/heads/main",
    "branch": "main",
    "tag": "",
    "author": "Ada",
    "full-name": "acme/shop",
}


def run_of(kind: TriggerKind, principal: str | None = None, **payload: object) -> Run:
    compiled = compile_workflow("workflows/w.yml", FILE)
    assert compiled.plan is not None
    trigger = Trigger(kind=kind, principal=principal, git=GIT, payload=payload)
    return Run(RunId("01RUN"), plan.decode(compiled.plan), trigger=trigger)


def test_scripts_have_exactly_the_variables_that_the_compiler_knows(tmp_path: object) -> None:
    """Otherwise a warning about an empty variable would be wrong, or missing."""
    run = run_of(TriggerKind.PUSH)
    facts = github.facts_for_scripts(run, run.jobs[0], run.jobs[0].root)
    task = messages.Task(
        task_id("run", "job", "step", 1, 1), "shell", {}, {}, "", None, 1, "TERM", 1, 1, "", "", facts=facts
    )
    location = shell.AttemptLocation(files=str(tmp_path), workspace="/w", temp="/t", agent="web-1")
    env = shell.environment(task, location, {})
    shell.create_step_files(env, location)

    assert {name for name in env if name.startswith(("GITHUB_", "RUNNER_"))} == github_names.SCRIPT_VARIABLES
    assert step_files.locate(str(tmp_path)).path == env["GITHUB_PATH"]


@pytest.mark.parametrize(
    ("kind", "principal", "expected"),
    [
        (TriggerKind.PUSH, None, ("push", "Ada")),
        (TriggerKind.SCHEDULE, None, ("schedule", "Ada")),
        (TriggerKind.MANUAL, "alice", ("workflow_dispatch", "alice")),
        (TriggerKind.API, None, ("workflow_dispatch", "")),
        (TriggerKind.WEBHOOK, None, ("webhook", "")),
    ],
)
def test_the_event_and_the_actor_follow_from_what_started_the_run(
    kind: TriggerKind, principal: str | None, expected: tuple[str, str]
) -> None:
    """The author of a commit counts as the actor only where nobody else can be known."""
    context = github.context(run_of(kind, principal), None)

    assert (context["event_name"], context["actor"]) == expected


@pytest.mark.parametrize(("before", "expected"), [("0" * 40, True), ("0" * 64, True), ("0" * 39 + "1", False)])
def test_a_push_says_whether_it_has_created_the_ref(before: str, expected: bool) -> None:
    """As on GitHub; also in a re-run. A push never deletes a ref here, since that starts nothing."""
    for kind in (TriggerKind.PUSH, TriggerKind.RERUN):
        event = github.context(run_of(kind, name="push", before=before), None)["event"]
        assert isinstance(event, dict)
        assert (event["created"], event["deleted"]) == (expected, False)

    event = github.context(run_of(TriggerKind.MANUAL), None)["event"]
    assert isinstance(event, dict)
    assert not {"created", "deleted"} & event.keys()


def test_a_re_run_has_the_event_of_the_first_run() -> None:
    """As on GitHub; the person is the one who started it again."""
    context = github.context(run_of(TriggerKind.RERUN, "bob", name="push"), None)

    assert (context["event_name"], context["actor"], context["repository_owner"]) == ("push", "bob", "acme")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://git.example.org/acme/shop.git", "acme/shop"),
        ("git@git.example.org:acme/shop.git", "acme/shop"),
        ("ssh://git@git.example.org:2222/acme/team/shop/", "acme/team/shop"),
        ("/srv/git/shop.git", "configured"),
    ],
)
def test_owner_and_name_come_from_the_address_of_a_remote(url: str, expected: str) -> None:
    """A local repository has the name that the configuration gives it."""
    assert urls.full_name(url, "configured") == expected
