"""Runs on the in-memory Temporal: the engine takes the turns, and agents answer the activities of its gateways.

The plans are those of the simulator. An agent keeps a journal: an attempt that is offered again is not started again. It may be
away, so that its attempts are lost, and come back with a report that nobody waits for.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from temporalio.bridge.proto.workflow_commands.workflow_commands_pb2 import WorkflowCommand

from tests.lease_terms import TERMS
from tests.simulator import plans
from tests.twin import checks
from tests.twin.cluster import Activity, Cluster, Execution, Status, Update
from tests.twin.core import Task, Violation, application_failure
from tests.twin.daemon import Daemon
from tests.twin.simulation import low_limits, payload
from waterflow_agent.attempts import AttemptId
from waterflow_agent.wire.messages import TaskId
from waterflowd.access.policy import AccessPolicy
from waterflowd.engine import Run, fold, inputs
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId, RunId
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders, run_turns
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.workflow import messages

NOW = 1_700_000_000_000
GROUPS = ("web", "db")
AGENTS = tuple(AgentId(f"SHA256:{name}") for name in ("one", "two", "three"))
LOST_AFTER_MS = 20_000
ACTIONS = 250
_REST_MAX = 6_000


@dataclass
class Journal:
    """What one agent knows about attempts, whatever happens to daemons."""

    running: dict[TaskId, orders.TaskOrder] = field(default_factory=dict)
    reports: dict[TaskId, inputs.TaskFinished] = field(default_factory=dict)
    cancelled: set[TaskId] = field(default_factory=set)
    is_away: bool = False


@dataclass
class RunSimulation:
    """Everything of one simulation."""

    seed: int
    tell: Callable[[str], None] | None = None
    updates: list[Update] = field(default_factory=list)
    #: How often something was done, and how often runs ended how, by name.
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.cluster = Cluster(now=NOW)
        self.cluster.on_task = self._recorded
        self.journals = {agent: Journal() for agent in AGENTS}
        self.daemons = [self._new_daemon(), self._new_daemon()]
        self.runs: dict[str, bytes] = {}
        #: Who started which attempt: one agent, under one lease.
        self.starts: dict[AttemptId, TaskId] = {}
        #: Runs that an operator has reset: their attempts may be made again.
        self.resets: set[str] = set()
        self._count = 0

    # Actions ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts a run."""
        run = ids.run_id(NOW, len(self.runs) + 1)
        compiled = plans.make(self.chance, len(self.runs), GROUPS)
        subject = plan.encode(compiled)
        trigger = Trigger(kind=TriggerKind.CLI, by="uid:0", principal="uid:0")
        request = inputs.StartRun(
            plan_hash="h", number=7, trigger=trigger, repository=None, revision=None, inputs={}, vars={}
        )
        begin = messages.Begin(
            subject=subject,
            inputs=[messages.SignalReceived(number=1, content=orders.INPUTS.pack(request))],
            number=1,
        )
        stream = f"{run_turns.PREFIX}{run}"
        self.runs[stream] = subject
        self.cluster.start(stream, payload(begin))

    def act(self) -> None:
        """Something happens."""
        actions: list[tuple[Callable[[], None], float]] = [
            (self._work, 55),
            (self._gateway, 35),
            (self._advance, 8),
            (self._away, 1),
            (self._heartbeat, 2),
            (self._kill, 1.5),
            (self._evict, 2),
            (self._request, 0.15),
            (self._retry, 1),
            (self._reset, 0.1),
            (self._operator, 0.05),
        ]
        [action] = self.chance.choices([action for action, _ in actions], [weight for _, weight in actions])
        self.done[action.__name__.removeprefix("_")] += 1
        action()

    def _work(self) -> None:
        daemon = self.chance.choice(self.daemons)
        if daemon.is_busy:
            daemon.step()
        elif waiting := [execution for execution in self.cluster.open() if execution.has_task]:
            execution = self.chance.choice(waiting)
            taker = self._daemon_for(execution)
            if not taker.is_busy:
                self._note(f"a daemon takes a task of {execution.run_id}")
                taker.take(execution)

    def _daemon_for(self, execution: Execution) -> Daemon:
        if self.chance.random() < 0.8:
            for daemon in self.daemons:
                if daemon.has(execution):
                    return daemon
        return self.chance.choice(self.daemons)

    def _gateway(self) -> None:
        if activities := self.cluster.activities():
            self._serve(self.chance.choice(activities))

    def _serve(self, activity: Activity) -> bool:
        """A step of an activity; False when there is none."""
        order: Any = orders.ORDERS.unpack(activity.command.arguments[0].data)
        if isinstance(order, orders.SlotOrder):
            return self._place(activity, order)
        journal = self.journals[order.agent]
        if journal.is_away:
            # The gateway gives its activities back.
            if activity.started_at:
                self.cluster.fail_activity(activity, application_failure("agent away"))
                return True
            return False
        if not activity.started_at:
            if activity.scheduled_at > self.cluster.now:
                return False
            self.cluster.begin_activity(activity)
        if isinstance(order, orders.TaskOrder):
            return self._attempt(activity, order, journal)
        if isinstance(order, orders.CancelOrder) and order.task in journal.running:
            journal.cancelled.add(order.task)
        self.cluster.complete_activity(activity, payload(b""))
        return True

    def _place(self, activity: Activity, order: orders.SlotOrder) -> bool:
        if not activity.started_at:
            if activity.scheduled_at > self.cluster.now:
                return False
            self.cluster.begin_activity(activity)
            return True
        attempt = order.attempt
        agent = order.agent or self.chance.choice(AGENTS)
        self._count += 1
        answer: inputs.Input = inputs.SlotGranted(
            job=attempt.job,
            step=attempt.step,
            attempt=attempt.number,
            epoch=self._count,
            agent=agent,
            agent_name=agent.removeprefix("SHA256:"),
            boot_id="boot",
            facts={},
        )
        if self.chance.random() < 0.03:
            answer = inputs.SlotDenied(
                job=attempt.job,
                step=attempt.step,
                attempt=attempt.number,
                reason=reason(ReasonCode.NO_SERVER_CONNECTED, "no server"),
            )
        self._note(f"{activity.execution.run_id}: {activity.id} -> {type(answer).__name__}")
        self.cluster.complete_activity(activity, payload(orders.INPUTS.pack(answer)))
        return True

    def _attempt(self, activity: Activity, order: orders.TaskOrder, journal: Journal) -> bool:
        task = order.draft.task.key
        if task not in journal.running and task not in journal.reports:
            self._start_attempt(activity, order, journal)
            return True
        if task in journal.running:
            value = self.chance.random()
            if value < 0.25 and task not in journal.cancelled:
                return True
            self._finish_attempt(task, order, journal, value)
        report = journal.reports[task]
        self._note(f"{activity.execution.run_id}: {activity.id} -> {report.outcome}")
        self.cluster.complete_activity(activity, payload(orders.INPUTS.pack(report)))
        return True

    def _start_attempt(self, activity: Activity, order: orders.TaskOrder, journal: Journal) -> None:
        task = order.draft.task.key
        self._note(f"{activity.execution.run_id}: {activity.id} starts")
        known = self.starts.setdefault(task.attempt, task)
        is_reset = activity.execution.workflow_id in self.resets
        _require(known == task or is_reset, f"{task.attempt} starts a second time, as {task} after {known}")
        _require(not order.is_started, f"{task.attempt} has started, and no agent knows")
        for other in self.journals.values():
            same = [each for each in other.running if _step(each) == _step(task) and each not in other.cancelled]
            _require(not same or is_reset or other is not journal, f"{task.attempt} starts beside {same}")
        attempt = self.run(activity.execution).attempt(task.attempt.job, task.attempt.step, task.attempt.number)
        _require(attempt is not None, f"{task.attempt} starts, and was never recorded")
        journal.running[task] = order

    def _finish_attempt(self, task: TaskId, order: orders.TaskOrder, journal: Journal, value: float) -> None:
        outcome = Outcome.SUCCESS if value < 0.8 else Outcome.FAILURE
        if task in journal.cancelled:
            outcome = Outcome.CANCELLED
        del journal.running[task]
        journal.reports[task] = inputs.TaskFinished(
            job=task.attempt.job,
            step=task.attempt.step,
            attempt=task.attempt.number,
            epoch=task.epoch,
            agent=order.agent,
            outcome=outcome,
            exit_code=0 if outcome is Outcome.SUCCESS else 1,
            started_at=self.cluster.now,
            finished_at=self.cluster.now,
        )

    def _advance(self) -> None:
        self.cluster.advance(self.chance.choice([1, 1, 50, 50, 500, 3_000]))

    def _away(self) -> None:
        journal = self.chance.choice(list(self.journals.values()))
        journal.is_away = not journal.is_away

    def _heartbeat(self) -> None:
        daemon = self.chance.choice(self.daemons)
        if daemon.is_busy:
            daemon.heartbeat()

    def _kill(self) -> None:
        index = self.chance.randrange(len(self.daemons))
        self._note(f"daemon {index} is killed")
        self.daemons[index].kill()
        self.daemons[index] = self._new_daemon()

    def _evict(self) -> None:
        daemon = self.chance.choice(self.daemons)
        if instances := daemon.evictable():
            daemon.evict(self.chance.choice(instances))

    def _request(self) -> None:
        stream = self.chance.choice(list(self.runs))
        request = inputs.CancelRun(by="uid:0", is_forced=self.chance.random() < 0.3)
        self._count += 1
        self._note(f"request to cancel {stream}")
        update = self.cluster.update(stream, f"update-{self._count}", payload(orders.INPUTS.pack(request)))
        if update is not None:
            self.updates.append(update)

    def _operator(self) -> None:
        self.cluster.cancel(self.chance.choice(list(self.runs)), "an operator")

    def _retry(self) -> None:
        self.cluster.signal(self.chance.choice(list(self.runs)), messages.RETRY_SIGNAL)

    def _reset(self) -> None:
        if executions := [execution for execution in self.cluster.open() if execution.tasks]:
            execution = self.chance.choice(executions)
            task = self.chance.randrange(len(execution.tasks))
            self._note(f"reset {execution.run_id} to {task}")
            self.resets.add(execution.workflow_id)
            self.cluster.reset(execution, task)

    # The end ----------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Faults end; agents report, timers fire, and every run ends."""
        for journal in self.journals.values():
            journal.is_away = False
        for _ in range(_REST_MAX):
            if not self._settle():
                break
        else:
            raise Violation(f"no rest: {[_what_is_open(execution) for execution in self.cluster.open()]}")
        for stream, executions in self.cluster.streams.items():
            newest = executions[-1]
            _require(newest.status is Status.COMPLETED, f"{stream} has not ended: {_what_is_open(newest)}")
            run = self.run(newest)
            _require(run.is_completed, f"{stream} ended before its run")
            assert newest.result is not None
            row = run_turns.ROWS.unpack(newest.result.data)
            self.done[str(run.conclusion)] += 1
            _require(row.conclusion is run.conclusion, f"{stream} ended with another conclusion")
        for update in self.updates:
            _require(not update.is_open, f"{update.id} has no answer")

    def _settle(self) -> bool:
        for daemon in self.daemons:
            if daemon.is_busy:
                daemon.step()
                return True
        for execution in self.cluster.open():
            if execution.has_task:
                self._daemon_for(execution).take(execution)
                return True
        for activity in self.cluster.activities():
            if self._serve(activity):
                return True
        for execution in self.cluster.open():
            if messages.STALLED_ATTRIBUTE in execution.attributes and execution.started is None:
                return self.cluster.signal(execution.workflow_id, messages.RETRY_SIGNAL)
        if not self.cluster.open():
            return False
        due = self.cluster.next_at()
        self.cluster.advance(max(0, due - self.cluster.now) if due is not None else 30_000)
        return due is not None or bool(self.cluster.activities())

    def run(self, execution: Execution) -> Run:
        """A run, folded from what is recorded."""
        stream = execution.workflow_id
        known = [run_turns.FACTS.unpack(stream, fact).event for fact in checks.facts(execution)]
        return fold(RunId(stream.removeprefix(run_turns.PREFIX)), plan.decode(self.runs[stream]), known)

    def _recorded(self, execution: Execution, task: Task) -> None:
        """A stall of a run is an error of the engine, except after a reset."""
        for entry in task.entries:
            if isinstance(entry, bytes) and messages.STALLED_ATTRIBUTE.encode() in entry:
                fields = WorkflowCommand.FromString(entry).upsert_workflow_search_attributes.search_attributes
                code = fields.indexed_fields[messages.STALLED_ATTRIBUTE].data.decode()
                known = ("", "null", "[]", f'"{messages.RESET}"')
                _require(code in known, f"{execution.workflow_id} stalls: {code}")

    def _new_daemon(self) -> Daemon:
        registry = Registry()
        for agent in AGENTS:
            registry.apply(
                fleet_events.AgentApproved(
                    at=NOW, agent=agent, name=agent, groups=GROUPS, public_key="k", machine_id=agent, by="t"
                )
            )
        turns = RunTurns(registry, Placement(registry), AccessPolicy(), lost_after_ms=LOST_AFTER_MS, terms=TERMS)
        return Daemon(self.cluster, turns)

    def _note(self, text: str) -> None:
        if self.tell is not None:
            self.tell(f"{self.cluster.now - NOW} {text}")


def simulate_runs(seed: int, actions: int = ACTIONS, tell: Callable[[str], None] | None = None) -> RunSimulation:
    """One simulation. Raises `Violation`, with the seed, when something happened that must never happen."""
    simulation = RunSimulation(seed, tell)
    with low_limits():
        try:
            for _ in range(2):
                simulation.start()
            for _ in range(actions):
                simulation.act()
            simulation.rest()
        except Exception as error:
            error.add_note(f"python -m tests.twin --runs --seed {seed}")
            raise
        finally:
            for daemon in simulation.daemons:
                daemon.kill()
    return simulation


def _step(task: TaskId) -> tuple[str, str, str]:
    return task.attempt.run, task.attempt.job, task.attempt.step


def _what_is_open(execution: Execution) -> str:
    return (
        f"activities {list(execution.activities)}, timers {execution.timers}, attributes {dict(execution.attributes)}"
    )


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise Violation(text)
