"""From `git push` to `Runs.apply`, with real Git, the real compiler and the in-memory log."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.reconcile.reconciler_harness import ON_PUSH, SMALLEST, Daemon, Work
from waterflow_agent.errors import Rejected, Retryable, WaterflowError
from waterflowd.reconcile import codes, events
from waterflowd.reconcile.conditions import ConditionType
from waterflowd.reconcile.settings import RepositorySettings


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, "ops")


def settings_of(work: Work, name: str = "ops", **more: Any) -> RepositorySettings:
    return RepositorySettings(name=name, url=str(work.bare), interval_ms=20_000, **more)


@pytest.fixture
async def daemons() -> AsyncIterator[Callable[..., Daemon]]:
    made: list[Daemon] = []

    def make(*settings: RepositorySettings) -> Daemon:
        made.append(Daemon(*settings))
        return made[-1]

    yield make
    for daemon in made:
        await daemon.stop()


@pytest.fixture
async def daemon(work: Work, daemons: Callable[..., Daemon]) -> Daemon:
    daemon = daemons(settings_of(work))
    await daemon.start()
    return daemon


async def test_g6_a_repository_with_history_is_recorded_and_starts_nothing(
    work: Work, daemons: Callable[..., Daemon]
) -> None:
    """Adding an existing repository causes no surprising runs."""
    commit = work.pushed({"workflows/a.yml": SMALLEST.format("a"), "workflows/b.yml": ON_PUSH.format("b")})
    daemon = daemons(settings_of(work))
    await daemon.start()
    assert await daemon.sync() == commit
    assert daemon.started() == []
    assert [row.path for row in await daemon.admin.definitions()] == ["workflows/a.yml", "workflows/b.yml"]
    (row,) = daemon.admin.status()
    assert (row.is_ready, row.revision_fetched, row.revision_applied) == (True, commit, commit)


async def test_g6_the_first_push_to_an_empty_repository_starts_its_files(work: Work, daemon: Daemon) -> None:
    """The smallest file runs on the push that adds it, without a `sync`."""
    assert await daemon.sync() is None
    assert daemon.condition(ConditionType.APPLIED) == (True, "no-ref")
    commit = work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.until(lambda: bool(daemon.runs.started))
    assert daemon.started() == [("workflows/a.yml", commit)]


async def test_an_empty_repository_is_remembered_across_a_restart(work: Work, daemon: Daemon) -> None:
    """The first push starts runs even if the daemon was down at that time."""
    await daemon.sync()
    await daemon.stop()
    commit = work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.restart()
    await daemon.sync()
    assert daemon.started() == [("workflows/a.yml", commit)]


async def test_a_push_starts_changed_files_and_files_with_on_push(work: Work, daemon: Daemon) -> None:
    """A file without `on` runs when it changes; `on: push` runs each time; path filters match the changes."""
    filtered = "on: {push: {paths: ['docs/**']}}\n" + SMALLEST.format("c")
    await daemon.sync()
    work.pushed(
        {"workflows/a.yml": SMALLEST.format("a"), "workflows/b.yml": ON_PUSH.format("b"), "workflows/c.yml": filtered}
    )
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == ["workflows/a.yml", "workflows/b.yml"]
    work.pushed({"README": "1"})
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == ["workflows/b.yml"]
    work.pushed({"docs/x/y.md": "1", "workflows/a.yml": SMALLEST.format("changed")})
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == ["workflows/a.yml", "workflows/b.yml", "workflows/c.yml"]


async def test_g6_ten_commits_while_down_are_one_update(work: Work, daemon: Daemon) -> None:
    """One run per workflow, for the newest commit, with all changes since the last applied one."""
    await daemon.sync()
    first = work.pushed({"workflows/b.yml": ON_PUSH.format("b")})
    await daemon.sync()
    daemon.started()
    await daemon.stop()
    for number in range(10):
        last = work.pushed({f"file-{number}": "x"})
    await daemon.restart()
    await daemon.sync()
    (start,) = daemon.runs.started
    assert start.revision == last
    assert start.trigger.payload["before"] == first
    assert start.trigger.payload["changed"] == [f"file-{number}" for number in range(10)]
    assert start.trigger.key == "push:ops:refs/heads/main:2:workflows/b.yml"


async def test_g6_a_push_back_to_an_older_commit_runs_again(work: Work, daemon: Daemon) -> None:
    """The update is new although the commit is not, and nothing needs compilation."""
    await daemon.sync()
    older = work.pushed({"workflows/a.yml": SMALLEST.format("one")})
    await daemon.sync()
    work.pushed({"workflows/a.yml": SMALLEST.format("two")})
    await daemon.sync()
    daemon.started()
    compiled = len(daemon.compiler.requested)
    for expected in (older, work.git("rev-parse", "HEAD")):
        work.push(f"{expected}:refs/heads/main")
        await daemon.sync()
        assert daemon.started() == [("workflows/a.yml", expected)]
    # Only the version before the last one is forgotten: the log keeps the newest and the last valid one.
    assert len(daemon.compiler.requested) - compiled <= 2


async def test_a_restart_starts_nothing_and_compiles_lost_plans(work: Work, daemon: Daemon) -> None:
    """Applied files stay applied; a plan that is not in the log is compiled again."""
    by_hand = "on: workflow_dispatch\n" + SMALLEST.format("b")
    await daemon.sync()
    work.pushed({"workflows/a.yml": SMALLEST.format("a"), "workflows/b.yml": by_hand})
    await daemon.sync()
    daemon.started()
    before = await daemon.admin.plan("workflows/b.yml", None)
    daemon.compiler.requested.clear()
    await daemon.restart()
    await daemon.sync()
    await daemon.until(lambda: bool(daemon.compiler.requested))
    await daemon.sync()
    assert daemon.started() == []
    assert daemon.compiler.requested == ["workflows/b.yml"]
    assert await daemon.admin.plan("workflows/b.yml", None) == before


async def test_a_file_with_errors_starts_nothing_and_delays_nothing(work: Work, daemon: Daemon) -> None:
    """Its errors are shown, its last valid version is known, the other files run, and a fix starts it."""
    await daemon.sync()
    work.pushed({"workflows/a.yml": SMALLEST.format("a"), "workflows/b.yml": ON_PUSH.format("b")})
    await daemon.sync()
    daemon.started()
    broken = work.pushed({"workflows/a.yml": "jobs: [unclosed"})
    await daemon.sync()
    assert daemon.started() == [("workflows/b.yml", broken)]
    row = next(row for row in await daemon.admin.definitions() if row.path == "workflows/a.yml")
    assert (row.name, row.is_ready, bool(row.errors)) == ("a", False, True)
    assert daemon.condition(ConditionType.FILES_VALID) == (False, "files-broken")
    with pytest.raises(Rejected) as caught:
        await daemon.admin.plan("workflows/a.yml", "ops")
    assert (caught.value.code, caught.value.status) == (codes.BROKEN_WORKFLOW, 409)
    repaired = work.pushed({"workflows/a.yml": SMALLEST.format("repaired")})
    await daemon.sync()
    assert ("workflows/a.yml", repaired) in daemon.started()
    assert daemon.condition(ConditionType.READY) == (True, "ready")


@pytest.mark.parametrize("is_pushed", [False, True])
async def test_a_file_that_a_newer_version_refuses_delays_nothing(work: Work, daemon: Daemon, is_pushed: bool) -> None:
    """Its plan is lost, and compiling it after an upgrade fails: it then has errors, and the others run."""
    old = "on: {push: {paths: ['docs/**']}}\n" + SMALLEST.format("old")
    await daemon.sync()
    work.pushed({"workflows/a.yml": ON_PUSH.format("a")})
    await daemon.sync()
    work.pushed({"workflows/old.yml": old})
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == ["workflows/a.yml"] * 2
    await daemon.stop()
    daemon.compiler.refused = b"name: old"
    commit = work.pushed({"docs/x": "1"}) if is_pushed else ""
    await daemon.restart()
    await daemon.sync()

    async def is_refused() -> bool:
        return not all(row.is_ready for row in await daemon.admin.definitions())

    await daemon.until(is_refused)
    assert daemon.started() == ([("workflows/a.yml", commit)] if is_pushed else [])
    assert [row.path for row in await daemon.admin.definitions() if not row.is_ready] == ["workflows/old.yml"]


async def test_a_removed_file_cannot_be_started(work: Work, daemon: Daemon) -> None:
    """The file starts nothing and cannot be started manually."""
    await daemon.sync()
    work.pushed({"workflows/b.yml": ON_PUSH.format("b")})
    await daemon.sync()
    daemon.started()
    work.pushed({"workflows/b.yml": None})
    await daemon.sync()
    assert daemon.started() == []
    with pytest.raises(Rejected) as caught:
        await daemon.admin.plan("workflows/b.yml", None)
    assert caught.value.status == 404


@pytest.mark.parametrize("is_after", [False, True])
async def test_g6_a_failed_transaction_is_retried_and_starts_once(work: Work, daemon: Daemon, is_after: bool) -> None:
    """Each trigger key starts one run, whether or not the failed transaction reached the log."""
    await daemon.sync()
    faults = daemon.runs.faults_after if is_after else daemon.runs.faults
    faults.append(Retryable("WF302", "the disk is full", after_s=0.01))
    commit = work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.until(lambda: not faults)
    await daemon.sync()
    assert daemon.started() == [("workflows/a.yml", commit)]
    moved = [fact for fact in daemon.facts() if isinstance(fact, events.RevisionApplied)]
    assert len(moved) == 1


async def test_a_failure_is_a_condition_and_raised_by_sync(work: Work, daemon: Daemon) -> None:
    """The condition has the code and text of the error."""
    await daemon.sync()
    work.commit({"workflows/a.yml": SMALLEST.format("a")})
    daemon.runs.faults += [Retryable("WF302", "the disk is full", after_s=60)] * 20
    work.push()
    with pytest.raises(Retryable, match="the disk is full"):
        await daemon.sync()
    assert daemon.condition(ConditionType.READY) == (False, "WF302")


async def test_one_repository_does_not_block_another(
    work: Work, tmp_path: Path, daemons: Callable[..., Daemon]
) -> None:
    """One repository is missing, one is not a repository, one crashes the compiler; the fourth works."""
    bad = Work(tmp_path, "bad")
    bad.pushed({"workflows/a.yml": "name: crash"})
    missing = RepositorySettings(name="missing", url=str(tmp_path / "nowhere"))
    folder = RepositorySettings(name="folder", url=str(tmp_path))
    daemon = daemons(missing, folder, settings_of(bad, "bad"), settings_of(work))

    def fault(content: bytes) -> None:
        if b"crash" in content:
            raise ZeroDivisionError("a bug")

    daemon.compiler.fault = fault
    await daemon.start()
    await daemon.sync()
    commit = work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.sync()
    assert daemon.started() == [("workflows/a.yml", commit)]
    expected = {"missing": codes.NOT_THERE, "folder": codes.NOT_A_REPOSITORY, "bad": codes.INTERNAL}
    for name, code in expected.items():
        with pytest.raises(WaterflowError) as caught:
            await daemon.sync(name)
        assert caught.value.code == code
        assert daemon.condition(ConditionType.READY, name) == (False, code)
    assert [row.is_ready for row in daemon.admin.status()] == [False, False, False, True]


async def test_a_ref_that_cannot_be_read_does_not_delay_another(work: Work, daemons: Callable[..., Daemon]) -> None:
    """Two branches are updated, and an object of one of them is missing."""
    daemon = daemons(settings_of(work, refs=("*",)))
    await daemon.start()
    await daemon.sync()
    first = work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.sync()
    assert daemon.started() == [("workflows/a.yml", first)]
    second = work.commit({"workflows/a.yml": SMALLEST.format("b")})
    work.push("HEAD:refs/tags/not-watched")
    # Git itself refuses pushes beside a damaged ref, so both are changed directly, the damaged one first.
    (work.bare / "refs/heads/bad").write_text("e" * 40 + "\n")
    (work.bare / "refs/heads/main").write_text(second + "\n")
    with pytest.raises(Retryable) as caught:
        await daemon.sync()
    assert caught.value.code == codes.OBJECT_UNREADABLE
    assert daemon.started() == [("workflows/a.yml", second)]


async def test_a_ref_that_is_removed_and_created_again_continues_its_numbers(work: Work, daemon: Daemon) -> None:
    """Its trigger keys are therefore new. Its files are compared with those before the removal."""
    await daemon.sync()
    work.pushed({"workflows/a.yml": SMALLEST.format("a"), "workflows/b.yml": ON_PUSH.format("b")})
    await daemon.sync()
    daemon.started()
    work.git("update-ref", "-d", "refs/heads/main", cwd=work.bare)
    await daemon.sync()
    assert await daemon.admin.definitions() == []
    work.push()
    await daemon.sync()
    assert [start.trigger.key for start in daemon.runs.started] == ["push:ops:refs/heads/main:2:workflows/b.yml"]


async def test_a_repository_that_was_deleted_and_recreated_recovers(work: Work, daemon: Daemon) -> None:
    """A missing repository is an error and not a removal of its refs; a push to the new one is an update."""
    await daemon.sync()
    work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.sync()
    daemon.started()
    shutil.rmtree(work.bare)
    await daemon.until(lambda: daemon.condition(ConditionType.FETCHED) == (False, codes.NOT_THERE))
    assert [row.path for row in await daemon.admin.definitions()] == ["workflows/a.yml"]
    work.git("init", "--quiet", "--bare", "--initial-branch", "main", str(work.bare), cwd=work.root)
    commit = work.pushed({"workflows/a.yml": SMALLEST.format("again")})
    await daemon.until(lambda: bool(daemon.runs.started))
    assert daemon.started() == [("workflows/a.yml", commit)]
    await daemon.until(lambda: daemon.condition(ConditionType.READY)[0] is True)


async def test_a_suspended_repository_ignores_pushes_and_catches_up(work: Work, daemon: Daemon) -> None:
    """The suspension survives a restart, `sync` is refused, and resuming causes one update."""
    await daemon.sync()
    work.pushed({"workflows/b.yml": ON_PUSH.format("b")})
    await daemon.sync()
    daemon.started()
    await daemon.admin.suspend("ops", "token:ada")
    await daemon.restart()
    await daemon.until(lambda: daemon.condition(ConditionType.READY) == (False, codes.SUSPENDED))
    work.pushed({"x": "1"})
    last = work.pushed({"x": "2"})
    with pytest.raises(Rejected) as caught:
        await daemon.sync()
    assert caught.value.code == codes.SUSPENDED
    assert daemon.started() == []
    resumed = await daemon.admin.resume("ops", "token:ada")
    assert "suspended" not in resumed.text
    await daemon.sync()
    assert daemon.started() == [("workflows/b.yml", last)]


async def test_tags_are_watched_if_the_configuration_names_them(work: Work, daemons: Callable[..., Daemon]) -> None:
    """An annotated tag leads to its commit, and a changed tag is an update; reading it again changes nothing."""
    daemon = daemons(settings_of(work, refs=("tags/v*",)))
    await daemon.start()
    await daemon.sync()
    first = work.pushed({"workflows/b.yml": ON_PUSH.format("b")})
    work.git("tag", "--annotate", "v1", "--message", "one")
    work.push("refs/tags/v1")
    await daemon.sync()
    await daemon.sync()
    second = work.pushed({"x": "1"})
    work.git("tag", "--annotate", "--force", "v1", "--message", "two")
    work.push("refs/tags/v1")
    await daemon.sync()
    tags = [(start.trigger.git["tag"], start.trigger.git["branch"]) for start in daemon.runs.started]
    assert daemon.started() == [("workflows/b.yml", first), ("workflows/b.yml", second)]
    assert set(tags) == {("v1", None)}


async def test_a_tag_or_branch_that_is_created_while_its_pattern_is_watched_is_a_push(
    work: Work, daemons: Callable[..., Daemon]
) -> None:
    """It starts matching files; a tag changes no file, and a new branch changes those that differ from the default."""
    tagged = "on: {push: {tags: ['v*', '!v*-rc']}}\n" + SMALLEST.format("t")
    work.pushed({"workflows/a.yml": SMALLEST.format("a"), "workflows/t.yml": tagged, "x": "1"})
    work.push("HEAD:refs/tags/v0")
    daemon = daemons(settings_of(work, refs=("**", "tags/**")))
    await daemon.start()
    await daemon.sync()
    assert daemon.started() == []
    for tag in ("v1", "v2-rc", "other"):
        work.push(f"HEAD:refs/tags/{tag}")
    await daemon.sync()
    assert [start.trigger.ref for start in daemon.runs.started] == ["refs/tags/v1"]
    daemon.started()
    work.push("HEAD:refs/heads/same")
    await daemon.sync()
    assert daemon.started() == []
    work.commit({"workflows/a.yml": SMALLEST.format("other")})
    work.push("HEAD:refs/heads/differs")
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == ["workflows/a.yml"]


async def test_refs_that_a_new_configuration_watches_are_history(work: Work, daemons: Callable[..., Daemon]) -> None:
    """They existed before they were watched, so they start nothing when first seen; later updates do."""
    work.pushed({"workflows/b.yml": ON_PUSH.format("b")})
    work.push("HEAD:refs/heads/old")
    daemon = daemons(settings_of(work, refs=("main",)))
    await daemon.start()
    await daemon.sync()
    daemon.settings = (settings_of(work, refs=("main", "old")),)
    await daemon.restart()
    await daemon.sync()
    assert daemon.started() == []
    work.commit({"x": "2"})
    work.push("HEAD:refs/heads/old")
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == ["workflows/b.yml"]


async def test_hostile_names_are_never_executed(work: Work, daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    """Shell syntax in a branch and a message, HTML and a newline in file names are displayed, never executed."""
    daemon = daemons(settings_of(work, refs=("*",)))
    await daemon.start()
    await daemon.sync()
    message = "`touch pwn` $(touch pwn) '; touch pwn #\n\n\x1b]0;title\x07"
    work.commit(
        {
            "workflows/<img onerror=x>.yml": SMALLEST.format("a"),
            "workflows/new\nline.yml": SMALLEST.format("b"),
            "workflows/${{ secrets.x }}.yml": ON_PUSH.format("c"),
        },
        message,
        author='">script `id`',
    )
    work.push("HEAD:refs/heads/x$(id)")
    await daemon.sync()
    assert [path for path, _ in daemon.started()] == [
        "workflows/${{ secrets.x }}.yml",
        "workflows/<img onerror=x>.yml",
    ]
    broken = [row for row in await daemon.admin.definitions() if not row.is_ready]
    assert [row.path for row in broken] == ["workflows/new\\nline.yml"]
    assert [error.code for error in broken[0].errors] == [codes.UNSAFE_NAME]
    found = await daemon.admin.plan("workflows/<img onerror=x>.yml", None)
    assert found.git["branch"] == "x$(id)"
    assert found.git["message"].startswith("`touch pwn`")
    assert not list(tmp_path.rglob("pwn"))  # noqa: ASYNC240


async def test_a_forbidden_group_is_an_error_of_the_file(work: Work, daemons: Callable[..., Daemon]) -> None:
    """The configuration, not the repository, decides which groups its workflows may use."""
    daemon = daemons(settings_of(work, groups=("db-*",)))
    await daemon.start()
    await daemon.sync()
    work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.sync()
    assert daemon.started() == []
    (row,) = await daemon.admin.definitions()
    assert [error.code for error in row.errors] == [codes.GROUP_NOT_ALLOWED]


async def test_a_repository_with_many_files_is_applied_in_one_transaction(work: Work, daemon: Daemon) -> None:
    """There are more files than fit into one fact, but only one commit of the log."""
    await daemon.sync()
    count = events.FILES_PER_FACT + 20
    commits = len(daemon.log.commits)
    work.pushed({f"workflows/{number:04}.yml": SMALLEST.format("a") for number in range(count)})
    await daemon.sync()
    assert len(daemon.log.commits) == commits + 1
    assert len(await daemon.admin.definitions()) == count
    assert len(daemon.started()) == count


async def test_the_only_branch_of_a_new_bare_repository_is_watched(work: Work, daemon: Daemon) -> None:
    """It is watched even if HEAD names another branch that does not exist."""
    work.git("symbolic-ref", "HEAD", "refs/heads/master", cwd=work.bare)
    await daemon.sync()
    commit = work.pushed({"workflows/a.yml": SMALLEST.format("a")})
    await daemon.sync()
    assert daemon.started() == [("workflows/a.yml", commit)]


async def test_an_unknown_repository_is_a_404(daemon: Daemon) -> None:
    """The error of `sync` lists the known repositories."""
    with pytest.raises(Rejected, match="known: ops") as caught:
        await daemon.sync("nope")
    assert (caught.value.code, caught.value.status) == (codes.NOT_FOUND, 404)


async def test_sync_fails_when_the_daemon_stops(work: Work, daemons: Callable[..., Daemon]) -> None:
    """No caller hangs."""
    daemon = daemons(settings_of(work))
    await daemon.start()
    await daemon.sync()
    waiting = asyncio.ensure_future(daemon.sync())
    await asyncio.sleep(0)
    await daemon.stop()
    with pytest.raises(Retryable, match="stopping"):
        await waiting
