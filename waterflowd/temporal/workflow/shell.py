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

Limits: a turn gets `INPUTS_MAX` inputs; `OPEN_MAX` activities and as many signals are in flight, and `TASK_MAX` of both are
scheduled in one workflow task, as Temporal handles larger ones badly. After `HISTORY_EVENTS_MAX` events or `HISTORY_BYTES_MAX`
bytes the stream continues as a new execution, which begins with all facts. The commands of its first turn start again what was
in flight, except signals: an execution ends after it has sent them. Changing a limit also changes what this code does.

A stream stalls when a turn has failed three times, when its facts are too large for a new execution, or when an operator has
reset the execution, because what came after that point would be done again. A stalled stream keeps its inputs, and continues
after the signal `retry`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy, SearchAttributeKey, SearchAttributeUpdate
from temporalio.exceptions import ApplicationError, FailureError

from waterflowd.temporal.workflow import messages
from waterflowd.temporal.workflow.command_executor import CommandExecutor, code_and_text, opened, refusal

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

#: The code of a stall that the shell itself notices.
NOTHING_TAKEN = "nothing-taken"

#: How a timer or an activity ends.
_ENDS = (messages.TimerFired, messages.ActivityCompleted, messages.ActivityFailed)
#: What others want of the stream.
_REQUESTS = (messages.SignalReceived, messages.UpdateReceived)


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
        #: The execution in which turns may be taken; another one with this event history is the work of an operator.
        self._run_id = self._next_run_id = workflow.info().original_execution_run_id
        self._is_cancel_requested = False
        self._result: bytes | None = None
        self._commands = CommandExecutor(self._receive, open_max=OPEN_MAX, task_max=TASK_MAX)
        # Not Temporal's own `wait_condition`: a request to cancel the workflow may end that with an error.
        self._wakes = asyncio.Event()
        #: Updates whose senders wait for an answer.
        self._answers: dict[str, asyncio.Future[bytes]] = {}
        # Called after the point to which an operator has reset an execution, unless that is its very beginning.
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
                self._receive(messages.CancelRequested(number=0, reason=reason))
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
        accepted = opened(content)
        if accepted is None:
            workflow.logger.warning("dropped a signal: %s", refusal(content))
            return
        self._receive(messages.SignalReceived(number=0, content=accepted))

    @workflow.signal(name=messages.RETRY_SIGNAL)
    def retry(self) -> None:
        """An operator lets a stalled stream continue."""
        if self._stalled:
            self._stalled = ""
            self._run_id = self._next_run_id
            self._wakes.set()
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
        accepted = opened(content)
        assert information is not None
        assert accepted is not None, "the validator has refused it"
        answer = self._answers[information.id] = asyncio.Future()
        self._receive(messages.UpdateReceived(number=0, id=information.id, content=accepted))
        return await answer

    @request.validator
    def check_request(self, content: RawValue) -> None:
        """Refuses what no daemon has sealed, and everything once the stream has ended. Leaves no trace in the event history."""
        if opened(content) is None:
            raise ApplicationError(refusal(content), type="refused")
        if self._result is not None:
            raise ApplicationError("the stream has ended", type="ended")

    def _receive(self, item: messages.AnyInput) -> None:
        """Gives an input its number, and lets it wait for a turn."""
        self._number += 1
        self._inputs.append(msgspec.structs.replace(item, number=self._number))
        self._wakes.set()

    def _was_reset(self, _seed: int) -> None:
        self._is_reset = True
        self._wakes.set()

    # Turns ----------------------------------------------------------------------------------------------------------

    async def _take_turns(self) -> messages.Begin | None:
        """Returns what the next execution begins with, or None when the stream has ended."""
        while True:
            while not self._has_work():
                self._wakes.clear()
                await self._wakes.wait()
            result = await self._turn()
            if result is None:
                continue
            self._record(result)
            for command in result.commands:
                self._carry_out(command)
            self._commands.pump()
            if self._result is not None:
                await self._commands.send_all()
                if not any(isinstance(item, _REQUESTS) for item in self._inputs):
                    return None
                # They have arrived meanwhile, and might have changed the decision.
                self._result = None
            if self._is_long() and (begin := await self._next_begin()) is not None:
                return begin

    def _has_work(self) -> bool:
        return not self._stalled and (bool(self._inputs) or not self._has_begun or self._is_reset)

    async def _turn(self) -> messages.TurnResult | None:
        """The result of one turn; None when it failed, and the stream is stalled."""
        self._is_reset = False
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
            run_id=self._run_id,
        )
        try:
            result: messages.TurnResult = await _local(messages.TURN, request, messages.TurnResult)
            if result.is_cold:
                request = msgspec.structs.replace(request, past=past)
                result = await _local(messages.TURN, request, messages.TurnResult)
        except FailureError as error:
            code, text = code_and_text(error)
            if code == messages.RESET and isinstance(error, ApplicationError):
                [self._next_run_id] = error.details
            self._stall(code, text)
            return None
        seq = len(result.facts) + (0 if result.is_snapshot else request.seq)
        if result.is_cold or result.seq != seq or (inputs and not result.taken):
            self._stall(NOTHING_TAKEN, "a turn was cold twice, took none of its inputs, or counted its facts wrong")
            return None
        return result

    def _record(self, result: messages.TurnResult) -> None:
        self._has_begun = True
        if result.is_snapshot:
            self._facts = []
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
            case messages.StartTimer() if not self._has_ended(command.id):
                self._commands.start_timer(command, self._now)
            case messages.CancelTimer():
                self._commands.cancel_timer(command.id)
                self._forget_end(command.id)
            case messages.ScheduleActivity() if not self._has_ended(command.id):
                self._commands.schedule(command)
            case messages.CancelActivity():
                self._commands.cancel_activity(command.id)
                self._forget_end(command.id)
            case messages.SendSignal():
                self._commands.send(command)
            case messages.SetAttributes():
                workflow.upsert_search_attributes(_updates(command.values))
            case messages.SetMemo():
                workflow.upsert_memo({command.name: command.content})
            case messages.Complete():
                self._result = command.content
            case messages.StartTimer() | messages.ScheduleActivity() | messages.AnswerUpdate():
                pass  # has ended, or was answered when the turn was recorded

    def _has_ended(self, identifier: str) -> bool:
        """Whether a timer or an activity has ended, and no turn knows yet: a new execution must not start it again."""
        return any(isinstance(item, _ENDS) and item.id == identifier for item in self._inputs)

    def _forget_end(self, identifier: str) -> None:
        if self._has_ended(identifier):
            self._inputs = deque(
                item for item in self._inputs if not (isinstance(item, _ENDS) and item.id == identifier)
            )

    # The next execution -----------------------------------------------------------------------------------------------

    def _is_long(self) -> bool:
        """Whether it is time for a new execution: not while a sender waits for an answer, unless that takes long."""
        information = workflow.info()
        events, size = information.get_current_history_length(), information.get_current_history_size()
        share = max(events / HISTORY_EVENTS_MAX, size / HISTORY_BYTES_MAX)
        is_long = share >= 1 or information.is_continue_as_new_suggested()
        return is_long and (not self._answers or share >= _PATIENCE)

    async def _next_begin(self) -> messages.Begin | None:
        """What the next execution begins with; None when it is too early for one, or when it would be too large."""
        await self._commands.send_all()
        begin = self._begin()
        try:
            await _local(messages.CHECK_SIZE, begin, type(None))
        except FailureError as error:
            self._stall(*code_and_text(error))
            return None
        # Inputs that have arrived meanwhile are in no checked size; a turn takes them first.
        return begin if self._number == begin.number and self._is_long() else None

    def _begin(self) -> messages.Begin:
        return messages.Begin(
            subject=self._subject,
            facts=self._facts,
            # The sender of an update gets the error that the execution has ended, and sends it again.
            inputs=[item for item in self._inputs if not isinstance(item, messages.UpdateReceived)],
            now=self._now,
            number=self._number,
        )


async def _local(name: str, argument: Any, result_type: type[Any]) -> Any:
    return await workflow.execute_local_activity(
        name, argument, result_type=result_type, start_to_close_timeout=TURN_TIMEOUT, retry_policy=TURN_RETRY
    )


def _stalled_key() -> SearchAttributeKey[str]:
    return SearchAttributeKey.for_keyword(messages.STALLED_ATTRIBUTE)


def _updates(values: dict[str, str | int]) -> list[SearchAttributeUpdate[Any]]:
    return [
        SearchAttributeKey.for_keyword(name).value_set(value)
        if isinstance(value, str)
        else SearchAttributeKey.for_int(name).value_set(value)
        for name, value in values.items()
    ]
