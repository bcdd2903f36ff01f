"""The people: they start runs, cancel some, and try again until they get a confirmation."""

from __future__ import annotations

import random

from tests.simulator.child_runs import REPOSITORY, REVISION
from tests.simulator.environment import Environment
from tests.simulator.language import APPROVERS
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.engine import Run
from waterflowd.engine.rules import approvals, rerun
from waterflowd.model import plan
from waterflowd.model.ids import AgentId, JobId, RunId, StepId
from waterflowd.model.records import Reused, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion

#: A client without an answer repeats its request after this time.
PATIENCE_S = 3.0


class Start:
    """One requested run, with a key that makes repeating the request safe; the run is perhaps cancelled later."""

    def __init__(
        self, environment: Environment, number: int, compiled: bytes, dice: random.Random, reused: Reused | None = None
    ) -> None:
        self.key = f"start/{number}"
        self.run: RunId | None = None
        #: Whether a restored backup does not contain the run.
        self.is_gone = False
        self._environment = environment
        trigger = Trigger(kind=TriggerKind.API, by="token:ci", key=self.key)
        self._request = StartRequest(
            plan=compiled,
            trigger=trigger,
            reused=reused,
            rerun_of=reused.run if reused is not None else None,
            repository=REPOSITORY if environment.chance.has_child_runs else None,
            revision=REVISION if environment.chance.has_child_runs else None,
        )
        self._cancel_after_s = dice.choice((None, None, None, dice.uniform(0.0, 4.0)))
        self._is_forced = dice.random() < 0.4
        self._is_cancelled = False

    def ask(self) -> None:
        """Sends the request to the daemon, if it is up, and checks again later."""
        environment = self._environment
        if self.run is not None:
            return
        if environment.daemon is not None:
            environment.loop.spawn(environment.daemon.process, self._ask(), f"client {self.key}")
        environment.loop.outside(PATIENCE_S, self.ask)

    async def _ask(self) -> None:
        environment = self._environment
        assert environment.daemon is not None, "it is its own task"
        try:
            summary = await environment.daemon.driver.start(self._request)
        except Retryable:
            return
        environment.observer.start_acknowledged(self.key, summary.id)
        if self.run is None:
            self.run = summary.id
            environment.note(f"client: {self.key} is run {summary.id[-6:]}")
            if self._cancel_after_s is not None:
                environment.loop.outside(self._cancel_after_s, self.cancel)

    def cancel(self) -> None:
        """Requests a cancel until it is confirmed."""
        environment = self._environment
        if self._is_cancelled:
            return
        if environment.daemon is not None:
            environment.loop.spawn(environment.daemon.process, self._cancel(), f"client cancels {self.key}")
        environment.loop.outside(PATIENCE_S, self.cancel)

    async def _cancel(self) -> None:
        environment = self._environment
        assert environment.daemon is not None
        assert self.run is not None
        try:
            await environment.daemon.driver.cancel(self.run, "alice", is_forced=self._is_forced)
        except Retryable:
            return
        except Rejected as error:
            # The run has completed already; any other reason would be a broken promise.
            environment.expect(error.status == 409 or self.is_gone, f"a cancel was refused: {error}")
        else:
            environment.observer.cancel_acknowledged(self.run)
        self._is_cancelled = True


class Revocation:
    """Revokes an agent, and repeats the request until it is confirmed."""

    def __init__(self, environment: Environment, agent: AgentId) -> None:
        self.is_done = False
        self._environment = environment
        self.agent = agent

    def ask(self) -> None:
        """Sends the request to the daemon, if it is up, and checks again later."""
        environment = self._environment
        if self.is_done:
            return
        if environment.daemon is not None:
            environment.loop.spawn(environment.daemon.process, self._ask(), f"client revokes {self.agent}")
        environment.loop.outside(PATIENCE_S, self.ask)

    async def _ask(self) -> None:
        environment = self._environment
        assert environment.daemon is not None, "it is its own task"
        try:
            await environment.daemon.enrollment.revoke(self.agent, "alice")
        except Retryable:
            return
        except Rejected as error:
            # An earlier request was durable, and its answer was lost.
            environment.expect(error.code == "WF227", f"a revocation was refused: {error}")
        if not self.is_done:
            self.is_done = True
            environment.note(f"client: {self.agent} is revoked")
            environment.observer.revocation_acknowledged(self.agent)


class Repeaters:
    """People who re-run what did not succeed, as long as faults occur."""

    #: Maximum number of re-runs in one simulation; each of them may fail, too.
    MOST = 3

    def __init__(self, environment: Environment, dice: random.Random, starts: list[Start]) -> None:
        self._environment = environment
        self._dice = dice
        self._starts = starts
        self._done: set[RunId] = set()

    def look(self) -> None:
        """Picks one of the completed runs and re-runs it."""
        environment = self._environment
        if environment.healed_at is not None or len(self._done) >= self.MOST:
            return
        environment.loop.outside(self._dice.uniform(1.0, 6.0), self.look)
        failed = [
            shadow
            for shadow in environment.shadows.values()
            if shadow.is_completed and shadow.conclusion is not Conclusion.SUCCESS
            if shadow.repository in (None, REPOSITORY) and shadow.id not in self._done
        ]
        if failed:
            self._repeat(self._dice.choice(failed))

    def _repeat(self, run: Run) -> None:
        environment = self._environment
        self._done.add(run.id)
        request = rerun.RerunRequest(is_failed=True)
        if self._dice.random() < 0.4:
            job = self._dice.choice(list(run.scope.jobs.values()))
            request = rerun.RerunRequest(start=f"{job.id}/{self._dice.choice(job.steps).id}" if job.steps else job.id)
        try:
            reused = rerun.select(run, run.plan, request).reused
        except Rejected as error:
            environment.expect(error.code in ("WF605", "WF606"), f"a re-run was refused: {error}")
            return
        start = Start(environment, len(self._starts), plan.encode(run.plan), self._dice, reused)
        environment.note(f"a person re-runs {run.id[-6:]}")
        self._starts.append(start)
        start.ask()


class Approvers:
    """The approvers: they look from time to time, and decide about what they find."""

    def __init__(self, environment: Environment, dice: random.Random) -> None:
        self._environment = environment
        self._dice = dice

    def look(self) -> None:
        """Looks for pending approvals, and decides about one of them."""
        environment = self._environment
        environment.loop.outside(self._dice.uniform(0.3, 4.0), self.look)
        waiting = [
            (shadow.id, job.id, step.id if step is not None else None)
            for shadow in environment.shadows.values()
            for job, step, _ in approvals.pending(shadow)
        ]
        if waiting and environment.daemon is not None:
            decision = self._decide(*self._dice.choice(waiting))
            environment.loop.spawn(environment.daemon.process, decision, "a person decides")

    async def _decide(self, run: RunId, job: JobId, step: StepId | None) -> None:
        environment = self._environment
        assert environment.daemon is not None, "it is its own task"
        who = self._dice.choice((*APPROVERS, *APPROVERS, "mallory"))
        is_approved = self._dice.random() < 0.85
        try:
            await environment.daemon.driver.decide(run, job, step, who, is_approved=is_approved)
        except Retryable:
            return
        except Rejected as error:
            # Already decided, not theirs to decide, or completed.
            environment.expect(error.status in (403, 409), f"a decision was refused: {error}")
            return
        environment.observer.decision_acknowledged(run, job, step, who)
