"""What everyone who starts runs, and every agent, can rely on, whatever keeps the facts (`ports.Runs`).

The log engine on LMDB and in memory, and the engine on Temporal: real turns and the real shell on an in-memory Temporal. The
test plays the one agent of the group `web`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from tests.lease_terms import TERMS
from tests.twin import checks
from tests.twin.cluster import Activity, Cluster
from tests.twin.daemon import Daemon
from tests.twin.simulation import payload
from waterflow_agent.wire import messages as wire
from waterflow_agent.wire.messages import TaskId
from waterflowd.access.policy import AccessPolicy
from waterflowd.engine import fold, inputs
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId, RunId
from waterflowd.model.statuses import Conclusion, Outcome
from waterflowd.store.opening import open_store
from waterflowd.temporal import messages, orders, run_turns
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.testing.host import LOST_AFTER_MS, START_AT, HostHarness, codec, request

TWO_STEPS = "jobs: {a: {runs-on: web, steps: [{run: work}, {run: work}]}}"
RETRIED = "jobs: {a: {runs-on: web, steps: [{run: work, retry: {max-attempts: 2, initial-interval: 5s}}]}}"
LIMITED = "jobs: {a: {runs-on: web, timeout-minutes: 1, steps: [{run: work}]}}"


class Engine(Protocol):
    """One run, its agent, and a daemon that may restart."""

    async def start(self, workflow: str) -> None:
        """Starts the run."""

    async def offers(self) -> list[TaskId]:
        """The attempts that the agent has been offered since the last call, and that are still wanted."""
        ...

    async def finish(self, task: TaskId, outcome: Outcome = Outcome.SUCCESS) -> None:
        """The agent reports an end."""

    async def cancel(self) -> None:
        """Somebody cancels the run."""

    async def cancels(self) -> list[TaskId]:
        """The attempts that the agent has been told to stop since the last call."""
        ...

    async def restart(self) -> None:
        """The daemon is killed, and starts again; the agent connects again with what it has."""

    async def advance(self, duration_ms: int) -> None:
        """Time passes."""

    def facts(self) -> list[str]:
        """The kinds of the recorded events."""
        ...

    def conclusion(self) -> Conclusion | None:
        """That of the run, folded from its recorded events."""
        ...


class LogEngine:
    """The engine with an event log."""

    def __init__(self, log: Any, reopen: Callable[[], Any]) -> None:
        self._reopen = reopen
        self.host = HostHarness(log)
        self._held: list[TaskId] = []
        self._seen: set[TaskId] = set()

    async def start(self, workflow: str) -> None:
        summary = await self.host.driver.start(request(workflow))
        self._run, self._plan = summary.id, request(workflow).plan
        await self.host.settle()

    async def offers(self) -> list[TaskId]:
        await self.host.settle()
        found = [task for task in self.host.link.offers() if task not in self._seen]
        self._seen.update(found)
        self._held += found
        return found

    async def cancels(self) -> list[TaskId]:
        await self.host.settle()
        return [message.key for _, message in self.host.link.sent if isinstance(message, wire.Cancel)]

    async def finish(self, task: TaskId, outcome: Outcome = Outcome.SUCCESS) -> None:
        self._held = [held for held in self._held if held != task]
        self.host.finished(self._agent, task, outcome=outcome, exit_code=0 if outcome is Outcome.SUCCESS else 1)
        await self.host.settle()

    async def cancel(self) -> None:
        await self.host.driver.cancel(self._run, "somebody")
        await self.host.settle()

    async def restart(self) -> None:
        clock = self.host.clock
        await self.host.__aexit__(None)
        self.host = HostHarness(self._reopen(), clock)
        await self.open()

    async def open(self) -> None:
        self._agent = self.host.enroll("web-1", "web")
        await self.host.__aenter__()
        self.host.hello(self._agent, held=[wire.HeldAttempt(task, wire.AttemptState.STARTED) for task in self._held])
        await self.host.settle()

    async def advance(self, duration_ms: int) -> None:
        await self.host.advance(duration_ms)

    def facts(self) -> list[str]:
        return self.host.kinds(self._run)

    def conclusion(self) -> Conclusion | None:
        return fold(self._run, plan.decode(self._plan), self.host.events(self._run)).conclusion


class TwinEngine:
    """The engine on Temporal, on an in-memory one. Slots are granted at once."""

    def __init__(self) -> None:
        self.cluster = Cluster(now=START_AT)
        self._run = ids.run_id(START_AT, 1)
        self._stream = f"{run_turns.PREFIX}{self._run}"
        self._agent = AgentId("SHA256:one")
        self._daemon = self._new_daemon()
        self._seen: set[TaskId] = set()
        self._stopped: list[TaskId] = []

    async def start(self, workflow: str) -> None:
        asked = request(workflow)
        start = inputs.StartRun(
            plan_hash="h", number=1, trigger=asked.trigger, repository=None, revision=None, inputs={}, vars={}
        )
        self._plan = asked.plan
        first = messages.SignalReceived(number=1, content=orders.INPUTS.pack(start))
        self.cluster.start(self._stream, payload(messages.Begin(subject=asked.plan, inputs=[first], number=1)))
        self._work()

    async def offers(self) -> list[TaskId]:
        found = [task for task in self._attempts() if task not in self._seen]
        self._seen.update(found)
        return found

    async def cancels(self) -> list[TaskId]:
        return self._stopped

    async def finish(self, task: TaskId, outcome: Outcome = Outcome.SUCCESS) -> None:
        report = inputs.TaskFinished(
            job=task.attempt.job,
            step=task.attempt.step,
            attempt=task.attempt.number,
            epoch=task.epoch,
            agent=self._agent,
            outcome=outcome,
            exit_code=0 if outcome is Outcome.SUCCESS else 1,
            started_at=self.cluster.now,
            finished_at=self.cluster.now,
        )
        if (activity := self._attempts().get(task)) is not None:
            self.cluster.complete_activity(activity, payload(orders.INPUTS.pack(report)))
        self._work()

    async def cancel(self) -> None:
        self.cluster.update(self._stream, "u", payload(orders.INPUTS.pack(inputs.CancelRun(by="somebody"))))
        self._work()

    async def restart(self) -> None:
        self._daemon.kill()
        self._daemon = self._new_daemon()
        self._work()

    async def advance(self, duration_ms: int) -> None:
        self.cluster.advance(duration_ms)
        self._work()

    def facts(self) -> list[str]:
        return [type(event).__name__ for event in self._events()]

    def conclusion(self) -> Conclusion | None:
        return fold(RunId(self._run), plan.decode(self._plan), self._events()).conclusion

    def close(self) -> None:
        self._daemon.kill()

    def _events(self) -> list[Any]:
        encoded = checks.facts(self.cluster.streams[self._stream][-1])
        return [run_turns.FACTS.unpack(self._stream, fact).event for fact in encoded]

    def _attempts(self) -> dict[TaskId, Activity]:
        found = {}
        for activity in self.cluster.activities():
            order = orders.ORDERS.unpack(activity.command.arguments[0].data)
            if isinstance(order, orders.TaskOrder):
                found[order.draft.task.key] = activity
        return found

    def _work(self) -> None:
        while self._step():
            pass

    def _step(self) -> bool:
        if self._daemon.is_busy:
            self._daemon.step()
            return True
        for execution in self.cluster.open():
            if execution.has_task:
                self._daemon.take(execution)
                return True
        for activity in self.cluster.activities():
            order: Any = orders.ORDERS.unpack(activity.command.arguments[0].data)
            if isinstance(order, orders.TaskOrder):
                if not activity.started_at:
                    self.cluster.begin_activity(activity)
                activity.heartbeat_at = self.cluster.now
                continue
            answer = b""
            if isinstance(order, orders.SlotOrder):
                answer = orders.INPUTS.pack(
                    inputs.SlotGranted(
                        job=order.attempt.job,
                        step=order.attempt.step,
                        attempt=order.attempt.number,
                        epoch=1,
                        agent=self._agent,
                        agent_name="web-1",
                        boot_id="boot",
                        facts={},
                    )
                )
            elif isinstance(order, orders.CancelOrder):
                self._stopped.append(order.task)
            self.cluster.complete_activity(activity, payload(answer))
            return True
        return False

    def _new_daemon(self) -> Daemon:
        registry = Registry()
        turns = RunTurns(registry, Placement(registry), AccessPolicy(), lost_after_ms=LOST_AFTER_MS, terms=TERMS)
        return Daemon(self.cluster, turns)


@pytest.fixture(params=["memory", "lmdb", "temporal-twin"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with contextlib.AsyncExitStack() as stack:
        if request.param == "temporal-twin":
            twin = TwinEngine()
            stack.callback(twin.close)
            yield twin
            return
        stores = [open_store(tmp_path / "data", codec())] if request.param == "lmdb" else []

        def reopen() -> Any:
            if not stores:
                return log.host.log.reopened()
            stores[-1].close()
            stores.append(open_store(tmp_path / "data", codec()))
            return stores[-1].log

        log = LogEngine(stores[-1].log if stores else None, reopen)
        await log.open()
        yield cast(Engine, log)
        await log.host.__aexit__(None)
        if stores:
            stores[-1].close()


async def test_a_run_goes_from_step_to_step(engine: Engine) -> None:
    """One attempt after another, and the same facts whatever keeps them."""
    await engine.start(TWO_STEPS)
    for step in ("1", "2"):
        [task] = await engine.offers()
        assert (task.attempt.step, task.attempt.number) == (step, 1)
        assert engine.conclusion() is None
        await engine.finish(task)

    assert await engine.offers() == []
    assert engine.conclusion() is Conclusion.SUCCESS
    # On Temporal an attempt always waits: no daemon knows at once whether another one has a free slot.
    assert [kind for kind in engine.facts() if kind != "AttemptWaiting"] == [
        *("RunCreated", "RunStarted", "JobReady"),
        *("AttemptQueued", "AttemptDispatched", "AttemptFinished", "StepCompleted") * 2,
        *("JobCompleted", "RunCompleted"),
    ]


async def test_a_failed_step_fails_the_run(engine: Engine) -> None:
    """The next step is not offered."""
    await engine.start(TWO_STEPS)
    [task] = await engine.offers()
    await engine.finish(task, Outcome.FAILURE)

    assert await engine.offers() == []
    assert engine.conclusion() is Conclusion.FAILURE


async def test_a_retry_waits_for_its_time(engine: Engine) -> None:
    """Across a restart; the next attempt has the next number."""
    await engine.start(RETRIED)
    [task] = await engine.offers()
    await engine.finish(task, Outcome.FAILURE)
    assert await engine.offers() == []
    await engine.restart()
    await engine.advance(60_000)

    [again] = await engine.offers()
    assert (again.attempt.step, again.attempt.number) == (task.attempt.step, 2)
    await engine.finish(again)
    assert engine.conclusion() is Conclusion.SUCCESS


async def test_a_restart_changes_nothing_about_an_attempt(engine: Engine) -> None:
    """The agent keeps it, is not offered another one, and its report counts once."""
    await engine.start(TWO_STEPS)
    [task] = await engine.offers()
    await engine.restart()
    assert await engine.offers() == []
    await engine.finish(task)
    facts = engine.facts()
    await engine.finish(task)

    assert engine.facts() == facts
    [second] = await engine.offers()
    await engine.restart()
    await engine.finish(second)
    assert engine.conclusion() is Conclusion.SUCCESS


async def test_a_cancelled_run_ends_when_its_attempt_has_been_stopped(engine: Engine) -> None:
    """Not before the agent has said so."""
    await engine.start(TWO_STEPS)
    [task] = await engine.offers()
    await engine.cancel()
    assert await engine.cancels() == [task]
    assert engine.conclusion() is None
    await engine.finish(task, Outcome.CANCELLED)

    assert await engine.offers() == []
    assert engine.conclusion() is Conclusion.CANCELLED


async def test_a_job_that_takes_too_long_is_stopped(engine: Engine) -> None:
    """Its time is counted across a restart."""
    await engine.start(LIMITED)
    [task] = await engine.offers()
    await engine.advance(30_000)
    await engine.restart()
    assert await engine.cancels() == []
    await engine.advance(31_000)

    assert await engine.cancels() == [task]
    await engine.finish(task, Outcome.CANCELLED)
    assert engine.conclusion() is Conclusion.TIMED_OUT
