"""How the commands of a run are carried out on Temporal: as activities of its gateways, and as timers.

Rules of this file:

- Pure. Ids are derived from the attempt, job or timer, so a command that is repeated changes nothing.
- An attempt's activity waits for its agent in the agent's queue, and is retried until the agent reports the end. It fails only
  when no gateway has had the agent for `lost-after`; an attempt with a lease waits until that has certainly ended.
- A cancel waits as long as its attempt is open. What concerns an attempt or job that has ended is only a courtesy: the gateway
  settles it with the agent at the next handshake anyway, so it is tried for `COURTESY_MS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from waterflow_agent.wire.messages import TaskId
from waterflowd.dispatch import lowering
from waterflowd.engine import Run, commands
from waterflowd.engine.inputs import Timer
from waterflowd.engine.rules import leases
from waterflowd.engine.state.blocks import Attempt
from waterflowd.fleet.locks import Holder
from waterflowd.host import fleet_requests
from waterflowd.host.fleet_requests import attempt_id
from waterflowd.model.ids import AgentId, AttemptId, JobId
from waterflowd.model.statuses import AttemptStatus
from waterflowd.temporal import orders
from waterflowd.temporal.coordination import child_run_commands
from waterflowd.temporal.workflow import messages

#: A gateway confirms every 20 s that it still has the activity.
HEARTBEAT_MS = 60_000
#: For what a gateway does at once.
SHORT_MS = 10_000
COURTESY_MS = 60_000
#: A server whose queue no gateway polls for so long is not connected anywhere, as far as `offline` is concerned.
AWAY_AFTER_MS = 15_000


class Known(msgspec.Struct, frozen=True):
    """What a turn knows about commands."""

    #: Tasks that an earlier execution has ordered already.
    repeated: frozenset[commands.SendTask] = frozenset()
    #: Requests for a slot on a server that is connected to this daemon.
    connected: frozenset[commands.RequestSlot] = frozenset()


NOTHING_KNOWN = Known()


def carried_out(
    run: Run, issued: Sequence[commands.Command], lost_after_ms: int, known: Known = NOTHING_KNOWN
) -> list[messages.AnyCommand]:
    """What the shell must do for these commands, in their order."""
    found: list[messages.AnyCommand] = []
    scheduled: set[str] = set()
    for command in issued:
        for each in _of(run, command, lost_after_ms, known):
            if isinstance(each, messages.ScheduleActivity):
                scheduled.add(each.id)
            elif isinstance(each, messages.CancelActivity) and each.id in scheduled:
                # Of the same turn: the agent must hear that an attempt which has ended for the run must be stopped.
                continue
            found.append(each)
    return found


def _of(run: Run, command: commands.Command, lost_after_ms: int, known: Known) -> Iterator[messages.AnyCommand]:
    # The most frequent ones first.
    match command:
        case commands.SendTask():
            yield _task(run, command, lost_after_ms, is_repeated=command in known.repeated)
        case commands.FreeSlot():
            name = attempt_id(run.id, command)
            epoch = _attempt(run, name).epoch
            yield messages.CancelActivity(id=orders.task_activity(TaskId(name, epoch), command.agent))
            for is_forced in (False, True):
                yield messages.CancelActivity(id=orders.attempt_activity(orders.CANCEL, name, is_forced=is_forced))
        case commands.ArmTimer(timer=timer):
            yield messages.StartTimer(id=timer_id(timer), due_at=timer.due_at)
        case commands.DropTimer(timer=timer):
            yield messages.CancelTimer(id=timer_id(timer))
        case commands.RequestSlot():
            yield _slot(run, command, may_be_away=command not in known.connected)
        case commands.CancelSlotRequest(job=job, step=step, attempt=number):
            yield messages.CancelActivity(
                id=orders.attempt_activity(orders.PLACE, AttemptId(run.id, job, step, number))
            )
        case commands.ReleaseJob(job=job, agent=agent, is_kept=is_kept):
            yield _release(run, job, agent, is_kept=is_kept)
        case commands.CancelTask():
            yield _cancel(run, command)
        case commands.AcquireLock():
            yield _lock(run, command)
        case commands.StartChildRun():
            yield child_run_commands.start(run, command)
        case commands.DropChildRun():
            yield from child_run_commands.drop(run, command)
        case commands.CancelChildRun():
            yield child_run_commands.cancel(run, command)
        case commands.ReleaseLock(job=owner):
            # Its place in the queue, or the slot, is freed even if the request arrives later.
            yield messages.CancelActivity(id=orders.lock_activity(orders.LOCK, owner))
            yield _unlock(run, command)
        case _:
            raise TypeError(f"this command was not answered, and cannot be carried out: {command}")


def _slot(run: Run, command: commands.RequestSlot, *, may_be_away: bool) -> messages.ScheduleActivity:
    request = fleet_requests.slot_requirements(run, command)
    order = orders.SlotOrder(
        attempt=request.attempt,
        group=request.group,
        node=request.node,
        agent=request.agent,
        labels=request.labels,
        avoid=request.avoid,
        later=tuple(sorted(request.later)),
        secrets=lowering.secret_request(run, command.job, command.secrets),
        needs_docker=request.needs_docker,
    )
    agent = command.agent
    must_not_wait = may_be_away and not run.jobs_by_id[command.job].may_await_server
    return messages.ScheduleActivity(
        id=orders.attempt_activity(orders.PLACE, request.attempt),
        name=orders.PLACE,
        queue=orders.group_queue(command.group) if agent is None else orders.agent_queue(agent),
        content=orders.ORDERS.pack(order),
        heartbeat_ms=HEARTBEAT_MS,
        schedule_to_start_ms=AWAY_AFTER_MS if must_not_wait else 0,
        summary=f"Find a server of {command.group} for {command.job}/{command.step}",
    )


def _task(run: Run, command: commands.SendTask, lost_after_ms: int, *, is_repeated: bool) -> messages.ScheduleActivity:
    name = attempt_id(run.id, command)
    attempt = _attempt(run, name)
    order = orders.TaskOrder(
        agent=command.agent,
        agent_name=attempt.agent_name,
        draft=lowering.draft(run, command),
        dispatched_at=attempt.dispatched_at or 0,
        is_started=attempt.status is AttemptStatus.STARTED,
        repository=run.repository,
        is_repeated=is_repeated,
    )
    return messages.ScheduleActivity(
        id=task_activity(run, command),
        name=orders.ATTEMPT,
        queue=orders.agent_queue(command.agent),
        content=orders.ORDERS.pack(order),
        schedule_to_start_ms=lost_ms(run, name, lost_after_ms),
        heartbeat_ms=HEARTBEAT_MS,
        summary=f"Run {command.job}/{command.step} on {attempt.agent_name}",
    )


def task_activity(run: Run, command: commands.SendTask) -> str:
    """The id of the activity that carries out an attempt."""
    return orders.task_activity(lowering.key_of(run, command), command.agent)


def lost_ms(run: Run, name: AttemptId, lost_after_ms: int) -> int:
    """How long an attempt waits for its agent before it is lost."""
    attempt = _attempt(run, name)
    if not attempt.lease_ms:
        return lost_after_ms
    step = run.jobs_by_id[name.job].steps_by_id[name.step]
    return max(lost_after_ms, leases.over_after_ms(attempt.lease_ms, step.plan.stop.grace_ms))


def _cancel(run: Run, command: commands.CancelTask) -> messages.ScheduleActivity:
    name = AttemptId(run.id, command.job, command.step, command.attempt)
    is_open = _attempt(run, name).is_open
    order = orders.CancelOrder(
        agent=command.agent,
        task=lowering.key_of(run, command),
        is_forced=command.is_forced,
        reason=command.reason,
        is_ended=not is_open,
    )
    return messages.ScheduleActivity(
        id=orders.attempt_activity(orders.CANCEL, name, is_forced=command.is_forced),
        name=orders.CANCEL,
        queue=orders.agent_queue(command.agent),
        content=orders.ORDERS.pack(order),
        start_to_close_ms=SHORT_MS,
        schedule_to_start_ms=0 if is_open else COURTESY_MS,
        summary=f"{'Kill' if command.is_forced else 'Stop'} {command.job}/{command.step}",
    )


def _release(run: Run, job: JobId, agent: AgentId, *, is_kept: bool) -> messages.ScheduleActivity:
    order = orders.ReleaseOrder(agent=agent, run=run.id, job=job, is_kept=is_kept)
    return messages.ScheduleActivity(
        id=orders.job_activity(orders.RELEASE, job, agent),
        name=orders.RELEASE,
        queue=orders.agent_queue(agent),
        content=orders.ORDERS.pack(order),
        start_to_close_ms=SHORT_MS,
        schedule_to_start_ms=COURTESY_MS,
        summary=f"Release the directory of {job}",
    )


def _lock(run: Run, command: commands.AcquireLock) -> messages.ScheduleActivity:
    lock = run.lock if command.job is None else run.jobs_by_id[command.job].lock
    order = orders.LockOrder(
        request=fleet_requests.lock_request(run, command),
        is_held=lock is not None and lock.is_held,
        cancel_in_progress=command.cancel_in_progress,
    )
    return messages.ScheduleActivity(
        id=orders.lock_activity(orders.LOCK, command.job),
        name=orders.LOCK,
        queue=orders.STREAMS_QUEUE,
        content=orders.ORDERS.pack(order),
        start_to_close_ms=SHORT_MS,
        summary=f"request a slot in {command.group}",
    )


def _unlock(run: Run, command: commands.ReleaseLock) -> messages.ScheduleActivity:
    order = orders.UnlockOrder(holder=Holder(run.id, command.job), group=command.group, repository=run.repository or "")
    return messages.ScheduleActivity(
        id=orders.lock_activity(orders.UNLOCK, command.job),
        name=orders.UNLOCK,
        queue=orders.STREAMS_QUEUE,
        content=orders.ORDERS.pack(order),
        start_to_close_ms=SHORT_MS,
        summary=f"free the slot in {command.group}",
    )


def _attempt(run: Run, name: AttemptId) -> Attempt:
    attempt = run.attempt(name.job, name.step, name.number)
    assert attempt is not None, "a command is about an attempt of its run"
    return attempt


# Timers ---------------------------------------------------------------------------------------------------------------

_timers = msgspec.json.Decoder(Timer)


def timer_id(timer: Timer) -> str:
    """A timer as its id."""
    return msgspec.json.encode(timer).decode()


def timer_of(identifier: str) -> Timer:
    """The timer with this id. Raises `msgspec.DecodeError` for another one's."""
    return _timers.decode(identifier)
