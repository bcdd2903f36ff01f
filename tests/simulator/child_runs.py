"""Steps that start child runs, in some worlds: their plans, the files that they name, and what is promised about them.

Rules of this file: all choices use separate dice, so that worlds without such steps stay unchanged. A step starts a
short run, a run of a chain that starts itself up to the nesting limit, or a workflow that does not exist; never its own
workflow, which would grow without limit. The checker looks at the log alone: which runs exist, and which attempt says
that it started them.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

from tests.simulator import plans as rows
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.engine import Run, events
from waterflowd.engine.state.blocks import Attempt, Step
from waterflowd.model import chains
from waterflowd.model import plan as plans
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId, run_stream
from waterflowd.model.plan import JobPlan, Plan, StepPlan
from waterflowd.model.records import Batch
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome

if TYPE_CHECKING:
    from tests.simulator.world import World

#: The repository that all runs of such a world belong to; it has one commit.
REPOSITORY, REVISION = "own", "0" * 40
SHORT, CHAIN, MISSING = "workflows/short.yml", "workflows/chain.yml", "workflows/missing.yml"
NODE = "workflow/run"


def mix(dice: random.Random, plan: Plan) -> Plan:
    """Returns the plan with some of its steps replaced by steps that start runs."""
    jobs = [
        job
        if job.call is not None
        else msgspec.structs.replace(job, steps=tuple(_step(dice, step) for step in job.steps))
        for job in plan.jobs
    ]
    return msgspec.structs.replace(plan, jobs=tuple(jobs))


def _step(dice: random.Random, step: StepPlan) -> StepPlan:
    if dice.random() >= 0.4 or step.blocks:
        return step
    return StepPlan(
        id=step.id,
        is_named=True,
        name=step.name,
        node=NODE,
        params={"workflow": dice.choice((SHORT, SHORT, SHORT, CHAIN, MISSING)), "wait": dice.random() < 0.8},
        condition=step.condition,
        timeout_minutes=dice.choice((None, None, 0.01, 0.05, 0.2)),
        continue_on_error=step.continue_on_error,
        retry=rows.retry(dice) if dice.random() < 0.4 else None,
    )


def files(dice: random.Random, groups: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the workflows that steps start, by path."""
    short = msgspec.structs.replace(rows.make_pushed(dice, groups), path=SHORT, outputs={"made": "yes"})
    step = StepPlan(id=StepId("1"), is_named=True, name="next", node=NODE, params={"workflow": CHAIN})
    job = JobPlan(id=JobId("j0"), name="link", group=groups[0], timeout_minutes=1.0, steps=(step,))
    chain = Plan(name="chain", path=CHAIN, timeout_ms=60_000, jobs=(job,))
    return {plan.path: plans.encode(plan) for plan in (short, chain)}


class ChildWorkflows:
    """`ports.ChildWorkflows` of one daemon: sometimes slow, sometimes unreadable."""

    def __init__(self, world: World, known: dict[str, bytes]) -> None:
        self._world = world
        self._known = known

    async def plan(self, repository: str, revision: str, path: str) -> bytes:
        """See the port."""
        chance = self._world.chance
        await self._world.sleep(chance.delay_s(0.001, 3.0 if chance.happens("target slow") else 0.05))
        if chance.happens("target unreadable"):
            raise Retryable("WF503", "the repository cannot be read")
        self._world.checks.expect((repository, revision) == (REPOSITORY, REVISION), f"{path} is asked of {repository}")
        if path not in self._known:
            raise Rejected("WF135", f"there is no workflow file {path}")
        return self._known[path]


class ChildRuns:
    """The checker: each attempt starts one run and, if it waits, ends with it; each in one transaction."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._started: dict[AttemptId, RunId] = {}
        #: Attempts that end in the batch, and whether they were stopped or timed out.
        self._finished: list[tuple[Run, events.AttemptFinished, bool]] = []

    def forget(self) -> None:
        """Starts afresh, because the log is an older one."""
        self._started.clear()

    def committed(self, batch: Batch, *, is_news: bool = True) -> None:
        """Checks a batch that is durable and applied to the shadow runs."""
        shadows = self._world.checks.shadows
        finished, self._finished = self._finished, []
        for shadow, end, is_cut in finished:
            self._check_finished(shadow, end, is_cut=is_cut)
        for append in batch.appends:
            for event in append.events:
                if isinstance(event, events.RunCreated) and event.trigger.kind == chains.PARENT_RUN:
                    self._created(RunId(append.stream.removeprefix(run_stream(RunId("")))), event, is_news=is_news)
                elif isinstance(event, events.ChildRunStarted):
                    text = f"G6: {event.job}/{event.step}#{event.attempt} names {event.run}, which is not its own"
                    self._world.checks.expect(self._place(shadows[event.run]).number == event.attempt, text)
                elif isinstance(event, events.RunCompleted) and is_news:
                    self._completed(shadows[RunId(append.stream.removeprefix(run_stream(RunId(""))))])

    def _place(self, run: Run) -> AttemptId:
        about = run.trigger.payload[chains.PARENT_RUN]
        return AttemptId(about["id"], JobId(about["job"]), StepId(about["step"]), AttemptNo(about["attempt"]))

    def _created(self, run: RunId, event: events.RunCreated, *, is_news: bool) -> None:
        about = event.trigger.payload[chains.PARENT_RUN]
        place = AttemptId(about["id"], JobId(about["job"]), StepId(about["step"]), AttemptNo(about["attempt"]))
        known = self._started.setdefault(place, run)
        self._world.checks.expect(known == run, f"G6: {place} has started {known} and {run}")
        self._world.checks.expect(
            about["depth"] <= chains.CHILD_RUN_DEPTH_MAX, f"{run} is number {about['depth']} of a chain"
        )
        attempt = self._attempt(place)
        if is_news:
            is_said = attempt is not None and attempt.child_run == run
            self._world.checks.expect(is_said, f"G2: {place} has started {run}, and its log does not say so")

    def _completed(self, run: Run) -> None:
        if run.trigger.kind != chains.PARENT_RUN:
            return
        place = self._place(run)
        attempt = self._attempt(place)
        is_over = attempt is None or attempt.outcome is not None
        self._world.checks.expect(is_over, f"G7: {run.id} has ended, and {place} waits for it")

    def _attempt(self, place: AttemptId) -> Attempt | None:
        shadow = self._world.checks.shadows.get(place.run)
        return shadow.attempt(place.job, place.step, place.number) if shadow is not None else None

    def finished(self, shadow: Run, step: Step, event: events.AttemptFinished) -> None:
        """An attempt is about to end: notes now whether it was cut short, as its run may end later in the batch."""
        self._finished.append((shadow, event, bool(step.stop) or step.is_timed_out))

    def _check_finished(self, shadow: Run, event: events.AttemptFinished, *, is_cut: bool) -> None:
        """An attempt ends as its child run does, or because it was stopped or timed out."""
        attempt = shadow.attempt(event.job, event.step, event.attempt)
        assert attempt is not None, "it has ended"
        name = f"{event.job}/{event.step}#{event.attempt} of {shadow.id}"
        expect = self._world.checks.expect
        other = self._world.checks.shadows.get(attempt.child_run) if attempt.child_run is not None else None
        if event.outcome is Outcome.SUCCESS:
            expect(other is not None, f"{name} succeeds, and has started no run")
            if other is not None and attempt.params is not None and attempt.params["wait"]:
                is_good = other.conclusion in (Conclusion.SUCCESS, Conclusion.SKIPPED)
                expect(is_good, f"{name} succeeds, and its run ended {other.conclusion}")
                expect(event.outputs["run-id"] == other.id, f"{name} has the outputs of another run")
        elif other is not None and not is_cut:
            text = f"{name} ends {event.outcome.value}, and its run ended {other.conclusion}"
            expect(other.conclusion not in (None, Conclusion.SUCCESS), text)

    def check_host(self, shadow: Run, wanted: set[AttemptId], watched: dict[AttemptId, RunId]) -> None:
        """The host's open requests for child runs are those that the run's state needs."""
        owed_starts: set[AttemptId] = set()
        owed_ends: dict[AttemptId, RunId] = {}
        for job in shadow.jobs:
            for step in () if shadow.is_completed else job.active_steps():
                attempt = step.last
                if step.plan.node != NODE or attempt is None or attempt.status is not AttemptStatus.PENDING:
                    continue
                key = AttemptId(shadow.id, job.id, step.id, attempt.number)
                self._world.checks.expect(attempt.params is not None, f"nobody asks for the run of {key}")
                if attempt.child_run is None:
                    owed_starts.add(key)
                else:
                    owed_ends[key] = attempt.child_run
        expect = self._world.checks.expect
        expect(wanted == owed_starts, f"runs that {shadow.id} wants: {wanted} and not {owed_starts}")
        expect(watched == owed_ends, f"runs that {shadow.id} waits for: {watched} and not {owed_ends}")
