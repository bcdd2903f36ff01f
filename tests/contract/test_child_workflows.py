"""What every `ports.ChildWorkflows` must do: the daemon's with a real repository and compiler, and the in-memory twin."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.gitsource.test_local import Git
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.compiler.process import CompilerProcess
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.model import plan as plans
from waterflowd.ports import ChildWorkflows
from waterflowd.reconcile.loop.child_workflows import CommittedWorkflows
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.testing.memory_workflows import MemoryChildWorkflows

FILES = {
    "workflows/good.yml": "name: good\njobs: {a: {uses: ./lib/called.yml}}\n",
    "lib/called.yml": "on: workflow_call\njobs: {b: {runs-on: web, steps: [{run: work}]}}\n",
    "workflows/broken.yml": "jobs: 1\n",
}


class Repository(NamedTuple):
    workflows: ChildWorkflows
    revision: str


@pytest.fixture(params=["git", "memory"])
async def repository(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repository]:
    if request.param == "memory":
        yield Repository(MemoryChildWorkflows(FILES), "c1")
        return
    git = Git(tmp_path / "ops")
    git.path.mkdir()
    git("init", "--quiet", "--initial-branch=main")
    for path, content in FILES.items():
        (git.path / path).parent.mkdir(exist_ok=True)
        (git.path / path).write_text(content)
    (git.path / "workflows/link.yml").symlink_to("good.yml")
    git("add", "--all")
    git("commit", "--quiet", "--message=first")
    revision = git("rev-parse", "HEAD").strip()
    # The current state of the branch does not matter: the run uses its own commit.
    git("rm", "--quiet", "-r", "workflows")
    git("commit", "--quiet", "--message=second")
    compiler = CompilerProcess()
    await compiler.start()
    opener = RepositoryOpener(tmp_path / "mirrors", {})
    settings = RepositorySettings(name="ops", url=str(git.path))
    try:
        yield Repository(CommittedWorkflows({"ops": settings}, opener.file, compiler), revision)
    finally:
        await compiler.close()


async def test_the_plan_is_that_of_the_file_at_the_commit(repository: Repository) -> None:
    """It includes the files that the workflow uses at this commit, and repeating the request gives the same plan."""
    found = [await repository.workflows.plan("ops", repository.revision, "workflows/good.yml") for _ in range(2)]
    assert found[0] == found[1]
    plan = plans.decode(found[0])
    assert (plan.name, plan.path) == ("good", "workflows/good.yml")
    assert plan.jobs[0].call is not None


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("workflows/nowhere.yml", "WF135", 'no workflow file "workflows/nowhere.yml"'),
        ("workflows/link.yml", "WF135", "no workflow file"),
        ("workflows", "WF135", "no workflow file"),
        ("workflows/broken.yml", "WF511", "has errors"),
    ],
)
async def test_a_permanent_error_has_a_code(repository: Repository, path: str, code: str, message: str) -> None:
    """Links are not followed, and folders are not files; trying again is of no use."""
    with pytest.raises(Rejected, match=code) as caught:
        await repository.workflows.plan("ops", repository.revision, path)
    assert message in caught.value.text


async def test_an_unreadable_commit_is_a_temporary_error(tmp_path: Path) -> None:
    """The repository is unavailable or has lost the commit; a repository that was removed gives a permanent error."""
    git = Git(tmp_path / "ops")
    git.path.mkdir()
    git("init", "--quiet", "--initial-branch=main")
    known = {name: RepositorySettings(name=name, url=str(tmp_path / name)) for name in ("ops", "away")}
    workflows = CommittedWorkflows(known, RepositoryOpener(tmp_path / "mirrors", {}).file, CompilerProcess())
    for name, code in (("ops", "WF506"), ("away", "WF503")):
        with pytest.raises(Retryable, match=code):
            await workflows.plan(name, "1" * 40, "workflows/good.yml")
    with pytest.raises(Rejected, match="WF135"):
        await workflows.plan("gone", "1" * 40, "workflows/good.yml")
