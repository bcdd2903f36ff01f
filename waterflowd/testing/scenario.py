"""Scenarios: a workflow and a script as text, and the trace of events and commands that results from them.

A scenario drives the real compiler, engine and placement, with a clock that moves only with `wait`. Script commands:

    connect NAME GROUP[,GROUP] [slots=N] [LABEL=VALUE ...]
                                           a server is enrolled and connects
    disconnect NAME                        its session ends
    start [INPUT=VALUE ...]                the run starts
    started JOB/STEP                       the agent reports the start
    finish JOB/STEP [OUTCOME] [exit=N] [out.NAME=VALUE] [env.NAME=VALUE]
    late JOB/STEP#N [OUTCOME]              a report of an older attempt arrives
    lost JOB/STEP                          the attempt is lost
    approve JOB[/STEP] NAME                NAME approves; `reject` likewise
    begun JOB/STEP RUN                     the step's child run exists
    refuse JOB/STEP TEXT                   the child run can never start; `delay` instead: it cannot start yet
    ended JOB/STEP CONCLUSION [out.NAME=VALUE]   the child run has ended
    cancel [force]
    wait DURATION                          time passes; due timers fire

The trace has a line per event (`*`) and per command for the outside (`!`). After each script command the fold of all events so
far is compared with the live run: a difference fails the scenario. So does an input or a command that does not survive being
stored.
"""

from __future__ import annotations

import shlex
import weakref
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

import msgspec

from waterflow_agent.nodes import schema
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, commands, events, fold, inputs, outstanding, step
from waterflowd.engine.rules import leases
from waterflowd.engine.state.blocks import Attempt, Block
from waterflowd.engine.state.blocks import Step as StepState
from waterflowd.engine.state.gates import Approval, Lock
from waterflowd.engine.state.runs import Children, Job, Scope
from waterflowd.fleet import events as fleet_events
from waterflowd.fleet.locks import Holder, LockRequest, Locks
from waterflowd.fleet.placement import Placement, Server, ServerListRequest, SlotRequest
from waterflowd.fleet.registry import Registry
from waterflowd.host.fleet_requests import lock_answer, servers_listed
from waterflowd.host.timers import Timers
from waterflowd.model import durations, plan
from waterflowd.model.codec import ValueCodec
from waterflowd.model.ids import AgentId, AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.inputs import check_start
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Reused, Trigger, TriggerKind
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome

RUN = RunId("01J00000000000000000000000")
_INPUTS = ValueCodec("input", inputs.RunInput)
_COMMANDS = ValueCodec("command", commands.RunCommand)
START_AT = 1_700_000_000_000


class Scenario:
    """Plays a script for one run."""

    def __init__(self, workflow: str, files: dict[str, str] | None = None) -> None:
        """`files` are the other files that the workflow uses, by their path from the repository's root."""
        others = {path: text.encode() for path, text in (files or {}).items()}
        compiled = compile_workflow("workflows/scenario.yml", workflow.encode(), others)
        if compiled.plan is None:
            raise ValueError(f"the workflow has errors: {compiled.diagnostics}")
        self.plan = plan.decode(compiled.plan)
        self.plan_hash = plan.content_hash(compiled.plan)
        self.run = Run(RUN, self.plan)
        self.registry = Registry()
        self.placement = Placement(self.registry)
        self.locks = Locks()
        self.timers = Timers()
        self.now = START_AT
        self.history: list[events.RunEvent] = []
        #: What the run reuses of an earlier run.
        self.reused: Reused | None = None
        #: Commands that are not settled yet, to be compared with `outstanding`.
        self.outstanding: dict[commands.Command, None] = {}
        self._lines: list[str] = []

    def play(self, script: str) -> str:
        """Runs the script; returns the trace."""
        for line in script.splitlines():
            words = shlex.split(line) if not line.startswith("#") else []
            if words:
                self._lines.append(f"> {line.strip()}")
                getattr(self, f"_do_{words[0]}")(words[1:])
                self._check()
        return "\n".join(self._lines) + "\n"

    # Commands ---------------------------------------------------------------------------------------------------------

    def _do_connect(self, words: list[str]) -> None:
        name, groups, *options = words
        labels = dict(option.split("=") for option in options)
        slots = int(labels.pop("slots", "4"))
        agent = AgentId(name)
        if agent not in self.registry.agents:
            approved = fleet_events.AgentApproved(
                at=self.now, by="scenario", agent=agent, public_key=name, name=name, groups=tuple(groups.split(","))
            )
            self.registry.apply(approved)
        known = {**schema.BUILT_IN, **schema.INTERNAL}
        nodes = frozenset(name for name, node in known.items() if node.runs_in is not schema.RunsIn.ENGINE)
        server = Server(
            agent=agent,
            instance=f"{name}-1",
            boot_id="boot-1",
            slots=slots,
            nodes=nodes,
            facts={"hostname": f"{name}.example", "labels": labels},
        )
        self.placement.connect(server)
        self._assign()

    def _do_disconnect(self, words: list[str]) -> None:
        self.placement.disconnect(AgentId(words[0]), self.now, "gone")
        self._assign()

    def _do_start(self, words: list[str]) -> None:
        first = check_start(self.plan.inputs, dict(word.split("=", 1) for word in words))
        self._feed(
            inputs.StartRun(
                plan_hash=self.plan_hash,
                number=1,
                trigger=Trigger(
                    kind=TriggerKind.CLI, by="uid:0", principal="uid:0", git={"sha": "0" * 40, "branch": "main"}
                ),
                repository=None,
                revision=None,
                inputs=first,
                vars={},
                reused=self.reused,
            )
        )

    def _do_started(self, words: list[str]) -> None:
        job, found, attempt = self._open(words[0])
        self._feed(
            inputs.TaskStarted(
                job=job.id,
                step=found.id,
                attempt=attempt.number,
                epoch=attempt.epoch,
                agent=_agent(attempt),
                started_at=self.now,
            )
        )

    def _do_finish(self, words: list[str]) -> None:
        job, found, attempt = self._open(words[0])
        self._feed(self._report(job, found, attempt, words[1:]))

    def _do_late(self, words: list[str]) -> None:
        part, _, number = words[0].partition("#")
        job, found = self._named(part)
        self._feed(self._report(job, found, found.attempts[int(number) - 1], words[1:]))

    def _report(self, job: Job, found: StepState, attempt: Attempt, words: list[str]) -> inputs.TaskFinished:
        outcome = Outcome(words[0]) if words and "=" not in words[0] else Outcome.SUCCESS
        pairs = dict(word.split("=", 1) for word in words if "=" in word)
        exit_code = int(pairs.pop("exit", "0" if outcome is Outcome.SUCCESS else "1"))
        return inputs.TaskFinished(
            job=job.id,
            step=found.id,
            attempt=attempt.number,
            epoch=attempt.epoch,
            agent=_agent(attempt),
            outcome=outcome,
            exit_code=exit_code,
            outputs={name[4:]: value for name, value in pairs.items() if name.startswith("out.")},
            env={name[4:]: value for name, value in pairs.items() if name.startswith("env.")},
            started_at=self.now,
            finished_at=self.now,
        )

    def _do_lost(self, words: list[str]) -> None:
        job, found, attempt = self._open(words[0])
        pending_reason = reason(
            ReasonCode.OUTCOME_UNKNOWN, f"server {attempt.agent_name} was rebooted while the step ran"
        )
        self._feed(
            inputs.TaskLost(
                job=job.id,
                step=found.id,
                attempt=attempt.number,
                epoch=attempt.epoch,
                agent=_agent(attempt),
                reason=pending_reason,
            )
        )

    def _do_approve(self, words: list[str]) -> None:
        self._decide(words, True)

    def _do_reject(self, words: list[str]) -> None:
        self._decide(words, False)

    def _decide(self, words: list[str], is_approved: bool) -> None:
        part, name = words
        job, step = (JobId(part), None) if JobId(part) in self.run.jobs_by_id else self._names(part)
        self._feed(inputs.DecideApproval(job=job, step=step, by=name, is_approved=is_approved))

    def _do_begun(self, words: list[str]) -> None:
        part = self._child_run_attempt(words[0])
        self._feed(inputs.ChildRunCreated(**part, run=RunId(words[1]), name="other", number=1))

    def _do_refuse(self, words: list[str]) -> None:
        pending_reason = reason(ReasonCode.CHILD_RUN_REFUSED, words[1])
        self._feed(
            inputs.ChildRunNotCreated(**self._child_run_attempt(words[0]), is_refused=True, reason=pending_reason)
        )

    def _do_delay(self, words: list[str]) -> None:
        pending_reason = reason(ReasonCode.CHILD_RUN_STARTING, words[1])
        self._feed(inputs.ChildRunNotCreated(**self._child_run_attempt(words[0]), reason=pending_reason))

    def _do_ended(self, words: list[str]) -> None:
        part, word, *pairs = words
        outputs = {name.removeprefix("out."): value for name, _, value in (pair.partition("=") for pair in pairs)}
        child_run = self._named(part)[1].attempts[-1].child_run
        if child_run is None:
            raise ValueError(f"{part} has started no run")
        self._feed(
            inputs.ChildRunEnded(
                **self._child_run_attempt(part),
                run=child_run,
                conclusion=Conclusion(word),
                reason="its reason",
                outputs=outputs,
            )
        )

    def _child_run_attempt(self, words: str) -> dict[str, Any]:
        job, found = self._named(words)
        return {"job": job.id, "step": found.id, "attempt": found.attempts[-1].number}

    def _do_cancel(self, words: list[str]) -> None:
        self._feed(inputs.CancelRun(by="uid:0", is_forced="force" in words))

    def _do_wait(self, words: list[str]) -> None:
        end = self.now + durations.parse(words[0])
        while (next_at := self.timers.next_at) is not None and next_at <= end:
            self.now = max(self.now, next_at)
            for _, timer in self.timers.due(self.now):
                self.outstanding.pop(commands.ArmTimer(timer=timer), None)
                self._feed(inputs.TimerFired(timer=timer))
        self.now = end

    # The host's part --------------------------------------------------------------------------------------------------

    def _names(self, part: str) -> tuple[JobId, StepId]:
        job, found = self._named(part)
        return job.id, found.id

    def _named(self, part: str) -> tuple[Job, StepState]:
        # Job ids may contain slashes: take the longest that fits.
        parts = part.split("/")
        for end in range(len(parts) - 1, 0, -1):
            owner = self.run.jobs_by_id.get(JobId("/".join(parts[:end])))
            if owner is not None:
                return owner, owner.steps_by_id[StepId("/".join(parts[end:]))]
        raise ValueError(f"there is no job for {part}")

    def _open(self, part: str) -> tuple[Job, StepState, Attempt]:
        job, found = self._named(part)
        if found.last is None or not found.last.is_open:
            raise ValueError(f"{part} has no open attempt")
        return job, found, found.last

    def _feed(self, first: inputs.Input) -> None:
        waiting = deque([first])
        while waiting:
            item = _stored(_INPUTS, waiting.popleft())
            progress = step(self.run, item, self.now)
            self.history.extend(progress.events)
            self._lines.extend(f"  * {_line(event)}" for event in progress.events)
            if isinstance(item, inputs.SlotGranted) and not any(
                isinstance(command, commands.SendTask) for command in progress.commands
            ):
                self.placement.free(item.agent, AttemptId(RUN, item.job, item.step, item.attempt))
            for command in progress.commands:
                self._carry_out(_stored(_COMMANDS, command), waiting)
        self._assign()

    def _carry_out(self, command: commands.Command, waiting: deque[inputs.Input]) -> None:
        match command:
            case commands.RequestSlot():
                self.outstanding[command] = None
                key = AttemptId(RUN, command.job, command.step, command.attempt)
                request = SlotRequest(key, command.group, command.node, command.agent, command.labels, command.avoid)
                answer = self.placement.request(request)
                if isinstance(answer, Server):
                    waiting.append(self._granted(request, answer))
                else:
                    waiting.append(
                        inputs.SlotPending(job=command.job, step=command.step, attempt=command.attempt, reason=answer)
                    )
            case commands.ListServers():
                self.outstanding[command] = None
                list_request = ServerListRequest(RUN, command.job)
                waiting.append(
                    servers_listed(
                        list_request, self.placement.list_servers(list_request, command.group, command.labels)
                    )
                )
            case commands.DropServerList(job=job):
                self.placement.drop_list_request(ServerListRequest(RUN, job))
                self._drop(commands.ListServers, job)
            case commands.AcquireLock():
                self.outstanding[command] = None
                lock_request = LockRequest(Holder(RUN, command.job), command.group, "", command.limit, command.queue)
                waiting.extend(map(lock_answer, self.locks.request(lock_request)))
            case commands.ReleaseLock(job=job):
                self.locks.release(Holder(RUN, job))
                self._drop(commands.AcquireLock, job)
            case commands.CancelSlotRequest(job=job, step=name, attempt=number):
                self.placement.cancel(AttemptId(RUN, job, name, number))
                self._settle(commands.RequestSlot, job, name, number)
            case commands.FreeSlot(agent=agent, job=job, step=name, attempt=number):
                self.placement.free(agent, AttemptId(RUN, job, name, number))
                self._settle(commands.SendTask, job, name, number)
                self._settle(commands.CancelTask, job, name, number)
            case commands.StartChildRun() | commands.WatchChildRun() | commands.CancelChildRun():
                attempt = self.run.attempt(command.job, command.step, command.attempt)
                if isinstance(command, commands.CancelChildRun) and command.is_forced:
                    # It replaces the cancel before it. It ends the attempt, unless that must wait for the child run.
                    self._settle(commands.CancelChildRun, command.job, command.step, command.attempt)
                if attempt is not None and attempt.status is AttemptStatus.PENDING:
                    self.outstanding[command] = None
                self._lines.append(f"  ! {_line(command)}")
            case commands.DropChildRun(job=job, step=name, attempt=number):
                for kind in (commands.StartChildRun, commands.WatchChildRun, commands.CancelChildRun):
                    self._settle(kind, job, name, number)
            case commands.ReleaseJob():
                self._lines.append(f"  ! {_line(command)}")
            case commands.ArmTimer(timer=timer):
                self.timers.arm(RUN, timer)
                self.outstanding[command] = None
            case commands.DropTimer(timer=timer):
                self.timers.drop(RUN, timer)
                self.outstanding.pop(commands.ArmTimer(timer=timer), None)
            case commands.SendTask() | commands.CancelTask():
                attempt = self.run.attempt(command.job, command.step, command.attempt)
                if isinstance(command, commands.CancelTask) and command.is_forced:
                    # It replaces the cancel before it, as the agent's ledger does: a leased attempt is open after both.
                    self._settle(commands.CancelTask, command.job, command.step, command.attempt)
                if attempt is not None and attempt.is_open:
                    self.outstanding[command] = None
                self._lines.append(f"  ! {_line(command)}")

    def _drop(self, kind: type[commands.ListServers | commands.AcquireLock], job: JobId | None) -> None:
        for command in list(self.outstanding):
            if isinstance(command, kind) and command.job == job:
                del self.outstanding[command]

    def _settle(self, kind: type[commands.Command], job: JobId, name: StepId, number: AttemptNo) -> None:
        for command in list(self.outstanding):
            if isinstance(command, kind) and (command.job, command.step, command.attempt) == (job, name, number):  # type: ignore[attr-defined]
                del self.outstanding[command]

    def _granted(self, request: SlotRequest, server: Server) -> inputs.SlotGranted:
        return inputs.SlotGranted(
            job=request.attempt.job,
            step=request.attempt.step,
            attempt=request.attempt.number,
            epoch=1,
            agent=server.agent,
            agent_name=str(server.agent),
            boot_id=server.boot_id,
            facts=server.facts,
            lease_ms=leases.lease_ms(600_000),
        )

    def _assign(self) -> None:
        for list_request, found in self.placement.changed_lists():
            self._feed(servers_listed(list_request, found))
        for answer in list(self.locks.news()):
            self._feed(lock_answer(answer))
        for request, server in list(self.placement.assign()):
            self._feed(self._granted(request, server))
        for request, pending_reason in self.placement.changed_reasons():
            attempt = request.attempt
            self._feed(
                inputs.SlotPending(job=attempt.job, step=attempt.step, attempt=attempt.number, reason=pending_reason)
            )

    def _check(self) -> None:
        """Checks that recovery gives the same state and the same outstanding commands as the live path."""
        again = fold(RUN, self.plan, self.history)
        if dump(again) != dump(self.run):
            raise AssertionError("the fold of the log differs from the live run")
        expected = set(outstanding(again))
        if expected != set(self.outstanding):
            raise AssertionError(f"outstanding {expected ^ set(self.outstanding)} differs from what step handed out")


def _stored(codec: ValueCodec, value: Any) -> Any:
    """The value as it is read again after it was stored."""
    again = codec.decode(codec.schema, codec.encode(value))
    if again != value:
        raise AssertionError(f"{value} is read as {again}")
    return again


def dump(run: Run) -> Any:
    """The whole state of a run as plain values, for comparison."""
    return _plain(run, set())


#: Parts of the plan, and indexes over what is compared anyway.
_LEFT_OUT = frozenset({"dependents", "jobs_by_id", "plan", "steps_by_id", "__weakref__"})
_PARTS = (Run, Job, Scope, Children, Block, StepState, Attempt, Approval, Lock)


def _plain(value: Any, known: set[int]) -> Any:
    if isinstance(value, weakref.ref):
        value = value()
    if isinstance(value, _PARTS):
        if id(value) in known:
            # A second reference to the same part: its name is enough.
            return f"{type(value).__name__} {getattr(value, 'id', getattr(value, 'number', ''))}"
        known.add(id(value))
        return {name: _plain(getattr(value, name), known) for name in value.__slots__ if name not in _LEFT_OUT}
    if isinstance(value, list):
        return [_plain(item, known) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, known) for key, item in value.items()}
    return value


def _agent(attempt: Attempt) -> AgentId:
    assert attempt.agent is not None
    return attempt.agent


def _line(record: events.Event | commands.Command) -> str:
    return f"{type(record).__name__}{''.join(_fields(record))}"


def _fields(record: msgspec.Struct) -> Iterator[str]:
    fields = msgspec.structs.asdict(record)
    part = "/".join(str(fields.pop(name)) for name in ("job", "step") if fields.get(name) is not None)
    attempt = fields.pop("attempt", None)
    if part:
        yield f" {part}" + (f"#{attempt}" if attempt is not None else "")
    for name, value in fields.items():
        if name in ("at", "plan_hash", "trigger") or value in (None, {}, (), "", [], False) or value == 0:
            continue
        if name.endswith("_at") and isinstance(value, int):
            yield f" {name}=+{value - START_AT}ms"
        elif name == "reason" and not isinstance(value, str):
            yield f" [{value.code.value}: {value.text}]"
        elif isinstance(value, Enum):
            yield f" {name}={value.value}"
        else:
            yield f" {name}={value!r}"
