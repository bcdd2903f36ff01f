"""Several streams that send signals to each other, with the real turns: an order of events is chosen by chance.

It stands for the shell and for Temporal as far as locks and child runs are concerned: everything may be delivered late, in
another order and, where Temporal repeats, more than once. Daemons forget what they had in memory, streams continue as new
executions, and runs are terminated.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.lease_terms import TERMS
from waterflow_agent.errors import Rejected
from waterflowd.access.policy import AccessPolicy
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, events, fold, inputs
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.host import child_runs
from waterflowd.model import ids, plan
from waterflowd.model.ids import AgentId, JobId, RunId
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders, run_turns
from waterflowd.temporal.coordination import lock_turns
from waterflowd.temporal.coordination.lock_turns import LockTurns
from waterflowd.temporal.run_turns import RunTurns
from waterflowd.temporal.workflow import messages

NOW = 1_700_000_000_000
AGENT = AgentId("SHA256:one")
#: How often an activity may be repeated by chance.
REPEATS_MAX = 3


@dataclass
class Stream:
    """A stream as its shell has it."""

    name: str
    subject: bytes = b""
    facts: list[bytes] = field(default_factory=list)
    inputs: list[messages.AnyInput] = field(default_factory=list)
    state: bytes = b""
    number: int = 0
    has_begun: bool = False
    is_open: bool = True
    #: It ends when its signals have been sent, unless it has got inputs until then.
    is_ending: bool = False
    timers: dict[str, int] = field(default_factory=dict)
    activities: dict[str, messages.ScheduleActivity] = field(default_factory=dict)

    def receive(self, item: messages.AnyInput) -> None:
        self.number += 1
        self.inputs.append(msgspec.structs.replace(item, number=self.number))


class Streams:
    """All streams, and what is on its way. `chance` chooses what happens next; without it everything is in order."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self.chance = chance
        self.now = NOW
        self.all: dict[str, Stream] = {}
        #: Signals on their way: who sends, what, and to whom.
        self.signals: list[tuple[str, messages.SendSignal]] = []
        self.finish: Callable[[RunId], bool] = lambda run: True
        #: Workflow files that runs of a repository can start as child runs.
        self.files: dict[str, str] = {}
        self.engines: dict[str, messages.Turn] = {}
        #: Called after every turn.
        self.check: Callable[[], None] = lambda: None
        self.restart()

    def restart(self) -> None:
        """Another daemon takes over: nothing is in memory."""
        registry = Registry()
        runs = RunTurns(registry, Placement(registry), AccessPolicy(), lost_after_ms=600_000, terms=TERMS)
        self.engines = {run_turns.PREFIX: runs, lock_turns.PREFIX: LockTurns()}

    # Runs -------------------------------------------------------------------------------------------------------------

    def start(self, workflow: str, repository: str | None = None) -> RunId:
        """Starts a run."""
        self.now += 1
        run = ids.run_id(self.now, len(self.all))
        trigger = Trigger(kind=TriggerKind.CLI, by="uid:0", principal="ann", scope=("web",))
        revision = None if repository is None else "f" * 40
        request = StartRequest(
            plan=self.compiled("w.yml", workflow), trigger=trigger, repository=repository, revision=revision
        )
        self._start(run, request)
        return run

    def compiled(self, path: str, workflow: str) -> bytes:
        """The plan of a workflow; other files of its repository are `files`."""
        files = {path: content.encode() for path, content in self.files.items()}
        found = compile_workflow(path, workflow.encode(), files)
        assert found.plan is not None, found.diagnostics
        return found.plan

    def _start(self, run: RunId, request: StartRequest) -> None:
        """Starts a run, unless its id is taken."""
        if f"run/{run}" in self.all:
            return
        stream = self.all[f"run/{run}"] = Stream(f"run/{run}", subject=request.plan)
        begin = inputs.StartRun(
            plan_hash="h",
            number=len(self.all),
            trigger=request.trigger,
            repository=request.repository,
            revision=request.revision,
            inputs=request.inputs,
            vars={},
        )
        stream.receive(messages.SignalReceived(number=0, content=orders.INPUTS.pack(begin)))

    def run(self, run: RunId) -> Run:
        """The state of a run, by its facts."""
        stream = self.all[f"run/{run}"]
        history = [run_turns.FACTS.unpack(stream.name, fact).event for fact in stream.facts]
        return fold(run, plan.decode(stream.subject), history)

    def events(self, run: RunId) -> list[events.RunEvent]:
        stream = self.all[f"run/{run}"]
        return [run_turns.FACTS.unpack(stream.name, fact).event for fact in stream.facts]

    def tell(self, run: RunId, item: inputs.Input) -> None:
        """Sends a run an input."""
        self.all[f"run/{run}"].receive(messages.SignalReceived(number=0, content=orders.INPUTS.pack(item)))

    def terminate(self, stream: str) -> None:
        """An operator ends a stream with Temporal's own tools: no turn hears of it."""
        self._end(self.all[stream])

    def _end(self, stream: Stream) -> None:
        stream.is_open = False
        stream.timers.clear()
        stream.activities.clear()

    # What happens -----------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Until only timers are left, and activities that `finish` keeps open."""
        while choices := self._choices():
            await (choices[0] if self.chance is None else self.chance.choice(choices))()

    async def one(self) -> bool:
        """One event; whether there was one."""
        choices = self._choices()
        if choices:
            await (choices[0] if self.chance is None else self.chance.choice(choices))()
        return bool(choices)

    async def advance(self, duration_ms: int) -> None:
        """Time goes by, with everything that is due."""
        until = self.now + duration_ms
        while True:
            await self.settle()
            due = [due_at for stream in self.all.values() for due_at in stream.timers.values() if due_at <= until]
            if not due:
                break
            self.now = max(self.now, min(due))
            for stream in self.all.values():
                for name in [name for name, due_at in stream.timers.items() if due_at <= self.now]:
                    del stream.timers[name]
                    stream.receive(messages.TimerFired(number=0, id=name))
        self.now = until

    def _choices(self) -> list[Callable[[], Any]]:
        for stream in self.all.values():
            if stream.is_ending and not any(sender == stream.name for sender, _ in self.signals):
                stream.is_ending = False
                if not stream.inputs:
                    self._end(stream)
        found: list[Callable[[], Any]] = []
        for stream in self.all.values():
            if stream.is_open and not stream.is_ending and (stream.inputs or not stream.has_begun):
                found.append(functools.partial(self._turn, stream))
        for index in range(len(self.signals)):
            found.append(functools.partial(self._deliver, index))
        for stream in self.all.values():
            for command in stream.activities.values():
                if self._may_end(command):
                    found.append(functools.partial(self._carry_out, stream, command))
        return found

    def _may_end(self, command: messages.ScheduleActivity) -> bool:
        if command.name != orders.ATTEMPT:
            return True
        order = orders.ORDERS.unpack(command.content)
        return self.finish(order.draft.task.key.attempt.run)

    async def _turn(self, stream: Stream) -> None:
        self.now += 1
        count = len(stream.inputs) if self.chance is None else self.chance.randint(1, max(1, len(stream.inputs)))
        engine = next(engine for prefix, engine in self.engines.items() if stream.name.startswith(prefix))
        past = messages.Past(subject=stream.subject, facts=list(stream.facts))
        request = messages.TurnRequest(
            stream=stream.name,
            seq=len(stream.facts),
            now=self.now,
            inputs=stream.inputs[:count],
            begins=not stream.has_begun,
            past=None if stream.has_begun else past,
            state=stream.state,
        )
        if self.chance is not None and stream.has_begun and self.chance.random() < 0.2:
            # The result of a turn is lost, although the daemon counts on it in its memory.
            await engine(msgspec.structs.replace(request, inputs=request.inputs[:1]))
        result = await engine(request)
        if result.is_cold:
            result = await engine(msgspec.structs.replace(request, past=past))
        assert result.seq == len(result.facts) + (0 if result.is_snapshot else request.seq)
        stream.has_begun, stream.state, stream.is_ending = True, result.state, False
        stream.facts = [*([] if result.is_snapshot else stream.facts), *result.facts]
        stream.inputs = [item for item in stream.inputs if item.number not in result.taken]
        for command in result.commands:
            self._issue(stream, command)
        self.check()

    def _issue(self, stream: Stream, command: messages.AnyCommand) -> None:
        match command:
            case messages.StartTimer():
                stream.timers.setdefault(command.id, command.due_at)
            case messages.CancelTimer():
                stream.timers.pop(command.id, None)
            case messages.ScheduleActivity():
                stream.activities.setdefault(command.id, command)
            case messages.CancelActivity():
                gone = stream.activities.pop(command.id, None)
                # It may be on its way to the daemon already.
                if gone is not None and self.chance is not None and self.chance.random() < 0.5:
                    self._effect(stream, gone)
            case messages.SendSignal():
                self.signals.append((stream.name, command))
            case messages.Complete():
                stream.is_ending = True
            case _:
                pass

    async def _deliver(self, index: int) -> None:
        sender, command = self.signals.pop(index)
        target = self.all.get(command.workflow_id)
        if target is not None and target.is_open:
            target.receive(messages.SignalReceived(number=0, content=command.content))
        elif self.all[sender].is_open:
            self.all[sender].receive(messages.SignalNotDelivered(number=0, id=command.id, text="not found"))

    async def _carry_out(self, stream: Stream, command: messages.ScheduleActivity) -> None:
        times = 1 if self.chance is None else self.chance.randint(1, REPEATS_MAX)
        content = b""
        for _ in range(times):
            content = self._effect(stream, command)
        if self.chance is not None and self.chance.random() < 0.2:
            # The daemon died before it could report.
            return
        del stream.activities[command.id]
        stream.receive(messages.ActivityCompleted(number=0, id=command.id, content=content))

    def _effect(self, stream: Stream, command: messages.ScheduleActivity) -> bytes:
        order = orders.ORDERS.unpack(command.content)
        match order:
            case orders.SlotOrder(attempt=attempt):
                granted = inputs.SlotGranted(
                    job=attempt.job,
                    step=attempt.step,
                    attempt=attempt.number,
                    epoch=1,
                    agent=AGENT,
                    agent_name="web-1",
                    boot_id="boot",
                    facts={},
                )
                return orders.INPUTS.pack(granted)
            case orders.TaskOrder():
                name = order.draft.task.key.attempt
                outcome = Outcome.CANCELLED if f"cancel/{name.job}/1/1" in stream.activities else Outcome.SUCCESS
                finished = inputs.TaskFinished(
                    job=JobId(name.job),
                    step=name.step,
                    attempt=name.number,
                    epoch=1,
                    agent=AGENT,
                    outcome=outcome,
                    started_at=self.now,
                    finished_at=self.now,
                )
                return orders.INPUTS.pack(finished)
            case orders.LockOrder(request=request):
                self._signal_with_start(orders.lock_stream(request.repository, request.group), command.content)
            case orders.UnlockOrder():
                lock = self.all.get(orders.lock_stream(order.repository, order.group))
                if lock is not None and lock.is_open:
                    lock.receive(messages.SignalReceived(number=0, content=command.content))
            case orders.LookOrder(runs=runs):
                ended = tuple(run for run in runs if not self.all[f"run/{run}"].is_open)
                return orders.ORDERS.pack(orders.EndedRuns(runs=ended))
            case orders.ChildRunOrder():
                return self._start_child(stream, command, order)
            case orders.ChildLookOrder():
                return self._look_at_child(order)
        return b""

    def _start_child(self, parent: Stream, command: messages.ScheduleActivity, order: orders.ChildRunOrder) -> bytes:
        """As the activity does."""
        if order.path not in self.files:
            cause = child_runs.refusal(Rejected("WF135", f'no workflow file "{order.path}"'))
            return orders.INPUTS.pack(child_runs.not_started(order.attempt, cause, is_refused=True))
        compiled = self.compiled(order.path, self.files[order.path])
        self._start(order.child, child_runs.with_plan(order.request, compiled, order.arguments))
        if not parent.is_open or command.id not in parent.activities:
            self.tell(order.child, child_runs.cancel(order.attempt.run, is_forced=False))
        created = inputs.ChildRunCreated(
            job=order.attempt.job,
            step=order.attempt.step,
            attempt=order.attempt.number,
            run=order.child,
            name=order.path,
            number=1,
        )
        return orders.INPUTS.pack(created)

    def _look_at_child(self, order: orders.ChildLookOrder) -> bytes:
        stream = self.all[f"run/{order.child}"]
        if stream.is_open:
            return b""
        run = self.run(order.child)
        if run.is_completed:
            return orders.INPUTS.pack(child_runs.ended(order.attempt, run))
        return orders.INPUTS.pack(child_runs.terminated(order.attempt, order.child))

    def _signal_with_start(self, name: str, content: bytes) -> None:
        stream = self.all.get(name)
        if stream is None or not stream.is_open:
            stream = self.all[name] = Stream(name)
        stream.receive(messages.SignalReceived(number=0, content=content))

    def continue_as_new(self, stream: str) -> None:
        """The stream's next execution begins."""
        found = self.all[stream]
        found.has_begun, found.state = False, b""
        found.timers.clear()
        found.activities.clear()
