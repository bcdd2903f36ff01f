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
from waterflowd.engine.rules import approvals, child_runs, completion, contexts, leases, rendering, result_limits
from waterflowd.engine.state.blocks import Attempt, Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import durations
from waterflowd.model.ids import AttemptNo
from waterflowd.model.plan import Offline
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.records import TriggerKind
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome, Status

#: A run without `timeout-minutes` has 30 days.
RUN_TIMEOUT_MS = 30 * 24 * 3_600_000

Events = tuple[events.RunEvent, ...]


def decide(run: Run, input: inputs.Input, now: int) -> Events:
    """The facts that the input makes true at `now` (ms, the log's clock)."""
    if run.is_completed and not isinstance(input, inputs.TaskFinished):
        return ()
    return _DECIDERS[type(input)](run, input, now)


def _start(run: Run, input: inputs.StartRun, now: int) -> Events:
    if run.seq:
        return ()
    plan = run.plan
    problem: Reason | None = None
    try:
        values = rendering.resolve_vars(plan.vars | input.vars, input.inputs, input.trigger)
    except Rejected as error:
        values = {}
        problem = reason(ReasonCode.EXPRESSION_ERROR, f"vars: {error.text}", error=error.code)
    created = events.RunCreated(
        at=now,
        plan_hash=input.plan_hash,
        number=input.number,
        trigger=input.trigger,
        repository=input.repository,
        revision=input.revision,
        inputs=input.inputs,
        vars=values,
        flags=flags.CURRENT,
        start_vars=input.vars,
        rerun_of=input.rerun_of,
        reused=input.reused,
        hashes=input.hashes,
        environments=input.environments,
        deadline_at=now + (plan.timeout_ms or RUN_TIMEOUT_MS),
        reason=_created(input),
    )
    if problem is None:
        return (created,)
    return created, events.RunCompleted(at=now, conclusion=Conclusion.FAILURE, reason=problem)


def _created(input: inputs.StartRun) -> Reason:
    kind = input.trigger.kind.value
    if input.rerun_of is None:
        text = "started manually" if input.trigger.kind is TriggerKind.MANUAL else f"started by {kind}"
        return reason(ReasonCode.CREATED, text, trigger=kind)
    return reason(ReasonCode.CREATED, f"re-run of {input.rerun_of}", trigger=kind, run=input.rerun_of)


def _slot_granted(run: Run, input: inputs.SlotGranted, now: int) -> Events:
    job, step, attempt = _named(run, input.job, input.step, input.attempt)
    if job is None or step is None or attempt is None or attempt.status is not AttemptStatus.PENDING or step.stop:
        return ()
    if (job.required_agent or input.agent) != input.agent:
        # Meanwhile another branch of the job got a server, and the slot is requested again.
        return ()
    is_first = job.agent is None
    cause = reason(ReasonCode.DISPATCHED, f"sent to {input.agent_name}", agent=input.agent_name)
    deadline_at = job.deadline_at or now + job.timeout_ms
    # Expressions may read the server, which belongs to the job from this event on.
    server = contexts.agent(input.facts if is_first else job.agent_facts, input.agent_name, job.group)
    values = _render(run, job, step, server, now)
    if isinstance(values, Reason):
        return (_failed(input.job, input.step, attempt, values, now),)
    left_ms = max(1, deadline_at - now)
    own = run.plan.node(step.plan.node)
    return (
        events.AttemptDispatched(
            at=now,
            job=input.job,
            step=input.step,
            attempt=input.attempt,
            epoch=input.epoch,
            agent=input.agent,
            agent_name=input.agent_name,
            boot_id=input.boot_id,
            facts=input.facts if is_first else {},
            name=values.name,
            params=values.params,
            env=values.env,
            working_directory=values.working_directory,
            node_version=input.node_version if own is None else own.version,
            timeout_ms=min(values.timeout_ms or left_ms, left_ms),
            job_deadline_at=deadline_at,
            lease_ms=input.lease_ms if leases.is_exclusive(run, job, step) else 0,
            reason=cause,
        ),
    )


def _render(run: Run, job: Job, step: Step, server: dict[str, object], now: int) -> rendering.Rendered | Reason:
    try:
        return rendering.render(run, job, step, server, now)
    except Rejected as error:
        return reason(ReasonCode.EXPRESSION_ERROR, error.text, error=error.code)


def _failed(job: Any, step: Any, attempt: Attempt, cause: Reason, now: int) -> events.AttemptFinished:
    return events.AttemptFinished(
        at=now, job=job, step=step, attempt=attempt.number, outcome=Outcome.FAILURE, reason=cause
    )


def _slot_denied(run: Run, input: inputs.SlotDenied, now: int) -> Events:
    _, _, attempt = _named(run, input.job, input.step, input.attempt)
    if attempt is None or attempt.status is not AttemptStatus.PENDING:
        return ()
    return (_failed(input.job, input.step, attempt, input.reason, now),)


def _slot_pending(run: Run, input: inputs.SlotPending, now: int) -> Events:
    job, step, attempt = _named(run, input.job, input.step, input.attempt)
    if job is None or step is None or attempt is None:
        return ()
    # One that was dispatched to the job's own server may still wait for a slot there.
    if attempt.status is not AttemptStatus.PENDING and (attempt.status is not AttemptStatus.DISPATCHED or step.stop):
        return ()
    if input.reason.code in _ABSENT and not job.may_await_server:
        return (_absent(job, input, attempt, now),)
    if attempt.reason == input.reason:
        return ()
    return (events.AttemptWaiting(at=now, job=input.job, step=input.step, attempt=input.attempt, reason=input.reason),)


#: The server cannot start the job: it is not connected, no longer enrolled, or draining.
_ABSENT = {
    ReasonCode.SERVER_UNREACHABLE: "is not connected",
    ReasonCode.SERVER_LOST: "is no longer enrolled",
    ReasonCode.SERVER_DRAINING: "is draining",
}


def _absent(job: Job, input: inputs.SlotPending, attempt: Attempt, now: int) -> events.RunEvent:
    assert job.plan.target is not None
    text = f"server {job.pinned_name} {_ABSENT[input.reason.code]}"
    cause = reason(input.reason.code, text, agent=job.pinned_name)
    if job.plan.target.offline is Offline.FAIL:
        return _failed(input.job, input.step, attempt, cause, now)
    return events.JobSkipped(at=now, job=job.id, reason=cause)


def _servers_listed(run: Run, input: inputs.ServersListed, now: int) -> Events:
    job = run.jobs_by_id.get(input.job)
    if job is None or not needs_server_list(job):
        return ()
    if input.is_refused and input.reason is not None:
        return (completion.complete(job, Conclusion.FAILURE, input.reason, now),)
    if input.reason is not None:
        if input.reason == job.reason:
            return ()
        return (events.JobWaiting(at=now, job=job.id, reason=input.reason),)
    servers = input.servers
    chosen = run.reused.servers.get(job.id) if run.reused is not None else None
    if chosen is not None:
        servers = [(agent, name) for agent, name in servers if name in chosen]
    if not servers:
        cause = reason(ReasonCode.NO_SERVER_IN_GROUP, "none of the servers to re-run is still enrolled")
        return (completion.complete(job, Conclusion.FAILURE, cause, now),)
    return (child_moves.expand_servers(run, job, servers, now),)


def _owner(run: Run, job: Any) -> Run | Job | None:
    return run if job is None else run.jobs_by_id.get(job)


def _lock_acquired(run: Run, input: inputs.LockAcquired, now: int) -> Events:
    owner = _owner(run, input.job)
    if owner is None or not needs_lock(owner):
        return ()
    return (events.LockGranted(at=now, job=input.job),)


def _lock_not_acquired(run: Run, input: inputs.LockNotAcquired, now: int) -> Events:
    owner = _owner(run, input.job)
    if owner is None or not needs_lock(owner):
        return ()
    if input.is_refused:
        return (events.LockRefused(at=now, job=input.job, reason=input.reason),)
    if owner.reason == input.reason:
        return ()
    return (events.LockWaiting(at=now, job=input.job, reason=input.reason),)


def _cancel_job(run: Run, input: inputs.CancelJob, now: int) -> Events:
    job = run.jobs_by_id.get(input.job)
    if job is None or job.is_cancelled or job.status not in (Status.WAITING, Status.RUNNING):
        return ()
    return (events.JobCancelled(at=now, job=job.id, reason=input.reason),)


def _named(run: Run, job: Any, step: Any, number: Any) -> tuple[Job | None, Step | None, Attempt | None]:
    owner = run.jobs_by_id.get(job)
    found = owner.steps_by_id.get(step) if owner is not None else None
    if found is None or not 1 <= number <= len(found.attempts):
        return owner, found, None
    return owner, found, found.attempts[number - 1]


def _is_lease_holder(attempt: Attempt, input: inputs.TaskReport) -> bool:
    return attempt.is_open and attempt.epoch == input.epoch and attempt.agent == input.agent


def _task_started(run: Run, input: inputs.TaskStarted, now: int) -> Events:
    _, _, attempt = _named(run, input.job, input.step, input.attempt)
    if attempt is None or attempt.status is not AttemptStatus.DISPATCHED or not _is_lease_holder(attempt, input):
        return ()
    return (
        events.AttemptStarted(
            at=now,
            job=input.job,
            step=input.step,
            attempt=input.attempt,
            started_at=result_limits.instant(input.started_at),
        ),
    )


def _task_finished(run: Run, input: inputs.TaskFinished, now: int) -> Events:
    _, step, attempt = _named(run, input.job, input.step, input.attempt)
    if step is None or attempt is None:
        return ()
    input = result_limits.enforce(input)
    if not _is_lease_holder(attempt, input):
        return _evidence(attempt, input, now)
    return (
        events.AttemptFinished(
            at=now,
            job=input.job,
            step=input.step,
            attempt=input.attempt,
            outcome=input.outcome,
            exit_code=input.exit_code,
            outputs=input.outputs,
            env=input.env,
            started_at=input.started_at,
            finished_at=input.finished_at,
            output_bytes=input.output_bytes,
            output_dropped=input.output_dropped,
            summary=result_limits.kept_summary(run.summary_length, input.summary),
            reason=_result_reason(input),
            annotations=result_limits.kept_annotations(run.summary_length, input.annotations),
        ),
    )


def _evidence(attempt: Attempt, input: inputs.TaskFinished, now: int) -> Events:
    """Records a result that cannot be applied, once per attempt; a plain repetition is ignored."""
    is_repetition = attempt.epoch == input.epoch and attempt.agent == input.agent and attempt.outcome is input.outcome
    if is_repetition or attempt.is_late_recorded:
        return ()
    return (
        events.LateReport(
            at=now,
            job=input.job,
            step=input.step,
            attempt=input.attempt,
            epoch=input.epoch,
            agent=input.agent,
            outcome=input.outcome,
            exit_code=input.exit_code,
        ),
    )


def _result_reason(input: inputs.TaskFinished) -> Reason:
    if input.outcome is Outcome.SUCCESS:
        return _SUCCEEDED
    try:
        code = ReasonCode(input.reason_code) if input.reason_code else _DEFAULT_CODES[input.outcome]
    except ValueError:
        # A newer agent may send unknown codes; its text still says what happened.
        code = _DEFAULT_CODES[input.outcome]
    text = input.reason_text
    if not text:
        text = f"exit code {input.exit_code}" if input.exit_code is not None else input.outcome.value
    return reason(code, text, **({"exit-code": input.exit_code} if input.exit_code is not None else {}))


_SUCCEEDED = reason(ReasonCode.SUCCEEDED, "succeeded")
_DEFAULT_CODES = {
    Outcome.FAILURE: ReasonCode.EXIT_CODE,
    Outcome.TIMED_OUT: ReasonCode.TIMEOUT,
    Outcome.CANCELLED: ReasonCode.CANCEL_REQUESTED,
    Outcome.LOST: ReasonCode.OUTCOME_UNKNOWN,
    Outcome.REFUSED: ReasonCode.REFUSED,
}


def _task_lost(run: Run, input: inputs.TaskLost, now: int) -> Events:
    _, _, attempt = _named(run, input.job, input.step, input.attempt)
    if attempt is None or not _is_lease_holder(attempt, input):
        return ()
    return (
        events.AttemptFinished(
            at=now,
            job=input.job,
            step=input.step,
            attempt=input.attempt,
            outcome=Outcome.LOST,
            reason=input.reason,
        ),
    )


def _timer_fired(run: Run, input: inputs.TimerFired, now: int) -> Events:
    timer = input.timer
    if timer.kind is inputs.TimerKind.RUN_TIMEOUT:
        if timer.due_at != run.deadline_at or run.is_timed_out:
            return ()
        cause = reason(ReasonCode.TIMEOUT, f"run timed out after {durations.text(timer.due_at - run.created_at)}")
        return (events.RunTimedOut(at=now, reason=cause),)
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
            cause = reason(ReasonCode.SLEPT, "sleep finished")
            done = Conclusion.SUCCESS
            return (
                events.StepCompleted(at=now, job=job.id, step=step.id, outcome=done, conclusion=done, reason=cause),
            )
        case inputs.TimerKind.STEP_RETRY if step.retry_at == timer.due_at and not step.stop:
            number = AttemptNo(len(step.attempts) + 1)
            return (events.AttemptQueued(at=now, job=job.id, step=step.id, attempt=number),)
        case inputs.TimerKind.STEP_STOP:
            return _unanswered(job, step, timer, now)
        case inputs.TimerKind.STEP_TIMEOUT if step.deadline_at == timer.due_at:
            began_at = step.started_at if step.last is None else step.last.queued_at
            took = durations.text(timer.due_at - (began_at or timer.due_at))
            cause = reason(ReasonCode.TIMEOUT, f"step timed out after {took}")
            return (events.StepTimedOut(at=now, job=job.id, step=step.id, reason=cause),)
        case inputs.TimerKind.APPROVAL if step.approval is not None and step.approval.due_at == timer.due_at:
            return approvals.timeout_decisions(job, step, now)
    return ()


def _unanswered(job: Job, step: Step, timer: inputs.Timer, now: int) -> Events:
    """The agent was told to stop the attempt and did not confirm it: the outcome is unknown, and the run must not wait."""
    attempt = step.last
    if attempt is None or not attempt.is_open or not step.stop or stop_timer(job, step) != timer:
        return ()
    waited = durations.text(timer.due_at - step.stop_at)
    text = f"{attempt.agent_name} did not confirm the stop within {waited} ({step.stop_reason.text})"
    cause = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
    return (
        events.AttemptFinished(
            at=now, job=job.id, step=step.id, attempt=attempt.number, outcome=Outcome.LOST, reason=cause
        ),
    )


def _job_timer(run: Run, job: Job, timer: inputs.Timer, now: int) -> Events:
    match timer.kind:
        case inputs.TimerKind.JOB_RETRY if job.retry_at == timer.due_at and not job.is_cancelled:
            cause = reason(ReasonCode.STARTED, f'try {job.number + 1}: waiting for a server of group "{job.group}"')
            deadline_at = now + job.plan.start_timeout_ms
            restarted = events.JobRestarted(
                at=now, job=job.id, number=job.number + 1, start_deadline_at=deadline_at, reason=cause
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
        cause = reason(ReasonCode.START_TIMEOUT, f"no server found within {waited}: {job.reason.text}")
        return (events.JobTimedOut(at=now, job=job.id, reason=cause),)
    if timer.due_at != job.deadline_at:
        return ()
    cause = reason(ReasonCode.TIMEOUT, f"job timed out after {durations.text(job.timeout_ms)}")
    return (events.JobTimedOut(at=now, job=job.id, reason=cause),)


def _cancel(run: Run, input: inputs.CancelRun, now: int) -> Events:
    if run.is_cancelled and (run.is_forced or not input.is_forced):
        return ()
    code = ReasonCode.TERMINATED if input.is_forced else ReasonCode.CANCEL_REQUESTED
    cause = reason(code, f"cancelled by {input.by}" + (" (forced)" if input.is_forced else ""), by=input.by)
    return (events.CancelRequested(at=now, by=input.by, is_forced=input.is_forced, reason=cause),)


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
