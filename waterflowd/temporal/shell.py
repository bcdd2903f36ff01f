"""The workflow code of every stream. It decides nothing: it passes inputs to turns and carries out their commands.

Rules of this file

- It imports nothing of the engine. A turn is a local activity, so its result is recorded; on replay no turn runs. Everything
  that may change between releases belongs in turns.
- One turn at a time. An input that arrives meanwhile waits. Nothing is cancelled while a turn runs, because commands are
  carried out after it; a request to cancel the workflow is an input like every other.
- Temporal replays this code against event histories of earlier releases. A change of what it does, or in which order, needs
  `workflow.patched` with a new id, and the event histories in `tests/compat/histories` must still replay. No patch exists yet.
- Its time is that of the task; its order is that in which Temporal delivers. It reads no clock, no random number, no
  environment.

Limits: a turn gets `INPUTS_MAX` inputs; `OPEN_MAX` activities and signals are in flight, and `TASK_MAX` of them are scheduled
in one workflow task, as Temporal handles larger ones badly. The rest waits here. After `HISTORY_EVENTS_MAX` events or
`HISTORY_BYTES_MAX` bytes the stream continues as a new execution, which begins with all facts. The commands of its first turn
start again what was in flight. Changing a limit also changes what this code does.

A stream stalls when a turn has failed three times, when its facts are too large for a new execution, or when an operator has
reset the execution, because what came after that point would be done again. A stalled stream keeps its inputs, and continues
after the signal `retry`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, SearchAttributeKey, SearchAttributeUpdate
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    FailureError,
    TimeoutError,
    TimeoutType,
)

from waterflowd.temporal import messages

#: A turn can handle this many inputs within milliseconds.
INPUTS_MAX = 200
#: Temporal's own limit of pending activities is 2,000.
OPEN_MAX = 1000
TASK_MAX = 100
#: Temporal warns at 10,240 events or 10 MB, and ends the workflow at 51,200 events or 50 MB.
HISTORY_EVENTS_MAX = 4096
HISTORY_BYTES_MAX = 4 << 20
#: A new execution loses updates that no turn has taken, so it is delayed for them until the event history has reached this
#: multiple of the limit.
_PATIENCE = 2

#: A turn takes milliseconds. If one takes longer than this, its daemon is gone.
TURN_TIMEOUT = timedelta(seconds=60)
TURN_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3)
#: The timeout of an activity without a limit, because Temporal requires one.
NO_LIMIT = timedelta(days=3650)
ACTIVITY_RETRY_INTERVAL_MAX = timedelta(seconds=30)

#: Codes of stalls that the shell itself notices.
RESET = "reset"
NOTHING_TAKEN = "nothing-taken"

_TIMEOUTS = {
    TimeoutType.START_TO_CLOSE: "start-to-close",
    TimeoutType.SCHEDULE_TO_START: "schedule-to-start",
    TimeoutType.SCHEDULE_TO_CLOSE: "schedule-to-close",
    TimeoutType.HEARTBEAT: "heartbeat",
}


@workflow.defn(name=messages.WORKFLOW_TYPE, sandboxed=False)
class Stream:
    """One stream of the daemon, for example a run."""

    @workflow.init
    def __init__(self, begin: messages.Begin) -> None:
        self._subject = begin.subject
        self._facts = list(begin.facts)
        self._inputs: deque[messages.AnyInput] = deque(begin.inputs)
        self._now = begin.now
        self._number = begin.number
        self._stalled = ""
        #: The name that the newest turn gave to its state.
        self._state = b""
        self._has_begun = self._is_reset = False
        self._is_cancel_requested = False
        self._result: bytes | None = None
        self._timers: dict[str, asyncio.Task[None]] = {}
        #: Activities and signals: waiting to be scheduled, and in flight.
        self._waiting: dict[str, messages.ScheduleActivity | messages.SendSignal] = {}
        self._open: dict[str, asyncio.Future[Any]] = {}
        self._task_length = self._task_count = 0
        self._is_pumping = False
        self._followed: set[asyncio.Task[None]] = set()
        #: Updates whose senders wait for an answer.
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        # Called when an event history continues after the point to which an operator has reset it.
        workflow.register_random_seed_callback(self._was_reset)

    @workflow.run
    async def run(self, begin: messages.Begin) -> bytes:
        """Takes turns until one completes the stream. Cancelling the workflow only adds an input."""
        turns = asyncio.create_task(self._take_turns())
        while True:
            try:
                next_begin = await asyncio.shield(turns)
                break
            except asyncio.CancelledError:
                # Eviction from the worker's cache is a cancellation as well, but has no reason.
                if self._is_cancel_requested or workflow.cancellation_reason() is None:
                    raise
                self._is_cancel_requested = True
                reason = workflow.cancellation_reason() or ""
                self._receive(functools.partial(_cancelled, reason))
            except FailureError as error:
                # Temporal would treat it as the result of the workflow, and end the workflow.
                raise RuntimeError(f"the shell has a bug: {error}") from error
        if next_begin is not None:
            # By default Temporal uses the attributes with which this execution began: a stall that has ended would come back.
            workflow.continue_as_new(next_begin, search_attributes=workflow.info().typed_search_attributes)
        return self._result or b""

    # Inputs ---------------------------------------------------------------------------------------------------------

    @workflow.signal(name=messages.INPUT_SIGNAL)
    def input(self, content: RawValue) -> None:
        """An input from a daemon or another stream."""
        accepted = _content(content)
        if accepted is None:
            workflow.logger.warning("dropped a signal: %s", _refusal(content))
            return
        self._receive(lambda number: messages.SignalReceived(number=number, content=accepted))

    @workflow.signal(name=messages.RETRY_SIGNAL)
    def retry(self) -> None:
        """An operator lets a stalled stream continue."""
        if self._stalled:
            self._stalled = ""
            workflow.upsert_search_attributes([_stalled_key().value_unset()])
            workflow.upsert_memo({messages.STALLED_MEMO: None})

    @workflow.signal(dynamic=True)
    def other(self, name: str, content: Sequence[RawValue]) -> None:
        """A signal of another name, perhaps of a newer release; it has no effect."""
        workflow.logger.warning("dropped a signal of the unknown name %s", name[:100])

    @workflow.update(name=messages.REQUEST_UPDATE, unfinished_policy=workflow.HandlerUnfinishedPolicy.ABANDON)
    async def request(self, content: RawValue) -> bytes:
        """An input whose sender waits for the turn's answer."""
        information = workflow.current_update_info()
        accepted = _content(content)
        assert information is not None
        assert accepted is not None, "the validator has refused it"
        answer = self._answers[information.id] = asyncio.Future()
        self._receive(lambda number: messages.UpdateReceived(number=number, id=information.id, content=accepted))
        return await answer

    @request.validator
    def check_request(self, content: RawValue) -> None:
        """Refuses what no daemon has sealed, and everything once the stream has ended. Leaves no trace in the event history."""
        if _content(content) is None:
            raise ApplicationError(_refusal(content), type="refused")
        if self._result is not None:
            raise ApplicationError("the stream has ended", type="ended")

    def _receive(self, make: Callable[[int], messages.AnyInput]) -> None:
        self._number += 1
        self._inputs.append(make(self._number))

    def _was_reset(self, _seed: int) -> None:
        self._is_reset = True

    # Turns ----------------------------------------------------------------------------------------------------------

    async def _take_turns(self) -> messages.Begin | None:
        """Returns what the next execution begins with, or None when the stream has ended."""
        while True:
            await workflow.wait_condition(self._has_work)
            if self._is_reset:
                self._is_reset = False
                self._stall(
                    RESET, "an operator has reset this execution: what came after that point would be done again"
                )
                continue
            result = await self._turn()
            if result is None:
                continue
            self._record(result)
            for command in result.commands:
                self._carry_out(command)
            self._pump()
            if self._result is not None:
                return None
            if self._is_long() and (begin := await self._next_begin()) is not None:
                return begin

    def _has_work(self) -> bool:
        return self._is_reset or (not self._stalled and (bool(self._inputs) or not self._has_begun))

    async def _turn(self) -> messages.TurnResult | None:
        """The result of one turn; None when it failed, and the stream is stalled."""
        self._now = max(self._now, workflow.time_ns() // 1_000_000)
        inputs = list(itertools.islice(self._inputs, INPUTS_MAX))
        past = messages.Past(subject=self._subject, facts=self._facts)
        request = messages.TurnRequest(
            stream=workflow.info().workflow_id,
            seq=len(self._facts),
            now=self._now,
            inputs=inputs,
            begins=not self._has_begun,
            past=None if self._has_begun else past,
            state=self._state,
        )
        try:
            result: messages.TurnResult = await _local(messages.TURN, request, messages.TurnResult)
            if result.is_cold:
                request = msgspec.structs.replace(request, past=past)
                result = await _local(messages.TURN, request, messages.TurnResult)
        except FailureError as error:
            self._stall(*_code_and_text(error))
            return None
        if result.is_cold or result.seq != request.seq + len(result.facts) or (inputs and not result.taken):
            self._stall(NOTHING_TAKEN, "a turn was cold twice, took none of its inputs, or counted its facts wrong")
            return None
        return result

    def _record(self, result: messages.TurnResult) -> None:
        self._has_begun = True
        self._facts += result.facts
        self._state = result.state
        taken = set(result.taken)
        updates = [
            item.id for item in self._inputs if isinstance(item, messages.UpdateReceived) and item.number in taken
        ]
        self._inputs = deque(item for item in self._inputs if item.number not in taken)
        answers = {
            command.id: command.content for command in result.commands if isinstance(command, messages.AnswerUpdate)
        }
        for identifier in updates:
            answer = self._answers.pop(identifier, None)
            if answer is not None:
                answer.set_result(answers.get(identifier, b""))

    def _stall(self, code: str, text: str) -> None:
        self._stalled = code
        workflow.upsert_search_attributes([_stalled_key().value_set(code)])
        workflow.upsert_memo({messages.STALLED_MEMO: text})

    # Commands -------------------------------------------------------------------------------------------------------

    def _carry_out(self, command: messages.AnyCommand) -> None:
        match command:
            case messages.StartTimer():
                self._start_timer(command)
            case messages.CancelTimer():
                if timer := self._timers.pop(command.id, None):
                    timer.cancel()
            case messages.ScheduleActivity() | messages.SendSignal():
                if command.id not in self._open:
                    self._waiting.setdefault(command.id, command)
            case messages.CancelActivity():
                self._waiting.pop(command.id, None)
                if handle := self._open.pop(command.id, None):
                    handle.cancel()
            case messages.SetAttributes():
                workflow.upsert_search_attributes(_updates(command.values))
            case messages.SetMemo():
                workflow.upsert_memo({command.name: command.content})
            case messages.Complete():
                self._result = command.content
            case messages.AnswerUpdate():
                pass  # answered when the turn was recorded

    def _start_timer(self, command: messages.StartTimer) -> None:
        if command.id in self._timers:
            return
        # At least one millisecond, so that a timer which is already due fires in a later task.
        seconds = max(command.due_at - self._now, 1) / 1000

        async def wait() -> None:
            await asyncio.sleep(seconds)
            del self._timers[command.id]
            self._receive(lambda number: messages.TimerFired(number=number, id=command.id))

        self._timers[command.id] = asyncio.create_task(wait())

    def _pump(self) -> None:
        """Schedules what is waiting, within the limits; the rest follows in the next task, or when something has ended."""
        length = workflow.info().get_current_history_length()
        if length != self._task_length:
            self._task_length, self._task_count = length, 0
        while self._waiting and len(self._open) < OPEN_MAX:
            if self._task_count >= TASK_MAX:
                self._pump_in_the_next_task()
                return
            self._task_count += 1
            command = self._waiting.pop(next(iter(self._waiting)))
            if isinstance(command, messages.ScheduleActivity):
                self._schedule(command)
            else:
                self._send(command)

    def _pump_in_the_next_task(self) -> None:
        if self._is_pumping:
            return
        self._is_pumping = True

        async def wait() -> None:
            await asyncio.sleep(0.001)
            self._is_pumping = False
            self._pump()

        self._pumping = asyncio.create_task(wait())

    def _schedule(self, command: messages.ScheduleActivity) -> None:
        handle = workflow.start_activity(
            command.name,
            command.content,
            activity_id=command.id,
            task_queue=command.queue,
            result_type=RawValue,
            start_to_close_timeout=_limit(command.start_to_close_ms) or NO_LIMIT,
            schedule_to_start_timeout=_limit(command.schedule_to_start_ms),
            heartbeat_timeout=_limit(command.heartbeat_ms),
            retry_policy=RetryPolicy(
                maximum_attempts=command.attempts_max, maximum_interval=ACTIVITY_RETRY_INTERVAL_MAX
            ),
            summary=command.summary or None,
        )
        self._open[command.id] = handle

        async def follow() -> None:
            outcome = await _outcome(command.id, handle)
            # An activity that a command has cancelled is no longer in the table, or another one with its id is.
            if self._open.get(command.id) is handle:
                del self._open[command.id]
                self._receive(lambda number: msgspec.structs.replace(outcome, number=number))
                self._pump()

        self._followed.add(task := asyncio.create_task(follow()))
        task.add_done_callback(self._followed.discard)

    def _send(self, command: messages.SendSignal) -> None:
        async def send() -> None:
            try:
                target = workflow.get_external_workflow_handle(command.workflow_id)
                await target.signal(messages.INPUT_SIGNAL, command.content)
            except ApplicationError as error:
                text = error.message
                self._receive(lambda number: messages.SignalNotDelivered(number=number, id=command.id, text=text))
            finally:
                self._open.pop(command.id, None)
            self._pump()

        self._open[command.id] = asyncio.create_task(send())

    # The next execution -----------------------------------------------------------------------------------------------

    def _is_long(self) -> bool:
        """Whether it is time for a new execution: not while a sender waits for an answer, unless that takes long."""
        information = workflow.info()
        events, size = information.get_current_history_length(), information.get_current_history_size()
        share = max(events / HISTORY_EVENTS_MAX, size / HISTORY_BYTES_MAX)
        is_long = share >= 1 or information.is_continue_as_new_suggested()
        return is_long and (not self._answers or share >= _PATIENCE)

    async def _next_begin(self) -> messages.Begin | None:
        """What the next execution begins with; None when that would be too large, and the stream is stalled."""
        begin = self._begin()
        try:
            await _local(messages.CHECK_SIZE, begin, type(None))
        except FailureError as error:
            self._stall(*_code_and_text(error))
            return None
        # Inputs may have arrived during the check.
        return self._begin()

    def _begin(self) -> messages.Begin:
        return messages.Begin(
            subject=self._subject,
            facts=self._facts,
            # The sender of an update gets the error that the execution has ended, and sends it again.
            inputs=[item for item in self._inputs if not isinstance(item, messages.UpdateReceived)],
            now=self._now,
            number=self._number,
        )


def _cancelled(reason: str, number: int) -> messages.CancelRequested:
    return messages.CancelRequested(number=number, reason=reason)


async def _local(name: str, argument: Any, result_type: type[Any]) -> Any:
    return await workflow.execute_local_activity(
        name, argument, result_type=result_type, start_to_close_timeout=TURN_TIMEOUT, retry_policy=TURN_RETRY
    )


async def _outcome(
    identifier: str, handle: asyncio.Future[Any]
) -> messages.ActivityCompleted | messages.ActivityFailed:
    """How an activity ended, as an input without its number."""
    try:
        value = await handle
    except ActivityError as error:
        code, text = _code_and_text(error)
        return messages.ActivityFailed(number=0, id=identifier, code=code, text=text, timeout=_timeout(error))
    content = _content(value)
    if content is None:
        return messages.ActivityFailed(number=0, id=identifier, code="refused", text=_refusal(value))
    return messages.ActivityCompleted(number=0, id=identifier, content=content)


def _content(value: RawValue) -> bytes | None:
    """The bytes of a value; None if no daemon has sealed it."""
    return None if value.payload.metadata.get("encoding") == messages.REFUSED else value.payload.data


def _refusal(value: RawValue) -> str:
    return f"its payload was refused: {value.payload.data.decode(errors='replace')}"


def _limit(duration_ms: int) -> timedelta | None:
    return timedelta(milliseconds=duration_ms) if duration_ms else None


def _code_and_text(error: FailureError) -> tuple[str, str]:
    """The code and the text of the error with which an activity ended; that of a local activity has no wrapper."""
    cause = (error.cause if isinstance(error, ActivityError) else None) or error
    match cause:
        case ApplicationError():
            return cause.type or "error", cause.message
        case TimeoutError():
            return "timeout", cause.message
        case CancelledError():
            return "cancelled", "the activity was cancelled"
    return type(cause).__name__, str(cause)


def _timeout(error: ActivityError) -> str:
    cause = error.cause
    return _TIMEOUTS.get(cause.type, "") if isinstance(cause, TimeoutError) and cause.type is not None else ""


def _stalled_key() -> SearchAttributeKey[str]:
    return SearchAttributeKey.for_keyword(messages.STALLED_ATTRIBUTE)


def _updates(values: dict[str, str | int]) -> list[SearchAttributeUpdate[Any]]:
    return [
        SearchAttributeKey.for_keyword(name).value_set(value)
        if isinstance(value, str)
        else SearchAttributeKey.for_int(name).value_set(value)
        for name, value in values.items()
    ]
