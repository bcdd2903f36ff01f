"""`workflow_run` triggers across crashes, with real Git, driver and engine. The log is cut at every position."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.reconcile.reconciler_harness import Work
from tests.integration.triggers.trigger_harness import NAP, UNIONS, TriggerHarness
from waterflowd.model.ids import repository_stream, run_stream
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion
from waterflowd.reconcile import events, workflow_run
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.store import opening
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_log import MemoryLog

BUILD = "name: build\non: push\n" + NAP
DEPLOY = "name: deploy\non: {workflow_run: {workflows: [build]}}\n" + NAP


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, "ops")


def settings_of(work: Work) -> RepositorySettings:
    return RepositorySettings(name="ops", url=str(work.bare), interval_ms=20_000)


def empty_log() -> MemoryLog:
    return MemoryLog(Codec(UNIONS))


async def test_g6_a_completed_run_starts_matching_files_once(work: Work) -> None:
    """It starts at the default ref's commit with the completed run in `event`; earlier completed runs are ignored."""
    async with TriggerHarness(empty_log(), settings_of(work)) as harness:
        await harness.sync()
        work.pushed({"workflows/build.yml": BUILD})
        await harness.sync()
        await harness.settled()
        by_path = "on: {workflow_run: {workflows: workflows/build.yml, conclusions: success, branches: [main]}}\n" + NAP
        failed = "on: {workflow_run: {workflows: [build], conclusions: [failure]}}\n" + NAP
        elsewhere = "on: {workflow_run: {workflows: [build], branches: ['release/*']}}\n" + NAP
        commit = work.pushed(
            {
                "workflows/deploy.yml": DEPLOY,
                "workflows/a.yml": by_path,
                "workflows/b.yml": failed,
                "workflows/c.yml": elsewhere,
            }
        )
        await harness.sync()
        await harness.until(lambda: len(harness.runs()) == 4)
        await harness.settled()
        first, second, *followed = harness.runs()
        assert (first.path, second.path) == ("workflows/build.yml", "workflows/build.yml")
        assert [row.path for row in followed] == ["workflows/a.yml", "workflows/deploy.yml"]
        trigger = harness.log.read(run_stream(followed[0].id))[0].event.trigger
        assert (trigger.kind, trigger.by, followed[0].revision) == ("workflow_run", f"run:{second.id}", commit)
        about = trigger.payload["workflow_run"]
        assert (about["id"], about["name"], about["conclusion"], about["depth"]) == (second.id, "build", "success", 1)
        assert (about["branch"], about["revision"], about["event"]) == ("main", commit, "push")


async def test_a_triggered_run_acts_for_the_starter_of_the_completed_run(work: Work) -> None:
    """So a token for one group reaches no other one through a chain of runs, and nobody approves what they started."""
    async with TriggerHarness(empty_log(), settings_of(work)) as harness:
        await harness.sync()
        first = "name: build\non: workflow_dispatch\n" + NAP
        second = "name: deploy\non: {workflow_run: {workflows: [build]}}\njobs: {a: {runs-on: db, steps: [{run: x}]}}\n"
        work.pushed({"workflows/build.yml": first, "workflows/deploy.yml": second})
        await harness.sync()
        found = await harness.repositories.plan("workflows/build.yml", None)
        trigger = Trigger(kind=TriggerKind.MANUAL, by="ci", principal="ci", scope=("web",))
        await harness.driver.start(
            StartRequest(plan=found.plan, repository="ops", revision=found.revision, trigger=trigger)
        )
        await harness.until(lambda: len(harness.runs()) == 2)
        await harness.settled()
        triggered = harness.runs()[1]
        assert (triggered.trigger.principal, triggered.trigger.scope) == ("ci", ("web",))
        assert triggered.conclusion is Conclusion.FAILURE
        assert 'may only use web, but not group "db"' in triggered.reason.text


async def test_g6_a_crash_anywhere_neither_loses_nor_repeats_a_triggered_run(work: Work) -> None:
    """The log ends after each of its transactions, and the next daemon reaches the same result."""
    log = empty_log()
    async with TriggerHarness(log, settings_of(work)) as harness:
        await harness.sync()
        work.pushed({"workflows/build.yml": BUILD, "workflows/deploy.yml": DEPLOY, "workflows/other.yml": DEPLOY})
        await harness.sync()
        await harness.until(lambda: len(harness.runs()) == 3)
        await harness.settled()
        expected = sorted(harness.paths())
    assert expected == ["workflows/build.yml", "workflows/deploy.yml", "workflows/other.yml"]
    for commits in range(len(log.commits) + 1):
        async with TriggerHarness(log.reopened(commits), settings_of(work)) as again:
            await again.sync()
            # A log without the fact that the repository was empty would treat its content as history.
            requested = expected if commits else []
            await again.until(lambda harness=again, requested=requested: sorted(harness.paths()) == requested)  # type: ignore[misc]
            await again.settled()
            assert sorted(again.paths()) == requested, commits


async def test_g6_runs_that_completed_before_a_crash_are_handled_after_it(work: Work, tmp_path: Path) -> None:
    """With a real log on disk, the run completes, the daemon dies, and the next one starts the triggered run."""
    with opening.open_store(tmp_path / "data", UNIONS, ballast_bytes=0) as store:
        first = TriggerHarness(store.log, settings_of(work))
        # The daemon dies before anything reads the log.
        first.reconciler.workflow_run_triggers.clear()
        async with first as harness:
            await harness.sync()
            work.pushed({"workflows/build.yml": BUILD, "workflows/deploy.yml": DEPLOY})
            await harness.sync()
            await harness.until(lambda: harness.paths(are_open=False) == ["workflows/build.yml"])
    for _ in range(2):
        with opening.open_store(tmp_path / "data", UNIONS, ballast_bytes=0) as store:
            async with TriggerHarness(store.log, settings_of(work)) as harness:
                await harness.until(lambda: "workflows/deploy.yml" in harness.paths())
                await harness.settled()
                assert harness.paths() == ["workflows/build.yml", "workflows/deploy.yml"]


async def test_a_restart_does_not_match_runs_against_later_files(work: Work) -> None:
    """A file that matched only failures when the run succeeded, and successes later, starts nothing for that run."""
    log = empty_log()
    async with TriggerHarness(log, settings_of(work)) as harness:
        await harness.sync()
        failed = DEPLOY.replace("[build]", "[build], conclusions: failure")
        work.pushed({"workflows/build.yml": BUILD.replace("on: push", ""), "workflows/deploy.yml": failed})
        await harness.sync()
        await harness.until(lambda: len(harness.runs()) == 1)
        await harness.settled()
        work.pushed({"workflows/deploy.yml": DEPLOY})
        await harness.sync()
        await harness.settled()
    async with TriggerHarness(log.reopened(), settings_of(work)) as harness:
        await harness.sync()
        await harness.settled()
        assert harness.paths() == ["workflows/build.yml"]


async def test_a_cycle_of_triggers_ends(work: Work) -> None:
    """At most five triggered runs follow one another, whatever started the first one."""
    ping = "name: ping\non: {push: , workflow_run: {workflows: [pong]}}\n" + NAP
    pong = "name: pong\non: {workflow_run: {workflows: [ping]}}\n" + NAP
    async with TriggerHarness(empty_log(), settings_of(work)) as harness:
        await harness.sync()
        work.pushed({"workflows/ping.yml": ping, "workflows/pong.yml": pong})
        await harness.sync()
        await harness.until(lambda: len(harness.runs()) == 1 + workflow_run.CHAIN_MAX)
        await harness.settled()
        assert [row.name for row in harness.runs()] == ["ping", "pong"] * 3
        assert {row.conclusion for row in harness.runs()} == {Conclusion.SUCCESS}


async def test_a_suspended_repository_handles_completed_runs_when_it_is_resumed(work: Work) -> None:
    """Runs that completed meanwhile are not lost."""
    slow = "name: build\non: push\n" + NAP.replace("1ms", "1h")
    async with TriggerHarness(empty_log(), settings_of(work)) as harness:
        await harness.sync()
        work.pushed({"workflows/build.yml": slow, "workflows/deploy.yml": DEPLOY})
        await harness.sync()
        await harness.repositories.suspend("ops", "token:ada")
        (run,) = harness.runs()
        await harness.driver.cancel(run.id, "token:ada")
        await harness.settled()
        assert len(harness.runs()) == 1
        await harness.repositories.resume("ops", "token:ada")
        await harness.until(lambda: len(harness.runs()) == 2)
        await harness.settled()
        marks = [
            r.event
            for r in harness.log.read(repository_stream("ops"))
            if isinstance(r.event, events.CompletedRunsHandled)
        ]
        assert len(marks) == 1


async def test_nothing_is_triggered_after_a_suspension_was_confirmed(work: Work) -> None:
    """This holds even if several runs had completed and the first triggered run was being started."""
    slow = "name: build\non: push\n" + NAP.replace("1ms", "1h")
    log = empty_log()
    async with TriggerHarness(log, settings_of(work)) as harness:
        await harness.sync()
        for number in range(2):
            work.pushed({"workflows/build.yml": f"# {number}\n{slow}", "workflows/deploy.yml": DEPLOY})
            await harness.sync()
        await harness.repositories.suspend("ops", "token:ada")
        for run in harness.runs():
            await harness.driver.cancel(run.id, "token:ada")
        await harness.settled()
        log.hold()
        resuming = asyncio.create_task(harness.repositories.resume("ops", "token:ada"))
        await harness.until(lambda: len(log._held) == 1)
        other = events.EmptyRepositorySeen(at=harness.clock.now())
        blocking = asyncio.create_task(harness.driver.record(repository_stream("other"), [other]))
        await harness.until(lambda: len(harness.driver._items) == 1)
        log.release(1)
        await harness.until(lambda: len(log._held) == 1 and len(harness.driver._items) == 1)
        suspending = asyncio.create_task(harness.repositories.suspend("ops", "token:ada"))
        await harness.until(lambda: len(harness.driver._items) == 2)
        log.release()
        await asyncio.gather(resuming, blocking, suspending)
        await harness.until(lambda: harness.paths(are_open=False).count("workflows/deploy.yml") > 0)
        assert harness.paths().count("workflows/deploy.yml") == 1
        await harness.repositories.resume("ops", "token:ada")
        await harness.until(lambda: harness.paths().count("workflows/deploy.yml") == 2)
