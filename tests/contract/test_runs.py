"""What everyone who starts runs, and every agent, can rely on, whatever keeps the facts (`ports.Runs`).

The log engine in memory and on LMDB; the engine on Temporal, on an in-memory Temporal and on the real server. What differs
between them is said where it is tested, and in docs/temporal.md. The test plays the one agent of the group `web`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tests.contract.engines.engine import Fact, ReadingEngine, RunEngine
from tests.contract.engines.log import LogEngine
from tests.contract.engines.temporal import TemporalEngine
from tests.contract.engines.twin import TwinEngine
from tests.integration.temporal.server import delete_namespace, new_namespace
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Rejected
from waterflowd.engine import events, step
from waterflowd.engine.rules import leases
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import RunFilter
from waterflowd.model.statuses import Conclusion, Outcome, Status

TWO_STEPS = "jobs: {a: {runs-on: web, steps: [{run: work}, {run: work}]}}"
RETRIED = """
jobs:
  a: {runs-on: web, steps: [{run: work, retry: {max-attempts: 2, initial-interval: 1s, jitter: 0}}]}
"""
#: 3 s.
LIMITED = "jobs: {a: {runs-on: web, timeout-minutes: 0.05, steps: [{run: work}]}}"
SLEEPING = "jobs: {a: {runs-on: web, steps: [{uses: sleep, with: {duration: 2s}}, {run: work}]}}"
APPROVAL = """
jobs:
  a:
    runs-on: web
    steps: [{id: ask, uses: approval, with: {approvers: [ada]}}, {run: work}]
"""
APPROVAL_IN_TIME = APPROVAL.replace("approvers: [ada]", "timeout: 2s, default: DEFAULT")
OUTPUTS = """
jobs:
  a:
    runs-on: web
    outputs: {version: "${{ steps.make.outputs.version }}"}
    steps: [{id: make, run: work}, {run: "echo ${{ steps.make.outputs.version }}"}]
  b: {needs: a, runs-on: web, steps: [{run: "echo ${{ needs.a.outputs.version }}"}]}
"""
ON_LOST_RETRY = "jobs: {a: {runs-on: web, steps: [{run: work, on-lost: retry}]}}"
LEASED = """
jobs:
  a: {runs-on: web, retry: {max-attempts: 2, on: [lost]}, steps: [{run: work, stop: {grace: 1s}}]}
"""
GROUP = "{concurrency: deploy, jobs: {a: {runs-on: web, steps: [{run: work}]}}}"
NEWEST = "{concurrency: {group: deploy, cancel-in-progress: true}, jobs: {a: {runs-on: web, steps: [{run: work}]}}}"
PARENT = """
jobs:
  a:
    runs-on: web
    steps:
      - {id: other, uses: workflow/run, with: {workflow: other.yml}}
      - {run: "echo ${{ steps.other.outputs.got }}"}
"""
OTHER = """
on:
  workflow_call:
    outputs: {got: {value: "${{ jobs.b.outputs.got }}"}}
jobs: {b: {runs-on: web, outputs: {got: "${{ steps.s.outputs.x }}"}, steps: [{id: s, run: work}]}}
"""
FILES = {"workflows/other.yml": OTHER}

ENGINES = ["memory", "lmdb", "temporal-twin", pytest.param("temporal", marks=pytest.mark.slow)]
#: The in-memory Temporal has no client, so it has neither the daemon's readers nor its memory of trigger keys.
WITH_READERS = [engine for engine in ENGINES if engine != "temporal-twin"]
#: On the real server a test waits for it, and on a busy machine an attempt must be offered earlier.
SHORT_LOST_AFTER_MS = 5_000


@contextlib.asynccontextmanager
async def _running(name: str, request: pytest.FixtureRequest, tmp_path: Path, **settings: int) -> AsyncIterator[Any]:
    if name == "memory":
        async with LogEngine.in_memory() as log:
            yield log
    elif name == "lmdb":
        async with LogEngine.on_lmdb(tmp_path / "data") as log:
            yield log
    elif name == "temporal-twin":
        twin = TwinEngine()
        with contextlib.closing(twin):
            yield twin
    else:
        namespace = await new_namespace(request.getfixturevalue("temporal_server"))
        async with TemporalEngine.running(namespace, **settings) as temporal:
            yield temporal
        await delete_namespace(namespace)


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunEngine]:
    async with _running(request.param, request, tmp_path) as made:
        yield cast(RunEngine, made)


@pytest.fixture(params=ENGINES)
async def short_engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunEngine]:
    """An engine that loses attempts soon where time is real."""
    settings = {"lost_after_ms": SHORT_LOST_AFTER_MS} if request.param == "temporal" else {}
    async with _running(request.param, request, tmp_path, **settings) as made:
        yield cast(RunEngine, made)


@pytest.fixture(params=WITH_READERS)
async def reading_engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReadingEngine]:
    async with _running(request.param, request, tmp_path) as made:
        yield cast(ReadingEngine, made)


def kinds(facts: Sequence[Fact[events.RunEvent]]) -> list[str]:
    """The kinds of events, without the waits for a slot.

    On Temporal an attempt always waits: no daemon knows at once whether another one has a free slot.
    """
    return [type(fact.event).__name__ for fact in facts if not isinstance(fact.event, events.AttemptWaiting)]


async def conclusion(engine: RunEngine, run: RunId) -> Conclusion | None:
    return (await engine.run(run)).conclusion


# Steps ------------------------------------------------------------------------------------------------------------------


async def test_a_run_goes_from_step_to_step(engine: RunEngine) -> None:
    """One attempt after another, and the same facts in the same order whatever keeps them."""
    run = await engine.start(TWO_STEPS)
    for name in ("1", "2"):
        [task] = await engine.offers(1)
        assert (task.attempt.step, task.attempt.number) == (name, 1)
        assert await conclusion(engine, run) is None
        await engine.finish(task)

    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS
    assert await engine.offers(0) == []
    facts = await engine.facts(run)
    assert kinds(facts) == [
        *("RunCreated", "RunStarted", "JobReady"),
        *("AttemptQueued", "AttemptDispatched", "AttemptFinished", "StepCompleted") * 2,
        *("JobCompleted", "RunCompleted"),
    ]
    assert sorted(fact.at for fact in facts) == [fact.at for fact in facts]


async def test_a_failed_step_fails_the_run(engine: RunEngine) -> None:
    """The next step is not offered."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.finish(task, Outcome.FAILURE)

    assert (await engine.ended(run)).conclusion is Conclusion.FAILURE
    assert await engine.offers(0) == []


async def test_outputs_reach_later_steps_and_jobs(engine: RunEngine) -> None:
    """As they were reported, also after a restart in between."""
    run = await engine.start(OUTPUTS)
    [make] = await engine.offers(1)
    await engine.finish(make, version="1.2 é")
    await engine.restart()
    for _ in range(2):
        [task] = await engine.offers(1)
        await engine.finish(task)

    found = await engine.ended(run)
    assert found.conclusion is Conclusion.SUCCESS
    dispatched = [fact.event for fact in await engine.facts(run) if isinstance(fact.event, events.AttemptDispatched)]
    assert [list((event.env or {}).values()) for event in dispatched] == [[], ["1.2 é"], ["1.2 é"]]


async def test_a_retry_waits_for_its_time(engine: RunEngine) -> None:
    """Across a restart; the next attempt has the next number."""
    run = await engine.start(RETRIED)
    [task] = await engine.offers(1)
    await engine.finish(task, Outcome.FAILURE)
    await engine.restart()
    await engine.advance(1_000)

    [again] = await engine.offers(1)
    assert (again.attempt.step, again.attempt.number) == (task.attempt.step, 2)
    await engine.finish(again)
    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS
    planned = await engine.recorded(run, events.RetryScheduled)
    queued = [fact.at for fact in await engine.facts(run) if isinstance(fact.event, events.AttemptQueued)]
    assert queued[1] >= planned.event.due_at == planned.at + 1_000


async def test_a_sleep_ends_at_its_time(engine: RunEngine) -> None:
    """Its timer is kept across a restart."""
    run = await engine.start(SLEEPING)
    asleep = await engine.recorded(run, events.StepSleeping)
    await engine.restart()
    await engine.advance(2_000)
    awake = await engine.recorded(run, events.StepCompleted)
    assert awake.at >= asleep.event.due_at == asleep.at + 2_000

    [task] = await engine.offers(1)
    await engine.finish(task)
    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS


async def test_a_job_that_takes_too_long_is_stopped(engine: RunEngine) -> None:
    """Its time is counted across a restart."""
    run = await engine.start(LIMITED)
    [task] = await engine.offers(1)
    await engine.advance(1_000)
    await engine.restart()
    await engine.advance(2_000)

    assert [(stop.key, stop.force) for stop in await engine.stops(1)] == [(task, False)]
    await engine.finish(task, Outcome.CANCELLED)
    assert (await engine.ended(run)).conclusion is Conclusion.TIMED_OUT
    began = await engine.recorded(run, events.AttemptDispatched)
    assert (await engine.recorded(run, events.JobTimedOut)).at >= began.event.job_deadline_at


# Agents -----------------------------------------------------------------------------------------------------------------


async def test_a_restart_changes_nothing_about_an_attempt(engine: RunEngine) -> None:
    """The agent keeps it, is not offered another one, and its report counts once."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.restart()
    assert await engine.offers(0) == []
    await engine.finish(task)
    [second] = await engine.offers(1)
    facts = await engine.facts(run)
    await engine.finish(task)

    assert await engine.facts(run) == facts
    await engine.restart()
    await engine.finish(second)
    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS


async def test_an_agent_that_was_away_reports_what_has_ended_meanwhile(engine: RunEngine) -> None:
    """Also to another daemon."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.leave()
    await engine.finish(task)
    await engine.restart()

    [second] = await engine.offers(1)
    assert second.attempt.step == "2"
    await engine.finish(second)
    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS


async def test_the_attempts_of_an_agent_that_stays_away_are_lost(short_engine: RunEngine) -> None:
    """Nobody knows their outcome; without a policy, they are not tried again."""
    engine = short_engine
    run = await engine.start(TWO_STEPS)
    await engine.offers(1)
    await engine.leave()
    left_at = engine.now()
    await engine.advance(engine.lost_after_ms)

    lost = await engine.recorded(run, events.AttemptFinished)
    assert lost.event.outcome is Outcome.LOST
    assert lost.event.reason.code.value == "server-lost"
    assert lost.at >= left_at + SHORT_LOST_AFTER_MS
    assert (await engine.ended(run)).conclusion is Conclusion.LOST


async def test_a_late_report_of_a_lost_attempt_is_evidence(short_engine: RunEngine) -> None:
    """The attempt that was made instead decides."""
    engine = short_engine
    run = await engine.start(ON_LOST_RETRY)
    [task] = await engine.offers(1)
    await engine.leave()
    await engine.advance(engine.lost_after_ms)
    await engine.recorded(run, events.RetryScheduled)
    await engine.advance(2_000)
    await engine.finish(task, Outcome.FAILURE)
    await engine.come_back()

    late = await engine.recorded(run, events.LateReport)
    assert (late.event.attempt, late.event.outcome) == (1, Outcome.FAILURE)
    [again] = await engine.offers(1)
    assert again.attempt.number == 2
    await engine.finish(again)
    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS


async def test_a_report_of_a_run_that_has_ended_changes_nothing(engine: RunEngine) -> None:
    """The log engine records it as evidence. A workflow of Temporal that has ended takes nothing, so there it is logged."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.cancel(run)
    await engine.cancel(run, is_forced=True)
    assert (await engine.ended(run)).conclusion is Conclusion.CANCELLED
    facts = await engine.facts(run)
    await engine.finish(task)

    added = kinds((await engine.facts(run))[len(facts) :])
    assert added == (["LateReport"] if isinstance(engine, LogEngine) else [])
    assert await conclusion(engine, run) is Conclusion.CANCELLED
    assert await engine.offers(0) == []


async def test_a_started_attempt_that_its_agent_has_forgotten_is_lost(engine: RunEngine) -> None:
    """It is not offered again, because it would run twice."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.started(task)
    await engine.recorded(run, events.AttemptStarted)
    await engine.leave()
    await engine.come_back(forgets=True)

    assert (await engine.ended(run)).conclusion is Conclusion.LOST
    assert await engine.offers(0) == []


async def test_a_lease_ends_before_its_attempt_is_lost(short_engine: RunEngine) -> None:
    """The next attempt may run elsewhere, so until then the agent may still be stopping this one."""
    engine = short_engine
    run = await engine.start(LEASED)
    await engine.offers(1)
    dispatched = await engine.recorded(run, events.AttemptDispatched)
    assert dispatched.event.lease_ms == engine.lease_ms
    await engine.leave()
    left_at = engine.now()
    over_ms = leases.over_after_ms(engine.lease_ms, 1_000)
    await engine.advance(max(over_ms, engine.lost_after_ms))

    again = await engine.recorded(run, events.JobRetryScheduled)
    assert again.at >= left_at + over_ms


# People -----------------------------------------------------------------------------------------------------------------


async def test_a_cancelled_run_ends_when_its_attempt_has_been_stopped(engine: RunEngine) -> None:
    """Not before the agent has said so."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.cancel(run)
    assert [(stop.key, stop.force) for stop in await engine.stops(1)] == [(task, False)]
    assert await conclusion(engine, run) is None
    await engine.restart()
    await engine.finish(task, Outcome.CANCELLED)

    assert (await engine.ended(run)).conclusion is Conclusion.CANCELLED
    assert await engine.offers(0) == []


async def test_a_forced_cancel_waits_for_nobody(engine: RunEngine) -> None:
    """The agent is told to kill the attempt, and the run has ended."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.cancel(run)
    await engine.cancel(run, is_forced=True)

    assert (await engine.ended(run)).conclusion is Conclusion.CANCELLED
    assert [(stop.key, stop.force) for stop in await engine.stops(2)] == [(task, False), (task, True)]


async def test_a_run_that_has_ended_takes_no_requests(engine: RunEngine) -> None:
    """They are refused with the code of a conflict."""
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    await engine.finish(task, Outcome.FAILURE)
    await engine.ended(run)
    with pytest.raises(Rejected) as refused:
        await engine.cancel(run)
    assert (refused.value.code, refused.value.status) == ("WF606", 409)


async def test_an_approval_lets_the_run_continue(engine: RunEngine) -> None:
    """Only of an approver; a restart forgets neither the question nor the answer."""
    run = await engine.start(APPROVAL)
    await engine.recorded(run, events.ApprovalRequested)
    await engine.restart()
    with pytest.raises(Rejected) as refused:
        await engine.decide(run, "eve", is_approved=True)
    assert (refused.value.code, refused.value.status) == ("WF602", 403)
    await engine.decide(run, "ada", is_approved=True)
    [task] = await engine.offers(1)
    await engine.restart()

    with pytest.raises(Rejected) as late:
        await engine.decide(run, "ada", is_approved=True)
    assert (late.value.code, late.value.status) == ("WF606", 409)
    await engine.finish(task)
    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS


async def test_a_rejection_fails_the_step(engine: RunEngine) -> None:
    """Nothing is offered."""
    run = await engine.start(APPROVAL)
    await engine.recorded(run, events.ApprovalRequested)
    await engine.decide(run, "ada", is_approved=False)

    assert (await engine.ended(run)).conclusion is Conclusion.FAILURE
    assert await engine.offers(0) == []


@pytest.mark.parametrize("default", ["approve", "reject"])
async def test_an_approval_that_nobody_decides_ends_at_its_time(engine: RunEngine, default: str) -> None:
    """With its default."""
    run = await engine.start(APPROVAL_IN_TIME.replace("DEFAULT", default))
    await engine.recorded(run, events.ApprovalRequested)
    await engine.restart()
    await engine.advance(2_000)
    if default == "approve":
        [task] = await engine.offers(1)
        await engine.finish(task)

    expected = Conclusion.SUCCESS if default == "approve" else Conclusion.FAILURE
    assert (await engine.ended(run)).conclusion is expected
    requested = await engine.recorded(run, events.ApprovalRequested)
    decided = await engine.recorded(run, events.ApprovalDecided)
    assert decided.event.by == "timeout"
    assert requested.event.due_at is not None
    assert decided.at >= requested.event.due_at


# Other runs -------------------------------------------------------------------------------------------------------------


async def test_one_run_of_a_concurrency_group_at_a_time(engine: RunEngine) -> None:
    """In the order of their starts; a restart changes nothing."""
    runs = [await engine.start(GROUP)]
    [task] = await engine.offers(1)
    runs.append(await engine.start(GROUP))
    await engine.recorded(runs[1], events.LockWaiting)
    await engine.restart()
    assert await engine.offers(0) == []
    await engine.finish(task)

    [second] = await engine.offers(1)
    assert second.attempt.run == runs[1]
    assert (await engine.ended(runs[0])).conclusion is Conclusion.SUCCESS
    await engine.finish(second)
    assert (await engine.ended(runs[1])).conclusion is Conclusion.SUCCESS


async def test_a_newer_run_of_a_concurrency_group_may_cancel_the_older_one(engine: RunEngine) -> None:
    """It begins when the older one's attempt has been stopped."""
    old = await engine.start(NEWEST)
    [task] = await engine.offers(1)
    new = await engine.start(NEWEST)
    assert [stop.key for stop in await engine.stops(1)] == [task]
    assert await engine.offers(0) == []
    await engine.finish(task, Outcome.CANCELLED)

    [second] = await engine.offers(1)
    assert second.attempt.run == new
    assert (await engine.ended(old)).conclusion is Conclusion.CANCELLED
    await engine.finish(second)
    assert (await engine.ended(new)).conclusion is Conclusion.SUCCESS


async def test_a_step_ends_with_its_child_run(engine: RunEngine) -> None:
    """It gets the child run's outputs; a restart starts no second one."""
    parent = await engine.start(PARENT, files=FILES)
    [inner] = await engine.offers(1)
    child = (await engine.recorded(parent, events.ChildRunStarted)).event.run
    assert inner.attempt.run == child
    await engine.restart()
    assert await engine.offers(0) == []
    await engine.finish(inner, x="42")

    [task] = await engine.offers(1)
    assert task.attempt.run == parent
    await engine.finish(task)
    assert (await engine.ended(parent)).conclusion is Conclusion.SUCCESS
    dispatched = await engine.recorded(parent, events.AttemptDispatched)
    assert list((dispatched.event.env or {}).values()) == ["42"]


async def test_a_cancel_reaches_the_child_run(engine: RunEngine) -> None:
    """The parent ends after it."""
    parent = await engine.start(PARENT, files=FILES)
    [inner] = await engine.offers(1)
    child = (await engine.recorded(parent, events.ChildRunStarted)).event.run
    await engine.cancel(parent)
    assert [stop.key for stop in await engine.stops(1)] == [inner]
    assert await conclusion(engine, parent) is None
    await engine.finish(inner, Outcome.CANCELLED)

    assert (await engine.ended(child)).conclusion is Conclusion.CANCELLED
    assert (await engine.ended(parent)).conclusion is Conclusion.CANCELLED


# Stalls -----------------------------------------------------------------------------------------------------------------


async def test_a_stalled_run_loses_nothing(engine: RunEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others continue. Once the cause is removed, it continues with what was reported meanwhile.

    The log engine tries again when the daemon starts, and the agent keeps its report until then. On Temporal the workflow
    keeps the report, and an operator lets it continue (`retry`).
    """
    run = await engine.start(TWO_STEPS)
    [task] = await engine.offers(1)
    other = await engine.start(TWO_STEPS)
    [other_task] = await engine.offers(1)

    def broken(state: Any, item: Any, now: int) -> Any:
        if state.id == run:
            raise RuntimeError("a bug")
        return step(state, item, now)

    facts = await engine.facts(run)
    with monkeypatch.context() as patched:
        patched.setattr("waterflowd.host.turn.step", broken)
        await engine.finish(task)
        await engine.finish(other_task)
        [next_task] = await engine.offers(1)
        await engine.finish(next_task)
        assert (await engine.ended(other)).conclusion is Conclusion.SUCCESS
        assert await engine.facts(run) == facts
        await engine.stalls(run)
    await engine.retry(run)

    [second] = await engine.offers(1)
    assert (second.attempt.run, second.attempt.step) == (run, "2")
    await engine.finish(second)
    assert (await engine.ended(run)).conclusion is Conclusion.SUCCESS


# Starts and readers -------------------------------------------------------------------------------------------------------


async def test_a_key_starts_one_run(reading_engine: ReadingEngine) -> None:
    """However often, also at once, after a restart and after the run has ended."""
    engine = reading_engine
    first = await engine.start(TWO_STEPS, key="deploy")
    assert set(await asyncio.gather(*(engine.start(TWO_STEPS, key="deploy") for _ in range(3)))) == {first}
    await engine.restart()
    assert await engine.start(TWO_STEPS, key="deploy") == first
    [task] = await engine.offers(1)
    await engine.finish(task, Outcome.FAILURE)
    await engine.ended(first)

    assert await engine.start(TWO_STEPS, key="deploy") == first
    other = await engine.start(TWO_STEPS, key="another")
    assert other != first
    [task] = await engine.offers(1)
    assert task.attempt.run == other
    assert await engine.history.run_for_key("deploy", None) == first


async def test_readers_see_the_facts_in_order(reading_engine: ReadingEngine) -> None:
    """Each once, without a gap, from where the reader begins; those who follow a run and those who read it later."""
    engine = reading_engine
    run = await engine.start(TWO_STEPS)
    stream = run_stream(run)
    followed: dict[int, list[Any]] = {0: [], 3: []}

    async def follow(after: int) -> None:
        async for record in engine.history.follow(stream, after):
            followed[after].append(record)
            if isinstance(record.event, events.RunCompleted):
                return

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        for after in followed:
            group.create_task(follow(after))
        for _ in range(2):
            [task] = await engine.offers(1)
            await engine.finish(task)
    await engine.ended(run)

    records = await engine.history.read(stream)
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    assert followed == {0: records, 3: records[3:]}
    assert await engine.history.read(stream, 2, 3) == records[1:4]
    assert await engine.history.head(stream) == len(records)


async def test_readers_see_a_run_as_it_was(reading_engine: ReadingEngine) -> None:
    """After any of its facts, and nothing before the first or after the last."""
    engine = reading_engine
    run = await engine.start(TWO_STEPS)
    for _ in range(2):
        [task] = await engine.offers(1)
        await engine.finish(task)
    await engine.ended(run)

    records = await engine.history.read(run_stream(run))
    completed = {records[0].position: 0}
    for record in records:
        found = await engine.reader.run(run, record.position)
        assert found is not None
        assert found.seq == record.position
        completed[record.position] = sum(each.status is Status.COMPLETED for job in found.jobs for each in job.steps)
        assert found.is_completed == (record.position == len(records))
    ended = [record.position for record in records if isinstance(record.event, events.StepCompleted)]
    assert [at for at in completed if completed[at] > completed.get(at - 1, 0)] == ended
    assert await engine.reader.run(run, 0) is None
    assert await engine.reader.run(run, len(records) + 1) is None


async def test_the_row_of_a_run_follows_its_facts(reading_engine: ReadingEngine) -> None:
    """In lists as well, which are a moment late on Temporal."""
    engine = reading_engine
    run = await engine.start(TWO_STEPS)
    row = await engine.row(run)
    assert row is not None
    assert (row.status, row.conclusion) == (Status.RUNNING, None)
    [task] = await engine.offers(1)
    await engine.finish(task, Outcome.FAILURE)
    await engine.ended(run)

    row = await engine.row(run)
    assert row is not None
    assert (row.status, row.conclusion) == (Status.COMPLETED, Conclusion.FAILURE)
    assert row.seq == await engine.history.head(run_stream(run))
    async with asyncio.timeout(PATIENCE_S):
        while await engine.history.runs(RunFilter(status="failure"), limit=5) != ([row], None):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        while await engine.history.open_runs(5):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
