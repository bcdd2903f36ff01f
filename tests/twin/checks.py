"""What must hold whatever happens: during a simulation, when everything is at rest, and when all streams have ended."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from temporalio import activity as temporal_activity
from temporalio.bridge.proto.activity_result.activity_result_pb2 import ActivityResolution
from temporalio.bridge.proto.workflow_commands.workflow_commands_pb2 import WorkflowCommand

from tests.integration.temporal import toy_engine
from tests.integration.temporal.toy_engine import Fact
from tests.twin.cluster import Activity, Cluster, Execution, Status, Update
from tests.twin.core import CONVERTER, Marker, Task, Violation
from waterflowd.temporal.workflow import messages, shell

Value = TypeVar("Value")


class Observer:
    """Sees every turn, and every task that is recorded."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.resets: set[str] = set()
        self.cancelled: set[str] = set()
        self.turns = 0

    def asked(self, request: messages.TurnRequest) -> None:
        """An engine is asked for a turn."""
        self.turns += 1
        numbers = [item.number for item in request.inputs]
        _require(numbers == sorted(set(numbers)), f"{request.stream}: inputs are not in their order: {numbers}")
        _require(len(numbers) <= shell.INPUTS_MAX, f"{request.stream}: a turn got {len(numbers)} inputs")
        _require(bool(numbers) or request.begins, f"{request.stream}: a turn without inputs")
        if (execution := self._current(request)) is None:
            return
        if execution.kept is not None:
            stalls = [entry for task in execution.tasks[execution.kept :] for entry in task.entries]
            has_stalled = any(b'"reset"' in entry for entry in stalls if isinstance(entry, bytes))
            _require(has_stalled, f"{request.stream}: a turn in an execution that was reset")
        # Earlier turns of this task are not recorded yet.
        known = facts(execution)
        _require(request.seq >= len(known), f"{request.stream}: {request.seq} facts in place of {len(known)}")
        if request.past is not None:
            past = request.past
            _require(len(past.facts) == request.seq, f"{request.stream}: {len(past.facts)} facts for seq {request.seq}")
            _require(past.facts[: len(known)] == known, f"{request.stream}: the past is not what was recorded")
            _require(past.subject == request.stream.encode(), f"{request.stream}: another subject")
        _require(not request.begins or not _turns(execution), f"{request.stream}: begins a second time")
        due = {
            command.id: command.due_at
            for fact in toy_engine.facts_of(known)
            for command in fact.commands
            if isinstance(command, messages.StartTimer)
        }
        for item in request.inputs:
            if isinstance(item, messages.TimerFired):
                _require(due[item.id] <= request.now, f"{request.stream}: the timer {item.id} fired too early")

    def based_on(self, request: messages.TurnRequest, memory: list[bytes]) -> None:
        """A turn was taken with these facts in memory."""
        if (execution := self._current(request)) is not None:
            known = facts(execution)
            _require(memory[: len(known)] == known, f"{request.stream}: a turn was based on facts that do not exist")

    def recorded(self, execution: Execution, task: Task) -> None:
        """A task has become part of the history; its commands come next."""
        commands = [WorkflowCommand.FromString(entry) for entry in task.entries if isinstance(entry, bytes)]
        kinds = Counter(command.WhichOneof("variant") for command in commands)
        scheduled = kinds["schedule_activity"] + kinds["signal_external_workflow_execution"]
        _require(scheduled <= shell.TASK_MAX, f"{execution.workflow_id}: a task schedules {scheduled}")
        activities = sum(not activity.is_cancel_requested for activity in execution.activities.values())
        activities += kinds["schedule_activity"] - kinds["request_cancel_activity"]
        signals = len(execution.signals) + kinds["signal_external_workflow_execution"]
        _require(
            max(activities, signals) <= shell.OPEN_MAX, f"{execution.workflow_id}: {activities}, {signals} are open"
        )
        known = toy_engine.facts_of(facts(execution))
        ordered = {
            command.id for fact in known for command in fact.commands if isinstance(command, messages.ScheduleActivity)
        }
        taken = [fact.input.id for fact in known if isinstance(fact.input, messages.UpdateReceived)]
        for command in commands:
            if command.HasField("schedule_activity"):
                identifier = command.schedule_activity.activity_id
                _require(identifier in ordered, f"{execution.workflow_id}: {identifier} was never recorded")
            if command.update_response.HasField("completed"):
                identifier = command.update_response.protocol_instance_id
                _require(identifier in taken, f"{execution.workflow_id}: {identifier} is answered, and not recorded")
        if execution.tasks and commands and commands[-1].HasField("continue_as_new_workflow_execution"):
            [argument] = commands[-1].continue_as_new_workflow_execution.arguments
            begin = _decoded(argument, messages.Begin)
            _require(begin.facts == facts(execution), f"{execution.workflow_id}: facts change with the execution")

    def _current(self, request: messages.TurnRequest) -> Execution | None:
        """The execution of a turn; None if its worker is too late, and its result will not count."""
        execution = self._cluster.running(request.stream)
        started = execution.started if execution is not None else None
        return execution if started is not None and started.token == temporal_activity.info().task_token else None

    def started(self, activity: Activity) -> None:
        """A worker begins an activity: what ordered it must be recorded."""
        ordered = [
            command
            for fact in toy_engine.facts_of(facts(activity.execution))
            for command in fact.commands
            if isinstance(command, messages.ScheduleActivity | messages.CancelActivity) and command.id == activity.id
        ]
        _require(bool(ordered), f"{activity.id} begins, and is not recorded")
        _require(isinstance(ordered[-1], messages.ScheduleActivity), f"{activity.id} begins after it was cancelled")


def facts(execution: Execution) -> list[bytes]:
    """The facts in an execution: those that it began with, and those in its markers."""
    [argument] = execution.first.initialize_workflow.arguments
    found = list(_decoded(argument, messages.Begin).facts)
    for result in _turns(execution):
        found += result.facts
        _require(
            result.seq == len(found), f"{execution.workflow_id}: a turn counted {result.seq} of {len(found)} facts"
        )
    return found


def at_rest(cluster: Cluster, observer: Observer, updates: Iterable[tuple[str, Update]]) -> None:
    """Nothing is left to be done: every input was taken, every command carried out, every sender answered."""
    for workflow_id, executions in cluster.streams.items():
        newest = executions[-1]
        known = toy_engine.facts_of(facts(newest))
        _check_inputs(workflow_id, known)
        _check_cancelled_ends(newest)
        _check_length(newest)
        if newest.is_running:
            _check_signals(cluster, workflow_id, known)
            _check_ends(workflow_id, known)
            _require(messages.STALLED_ATTRIBUTE not in newest.attributes, f"{workflow_id} is still stalled")
            if workflow_id not in observer.resets:
                _check_cancelled(workflow_id, known, workflow_id in observer.cancelled)
        if workflow_id not in observer.resets:
            _check_deliveries(cluster, workflow_id, known)
    for workflow_id, update in updates:
        _require(not update.is_open, f"{workflow_id}: {update.id} has no answer")
        known = toy_engine.facts_of(facts(cluster.streams[workflow_id][-1]))
        taken = [fact.input.id for fact in known if isinstance(fact.input, messages.UpdateReceived)]
        if update.answer is not None and workflow_id not in observer.resets:
            _require(
                taken.count(update.id) == 1, f"{workflow_id}: {update.id} was taken {taken.count(update.id)} times"
            )


def at_the_end(cluster: Cluster, observer: Observer, updates: Iterable[tuple[str, Update]]) -> None:
    """Every stream has ended, with what its engine said."""
    at_rest(cluster, observer, updates)
    for workflow_id, executions in cluster.streams.items():
        newest = executions[-1]
        _require(newest.status is Status.COMPLETED, f"{workflow_id} is {newest.status.value}")
        known = toy_engine.facts_of(facts(newest))
        results = [
            command.content for fact in known for command in fact.commands if isinstance(command, messages.Complete)
        ]
        assert newest.result is not None
        _require(newest.result.data in results, f"{workflow_id}: ended with {newest.result.data!r}")


def _check_inputs(workflow_id: str, known: list[Fact]) -> None:
    numbers = Counter(fact.input.number for fact in known)
    twice = [number for number, count in numbers.items() if count > 1]
    _require(not twice, f"{workflow_id}: the inputs {twice} were taken twice")
    ends = (messages.ActivityCompleted, messages.ActivityFailed, messages.TimerFired, messages.SignalNotDelivered)
    ended = Counter(fact.input.id for fact in known if isinstance(fact.input, ends))
    again = [identifier for identifier, count in ended.items() if count > 1]
    _require(not again, f"{workflow_id}: {again} ended twice")


def _check_cancelled_ends(execution: Execution) -> None:
    """What a turn has cancelled is no input of a later one."""
    [argument] = execution.first.initialize_workflow.arguments
    cancelled: set[str] = _cancels(_decoded(argument, messages.Begin).facts)
    for result in _turns(execution):
        ended = {fact.input.id for fact in toy_engine.facts_of(result.facts) if isinstance(fact.input, toy_engine.ENDS)}
        _require(not ended & cancelled, f"{execution.workflow_id}: {ended & cancelled} ended after they were cancelled")
        cancelled |= _cancels(result.facts)


def _cancels(encoded: list[bytes]) -> set[str]:
    """What was cancelled after it had been ordered."""
    found: set[str] = set()
    for fact in toy_engine.facts_of(encoded):
        for command in fact.commands:
            if isinstance(command, messages.CancelTimer | messages.CancelActivity):
                found.add(command.id)
            elif isinstance(command, messages.StartTimer | messages.ScheduleActivity):
                found.discard(command.id)
    return found


def _check_length(execution: Execution) -> None:
    """A long history is continued by another execution."""
    long_ = 2 * shell.HISTORY_EVENTS_MAX
    turns = [task for task in execution.tasks if task.history_length > long_ and _turns_of(task)]
    _require(len(turns) < 10, f"{execution.workflow_id}: {len(turns)} turns in a history that is too long")


def _check_signals(cluster: Cluster, workflow_id: str, known: list[Fact]) -> None:
    received = [fact.input for fact in known if isinstance(fact.input, messages.SignalReceived)]
    received.sort(key=lambda item: item.number)
    sealed = [item for item in cluster.accepted.get(workflow_id, []) if item.metadata["encoding"] != messages.REFUSED]
    expected = [item.data for item in sealed]
    contents = [item.content for item in received]
    _require(
        contents == expected,
        f"{workflow_id}: {len(expected)} signals were accepted, {len(contents)} were taken, or in another order:"
        f" lost {[item for item in expected if item not in contents]}",
    )


def _check_ends(workflow_id: str, known: list[Fact]) -> None:
    started = [
        command.id
        for fact in known
        for command in fact.commands
        if isinstance(command, messages.StartTimer | messages.ScheduleActivity)
    ]
    given_up = {
        command.id
        for fact in known
        for command in fact.commands
        if isinstance(command, messages.CancelTimer | messages.CancelActivity)
    }
    ends = (messages.ActivityCompleted, messages.ActivityFailed, messages.TimerFired)
    ended = {fact.input.id for fact in known if isinstance(fact.input, ends)}
    missing = [identifier for identifier in started if identifier not in ended | given_up]
    _require(not missing, f"{workflow_id}: {missing} never ended")


def _check_deliveries(cluster: Cluster, workflow_id: str, known: list[Fact]) -> None:
    refused = {fact.input.id for fact in known if isinstance(fact.input, messages.SignalNotDelivered)}
    is_running = cluster.running(workflow_id) is not None
    for fact in known:
        for command in fact.commands:
            if isinstance(command, messages.SendSignal):
                arrived = [item.data for item in cluster.accepted.get(command.workflow_id, [])].count(command.content)
                is_target_open = cluster.running(command.workflow_id) is not None
                _require(
                    arrived == 1 or command.id in refused or not (is_running or is_target_open),
                    f"{workflow_id}: the signal {command.id} was delivered {arrived} times",
                )


def _check_cancelled(workflow_id: str, known: list[Fact], is_cancelled: bool) -> None:
    count = sum(isinstance(fact.input, messages.CancelRequested) for fact in known)
    _require(bool(count) == is_cancelled, f"{workflow_id}: the cancellation was taken {count} times")


def _turns(execution: Execution) -> list[messages.TurnResult]:
    return [result for task in execution.tasks for result in _turns_of(task)]


def _turns_of(task: Task) -> list[messages.TurnResult]:
    markers = [entry for entry in task.entries if isinstance(entry, Marker) and entry.name == messages.TURN]
    return [result for marker in markers if (result := _result(marker.result)) is not None]


@functools.lru_cache(maxsize=4096)
def _result(encoded: bytes) -> messages.TurnResult | None:
    """What a turn decided; None if it failed, or was cold."""
    resolution = ActivityResolution.FromString(encoded)
    if not resolution.HasField("completed"):
        return None
    result = _decoded(resolution.completed.result, messages.TurnResult)
    return None if result.is_cold else result


def _decoded(payload: object, kind: type[Value]) -> Value:
    [value] = CONVERTER.payload_converter.from_payloads([payload], [kind])  # type: ignore[list-item]
    assert isinstance(value, kind)
    return value


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise Violation(text)
