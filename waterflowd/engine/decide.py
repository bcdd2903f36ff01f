"""`decide`: the events that an input causes in a run. Never changes the run, never guesses.

Rules of this file: an empty result means that the input is stale, a repetition, or about something already decided; that is
normal. Only the direct facts are decided here; what follows from the new state is decided by the moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd.engine import events, flags, inputs
from waterflowd.engine.moves import child_moves
from waterflowd.engine.outstanding import needs_lock, needs_server_list, stop_timer
from waterflowd.engine.rules import approvals, child_runs, completion, contexts, rendering, result_limits
from waterflowd.engine.state.blocks import Attempt, Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import durations
from waterflowd.model.ids import AttemptNo
from waterflowd.model.plan import Offline
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome, Status

#: A run without `timeout-minutes` has 30 days.
RUN_TIMEOUT_MS = 30 * 24 * 3_600_000

Events = tuple[events.RunEvent, ...]


def decide(run: Run, given: inputs.Input, now: int) -> Events:
    """The facts that the input makes true at `now` (ms, the log's clock)."""
    if run.is_completed and not isinstance(given, inputs.TaskFinished):
        return ()
    return _DECIDERS[type(given)](run, given, now)


def _start(run: Run, given: inputs.StartRun, now: int) -> Events:
    if run.seq:
        return ()
    plan = run.plan
    problem: Reason | None = None
    try:
        values = rendering.resolve_vars(plan.vars | given.vars, given.inputs, given.trigger)
    except Rejected as error:
        values = {}
        problem = reason(ReasonCode.EXPRESSION_ERROR, f"vars: {error.text}", error=error.code)
    created = events.RunCreated(
        at=now,
        plan_hash=given.plan_hash,
        number=given.number,
        trigger=given.trigger,
        repository=given.repository,
        revision=given.revision,
        inputs=given.inputs,
        vars=values,
        flags=flags.CURRENT,
        given_vars=given.vars,
        rerun_of=given.rerun_of,
        kept=given.kept,
        hashes=given.hashes,
        environments=given.environments,
        deadline_at=now + (plan.timeout_ms or RUN_TIMEOUT_MS),
        reason=_created(given),
    )
    if problem is None:
        return (created,)
    return created, events.RunCompleted(at=now, conclusion=Conclusion.FAILURE, reason=problem)


def _created(given: inputs.StartRun) -> Reason:
    kind = given.trigger.kind.value
    if given.rerun_of is None:
        return reason(ReasonCode.CREATED, f"started by {kind}", trigger=kind)
    return reason(ReasonCode.CREATED, f"re-run of {given.rerun_of}", trigger=kind, run=given.rerun_of)


def _slot_granted(run: Run, given: inputs.SlotGranted, now: int) -> Events:
    job, step, attempt = _named(run, given.job, given.step, given.attempt)
    if job is None or step is None or attempt is None or attempt.status is not AttemptStatus.PENDING or step.stop:
        return ()
    if (job.agent or job.pinned or given.agent) != given.agent:
        # Meanwhile another branch of the job got a server, and the slot is requested again.
        return ()
    is_first = job.agent is None
    why = reason(ReasonCode.DISPATCHED, f"sent to {given.agent_name}", agent=given.agent_name)
    deadline_at = job.deadline_at or now + job.timeout_ms
    # Expressions may read the server, which belongs to the job from this event on.
    server = contexts.agent(given.facts if is_first else job.agent_facts, given.agent_name, job.group)
    values = _render(run, job, step, server, now)
    if isinstance(values, Reason):
        return (_failed(given.job, given.step, attempt, values, now),)
    left_ms = max(1, deadline_at - now)
    own = run.plan.node(step.plan.node)
    return (
        events.AttemptDispatched(
            at=now,
            job=given.job,
            step=given.step,
            attempt=given.attempt,
            epoch=given.epoch,
            agent=given.agent,
            agent_name=given.agent_name,
            boot_id=given.boot_id,
            facts=given.facts if is_first else {},
            name=values.name,
            params=values.params,
            env=values.env,
            working_directory=values.working_directory,
            node_version=given.node_version if own is None else own.version,
            timeout_ms=min(values.timeout_ms or left_ms, left_ms),
            job_deadline_at=deadline_at,
            reason=why,
        ),
    )


def _render(run: Run, job: Job, step: Step, server: dict[str, object], now: int) -> rendering.Rendered | Reason:
    try:
        return rendering.render(run, job, step, server, now)
    except Rejected as error:
        return reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)


def _failed(job: Any, step: Any, attempt: Attempt, why: Reason, now: int) -> events.AttemptFinished:
    return events.AttemptFinished(
        at=now, job=job, step=step, attempt=attempt.number, outcome=Outcome.FAILURE, reason=why
    )


def _slot_denied(run: Run, given: inputs.SlotDenied, now: int) -> Events:
    _, _, attempt = _named(run, given.job, given.step, given.attempt)
    if attempt is None or attempt.status is not AttemptStatus.PENDING:
        return ()
    return (_failed(given.job, given.step, attempt, given.reason, now),)


def _slot_pending(run: Run, given: inputs.SlotPending, now: int) -> Events:
    job, _, attempt = _named(run, given.job, given.step, given.attempt)
    if job is None or attempt is None or attempt.status is not AttemptStatus.PENDING:
        return ()
    if given.reason.code in _ABSENT and _may_not_wait(job):
        return (_absent(job, given, attempt, now),)
    if attempt.reason == given.reason:
        return ()
    return (events.AttemptWaiting(at=now, job=given.job, step=given.step, attempt=given.attempt, reason=given.reason),)


#: The server is not connected, or no longer enrolled.
_ABSENT = (ReasonCode.SERVER_UNREACHABLE, ReasonCode.SERVER_LOST)


def _may_not_wait(job: Job) -> bool:
    """Whether the job is an instance for one server, has not started anything there, and must not wait for the server."""
    target = job.plan.target
    has_begun = job.agent is not None or job.number > 1
    return job.pinned is not None and not has_begun and target is not None and target.offline is not Offline.WAIT


def _absent(job: Job, given: inputs.SlotPending, attempt: Attempt, now: int) -> events.RunEvent:
    assert job.plan.target is not None
    is_lost = given.reason.code is ReasonCode.SERVER_LOST
    text = f"server {job.pinned_name} is {'no longer enrolled' if is_lost else 'not connected'}"
    why = reason(given.reason.code, text, agent=job.pinned_name)
    if job.plan.target.offline is Offline.FAIL:
        return _failed(given.job, given.step, attempt, why, now)
    return events.JobSkipped(at=now, job=job.id, reason=why)


def _servers_listed(run: Run, given: inputs.ServersListed, now: int) -> Events:
    job = run.jobs_by_id.get(given.job)
    if job is None or not needs_server_list(job):
        return ()
    if given.is_refused and given.reason is not None:
        return (completion.complete(job, Conclusion.FAILURE, given.reason, now),)
    if given.reason is not None:
        if given.reason == job.reason:
            return ()
        return (events.JobWaiting(at=now, job=job.id, reason=given.reason),)
    servers = given.servers
    wanted = run.kept.servers.get(job.id) if run.kept is not None else None
    if wanted is not None:
        servers = [(agent, name) for agent, name in servers if name in wanted]
    if not servers:
        why = reason(ReasonCode.NO_SERVER_IN_GROUP, "none of the servers to re-run is still enrolled")
        return (completion.complete(job, Conclusion.FAILURE, why, now),)
    return (child_moves.expand_servers(run, job, servers, now),)


def _owner(run: Run, job: Any) -> Run | Job | None:
    return run if job is None else run.jobs_by_id.get(job)


def _lock_acquired(run: Run, given: inputs.LockAcquired, now: int) -> Events:
    owner = _owner(run, given.job)
    if owner is None or not needs_lock(owner):
        return ()
    return (events.LockGranted(at=now, job=given.job),)


def _lock_not_acquired(run: Run, given: inputs.LockNotAcquired, now: int) -> Events:
    owner = _owner(run, given.job)
    if owner is None or not needs_lock(owner):
        return ()
    if given.is_refused:
        return (events.LockRefused(at=now, job=given.job, reason=given.reason),)
    if owner.reason == given.reason:
        return ()
    return (events.LockWaiting(at=now, job=given.job, reason=given.reason),)


def _cancel_job(run: Run, given: inputs.CancelJob, now: int) -> Events:
    job = run.jobs_by_id.get(given.job)
    if job is None or job.is_cancelled or job.status not in (Status.WAITING, Status.RUNNING):
        return ()
    return (events.JobCancelled(at=now, job=job.id, reason=given.reason),)


def _named(run: Run, job: Any, step: Any, number: Any) -> tuple[Job | None, Step | None, Attempt | None]:
    owner = run.jobs_by_id.get(job)
    found = owner.steps_by_id.get(step) if owner is not None else None
    if found is None or not 1 <= number <= len(found.attempts):
        return owner, found, None
    return owner, found, found.attempts[number - 1]


def _is_lease_holder(attempt: Attempt, given: inputs.Report) -> bool:
    return attempt.is_open and attempt.epoch == given.epoch and attempt.agent == given.agent


def _task_started(run: Run, given: inputs.TaskStarted, now: int) -> Events:
    _, _, attempt = _named(run, given.job, given.step, given.attempt)
    if attempt is None or attempt.status is not AttemptStatus.DISPATCHED or not _is_lease_holder(attempt, given):
        return ()
    return (
        events.AttemptStarted(
            at=now,
            job=given.job,
            step=given.step,
            attempt=given.attempt,
            started_at=result_limits.instant(given.started_at),
        ),
    )


def _task_finished(run: Run, given: inputs.TaskFinished, now: int) -> Events:
    _, step, attempt = _named(run, given.job, given.step, given.attempt)
    if step is None or attempt is None:
        return ()
    given = result_limits.sound(given)
    if not _is_lease_holder(attempt, given):
        return _evidence(attempt, given, now)
    return (
        events.AttemptFinished(
            at=now,
            job=given.job,
            step=given.step,
            attempt=given.attempt,
            outcome=given.outcome,
            exit_code=given.exit_code,
            outputs=given.outputs,
            env=given.env,
            started_at=given.started_at,
            finished_at=given.finished_at,
            output_bytes=given.output_bytes,
            output_dropped=given.output_dropped,
            reason=_result_reason(given),
        ),
    )


def _evidence(attempt: Attempt, given: inputs.TaskFinished, now: int) -> Events:
    """Records a result that cannot be applied, once per attempt; a plain repetition is ignored."""
    is_repetition = attempt.epoch == given.epoch and attempt.agent == given.agent and attempt.outcome is given.outcome
    if is_repetition or attempt.is_late_recorded:
        return ()
    return (
        events.LateReport(
            at=now,
            job=given.job,
            step=given.step,
            attempt=given.attempt,
            epoch=given.epoch,
            agent=given.agent,
            outcome=given.outcome,
            exit_code=given.exit_code,
        ),
    )


def _result_reason(given: inputs.TaskFinished) -> Reason:
    if given.outcome is Outcome.SUCCESS:
        return _SUCCEEDED
    try:
        code = ReasonCode(given.reason_code) if given.reason_code else _DEFAULT_CODES[given.outcome]
    except ValueError:
        # A newer agent may send unknown codes; its text still says what happened.
        code = _DEFAULT_CODES[given.outcome]
    text = given.reason_text
    if not text:
        text = f"exit code {given.exit_code}" if given.exit_code is not None else given.outcome.value
    return reason(code, text, **({"exit-code": given.exit_code} if given.exit_code is not None else {}))


_SUCCEEDED = reason(ReasonCode.SUCCEEDED, "succeeded")
_DEFAULT_CODES = {
    Outcome.FAILURE: ReasonCode.EXIT_CODE,
    Outcome.TIMED_OUT: ReasonCode.TIMEOUT,
    Outcome.CANCELLED: ReasonCode.CANCEL_REQUESTED,
    Outcome.LOST: ReasonCode.OUTCOME_UNKNOWN,
    Outcome.REFUSED: ReasonCode.REFUSED,
}


def _task_lost(run: Run, given: inputs.TaskLost, now: int) -> Events:
    _, _, attempt = _named(run, given.job, given.step, given.attempt)
    if attempt is None or not _is_lease_holder(attempt, given):
        return ()
    return (
        events.AttemptFinished(
            at=now,
            job=given.job,
            step=given.step,
            attempt=given.attempt,
            outcome=Outcome.LOST,
            reason=given.reason,
        ),
    )


def _timer_fired(run: Run, given: inputs.TimerFired, now: int) -> Events:
    timer = given.timer
    if timer.kind is inputs.TimerKind.RUN_TIMEOUT:
        if timer.due_at != run.deadline_at or run.is_timed_out:
            return ()
        why = reason(ReasonCode.TIMEOUT, f"run timed out after {durations.text(timer.due_at - run.created_at)}")
        return (events.RunTimedOut(at=now, reason=why),)
    job = run.jobs_by_id.get(timer.job) if timer.job is not None else None
    if job is None or job.status is Status.COMPLETED:
        return ()
    if timer.step is None:
        return _job_timer(run, job, timer, now)
    step = job.steps_by_id.get(timer.step)
    return () if step is None or step.status is Status.COMPLETED else _step_timer(job, step, timer, now)


def _step_timer(job: Job, step: Step, timer: inputs.Timer, now: int) -> Events:
    match timer.kind:
        case inputs.TimerKind.STEP_SLEEP if step.due_at == timer.due_at and not step.stop:
            why = reason(ReasonCode.SLEPT, "sleep finished")
            done = Conclusion.SUCCESS
            return (events.StepCompleted(at=now, job=job.id, step=step.id, outcome=done, conclusion=done, reason=why),)
        case inputs.TimerKind.STEP_RETRY if step.retry_at == timer.due_at and not step.stop:
            number = AttemptNo(len(step.attempts) + 1)
            return (events.AttemptQueued(at=now, job=job.id, step=step.id, attempt=number),)
        case inputs.TimerKind.STEP_STOP:
            return _unanswered(job, step, timer, now)
        case inputs.TimerKind.STEP_TIMEOUT if step.deadline_at == timer.due_at:
            began_at = step.started_at if step.last is None else step.last.queued_at
            took = durations.text(timer.due_at - (began_at or timer.due_at))
            why = reason(ReasonCode.TIMEOUT, f"step timed out after {took}")
            return (events.StepTimedOut(at=now, job=job.id, step=step.id, reason=why),)
        case inputs.TimerKind.APPROVAL if step.approval is not None and step.approval.due_at == timer.due_at:
            return approvals.time_out(job, step, now)
    return ()


def _unanswered(job: Job, step: Step, timer: inputs.Timer, now: int) -> Events:
    """The agent was told to stop the attempt and did not confirm it: the outcome is unknown, and the run must not wait."""
    attempt = step.last
    if attempt is None or not attempt.is_open or not step.stop or stop_timer(job, step) != timer:
        return ()
    waited = durations.text(timer.due_at - step.stop_at)
    text = f"{attempt.agent_name} did not confirm the stop within {waited} ({step.stop_reason.text})"
    why = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
    return (
        events.AttemptFinished(
            at=now, job=job.id, step=step.id, attempt=attempt.number, outcome=Outcome.LOST, reason=why
        ),
    )


def _job_timer(run: Run, job: Job, timer: inputs.Timer, now: int) -> Events:
    match timer.kind:
        case inputs.TimerKind.JOB_RETRY if job.retry_at == timer.due_at and not job.is_cancelled:
            why = reason(ReasonCode.STARTED, f'try {job.number + 1}: waiting for a server of group "{job.group}"')
            deadline_at = now + job.plan.start_timeout_ms
            restarted = events.JobRestarted(
                at=now, job=job.id, number=job.number + 1, start_deadline_at=deadline_at, reason=why
            )
            return (restarted,)
        case inputs.TimerKind.BATCH_PAUSE if job.children is not None and job.children.resume_at == timer.due_at:
            return (events.BatchStarted(at=now, job=job.id, batch=job.children.batch + 1),)
        case inputs.TimerKind.JOB_START | inputs.TimerKind.JOB_TIMEOUT if not job.is_timed_out:
            return _job_time(job, timer, now)
    return ()


def _job_time(job: Job, timer: inputs.Timer, now: int) -> Events:
    if timer.kind is inputs.TimerKind.JOB_START:
        if job.deadline_at is not None or timer.due_at != job.start_deadline_at:
            return ()
        waited = durations.text(timer.due_at - (job.ready_at or timer.due_at))
        why = reason(ReasonCode.START_TIMEOUT, f"no server found within {waited}: {job.reason.text}")
        return (events.JobTimedOut(at=now, job=job.id, reason=why),)
    if timer.due_at != job.deadline_at:
        return ()
    why = reason(ReasonCode.TIMEOUT, f"job timed out after {durations.text(job.timeout_ms)}")
    return (events.JobTimedOut(at=now, job=job.id, reason=why),)


def _cancel(run: Run, given: inputs.CancelRun, now: int) -> Events:
    if run.is_cancelled and (run.is_forced or not given.is_forced):
        return ()
    code = ReasonCode.TERMINATED if given.is_forced else ReasonCode.CANCEL_REQUESTED
    why = reason(code, f"cancelled by {given.by}" + (" (forced)" if given.is_forced else ""), by=given.by)
    return (events.CancelRequested(at=now, by=given.by, is_forced=given.is_forced, reason=why),)


_DECIDERS: dict[type, Callable[[Run, Any, int], Events]] = {
    inputs.StartRun: _start,
    inputs.SlotGranted: _slot_granted,
    inputs.SlotPending: _slot_pending,
    inputs.SlotDenied: _slot_denied,
    inputs.ServersListed: _servers_listed,
    inputs.ChildRunCreated: child_runs.created,
    inputs.ChildRunNotCreated: child_runs.not_created,
    inputs.ChildRunEnded: child_runs.ended,
    inputs.LockAcquired: _lock_acquired,
    inputs.LockNotAcquired: _lock_not_acquired,
    inputs.DecideApproval: approvals.decide,
    inputs.CancelJob: _cancel_job,
    inputs.TaskStarted: _task_started,
    inputs.TaskFinished: _task_finished,
    inputs.TaskLost: _task_lost,
    inputs.TimerFired: _timer_fired,
    inputs.CancelRun: _cancel,
}
