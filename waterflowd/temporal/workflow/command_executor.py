"""Carries out the commands of one stream that take time: timers, activities and signals.

Rules of this file: those of `shell.py`, of which it is a part. Every end becomes an input, unless a command has cancelled what
has ended. An id is in use from its command until a turn has taken the end; a command whose id is in use changes nothing.

At most `open_max` activities and as many signals are in flight, and at most `task_max` of both are scheduled in one workflow
task, signals first. The rest waits here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    FailureError,
    TimeoutError,
    TimeoutType,
)

from waterflowd.temporal.workflow import messages

#: The timeout of an activity without a limit, because Temporal requires one.
NO_LIMIT = timedelta(days=3650)
ACTIVITY_RETRY_INTERVAL_MAX = timedelta(seconds=30)

_TIMEOUTS = {
    TimeoutType.START_TO_CLOSE: "start-to-close",
    TimeoutType.SCHEDULE_TO_START: "schedule-to-start",
    TimeoutType.SCHEDULE_TO_CLOSE: "schedule-to-close",
    TimeoutType.HEARTBEAT: "heartbeat",
}


class CommandExecutor:
    """What the stream has in flight. `receive` gets each end, as an input without its number; `pump` follows each turn."""

    def __init__(self, receive: Callable[[messages.AnyInput], None], *, open_max: int, task_max: int) -> None:
        self._receive = receive
        self._open_max, self._task_max = open_max, task_max
        self._timers: dict[str, asyncio.Task[None]] = {}
        #: Activities and signals: waiting to be scheduled, and in flight.
        self._waiting: dict[str, messages.ScheduleActivity] = {}
        self._open: dict[str, workflow.ActivityHandle[RawValue]] = {}
        self._unsent: dict[str, messages.SendSignal] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._has_sent = asyncio.Event()
        self._has_sent.set()
        self._followed: set[asyncio.Task[None]] = set()
        self._task_length = self._task_count = 0
        self._pumping: asyncio.Task[None] | None = None

    def start_timer(self, command: messages.StartTimer, now: int) -> None:
        """Starts a timer; `now` is the time of the turn in ms."""
        if command.id in self._timers:
            return
        # At least one millisecond, so that a timer which is already due fires in a later task.
        seconds = max(command.due_at - now, 1) / 1000

        async def wait() -> None:
            await asyncio.sleep(seconds)
            del self._timers[command.id]
            self._receive(messages.TimerFired(number=0, id=command.id))

        self._timers[command.id] = asyncio.create_task(wait())

    def cancel_timer(self, identifier: str) -> None:
        """Ends a timer."""
        if timer := self._timers.pop(identifier, None):
            timer.cancel()

    def schedule(self, command: messages.ScheduleActivity) -> None:
        """Lets an activity wait until `pump` has room for it."""
        if command.id not in self._open:
            self._waiting.setdefault(command.id, command)

    def cancel_activity(self, identifier: str) -> None:
        """Requests the end of an activity."""
        self._waiting.pop(identifier, None)
        if handle := self._open.pop(identifier, None):
            handle.cancel()

    def send(self, command: messages.SendSignal) -> None:
        """Lets a signal wait until `pump` has room for it."""
        if command.id not in self._sending:
            self._unsent.setdefault(command.id, command)
            self._has_sent.clear()

    def pump(self) -> None:
        """Schedules what is waiting, within the limits; the rest follows in the next task, or after something has ended."""
        length = workflow.info().get_current_history_length()
        if length != self._task_length:
            self._task_length, self._task_count = length, 0
        while self._may_send() or self._may_schedule():
            if self._task_count >= self._task_max:
                self._pump_in_the_next_task()
                return
            self._task_count += 1
            if self._may_send():
                self._start_sending(self._unsent.pop(next(iter(self._unsent))))
            else:
                self._start_activity(self._waiting.pop(next(iter(self._waiting))))

    async def send_all(self) -> None:
        """Returns when all signals have been delivered, or refused.

        Temporal does not deliver a signal whose sender has ended, so an execution must not end before.
        """
        await self._has_sent.wait()

    def _may_send(self) -> bool:
        return bool(self._unsent) and len(self._sending) < self._open_max

    def _may_schedule(self) -> bool:
        return bool(self._waiting) and len(self._open) < self._open_max

    def _pump_in_the_next_task(self) -> None:
        if self._pumping is not None:
            return

        async def wait() -> None:
            await asyncio.sleep(0.001)
            self._pumping = None
            self.pump()

        self._pumping = asyncio.create_task(wait())

    def _start_activity(self, command: messages.ScheduleActivity) -> None:
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
                self._receive(outcome)

        self._followed.add(task := asyncio.create_task(follow()))
        task.add_done_callback(self._followed.discard)

    def _start_sending(self, command: messages.SendSignal) -> None:
        async def send() -> None:
            target = workflow.get_external_workflow_handle(command.workflow_id)
            try:
                await target.signal(messages.INPUT_SIGNAL, command.content)
            except FailureError as error:
                self._receive(messages.SignalNotDelivered(number=0, id=command.id, text=code_and_text(error)[1]))
            del self._sending[command.id]
            if not self._sending and not self._unsent:
                self._has_sent.set()
            self.pump()

        self._sending[command.id] = asyncio.create_task(send())


async def _outcome(
    identifier: str, handle: workflow.ActivityHandle[RawValue]
) -> messages.ActivityCompleted | messages.ActivityFailed:
    """How an activity ended, as an input without its number."""
    try:
        value = await handle
    except ActivityError as error:
        code, text = code_and_text(error)
        return messages.ActivityFailed(number=0, id=identifier, code=code, text=text, timeout=_timeout(error))
    content = opened(value)
    if content is None:
        return messages.ActivityFailed(number=0, id=identifier, code="refused", text=refusal(value))
    return messages.ActivityCompleted(number=0, id=identifier, content=content)


def opened(value: RawValue) -> bytes | None:
    """The bytes of a value; None if no daemon has sealed it."""
    return None if value.payload.metadata.get("encoding") == messages.REFUSED else value.payload.data


def refusal(value: RawValue) -> str:
    """Why a value was refused."""
    return f"its payload was refused: {value.payload.data.decode(errors='replace')}"


def code_and_text(error: FailureError) -> tuple[str, str]:
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


def _limit(duration_ms: int) -> timedelta | None:
    return timedelta(milliseconds=duration_ms) if duration_ms else None


def _timeout(error: ActivityError) -> str:
    cause = error.cause
    return _TIMEOUTS.get(cause.type, "") if isinstance(cause, TimeoutError) and cause.type is not None else ""
