"""How a run on Temporal starts child runs, waits for them and cancels them; and how a child run reports its end.

Rules of this file:

- Pure. The id of a child run is derived from the attempt that starts it, so a start that is repeated, also by another daemon,
  starts it once.
- A child run signals its end. Its parent looks as well, at once and every `LOOK_AGAIN_MS`: the run may have ended before the
  parent knew of it, or an operator may have terminated it.
- If an attempt ends before it knows its child run, the start is withdrawn and the child run is cancelled, in case it exists.
  The activity that starts it looks after the start whether it is still wanted. So both orders end with a cancelled child run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd.engine import Run, commands, inputs
from waterflowd.host import child_runs
from waterflowd.host.fleet_requests import attempt_id
from waterflowd.model.ids import AttemptId, RunId, run_stream
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.statuses import AttemptStatus
from waterflowd.temporal import orders
from waterflowd.temporal.workflow import messages

LOOK_AGAIN_MS = 600_000
#: For what a daemon does at once.
SHORT_MS = 30_000
#: A start reads a repository and compiles a workflow.
START_MS = 300_000


def refusal(run: Run, command: commands.StartChildRun) -> inputs.ChildRunNotCreated | None:
    """Why the child run can never be started, as far as its parent knows."""
    name = attempt_id(run.id, command)
    try:
        child_runs.check_depth(run)
        child_runs.workflow_path(run, _parameters(run, name)["workflow"])
    except Rejected as error:
        return child_runs.not_started(name, child_runs.refusal(error), is_refused=True)
    return None


def start(run: Run, command: commands.StartChildRun) -> messages.ScheduleActivity:
    """Has a daemon compile the workflow and start the child run."""
    name = attempt_id(run.id, command)
    parameters = _parameters(run, name)
    order = orders.ChildRunOrder(
        attempt=name,
        child=child_runs.child_id(run, name),
        path=child_runs.workflow_path(run, parameters["workflow"]),
        request=child_runs.start_draft(run, name),
        arguments=parameters["inputs"],
    )
    return messages.ScheduleActivity(
        id=orders.attempt_activity(orders.START_CHILD_RUN, name),
        name=orders.START_CHILD_RUN,
        queue=orders.STREAMS_QUEUE,
        content=orders.ORDERS.pack(order),
        start_to_close_ms=START_MS,
        summary=f"{name.job}/{name.step}: start {order.path}",
    )


def watch(run: Run, command: commands.WatchChildRun, now: int) -> Iterator[messages.AnyCommand]:
    """Looks whether the child run has ended, and later again (`timer_id`)."""
    name = attempt_id(run.id, command)
    yield messages.ScheduleActivity(
        id=orders.attempt_activity(orders.LOOK_AT_CHILD_RUN, name),
        name=orders.LOOK_AT_CHILD_RUN,
        queue=orders.STREAMS_QUEUE,
        content=orders.ORDERS.pack(orders.ChildLookOrder(attempt=name, child=command.run)),
        start_to_close_ms=SHORT_MS,
        summary=f"{name.job}/{name.step}: has run {command.run} ended?",
    )
    yield messages.StartTimer(id=timer_id(name), due_at=now + LOOK_AGAIN_MS)


def timer_id(name: AttemptId) -> str:
    """The timer after which the attempt looks again at its child run."""
    return orders.attempt_activity(orders.LOOK_AT_CHILD_RUN, name)


def drop(run: Run, command: commands.DropChildRun) -> Iterator[messages.AnyCommand]:
    """The attempt no longer starts or awaits a child run."""
    name = attempt_id(run.id, command)
    attempt = run.attempt(name.job, name.step, name.number)
    yield messages.CancelActivity(id=orders.attempt_activity(orders.START_CHILD_RUN, name))
    if attempt is None or attempt.status is AttemptStatus.PENDING:
        # Only the start is over.
        return
    yield messages.CancelActivity(id=orders.attempt_activity(orders.LOOK_AT_CHILD_RUN, name))
    yield messages.CancelTimer(id=timer_id(name))
    if attempt.child_run is None and attempt.reason.code is not ReasonCode.CHILD_RUN_REFUSED:
        yield _cancel(run, name, child_runs.child_id(run, name), is_forced=attempt.reason.code is ReasonCode.TERMINATED)


def cancel(run: Run, command: commands.CancelChildRun) -> messages.SendSignal:
    """Cancels the child run, unless it has ended."""
    return _cancel(run, attempt_id(run.id, command), command.run, is_forced=command.is_forced)


def _cancel(run: Run, name: AttemptId, child: RunId, *, is_forced: bool) -> messages.SendSignal:
    return messages.SendSignal(
        id=orders.attempt_activity(orders.CANCEL_CHILD_RUN, name, is_forced=is_forced),
        workflow_id=run_stream(child),
        content=orders.INPUTS.pack(child_runs.cancel(run.id, is_forced=is_forced)),
    )


def report(run: Run) -> Iterator[messages.SendSignal]:
    """Tells the parent of a completed run how it has ended."""
    parent = child_runs.parent_of(run.trigger)
    if parent is not None:
        content = orders.INPUTS.pack(child_runs.ended(parent, run))
        yield messages.SendSignal(id="ended", workflow_id=run_stream(parent.run), content=content)


def _parameters(run: Run, name: AttemptId) -> dict[str, Any]:
    attempt = run.attempt(name.job, name.step, name.number)
    assert attempt is not None, "a command is about an attempt of its run"
    assert attempt.params is not None, "a start is requested with parameters"
    return attempt.params
