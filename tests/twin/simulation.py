"""Daemons, agents, senders and operators around one cluster. What they do, and in which order, follows from a seed.

The engine is the small one of `tests/integration/temporal/toy_engine.py`: an input names the commands that answer it. Limits of
the shell are low, so that few inputs reach them.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from temporalio.api.common.v1 import Payload

from tests.integration.temporal.toy_engine import ToyEngine, content, facts_of, outstanding
from tests.twin import checks
from tests.twin.checks import Observer
from tests.twin.cluster import Activity, Cluster, Execution, Update
from tests.twin.core import CONVERTER, Violation, application_failure
from tests.twin.daemon import Daemon
from waterflow_agent.errors import Stalled
from waterflowd.temporal.workflow import messages, shell

#: Low limits. The shell reads them when it needs them.
LIMITS = {"INPUTS_MAX": 4, "TASK_MAX": 5, "OPEN_MAX": 8, "HISTORY_EVENTS_MAX": 60, "HISTORY_BYTES_MAX": 60_000}
STREAMS = ("run/1", "run/2", "lock/a")
#: How many things happen, before faults end and everything must come to rest.
ACTIONS = 120
#: How many steps the rest may take; far more than any stream needs.
_REST_MAX = 4_000


def payload(value: object) -> Payload:
    """The payload of a value."""
    [made] = CONVERTER.payload_converter.to_payloads([value])
    return made


class Engine(ToyEngine):
    """The small engine, which may take only some of its inputs, or fail."""

    def __init__(self, name: str, chance: random.Random, observer: Observer) -> None:
        super().__init__(name)
        self._chance, self._observer = chance, observer
        self.error_rate = 0.0

    async def __call__(self, request: messages.TurnRequest) -> messages.TurnResult:
        """A turn."""
        self._observer.asked(request)
        if self._chance.random() < self.error_rate:
            raise self._chance.choice([KeyError("state"), Stalled("WF305", "the plan is missing")])
        if request.inputs and self._chance.random() < 0.2:
            count = self._chance.randint(1, len(request.inputs))
            some = sorted(self._chance.sample(range(len(request.inputs)), count))
            request = msgspec.structs.replace(request, inputs=[request.inputs[index] for index in some])
        self.requests.clear()
        result = await super().__call__(request)
        if not result.is_cold:
            known = self._memory[request.stream]
            self._observer.based_on(request, known[: request.seq])
            if self._chance.random() < 0.1:
                # Allowed at any time: what is in flight changes nothing.
                again = outstanding(facts_of(known))
                result = msgspec.structs.replace(result, commands=[*result.commands, *again])
        return result


@dataclass
class Simulation:
    """Everything of one simulation."""

    seed: int
    #: Gets each line of the trace.
    tell: Callable[[str], None] | None = None
    trace: list[str] = field(default_factory=list)
    updates: list[tuple[str, Update]] = field(default_factory=list)
    #: How often something was done, by name.
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.cluster = Cluster()
        self.observer = Observer(self.cluster)
        self.cluster.on_task = self.observer.recorded
        self._is_single_batch = self.chance.random() < 0.3
        self._count = 0
        self._engines: list[Engine] = []
        self.daemons = [self._new_daemon(), self._new_daemon()]
        self._unfinished: list[str] = []

    # Actions ----------------------------------------------------------------------------------------------------------

    def act(self) -> None:
        """Something happens."""
        actions = self._actions()
        [action] = self.chance.choices([action for action, _ in actions], [weight for _, weight in actions])
        self.done[action.__name__.removeprefix("_")] += 1
        action()

    def _actions(self) -> list[tuple[Callable[[], None], float]]:
        return [
            (self._work, 60),
            (self._send, 14),
            (self._agent, 16),
            (self._deliver, 5),
            (self._advance, 6),
            (self._request, 3),
            (self._heartbeat, 4),
            (self._kill, 1.5),
            (self._evict, 2),
            (self._set_errors, 0.7),
            (self._retry, 1.5),
            (self._cancel, 0.4),
            (self._disturb, 0.7),
            (self._reset, 0.15),
        ]

    def _work(self) -> None:
        index = self.chance.randrange(len(self.daemons))
        daemon = self.daemons[index]
        if daemon.is_busy:
            daemon.step()
        elif waiting := [execution for execution in self.cluster.open() if execution.has_task]:
            execution = self.chance.choice(waiting)
            daemon = self._daemon_for(execution)
            if daemon.is_busy:
                return
            self._note(f"a daemon takes a task of {execution.workflow_id} {execution.run_id}")
            daemon.take(execution)

    def _daemon_for(self, execution: Execution) -> Daemon:
        """Mostly the one that has the instance in memory, as with the real server."""
        if self.chance.random() < 0.8:
            for daemon in self.daemons:
                if daemon.has(execution):
                    return daemon
        return self.chance.choice(self.daemons)

    def _send(self) -> None:
        stream = self._stream()
        for _ in range(self.chance.choice([1, 1, 1, 2, 6])):
            commands = self._commands()
            self._note(f"signal to {stream}: {_short(commands)}")
            self.cluster.signal(stream, messages.INPUT_SIGNAL, payload(content(*commands)))

    def _request(self) -> None:
        stream = self._stream()
        identifier = f"update-{self._next()}"
        commands = self._commands()
        self._note(f"{identifier} to {stream}: {_short(commands)}")
        if (update := self.cluster.update(stream, identifier, payload(content(*commands)))) is not None:
            self.updates.append((stream, update))

    def _agent(self) -> None:
        if not (activities := self.cluster.activities()):
            return
        activity = self.chance.choice(activities)
        # In its backoff, no worker gets it.
        if not activity.started_at:
            if activity.scheduled_at <= self.cluster.now:
                self.observer.started(activity)
                self.cluster.begin_activity(activity)
            return
        self._end(activity, self.chance.random())

    def _end(self, activity: Activity, value: float) -> None:
        self._note(f"{activity.execution.workflow_id}: {activity.id} ends ({value:.2f})")
        if activity.is_cancel_requested and value < 0.5:
            self.cluster.end_cancelled(activity)
        elif value < 0.7:
            self.cluster.complete_activity(activity, payload(f"result of {activity.id}".encode()))
        elif value < 0.75:
            self.cluster.complete_activity(activity, _refused())
        elif value < 0.85:
            self.cluster.fail_activity(activity, application_failure("broken", "WF999"))
        elif value < 0.9:
            self.cluster.fail_activity(activity, application_failure("broken", "WF998", is_final=True))

    def _deliver(self) -> None:
        if sending := [execution for execution in self.cluster.open() if execution.signals]:
            execution = self.chance.choice(sending)
            self.cluster.deliver(execution, self.chance.choice(list(execution.signals)))

    def _advance(self) -> None:
        self.cluster.advance(self.chance.choice([1, 50, 500, 3_000, 20_000]))

    def _heartbeat(self) -> None:
        daemon = self.chance.choice(self.daemons)
        if daemon.is_busy and daemon.heartbeat() and self.chance.random() < 0.5:
            self._send()

    def _kill(self) -> None:
        index = self.chance.randrange(len(self.daemons))
        self._note(f"daemon {index} is killed")
        self.daemons[index].kill()
        self.daemons[index] = self._new_daemon()

    def _evict(self) -> None:
        daemon = self.chance.choice(self.daemons)
        if instances := daemon.evictable():
            daemon.evict(self.chance.choice(instances))

    def _set_errors(self) -> None:
        rate = self.chance.choice([0.0, 0.3, 0.9])
        for engine in self._engines:
            engine.error_rate = rate

    def _retry(self) -> None:
        self.cluster.signal(self._stream(), messages.RETRY_SIGNAL)

    def _cancel(self) -> None:
        stream = self._stream()
        self._note(f"cancel {stream}")
        if self.cluster.cancel(stream, "an operator"):
            self.observer.cancelled.add(stream)

    def _disturb(self) -> None:
        """Somebody without the keys, or of a newer release."""
        name = self.chance.choice([messages.INPUT_SIGNAL, "a-signal-of-another-name"])
        if self.chance.random() < 0.5:
            self.cluster.signal(self._stream(), name, _refused())
        elif (update := self.cluster.update(stream := self._stream(), f"bad-{self._next()}", _refused())) is not None:
            self.updates.append((stream, update))

    def _reset(self) -> None:
        executions = [execution for execution in self.cluster.open() if execution.tasks]
        if executions:
            execution = self.chance.choice(executions)
            task = self.chance.randrange(len(execution.tasks))
            self._note(f"reset {execution.workflow_id} {execution.run_id} to {task}")
            self.observer.resets.add(execution.workflow_id)
            self.cluster.reset(execution, task)

    # The end --------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Faults end, agents answer, time passes, and nothing remains to be done."""
        for engine in self._engines:
            engine.error_rate = 0.0
        for _ in range(_REST_MAX):
            if not self._settle():
                break
        else:
            raise Violation(
                f"no rest after {_REST_MAX} steps: {[_open(execution) for execution in self.cluster.open()]}"
            )

    def _settle(self) -> bool:
        """A step towards rest; False when there is none left."""
        for daemon in self.daemons:
            if daemon.is_busy:
                daemon.step()
                return True
        executions = self.cluster.open()
        for execution in executions:
            if execution.has_task:
                self._daemon_for(execution).take(execution)
                return True
        for execution in executions:
            if execution.signals:
                self.cluster.deliver(execution, next(iter(execution.signals)))
                return True
        for activity in self.cluster.activities():
            if activity.started_at:
                self._end(activity, 0.0 if activity.is_cancel_requested else 0.6)
                return True
            if activity.scheduled_at <= self.cluster.now:
                self.observer.started(activity)
                self.cluster.begin_activity(activity)
                return True
        if (due := self.cluster.next_at()) is not None or self.cluster.activities():
            self.cluster.advance(max(0, due - self.cluster.now) if due is not None else 30_000)
            return True
        for execution in executions:
            if messages.STALLED_ATTRIBUTE in execution.attributes:
                return self.cluster.signal(execution.workflow_id, messages.RETRY_SIGNAL)
        return False

    def finish(self) -> None:
        """Every stream gets its last input, and ends."""
        for execution in self.cluster.open():
            done = content(self._mark(), messages.Complete(content=b"done"))
            self.cluster.signal(execution.workflow_id, messages.INPUT_SIGNAL, payload(done))
        self.rest()
        if running := [execution.workflow_id for execution in self.cluster.open()]:
            raise Violation(f"streams have not ended: {running}")

    # Contents -------------------------------------------------------------------------------------------------------

    def _commands(self) -> list[messages.AnyCommand]:
        made: list[messages.AnyCommand] = [self._mark()]
        for _ in range(self.chance.choice([0, 1, 1, 2, 3])):
            made += self._some()
        return made

    def _some(self) -> list[messages.AnyCommand]:
        number = self._next()
        kind = self.chance.random()
        if kind < 0.25:
            due_at = self.cluster.now + self.chance.choice([-5, 0, 40, 900, 15_000])
            self._unfinished.append(f"t{number}")
            return [messages.StartTimer(id=f"t{number}", due_at=due_at)]
        if kind < 0.55:
            return [self._activity() for _ in range(self.chance.choice([1, 1, 2, 12]))]
        if kind < 0.7:
            return [self._signal() for _ in range(self.chance.choice([1, 1, 3, 9]))]
        if kind < 0.85 and self._unfinished:
            identifier = self.chance.choice(self._unfinished)
            kinds = messages.CancelTimer if identifier.startswith("t") else messages.CancelActivity
            return [kinds(id=identifier)]
        if kind < 0.9:
            return [messages.SetAttributes(values={"WaterflowStatus": "running", "WaterflowNumber": number})]
        if kind < 0.97:
            return [messages.SetMemo(name="row", content=b"row")]
        return [messages.Complete(content=b"early")] if self.chance.random() < 0.3 else []

    def _activity(self) -> messages.ScheduleActivity:
        identifier = f"a{self._next()}"
        self._unfinished.append(identifier)
        return messages.ScheduleActivity(
            id=identifier,
            name="attempt",
            queue="agents",
            content=b"task",
            start_to_close_ms=self.chance.choice([0, 30_000]),
            schedule_to_start_ms=self.chance.choice([0, 0, 2_000]),
            heartbeat_ms=self.chance.choice([0, 1_000]),
            attempts_max=self.chance.choice([0, 1, 3]),
            summary=self.chance.choice(["", "a step"]),
        )

    def _signal(self) -> messages.SendSignal:
        target = self.chance.choice([*STREAMS, "run/none"])
        return messages.SendSignal(id=f"s{self._next()}", workflow_id=target, content=content(self._mark()))

    def _mark(self) -> messages.CancelTimer:
        """Makes a content unique; the shell has nothing to do for it."""
        return messages.CancelTimer(id=f"mark-{self._next()}")

    def _stream(self) -> str:
        return self.chance.choice(STREAMS)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _new_daemon(self) -> Daemon:
        engine = Engine(f"engine-{self._next()}", self.chance, self.observer)
        daemon = Daemon(self.cluster, engine, is_single_batch=self._is_single_batch)
        self._engines.append(engine)
        return daemon

    def _note(self, text: str) -> None:
        line = f"{self.cluster.now} {text}"
        self.trace.append(line)
        if self.tell is not None:
            self.tell(line)


class Simulated(Protocol):
    """A simulation that has ended."""

    cluster: Cluster
    done: Counter[str]


@dataclass
class Totals:
    """What happened in several simulations."""

    tasks: int = 0
    executions: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def add(self, simulation: Simulated) -> None:
        """Adds one simulation."""
        executions = [execution for each in simulation.cluster.streams.values() for execution in each]
        self.tasks += sum(len(execution.tasks) for execution in executions)
        self.executions += len(executions)
        self.done += simulation.done

    def __str__(self) -> str:
        done = ", ".join(f"{name} {count}" for name, count in sorted(self.done.items()))
        return f"{self.tasks} recorded tasks, {self.executions} executions ({done})"


def simulate(seed: int, actions: int = ACTIONS, tell: Callable[[str], None] | None = None) -> Simulation:
    """One simulation. Raises `Violation`, with the seed, when something happened that must never happen."""
    simulation = Simulation(seed, tell)
    with low_limits():
        try:
            for stream in STREAMS:
                simulation.cluster.start(stream, payload(messages.Begin(subject=stream.encode())))
            for _ in range(actions):
                simulation.act()
            simulation.rest()
            checks.at_rest(simulation.cluster, simulation.observer, simulation.updates)
            simulation.finish()
            checks.at_the_end(simulation.cluster, simulation.observer, simulation.updates)
        except Exception as error:
            error.add_note(f"python -m tests.twin --seed {seed}")
            raise
        finally:
            for daemon in simulation.daemons:
                daemon.kill()
    return simulation


def hunt(seeds: int = 500) -> None:
    """Simulates until something happens that must never happen: raises it."""
    for seed in range(seeds):
        simulate(seed)


@contextlib.contextmanager
def low_limits() -> Iterator[None]:
    """Sets the shell's limits."""
    before = {name: getattr(shell, name) for name in LIMITS}
    try:
        for name, value in LIMITS.items():
            setattr(shell, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(shell, name, value)


def _refused() -> Payload:
    return Payload(metadata={"encoding": messages.REFUSED}, data=b"it is not sealed")


def _short(commands: list[messages.AnyCommand]) -> str:
    return ", ".join(f"{type(command).__name__} {getattr(command, 'id', '')}".strip() for command in commands)


def _open(execution: Execution) -> str:
    return f"{execution.workflow_id}: {len(execution.activities)} activities, {len(execution.timers)} timers"
