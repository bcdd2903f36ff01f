"""Workflows that use other files of their revision, with real Git and the real compiler."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.reconcile.reconciler_harness import SMALLEST, Daemon, Work
from waterflowd.model import plan as plans
from waterflowd.reconcile import codes, events
from waterflowd.reconcile.settings import RepositorySettings

CALLER = "name: caller\njobs: {all: {uses: ./workflows/shared.yml}}\n"
BY_HAND = "on: workflow_dispatch\n" + CALLER
SHARED = "name: shared\non: workflow_call\njobs: {j: {runs-on: web, steps: [{run: echo one}]}}\n"
STEPPED = "name: stepped\njobs: {j: {runs-on: web, steps: [{uses: ./steps/deploy}]}}\n"
STEP = "steps: [{run: echo one}]\n"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, "ops")


@pytest.fixture
async def daemon(work: Work) -> AsyncIterator[Daemon]:
    daemon = Daemon(RepositorySettings(name="ops", url=str(work.bare), interval_ms=20_000))
    await daemon.start()
    await daemon.sync()
    yield daemon
    await daemon.stop()


async def errors(daemon: Daemon, path: str) -> list[str]:
    row = next(row for row in await daemon.admin.definitions() if row.path == path)
    return [error.code for error in row.errors]


async def test_a_workflow_runs_with_the_files_that_it_uses(work: Work, daemon: Daemon) -> None:
    """A called workflow and a composite step come from the same commit; a call-only file starts nothing."""
    files = {"workflows/caller.yml": CALLER, "workflows/shared.yml": SHARED}
    commit = work.pushed({**files, "workflows/stepped.yml": STEPPED, "steps/deploy/step.yml": STEP})
    await daemon.sync()
    assert daemon.started() == [("workflows/caller.yml", commit), ("workflows/stepped.yml", commit)]
    assert {row.path for row in await daemon.admin.definitions() if row.is_ready} == {
        "workflows/caller.yml",
        "workflows/shared.yml",
        "workflows/stepped.yml",
    }


async def test_changing_a_used_file_changes_the_workflow(work: Work, daemon: Daemon) -> None:
    """Workflows that use it are compiled again and run with the new content; others do not."""
    files = {
        "workflows/caller.yml": CALLER,
        "workflows/shared.yml": SHARED,
        "workflows/alone.yml": SMALLEST.format("x"),
    }
    work.pushed({**files, "workflows/stepped.yml": STEPPED, "steps/deploy/step.yml": STEP})
    await daemon.sync()
    daemon.started()
    daemon.compiler.requested.clear()
    commit = work.pushed({"workflows/shared.yml": SHARED.replace("one", "two")})
    await daemon.sync()
    (start,) = daemon.runs.started
    assert b"echo two" in start.plan
    assert daemon.started() == [("workflows/caller.yml", commit)]
    assert daemon.compiler.requested == ["workflows/caller.yml", "workflows/shared.yml"]
    commit = work.pushed({"steps/deploy/step.yml": STEP.replace("one", "two")})
    await daemon.sync()
    assert daemon.started() == [("workflows/stepped.yml", commit)]


async def test_a_path_filter_matches_only_changed_paths(work: Work, daemon: Daemon) -> None:
    """To run when a called file changes, a workflow must list that file explicitly."""
    one = CALLER.replace("name: caller", "on: {push: {paths: [workflows/one.yml]}}")
    two = CALLER.replace("name: caller", "on: {push: {paths: [workflows/shared.yml]}}")
    work.pushed({"workflows/one.yml": one, "workflows/two.yml": two, "workflows/shared.yml": SHARED})
    await daemon.sync()
    daemon.started()
    commit = work.pushed({"workflows/shared.yml": SHARED.replace("one", "two")})
    await daemon.sync()
    assert daemon.started() == [("workflows/two.yml", commit)]


async def test_a_used_file_may_be_added_and_removed(work: Work, daemon: Daemon) -> None:
    """While it is missing, only the workflows that use it have errors."""
    work.pushed({"workflows/stepped.yml": STEPPED, "workflows/alone.yml": SMALLEST.format("x")})
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == ["workflows/alone.yml"]
    assert (await errors(daemon, "workflows/stepped.yml")) == ["WF135"]
    commit = work.pushed({"steps/deploy/action.yml": "runs: {using: composite, steps: [{run: a, shell: bash}]}\n"})
    await daemon.sync()
    assert daemon.started() == [("workflows/stepped.yml", commit)]
    # A file earlier in the search order than the one that was found takes precedence from now on.
    work.pushed({"steps/deploy/step.yml": STEP})
    await daemon.sync()
    assert b"echo one" in daemon.runs.started[0].plan
    daemon.started()
    work.pushed({"steps/deploy/step.yml": None, "steps/deploy/action.yml": None})
    await daemon.sync()
    assert daemon.started() == []
    assert (await errors(daemon, "workflows/stepped.yml")) == ["WF135"]


async def test_a_workflow_is_compiled_per_branch_if_a_used_file_differs(work: Work, tmp_path: Path) -> None:
    """A branch that changes only the called file runs with it, and the default branch keeps its own."""
    daemon = Daemon(RepositorySettings(name="ops", url=str(work.bare), interval_ms=20_000, refs=("main", "next")))
    await daemon.start()
    await daemon.sync()
    work.pushed({"workflows/caller.yml": CALLER, "workflows/shared.yml": SHARED})
    await daemon.sync()
    daemon.started()
    commit = work.commit({"workflows/shared.yml": SHARED.replace("one", "two")})
    work.push("HEAD:refs/heads/next")
    await daemon.sync()
    (start,) = daemon.runs.started
    assert (start.trigger.ref, start.revision, b"echo two" in start.plan) == ("refs/heads/next", commit, True)
    assert b"echo one" in (await daemon.admin.plan("workflows/caller.yml", "ops")).plan
    # Main gets the same content: it is known from the branch, but still a change here.
    daemon.started()
    daemon.compiler.requested.clear()
    work.push("HEAD:refs/heads/main")
    await daemon.sync()
    assert daemon.started() == [("workflows/caller.yml", commit)]
    assert daemon.compiler.requested == []
    await daemon.stop()


async def test_a_restart_compiles_only_lost_plans_from_their_original_content(work: Work, daemon: Daemon) -> None:
    """The recovered plan is the applied one, whatever has been pushed meanwhile."""
    work.pushed(
        {"workflows/caller.yml": BY_HAND, "workflows/shared.yml": SHARED, "workflows/a.yml": SMALLEST.format("a")}
    )
    await daemon.sync()
    daemon.started()
    before = await daemon.admin.plan("workflows/caller.yml", None)
    await daemon.restart()
    daemon.compiler.requested.clear()
    await daemon.sync()
    await daemon.until(lambda: len(daemon.compiler.requested) == 2)
    await daemon.sync()
    assert sorted(daemon.compiler.requested) == ["workflows/caller.yml", "workflows/shared.yml"]
    assert await daemon.admin.plan("workflows/caller.yml", None) == before
    assert daemon.started() == []
    await daemon.stop()
    commit = work.pushed({"workflows/shared.yml": SHARED.replace("one", "two")})
    await daemon.restart()
    await daemon.sync()
    plan = await daemon.admin.plan("workflows/caller.yml", None)
    assert (plan.revision, b"echo two" in plan.plan) == (commit, True)


async def test_only_regular_files_of_the_tree_are_read(work: Work, daemon: Daemon, tmp_path: Path) -> None:
    """A link to a file of the host, a link in the path, and a directory are errors of the workflow that uses them."""
    outside = tmp_path / "outside.yml"
    outside.write_text(SHARED)
    (work.path / "workflows").mkdir()
    (work.path / "steps").mkdir()
    (work.path / "linked.yml").symlink_to(outside)
    (work.path / "steps/linked").symlink_to(tmp_path)
    (tmp_path / "step.yml").write_text(STEP)
    called = "jobs: {all: {uses: ./linked.yml}}\n"
    through = "jobs: {j: {runs-on: web, steps: [{uses: ./steps/linked}]}}\n"
    folder = "jobs: {all: {uses: ./folder.yml}}\n"
    work.pushed({"folder.yml/x": "1", "workflows/a.yml": called, "workflows/b.yml": through, "workflows/c.yml": folder})
    await daemon.sync()
    assert daemon.started() == []
    assert (await errors(daemon, "workflows/a.yml"))[0] == codes.SYMLINK
    assert (await errors(daemon, "workflows/b.yml"))[0] == codes.SYMLINK
    assert (await errors(daemon, "workflows/c.yml"))[0] == codes.DIRECTORY
    # The same object as a regular file is a different case.
    (work.path / "linked.yml").unlink()
    commit = work.pushed({"linked.yml": SHARED})
    await daemon.sync()
    assert daemon.started() == [("workflows/a.yml", commit)]


async def test_groups_of_called_workflows_are_checked(work: Work) -> None:
    """A workflow whose call uses a forbidden group does not start and has an error."""
    settings = RepositorySettings(name="ops", url=str(work.bare), interval_ms=20_000, groups=("db",))
    daemon = Daemon(settings)
    await daemon.start()
    await daemon.sync()
    work.pushed({"workflows/caller.yml": CALLER, "workflows/shared.yml": SHARED})
    await daemon.sync()
    assert daemon.started() == []
    assert (await errors(daemon, "workflows/caller.yml")) == [codes.GROUP_NOT_ALLOWED]
    await daemon.stop()


async def test_many_workflows_that_use_one_file_fit_into_facts(work: Work, daemon: Daemon) -> None:
    """The size of a fact is limited by the number of paths in it."""
    some = {f"workflows/{number:03}.yml": STEPPED.replace("stepped", f"s{number}") for number in range(120)}
    work.pushed({**some, "steps/deploy/action.yml": "runs: {using: composite, steps: [{run: a, shell: bash}]}\n"})
    await daemon.sync()
    assert len(daemon.started()) == 120
    facts = [fact for fact in daemon.facts() if isinstance(fact, events.RevisionApplied | events.FilesApplied)]
    assert sum(len(fact.files) for fact in facts) == 120
    assert all(
        sum(1 + len(file.used) for file in fact.files) <= events.PATHS_PER_FACT or len(fact.files) == 1
        for fact in facts
    )
    work.pushed({"steps/deploy/action.yml": "runs: {using: composite, steps: [{run: b, shell: bash}]}\n"})
    await daemon.sync()
    assert {plans.decode(start.plan).name for start in daemon.runs.started} == {f"s{number}" for number in range(120)}
