"""The engine on Temporal, on an in-memory one: real turns and the real shell. Slots are granted at once.

It has neither Temporal's client nor gateways, so it has no readers and remembers no keys: the real server tests those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.contract.engines.engine import Fact, Kind, request
from tests.lease_terms import TERMS
from tests.twin import checks
from tests.twin.answers import AGENT, ended, granted
from tests.twin.cluster import Activity, Cluster, Update
from tests.twin.coordination import Coordination
from tests.twin.core import application_failure
from tests.twin.daemon import Daemon
from tests.twin.simulation import payload
from waterflow_agent.wire import messages as wire
from waterflow_agent.wire.messages import TaskId
from waterflowd.access.policy import AccessPolicy
from waterflowd.engine import Run, fold, inputs
from waterflowd.engine.events import RunEvent
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.model import ids, plan
from waterflowd.model.ids import JobId, RunId, StepId, run_stream
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import StartRequest
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders, run_turns
from waterflowd.temporal.coordination import lock_turns
from waterflowd.temporal.coordination.lock_turns import LockTurns
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.streams import StreamTurns
from waterflowd.temporal.workflow import messages
from waterflowd.testing.host import LOST_AFTER_MS, START_AT

#: The execution needs moments before a give-back is in the queue again.
_BACKOFF_MS = 2_000


class TwinEngine:
    """Implements `RunEngine`."""

    lost_after_ms = LOST_AFTER_MS + _BACKOFF_MS
    lease_ms = TERMS.lease_ms

    def __init__(self) -> None:
        self.cluster = Cluster(now=START_AT)
        self._plans: dict[RunId, bytes] = {}
        self._files: dict[str, str] = {}
        self._coordination = Coordination(self.cluster, payload, find=self._fold, start=self._start, files=self._files)
        self._daemon = self._new_daemon()
        self._seen: set[TaskId] = set()
        #: Attempts whose start was reported, and those of them that the agent has no record of.
        self._started: set[TaskId] = set()
        self._forgotten: set[TaskId] = set()
        #: Ends that no daemon has confirmed.
        self._reports: dict[TaskId, inputs.TaskFinished] = {}
        self._stops: list[wire.Cancel] = []
        self._is_connected = True
        self._updates = 0

    def close(self) -> None:
        """Ends the daemon."""
        self._daemon.kill()

    # Requests -----------------------------------------------------------------------------------------------------------

    async def start(self, workflow: str, *, key: str | None = None, files: Mapping[str, str] | None = None) -> RunId:
        self._files.update(files or {})
        run = ids.run_id(START_AT, len(self._plans) + 1)
        self._start(run, request(workflow, key, files or {}))
        self._work()
        return run

    def _start(self, run: RunId, asked: StartRequest) -> None:
        start = inputs.StartRun(
            plan_hash="h",
            number=len(self._plans) + 1,
            trigger=asked.trigger,
            repository=asked.repository,
            revision=asked.revision,
            inputs=asked.inputs,
            vars=asked.vars,
        )
        self._plans[run] = asked.plan
        first = messages.SignalReceived(number=1, content=orders.INPUTS.pack(start))
        begin = messages.Begin(subject=asked.plan, inputs=[first], number=1)
        self.cluster.start(run_stream(run), payload(begin))

    async def cancel(self, run: RunId, *, is_forced: bool = False) -> None:
        self._ask(run, inputs.CancelRun(by="somebody", is_forced=is_forced))

    async def decide(self, run: RunId, by: str, *, is_approved: bool) -> None:
        self._ask(run, inputs.DecideApproval(job=JobId("a"), step=StepId("ask"), by=by, is_approved=is_approved))

    def _ask(self, run: RunId, item: inputs.Input) -> None:
        self._updates += 1
        content = payload(orders.INPUTS.pack(item))
        update = self.cluster.update(run_stream(run), f"update-{self._updates}", content)
        self._work()
        self._check(run, update)

    def _check(self, run: RunId, update: Update | None) -> None:
        """Raises what `TemporalRuns` would."""
        if update is None or update.answer is None:
            raise run_turns.Refusal(code="WF606", text=f"run {run} is not open", status=409).error
        answer: run_turns.Answer = run_turns.ANSWERS.unpack(update.answer.data)
        if answer.refusal is not None:
            raise answer.refusal.error

    async def retry(self, run: RunId) -> None:
        self.cluster.signal(run_stream(run), messages.RETRY_SIGNAL)
        self._work()

    async def restart(self) -> None:
        self._daemon.kill()
        self._daemon = self._new_daemon()
        await self.come_back()

    async def advance(self, duration_ms: int) -> None:
        end = self.cluster.now + duration_ms
        self._work()
        while (due := self.cluster.next_at()) is not None and due <= end:
            self.cluster.advance(max(0, due - self.cluster.now))
            self._work()
        self.cluster.advance(end - self.cluster.now)
        self._work()

    # The agent ----------------------------------------------------------------------------------------------------------

    async def offers(self, count: int) -> list[TaskId]:
        found = [task for task in self._attempts() if task not in self._seen] if self._is_connected else []
        self._seen.update(found)
        assert len(found) == count, found
        return found

    async def stops(self, count: int) -> list[wire.Cancel]:
        assert len(self._stops) == count, self._stops
        return self._stops

    async def started(self, task: TaskId) -> None:
        self._started.add(task)
        name = task.attempt
        report = inputs.TaskStarted(
            job=name.job, step=name.step, attempt=name.number, epoch=task.epoch, agent=AGENT, started_at=self.now()
        )
        self.cluster.signal(run_stream(name.run), messages.INPUT_SIGNAL, payload(orders.INPUTS.pack(report)))
        self._work()

    async def finish(self, task: TaskId, outcome: Outcome = Outcome.SUCCESS, **outputs: str) -> None:
        self._reports[task] = ended(task, AGENT, outcome, at=self.now(), outputs=outputs)
        self._work()

    async def leave(self) -> None:
        self._is_connected = False
        self._work()

    async def come_back(self, *, forgets: bool = False) -> None:
        self._is_connected = True
        if forgets:
            self._reports.clear()
            self._forgotten = set(self._started)
        self._work()

    # Observations -------------------------------------------------------------------------------------------------------

    async def facts(self, run: RunId) -> list[Fact[RunEvent]]:
        stream = run_stream(run)
        found = [run_turns.FACTS.unpack(stream, fact) for fact in checks.facts(self.cluster.streams[stream][-1])]
        return [Fact(fact.at, fact.event) for fact in found]

    async def run(self, run: RunId) -> Run:
        return self._fold(run)

    def _fold(self, run: RunId) -> Run:
        stream = run_stream(run)
        encoded = checks.facts(self.cluster.streams[stream][-1])
        history = [run_turns.FACTS.unpack(stream, fact).event for fact in encoded]
        return fold(run, plan.decode(self._plans[run]), history)

    async def recorded(self, run: RunId, kind: type[Kind]) -> Fact[Kind]:
        return next(found for found in (fact.of(kind) for fact in await self.facts(run)) if found is not None)

    async def ended(self, run: RunId) -> Run:
        found = self._fold(run)
        assert found.is_completed, await self.facts(run)
        return found

    async def stalls(self, run: RunId) -> None:
        assert messages.STALLED_ATTRIBUTE in self.cluster.streams[run_stream(run)][-1].attributes

    def now(self) -> int:
        return self.cluster.now

    # The daemon -----------------------------------------------------------------------------------------------------------

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
            if execution.signals:
                self.cluster.deliver(execution, next(iter(execution.signals)))
                return True
        return any(map(self._serve, self.cluster.activities())) or self._report_late()

    def _report_late(self) -> bool:
        """A report whose attempt has ended is evidence for an open run; False when there is none."""
        if not self._is_connected:
            return False
        for task in self._reports.keys() - self._attempts().keys():
            content = payload(orders.INPUTS.pack(self._reports.pop(task)))
            if self.cluster.update(run_stream(task.attempt.run), f"report-{task}-{self.now()}", content) is not None:
                return True
        return False

    def _serve(self, activity: Activity) -> bool:
        """A step of an activity; False when there is none."""
        order: Any = orders.ORDERS.unpack(activity.command.arguments[0].data)
        answer = self._coordination.carry_out(order)
        if answer is None:
            if not self._is_connected:
                return self._give_back(activity)
            answer = self._answer(activity, order)
        if answer is None:
            return False
        self.cluster.complete_activity(activity, payload(answer))
        if isinstance(order, orders.TaskOrder):
            # Temporal has confirmed it.
            self._reports.pop(order.draft.task.key, None)
        return True

    def _give_back(self, activity: Activity) -> bool:
        if not activity.started_at:
            return False
        self.cluster.fail_activity(activity, application_failure("agent away"))
        return True

    def _answer(self, activity: Activity, order: orders.AnyOrder) -> bytes | None:
        """What the gateway and the agent answer; None while the attempt runs."""
        match order:
            case orders.SlotOrder():
                return orders.INPUTS.pack(granted(order.attempt, lease_ms=self.lease_ms))
            case orders.TaskOrder():
                task = order.draft.task.key
                if not activity.started_at:
                    self.cluster.begin_activity(activity)
                activity.heartbeat_at = self.cluster.now
                if (report := self._reports.get(task)) is not None:
                    return orders.INPUTS.pack(report)
                if task in self._forgotten:
                    return orders.INPUTS.pack(_lost(task))
                return None
            case orders.CancelOrder():
                self._stops.append(wire.Cancel(order.task, order.is_forced, order.reason))
        return b""

    def _new_daemon(self) -> Daemon:
        registry = Registry()
        registry.apply(
            fleet_events.AgentApproved(
                at=START_AT, by="test", agent=AGENT, public_key="k", name="web-1", groups=("web",)
            )
        )
        runs = RunTurns(registry, Placement(registry), AccessPolicy(), lost_after_ms=LOST_AFTER_MS, terms=TERMS)
        return Daemon(self.cluster, StreamTurns({run_turns.PREFIX: runs, lock_turns.PREFIX: LockTurns()}))


def _lost(task: TaskId) -> inputs.TaskLost:
    name = task.attempt
    cause = reason(ReasonCode.OUTCOME_UNKNOWN, "web-1 has lost its record of the running step", agent="web-1")
    return inputs.TaskLost(
        job=name.job, step=name.step, attempt=name.number, epoch=task.epoch, agent=AGENT, reason=cause
    )
