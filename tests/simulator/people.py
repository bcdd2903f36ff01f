"""The people: they start runs, cancel some, and try again until they get a confirmation."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.simulator.child_runs import REPOSITORY, REVISION
from tests.simulator.language import APPROVERS
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.engine import Run
from waterflowd.engine.rules import approvals, rerun
from waterflowd.model import plan
from waterflowd.model.ids import AgentId, JobId, RunId, StepId
from waterflowd.model.records import Reused, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion

if TYPE_CHECKING:
    from tests.simulator.world import World

#: A client without an answer repeats its request after this time.
PATIENCE_S = 3.0


class Start:
    """One requested run, with a key that makes repeating the request safe; the run is perhaps cancelled later."""

    def __init__(
        self, world: World, number: int, compiled: bytes, dice: random.Random, reused: Reused | None = None
    ) -> None:
        self.key = f"start/{number}"
        self.run: RunId | None = None
        #: Whether a restored backup does not contain the run.
        self.is_gone = False
        self._world = world
        trigger = Trigger(kind=TriggerKind.API, by="token:ci", key=self.key)
        self._request = StartRequest(
            plan=compiled,
            trigger=trigger,
            reused=reused,
            rerun_of=reused.run if reused is not None else None,
            repository=REPOSITORY if world.chance.has_child_runs else None,
            revision=REVISION if world.chance.has_child_runs else None,
        )
        self._cancel_after_s = dice.choice((None, None, None, dice.uniform(0.0, 4.0)))
        self._is_forced = dice.random() < 0.4
        self._is_cancelled = False

    def ask(self) -> None:
        """Sends the request to the daemon, if it is up, and checks again later."""
        world = self._world
        if self.run is not None:
            return
        if world.daemon is not None:
            world.loop.spawn(world.daemon.process, self._ask(), f"client {self.key}")
        world.loop.outside(PATIENCE_S, self.ask)

    async def _ask(self) -> None:
        world = self._world
        assert world.daemon is not None, "it is its own task"
        try:
            summary = await world.daemon.driver.start(self._request)
        except Retryable:
            return
        world.checks.start_acknowledged(self.key, summary.id)
        if self.run is None:
            self.run = summary.id
            world.note(f"client: {self.key} is run {summary.id[-6:]}")
            if self._cancel_after_s is not None:
                world.loop.outside(self._cancel_after_s, self.cancel)

    def cancel(self) -> None:
        """Requests a cancel until it is confirmed."""
        world = self._world
        if self._is_cancelled:
            return
        if world.daemon is not None:
            world.loop.spawn(world.daemon.process, self._cancel(), f"client cancels {self.key}")
        world.loop.outside(PATIENCE_S, self.cancel)

    async def _cancel(self) -> None:
        world = self._world
        assert world.daemon is not None
        assert self.run is not None
        try:
            await world.daemon.driver.cancel(self.run, "somebody", is_forced=self._is_forced)
        except Retryable:
            return
        except Rejected as error:
            # The run has completed already; any other reason would be a broken promise.
            world.checks.expect(error.status == 409 or self.is_gone, f"a cancel was refused: {error}")
        else:
            world.checks.cancel_acknowledged(self.run)
        self._is_cancelled = True


class Revocation:
    """Revokes an agent, and repeats the request until it is confirmed."""

    def __init__(self, world: World, agent: AgentId) -> None:
        self.is_done = False
        self._world = world
        self.agent = agent

    def ask(self) -> None:
        """Sends the request to the daemon, if it is up, and checks again later."""
        world = self._world
        if self.is_done:
            return
        if world.daemon is not None:
            world.loop.spawn(world.daemon.process, self._ask(), f"client revokes {self.agent}")
        world.loop.outside(PATIENCE_S, self.ask)

    async def _ask(self) -> None:
        world = self._world
        assert world.daemon is not None, "it is its own task"
        try:
            await world.daemon.enrollment.revoke(self.agent, "somebody")
        except Retryable:
            return
        except Rejected as error:
            # An earlier request was durable, and its answer was lost.
            world.checks.expect(error.code == "WF227", f"a revocation was refused: {error}")
        if not self.is_done:
            self.is_done = True
            world.note(f"client: {self.agent} is revoked")
            world.checks.revocation_acknowledged(self.agent)


class Repeaters:
    """People who re-run what did not succeed, as long as faults occur."""

    #: Maximum number of re-runs in one world; each of them may fail, too.
    MOST = 3

    def __init__(self, world: World, dice: random.Random) -> None:
        self._world = world
        self._dice = dice
        self._done: set[RunId] = set()

    def look(self) -> None:
        """Picks one of the completed runs and re-runs it."""
        world = self._world
        if world.healed_at is not None or len(self._done) >= self.MOST:
            return
        world.loop.outside(self._dice.uniform(1.0, 6.0), self.look)
        failed = [
            shadow
            for shadow in world.checks.shadows.values()
            if shadow.is_completed and shadow.conclusion is not Conclusion.SUCCESS
            if shadow.repository in (None, REPOSITORY) and shadow.id not in self._done
        ]
        if failed:
            self._repeat(self._dice.choice(failed))

    def _repeat(self, run: Run) -> None:
        world = self._world
        self._done.add(run.id)
        request = rerun.RerunRequest(is_failed=True)
        if self._dice.random() < 0.4:
            job = self._dice.choice(list(run.scope.jobs.values()))
            request = rerun.RerunRequest(start=f"{job.id}/{self._dice.choice(job.steps).id}" if job.steps else job.id)
        try:
            reused = rerun.select(run, run.plan, request).reused
        except Rejected as error:
            world.checks.expect(error.code in ("WF605", "WF606"), f"a re-run was refused: {error}")
            return
        start = Start(world, len(world.starts), plan.encode(run.plan), self._dice, reused)
        world.note(f"somebody wants {run.id[-6:]} again")
        world.starts.append(start)
        start.ask()


class Approvers:
    """The approvers: they look from time to time, and decide about what they find."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self._world = world
        self._dice = dice

    def look(self) -> None:
        """Looks for pending approvals, and decides about one of them."""
        world = self._world
        world.loop.outside(self._dice.uniform(0.3, 4.0), self.look)
        waiting = [
            (shadow.id, job.id, step.id if step is not None else None)
            for shadow in world.checks.shadows.values()
            for job, step, _ in approvals.pending(shadow)
        ]
        if waiting and world.daemon is not None:
            decision = self._decide(*self._dice.choice(waiting))
            world.loop.spawn(world.daemon.process, decision, "somebody decides")

    async def _decide(self, run: RunId, job: JobId, step: StepId | None) -> None:
        world = self._world
        assert world.daemon is not None, "it is its own task"
        who = self._dice.choice((*APPROVERS, *APPROVERS, "mallory"))
        is_approved = self._dice.random() < 0.85
        try:
            await world.daemon.driver.decide(run, job, step, who, is_approved=is_approved)
        except Retryable:
            return
        except Rejected as error:
            # Already decided, not theirs to decide, or completed.
            world.checks.expect(error.status in (403, 409), f"a decision was refused: {error}")
            return
        world.checks.gates.decision_acknowledged(run, job, step, who)
