"""Child runs: each one starts once, over crashes at every commit, and always with a reason when it cannot start."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.repository_quotas import HOUR_MS, RepositoryLimits
from waterflowd.dsl import compile_workflow
from waterflowd.engine import events, inputs
from waterflowd.host import child_run_starter as starter_module
from waterflowd.host import child_runs
from waterflowd.host import driver as driver_module
from waterflowd.model import chains
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Outcome
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import HostHarness

PARENT = """
jobs:
  a:
    runs-on: web
    steps:
      - id: other
        uses: workflow/run
        with: {workflow: other.yml, inputs: {version: "2"}}
"""
OTHER = """
on:
  workflow_call:
    inputs: {version: {required: true}}
    outputs: {got: {value: "${{ jobs.b.outputs.got }}"}}
jobs:
  b:
    runs-on: web
    outputs: {got: "${{ steps.s.outputs.x }}-${{ inputs.version }}"}
    steps: [{id: s, run: work}]
"""
ITSELF = """
jobs:
  a:
    runs-on: web
    steps: [{uses: workflow/run, with: {workflow: parent.yml}}]
"""
PATH = "workflows/parent.yml"
MINUTE_MS = 60_000
FILES = {"workflows/other.yml": OTHER}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)
    monkeypatch.setattr(starter_module, "_BACKOFF", Backoff(0.0, 0.0))


def request(text: str = PARENT, files: dict[str, str] | None = None, **trigger: Any) -> StartRequest:
    """Returns a request to start the parent run in a repository."""
    others = {**(FILES if files is None else files), PATH: text}
    compiled = compile_workflow(PATH, text.encode(), {path: content.encode() for path, content in others.items()})
    assert compiled.plan is not None, compiled.diagnostics
    fields: dict[str, Any] = {"kind": TriggerKind.CLI, "by": "ann", "ref": "refs/heads/main", "git": {"branch": "main"}}
    return StartRequest(plan=compiled.plan, repository="ops", revision="c1", trigger=Trigger(**{**fields, **trigger}))


async def begun(host: HostHarness, text: str = PARENT, files: dict[str, str] | None = None) -> RunId:
    """Returns a parent run whose step has requested its child run."""
    host.workflows.files = {**(FILES if files is None else files), PATH: text}
    return (await host.driver.start(request(text, files))).id


def started_by(host: HostHarness, run: RunId) -> list[RunId]:
    """Returns the child runs that the run has recorded."""
    return [event.run for event in host.events(run) if isinstance(event, events.ChildRunStarted)]


def all_of(host: HostHarness) -> dict[RunId, events.RunCreated]:
    """Returns every child run in the log."""
    found = [record for record in host.log.feed(0, 10_000) if isinstance(record.event, events.RunCreated)]
    runs = {RunId(record.stream.removeprefix("run/")): record.event for record in found}
    return {run: event for run, event in runs.items() if event.trigger.kind == chains.PARENT_RUN}


async def waits(host: HostHarness, run: RunId) -> RunId:
    """Returns the run that the parent waits for."""
    await until(lambda: bool(started_by(host, run)), 60)
    return started_by(host, run)[-1]


async def ends(host: HostHarness, run: RunId, conclusion: Conclusion) -> events.RunCompleted:
    """Waits for the run to end."""
    await until(lambda: host.kinds(run)[-1] == "RunCompleted", 60)
    last = host.events(run)[-1]
    assert last.conclusion is conclusion, last.reason
    return last  # type: ignore[no-any-return]


async def work(host: HostHarness, **changes: Any) -> None:
    """Completes the next step on a server."""
    agent = host.enroll("web-1", "web")
    host.hello(agent)
    await until(lambda: bool(host.link.offers()), 60)
    host.finished(agent, host.link.offers()[-1], **changes)
    host.link.take()
    await host.settle()


async def test_a_step_starts_a_child_run_and_ends_with_its_outputs() -> None:
    """It is a run of the same repository at the same commit, by the same person; parent and child name each other."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
        (created,) = all_of(host).values()
        assert (created.repository, created.revision, created.inputs) == ("ops", "c1", {"version": "2"})
        assert (created.trigger.by, created.trigger.ref) == ("ann", "refs/heads/main")
        assert created.trigger.payload["parent_run"]["id"] == run
        assert host.queries.run(run).jobs[0].steps[0].reason.text == f"waiting for run {other} (other #1)"
        assert host.placed() == {}
        await work(host, outputs={"x": "made"})
        await ends(host, run, Conclusion.SUCCESS)
        step = host.queries.run(run).jobs[0].steps[0]
        assert step.outputs == {"got": "made-2", "run-id": other, "conclusion": "success"}
        assert host.queries.run(other).outputs == {"got": "made-2"}


async def test_a_failed_child_run_is_named_by_its_step() -> None:
    """The step shows the child run's conclusion and reason."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
        await work(host, outcome=Outcome.FAILURE, exit_code=3)
        await ends(host, run, Conclusion.FAILURE)
        step = host.queries.run(run).jobs[0].steps[0]
        assert step.reason.text.startswith(f"run {other} failed: ")
        assert "exit code 3" in step.reason.text
        assert step.outputs["conclusion"] == "failure"


async def test_after_a_crash_at_any_commit_one_child_run_is_started_and_awaited() -> None:
    """The log is cut after each of its transactions: recovery starts one child run, and the parent ends."""
    async with HostHarness() as host:
        run = await begun(host)
        await waits(host, run)
        await work(host, outputs={"x": "made"})
        await ends(host, run, Conclusion.SUCCESS)
        commits = len(host.log.commits)
    seen = set()
    for commit in range(1, commits + 1):
        async with host.crashed(commit) as again:
            before = again.kinds(run)
            seen.add(before[-1])
            if before[-1] != "RunCompleted":
                other = await waits(again, run)
                if not again.queries.run(other).is_completed:
                    await work(again, outputs={"x": "made"})
            await ends(again, run, Conclusion.SUCCESS)
            assert list(all_of(again)) == started_by(again, run)
            assert len(all_of(again)) == 1
    assert {"ChildRunRequested", "ChildRunStarted", "RunCompleted"} <= seen


async def test_a_child_run_that_ended_before_recovery_is_found_in_the_log() -> None:
    """This can happen after a restore: the log contains the end of the child run, but not the parent's answer."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
        await host.driver.cancel(other, "ann")
        await ends(host, run, Conclusion.FAILURE)
        # Remove the parent's answer from the commit that contains the child run's end.
        commit = next(
            number
            for number, batch in enumerate(host.log.commits)
            if any(isinstance(event, events.RunCompleted) for append in batch.appends for event in append.events)
        )
    cut = host.crashed(commit)
    batch = host.log.commits[commit]
    rest = [append for append in batch.appends if append.stream != f"run/{run}"]
    rows = [row for row in batch.summaries if row.id != run]
    cut.log.append_blocking(msgspec.structs.replace(batch, appends=rest, summaries=rows))
    async with cut as again:
        last = await ends(again, run, Conclusion.FAILURE)
        assert f"run {other} was cancelled" in last.reason.text


async def test_a_child_run_missing_from_the_log_is_lost() -> None:
    """Its outcome is unknown: the parent gets the reason and does not wait forever."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
    cut = host.crashed()
    batches, cut.log.commits = list(cut.log.commits), []
    log = type(cut.log)(host.log._codec, generation=cut.log.generation)
    for batch in batches:
        log.append_blocking(
            msgspec.structs.replace(
                batch,
                appends=[append for append in batch.appends if append.stream != f"run/{other}"],
                summaries=[row for row in batch.summaries if row.id != other],
                keys={},
            )
        )
    async with HostHarness(log, host.clock) as again:
        last = await ends(again, run, Conclusion.FAILURE)
        assert "its outcome is unknown" in last.reason.text


async def test_a_failed_commit_starts_nothing_and_is_repeated() -> None:
    """The disk is full when the child run starts, and again when it ends."""
    async with HostHarness() as host:
        run = await begun(host)
        host.log.fail_next(Retryable("WF302", "the disk is full"), Retryable("WF302", "the disk is full"))
        await waits(host, run)
        host.log.fail_next(Retryable("WF302", "the disk is full"))
        await work(host, outputs={"x": "made"})
        await ends(host, run, Conclusion.SUCCESS)
        assert len(all_of(host)) == 1


async def test_an_attempt_starts_one_child_run_despite_repeated_requests() -> None:
    """Two concurrent starts for the same attempt, as after a failed commit, start one child run."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
        attempt = AttemptId(run, JobId("a"), StepId("other"), AttemptNo(1))
        live = host.state.runs[run]
        plan = await host.workflows.plan("ops", "c1", "workflows/other.yml")
        start_request = child_runs.start_request(live, attempt, plan, {"version": "2"})
        await asyncio.gather(
            host.driver.start_child_run(attempt, start_request), host.driver.start_child_run(attempt, start_request)
        )
        assert (await host.driver.start(start_request)).id == other
        assert list(all_of(host)) == [other]


async def test_a_child_run_beyond_the_quota_waits_until_a_run_is_left() -> None:
    """Its parent has used up the quota. The step says so and waits; it neither fails nor starts a run beyond the quota."""
    async with HostHarness(limits=RepositoryLimits(runs_per_hour=1)) as host:
        run = await begun(host)
        await until(lambda: "AttemptWaiting" in host.kinds(run), 60)
        reason = host.queries.run(run).jobs[0].steps[0].reason
        assert reason.facts["error"] == "WF531"
        assert 'cannot start the child run yet: repository "ops" has used its quota of 1 runs per hour' in reason.text
        assert list(all_of(host)) == []
        await host.advance(HOUR_MS - MINUTE_MS)
        assert list(all_of(host)) == []
        await host.advance(2 * MINUTE_MS)
        other = await waits(host, run)
        assert list(all_of(host)) == [other]
        await work(host, outputs={"x": "made"})
        await ends(host, run, Conclusion.SUCCESS)


async def test_a_temporarily_unreadable_target_is_awaited() -> None:
    """The step shows the reason, and continues when the target can be read."""
    async with HostHarness() as host:
        host.workflows.fail_next(Retryable("WF503", "the repository cannot be read", after_s=0.0))
        run = await begun(host)
        await waits(host, run)
        waited = [event.reason for event in host.events(run) if isinstance(event, events.AttemptWaiting)]
        assert [(wait_reason.facts["error"], wait_reason.text) for wait_reason in waited] == [
            ("WF503", "cannot start the child run yet: the repository cannot be read")
        ]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ('{workflow: "${{ git.branch }}.yml"}', 'no workflow file "workflows/main.yml" [WF135]'),
        ('{workflow: "${{ git.branch }}"}', "give the path or name of a .yml or .yaml file [WF135]"),
        ("{workflow: \"${{ '../x.yml' }}\"}", "give the path or name of a .yml or .yaml file [WF135]"),
        ("{workflow: \"${{ 'broken.yml' }}\"}", "has errors"),
        ("{workflow: \"${{ 'other.yml' }}\"}", 'version: input "version" is required [WF110]'),
        ("{workflow: other.yml, inputs: \"${{ fromJSON('{}') }}\"}", 'input "version" is required [WF110]'),
    ],
)
async def test_a_permanent_error_fails_the_step_with_its_code(step: str, message: str) -> None:
    """Some errors are found only at run time: the file's path, whether it compiles, and its inputs."""
    files = {**FILES, "workflows/broken.yml": "jobs: 1"}
    text = f"jobs: {{a: {{runs-on: web, steps: [{{uses: workflow/run, with: {step}}}]}}}}"
    async with HostHarness() as host:
        run = await begun(host, text, files)
        last = await ends(host, run, Conclusion.FAILURE)
        assert message in last.reason.text
        assert all_of(host) == {}
        assert host.queries.run(run).jobs[0].steps[0].reason.code.value == "child-run-refused"


async def test_a_run_without_a_repository_cannot_start_child_runs() -> None:
    """The plan was compiled with a repository and started without one; a single file does not compile."""
    async with HostHarness() as host:
        started = await host.driver.start(msgspec.structs.replace(request(), repository=None, revision=None))
        last = await ends(host, started.id, Conclusion.FAILURE)
        assert "does not come from a repository" in last.reason.text
        assert host.workflows.asked == []


async def test_nested_child_runs_end_at_the_limit() -> None:
    """A workflow that starts itself is refused at the nesting limit, and every parent reports the refusal."""
    async with HostHarness() as host:
        run = await begun(host, ITSELF, {})
        last = await ends(host, run, Conclusion.FAILURE)
        assert len(all_of(host)) == chains.CHILD_RUN_DEPTH_MAX
        depths = [event.trigger.payload["parent_run"]["depth"] for event in all_of(host).values()]
        assert depths == list(range(1, chains.CHILD_RUN_DEPTH_MAX + 1))
        newest = list(all_of(host))[-1]
        refusal = host.queries.run(newest).jobs[0].steps[0].reason
        assert "nesting limit of 8 child runs reached [WF609]" in refusal.text
        assert "failed: " in last.reason.text


def test_the_depth_counts_child_runs_and_workflow_run_triggers() -> None:
    """A mixed chain reaches the limit too, and a payload of another kind does not count."""
    step = Trigger(kind=TriggerKind.PARENT_RUN, payload={"name": "parent_run", "parent_run": {"depth": 3}})
    after = Trigger(kind=TriggerKind.WORKFLOW_RUN, payload={"name": "workflow_run", "workflow_run": {"depth": 4}})
    assert [chains.depth_of(trigger) for trigger in (step, after)] == [3, 4]
    assert chains.depth_of(Trigger(kind=TriggerKind.WEBHOOK, payload={"name": "x", "parent_run": {"depth": 9}})) == 0
    assert (
        chains.depth_of(Trigger(kind=TriggerKind.WEBHOOK, payload={"name": "parent_run", "parent_run": {"depth": "9"}}))
        == 0
    )


async def test_a_cancel_reaches_the_child_run() -> None:
    """The parent ends after the child run, and both are cancelled."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
        await host.driver.cancel(run, "ann")
        await ends(host, other, Conclusion.CANCELLED)
        await ends(host, run, Conclusion.CANCELLED)
        assert host.queries.run(other).cancel_by == f"run {run}"


async def test_a_cancel_by_force_ends_both_at_once() -> None:
    """Both end even if the child run's server never answers."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
        agent = host.enroll("web-1", "web")
        host.hello(agent)
        await until(lambda: bool(host.link.offers()), 60)
        await host.driver.cancel(run, "ann")
        await host.settle()
        assert host.kinds(run)[-1] == "CancelRequested"
        await host.driver.cancel(run, "ann", is_forced=True)
        await ends(host, run, Conclusion.CANCELLED)
        await ends(host, other, Conclusion.CANCELLED)
        assert host.queries.run(other).is_forced


async def test_the_next_holder_waits_for_the_child_run_of_the_holder_before() -> None:
    """Its attempts have leases like those of its parent, and a forced cancel frees the group when its server has stopped it."""
    text = PARENT.replace("  a:\n", "  a:\n    concurrency: {group: production}\n")
    async with HostHarness() as host:
        run = await begun(host, text)
        other = await waits(host, run)
        agent = host.enroll("web-1", "web")
        host.hello(agent, slots=2)
        await until(lambda: bool(host.link.offers()), 60)
        (offered,) = host.link.offers()
        child = host.state.runs[other]
        assert child.trigger.is_exclusive
        assert child.attempt(JobId("b"), StepId("s"), AttemptNo(1)).lease_ms == host.state.lease_ms  # type: ignore[union-attr]
        following = await begun(host, text)
        await host.driver.cancel(run, "ann", is_forced=True)
        await host.settle()
        assert host.state.runs[other].is_forced
        assert not host.queries.run(run).is_completed
        assert started_by(host, following) == []
        host.link.take()
        host.finished(agent, offered, outcome=Outcome.CANCELLED)
        await ends(host, other, Conclusion.CANCELLED)
        await ends(host, run, Conclusion.CANCELLED)
        await waits(host, following)


@pytest.mark.parametrize(
    ("job", "step"),
    [("", "with: {workflow: other.yml"), ("    retry: {max-attempts: 2}\n", "with: {wait: false, workflow: other.yml")],
)
async def test_a_child_run_whose_end_starts_nothing_has_no_leases(job: str, step: str) -> None:
    """Nothing of its parent depends on where and when it ends, or the parent does not wait."""
    text = PARENT.replace("  a:\n", f"  a:\n{job}").replace("with: {workflow: other.yml", step)
    async with HostHarness() as host:
        other = await waits(host, await begun(host, text))
        host.hello(host.enroll("web-1", "web"))
        await until(lambda: bool(host.link.offers()), 60)
        child = host.state.runs[other]
        assert not child.trigger.is_exclusive
        assert child.attempt(JobId("b"), StepId("s"), AttemptNo(1)).lease_ms == 0  # type: ignore[union-attr]


async def test_a_child_run_of_a_child_run_inherits_too() -> None:
    """The end of the first step may start something as long as any of the runs below is at work."""
    text = PARENT.replace("  a:\n", "  a:\n    retry: {max-attempts: 2}\n")
    values = "{version: {required: true}}"
    step = "{uses: workflow/run, with: {workflow: last.yml}}"
    middle = f"on: {{workflow_call: {{inputs: {values}}}}}\njobs: {{m: {{runs-on: web, steps: [{step}]}}}}\n"
    last = "on: workflow_call\njobs: {b: {runs-on: web, steps: [{id: s, run: work}]}}\n"
    async with HostHarness() as host:
        run = await begun(host, text, {"workflows/other.yml": middle, "workflows/last.yml": last})
        third = await waits(host, await waits(host, run))
        assert host.state.runs[third].trigger.is_exclusive


async def test_a_step_that_does_not_wait_does_not_affect_its_child_run() -> None:
    """With `wait: false`, neither the parent's end nor its cancel affects the child run."""
    text = PARENT.replace("with: {", "with: {wait: false, ")
    async with HostHarness() as host:
        run = await begun(host, text)
        other = await waits(host, run)
        await ends(host, run, Conclusion.SUCCESS)
        assert host.queries.run(run).jobs[0].steps[0].outputs == {"run-id": other}
        assert not host.queries.run(other).is_completed


async def test_the_group_policy_applies_to_the_child_run() -> None:
    """A child run belongs to the same repository, with the same permissions."""
    async with HostHarness() as host:
        policy = msgspec.structs.replace(host.state, access=AccessPolicy([]))
        host.driver.state = policy
        run = await begun(host)
        await waits(host, run)
        last = await ends(host, run, Conclusion.FAILURE)
        assert 'may not use group "web"' in last.reason.text


async def test_a_child_run_reaches_no_group_outside_the_token_that_started_its_parent() -> None:
    """The parent's file uses only `web`; its child uses `db`, and acts for the same principal with the same groups."""
    on_db = {"workflows/other.yml": OTHER.replace("runs-on: web", "runs-on: db")}
    async with HostHarness() as host:
        host.hello(host.enroll("d", "db"))
        host.workflows.files = {**on_db, PATH: PARENT}
        bound = request(PARENT, on_db, principal="ann", scope=("web",))
        run = (await host.driver.start(bound)).id
        other = await waits(host, run)
        last = await ends(host, run, Conclusion.FAILURE)
        assert 'may only use web, but not group "db"' in last.reason.text
        trigger = host.queries.run(other).trigger
        assert (trigger.principal, trigger.scope) == ("ann", ("web",))
        assert host.link.offers() == []
        free = (await host.driver.start(request(PARENT, on_db, principal="ann"))).id
        await waits(host, free)
        await until(lambda: len(host.link.offers()) == 1)


async def test_completed_runs_leave_nothing_in_the_registry() -> None:
    """Attempts whose child run has ended leave nothing either."""
    async with HostHarness() as host:
        run = await begun(host)
        await waits(host, run)
        await work(host, outputs={"x": "made"})
        await ends(host, run, Conclusion.SUCCESS)
        registry = host.state.child_runs
        assert (registry._requested, registry._waiting, registry._watched, registry._of_run) == ({}, {}, {}, {})


async def test_an_answer_about_another_run_changes_nothing() -> None:
    """Answers about a run that the attempt did not start, or for an attempt that has ended, are ignored."""
    async with HostHarness() as host:
        run = await begun(host)
        other = await waits(host, run)
        before = host.kinds(run)
        attempt: dict[str, Any] = {"job": JobId("a"), "step": StepId("other"), "attempt": AttemptNo(1)}
        wrong = inputs.ChildRunEnded(**attempt, run=RunId("0" * 26), conclusion=Conclusion.SUCCESS, reason="")
        again = inputs.ChildRunCreated(**attempt, run=RunId("0" * 26), name="x", number=1)
        host.driver.submit([(run, wrong), (run, again)])
        await host.settle()
        assert host.kinds(run) == before
        assert started_by(host, run) == [other]


def test_a_long_attempt_id_gives_a_short_trigger_key() -> None:
    """Ids of nested steps grow, but the length of a trigger key is bounded."""
    long = AttemptId(RunId("0" * 26), JobId("a"), StepId("x/" * 400), AttemptNo(1))
    other = msgspec.structs.replace(long, number=AttemptNo(2))
    keys = {child_runs.trigger_key(attempt) for attempt in (long, other)}
    assert len(keys) == 2
    assert all(len(key) < 200 for key in keys)


async def test_too_many_open_runs_delay_a_child_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of open runs is a reason to wait, not a failure."""
    async with HostHarness() as host:
        monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 1)
        run = await begun(host)
        await until(lambda: "AttemptWaiting" in host.kinds(run), 60)
        monkeypatch.setattr(driver_module, "OPEN_RUNS_MAX", 10)
        await waits(host, run)


async def test_an_internal_error_in_one_start_does_not_stop_the_others() -> None:
    """The starter is supervised: it logs the error and tries again."""
    async with HostHarness() as host:
        host.workflows.fail_next(ZeroDivisionError("a bug"))  # type: ignore[arg-type]
        run = await begun(host)
        await waits(host, run)
        assert host.is_alive
        assert "internal error" in str([event for event in host.events(run) if hasattr(event, "reason")])


def test_a_refusal_names_the_input() -> None:
    """The message names the input and the error code."""
    wait_reason = child_runs.refusal(Rejected("WF110", "it is required", where="version"))
    assert (wait_reason.text, wait_reason.facts) == ("version: it is required [WF110]", {"error": "WF110"})


async def test_a_job_with_a_later_child_run_step_is_placed() -> None:
    """The first step of a job requires the nodes of all others; `workflow/run` needs none on the server."""
    text = PARENT.replace("      - id: other", "      - run: before\n      - id: other")
    async with HostHarness() as host:
        host.hello(host.enroll("web-1", "web"))
        await begun(host, text)
        await until(lambda: host.link.offers())
