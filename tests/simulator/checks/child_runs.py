"""What is promised about child runs: each attempt starts one run and, if it waits, ends with it; each in one transaction.

Rules of this file: the checker looks at the log alone: which runs exist, and which attempt says that it started them.
"""

from __future__ import annotations

from tests.simulator.child_runs import NODE
from tests.simulator.environment import Environment
from waterflowd.engine import Run, events
from waterflowd.engine.state.blocks import Attempt, Step
from waterflowd.model import chains
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId, run_stream
from waterflowd.model.records import Batch
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome


class ChildRunChecker:
    """The checker of child runs."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._started: dict[AttemptId, RunId] = {}
        #: Attempts that end in the batch, and whether they were stopped or timed out.
        self._finished: list[tuple[Run, events.AttemptFinished, bool]] = []

    def forget(self) -> None:
        """Starts afresh, because the log is an older one."""
        self._started.clear()

    def committed(self, batch: Batch, *, is_news: bool = True) -> None:
        """Checks a batch that is durable and applied to the shadow runs."""
        shadows = self._environment.shadows
        finished, self._finished = self._finished, []
        for shadow, end, is_cut in finished:
            self._check_finished(shadow, end, is_cut=is_cut)
        for append in batch.appends:
            for event in append.events:
                if isinstance(event, events.RunCreated) and event.trigger.kind == chains.PARENT_RUN:
                    self._created(RunId(append.stream.removeprefix(run_stream(RunId("")))), event, is_news=is_news)
                elif isinstance(event, events.ChildRunStarted):
                    text = f"G6: {event.job}/{event.step}#{event.attempt} names {event.run}, which is not its own"
                    self._environment.expect(self._parent(shadows[event.run]).number == event.attempt, text)
                elif isinstance(event, events.RunCompleted) and is_news:
                    self._completed(shadows[RunId(append.stream.removeprefix(run_stream(RunId(""))))])

    def _parent(self, run: Run) -> AttemptId:
        about = run.trigger.payload[chains.PARENT_RUN]
        return AttemptId(about["id"], JobId(about["job"]), StepId(about["step"]), AttemptNo(about["attempt"]))

    def _created(self, run: RunId, event: events.RunCreated, *, is_news: bool) -> None:
        about = event.trigger.payload[chains.PARENT_RUN]
        parent = AttemptId(about["id"], JobId(about["job"]), StepId(about["step"]), AttemptNo(about["attempt"]))
        known = self._started.setdefault(parent, run)
        self._environment.expect(known == run, f"G6: {parent} has started {known} and {run}")
        self._environment.expect(
            about["depth"] <= chains.CHILD_RUN_DEPTH_MAX, f"{run} is number {about['depth']} of a chain"
        )
        attempt = self._attempt(parent)
        if is_news:
            is_said = attempt is not None and attempt.child_run == run
            self._environment.expect(is_said, f"G2: {parent} has started {run}, and its log does not say so")

    def _completed(self, run: Run) -> None:
        if run.trigger.kind != chains.PARENT_RUN:
            return
        parent = self._parent(run)
        attempt = self._attempt(parent)
        has_ended = attempt is None or attempt.outcome is not None
        self._environment.expect(has_ended, f"G7: {run.id} has ended, and {parent} waits for it")

    def _attempt(self, parent: AttemptId) -> Attempt | None:
        shadow = self._environment.shadows.get(parent.run)
        return shadow.attempt(parent.job, parent.step, parent.number) if shadow is not None else None

    def finished(self, shadow: Run, step: Step, event: events.AttemptFinished) -> None:
        """An attempt is about to end: notes now whether it was cut short, as its run may end later in the batch."""
        self._finished.append((shadow, event, bool(step.stop) or step.is_timed_out))

    def _check_finished(self, shadow: Run, event: events.AttemptFinished, *, is_cut: bool) -> None:
        """An attempt ends as its child run does, or because it was stopped or timed out."""
        attempt = shadow.attempt(event.job, event.step, event.attempt)
        assert attempt is not None, "it has ended"
        name = f"{event.job}/{event.step}#{event.attempt} of {shadow.id}"
        expect = self._environment.expect
        other = self._environment.shadows.get(attempt.child_run) if attempt.child_run is not None else None
        if event.outcome is Outcome.SUCCESS:
            expect(other is not None, f"{name} succeeds, and has started no run")
            if other is not None and attempt.params is not None and attempt.params["wait"]:
                is_good = other.conclusion in (Conclusion.SUCCESS, Conclusion.SKIPPED)
                expect(is_good, f"{name} succeeds, and its run ended {other.conclusion}")
                expect(event.outputs["run-id"] == other.id, f"{name} has the outputs of another run")
        elif other is not None and not is_cut:
            text = f"{name} ends {event.outcome.value}, and its run ended {other.conclusion}"
            expect(other.conclusion not in (None, Conclusion.SUCCESS), text)

    def check_host(self, shadow: Run, requested: set[AttemptId], watched: dict[AttemptId, RunId]) -> None:
        """The host's open requests for child runs are those that the run's state needs."""
        expected_starts: set[AttemptId] = set()
        expected_ends: dict[AttemptId, RunId] = {}
        for job in shadow.jobs:
            for step in () if shadow.is_completed else job.active_steps():
                attempt = step.last
                if step.plan.node != NODE or attempt is None or attempt.status is not AttemptStatus.PENDING:
                    continue
                key = AttemptId(shadow.id, job.id, step.id, attempt.number)
                self._environment.expect(attempt.params is not None, f"no child run is requested for {key}")
                if attempt.child_run is None:
                    expected_starts.add(key)
                else:
                    expected_ends[key] = attempt.child_run
        expect = self._environment.expect
        expect(
            requested == expected_starts,
            f"requested child runs of {shadow.id}: {requested}, expected {expected_starts}",
        )
        expect(watched == expected_ends, f"awaited child runs of {shadow.id}: {watched}, expected {expected_ends}")
