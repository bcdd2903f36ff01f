"""How events change steps and attempts; see evolve.py for the rules."""

from __future__ import annotations

from waterflowd.engine import events
from waterflowd.engine.fold.transitions import find, find_attempt, move, move_attempt, stop
from waterflowd.engine.state.blocks import Attempt, StopUrgency
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import FAILURES, AttemptStatus, Outcome, Status


def start_job(job: Job, at: int, deadline_at: int, cause: Reason) -> None:
    """The job starts with this step."""
    move(job, Status.RUNNING)
    job.reason = cause
    if job.started_at is None:
        job.started_at = at
        job.deadline_at = deadline_at


def attempt_queued(run: Run, event: events.AttemptQueued) -> None:
    """An attempt requests a slot."""
    _, step = find(run, event.job, event.step)
    assert event.attempt == len(step.attempts) + 1, f"attempt {event.attempt} follows {len(step.attempts)}"
    assert step is step.block.current, "only the current step of a block can have attempts"
    if step.status is not Status.RUNNING:
        move(step, Status.WAITING)
    step.attempts.append(Attempt(event.attempt, event.at))
    step.retry_at = None
    step.is_timed_out = False


def attempt_waiting(run: Run, event: events.AttemptWaiting) -> None:
    """Records why the attempt has no slot yet. One that was dispatched to its job's own server may wait for a slot there."""
    job, step, attempt = find_attempt(run, event.job, event.step, event.attempt)
    if attempt.status is not AttemptStatus.PENDING:
        assert attempt.status is AttemptStatus.DISPATCHED, "an attempt that has started does not wait for a slot"
        move(step, Status.WAITING)
    attempt.reason = event.reason
    step.reason = event.reason
    job.reason = event.reason


def attempt_dispatched(run: Run, event: events.AttemptDispatched) -> None:
    """The attempt has its lease."""
    job, step, attempt = find_attempt(run, event.job, event.step, event.attempt)
    move_attempt(attempt, AttemptStatus.DISPATCHED)
    attempt.epoch = event.epoch
    attempt.agent = event.agent
    attempt.agent_name = event.agent_name
    attempt.boot_id = event.boot_id
    attempt.dispatched_at = event.at
    attempt.params = event.params
    attempt.env = event.env
    attempt.working_directory = event.working_directory
    attempt.timeout_ms = event.timeout_ms
    attempt.lease_ms = event.lease_ms
    attempt.reason = event.reason
    if event.name is not None:
        step.name = event.name
    move(step, Status.RUNNING)
    step.reason = event.reason
    if step.started_at is None:
        step.started_at = event.at
    if job.agent is None:
        job.agent = event.agent
        job.agent_name = event.agent_name
        run.servers.setdefault(event.agent_name)
        job.agent_facts = event.facts
    job.agent_boot_id = event.boot_id
    start_job(job, event.at, event.job_deadline_at, event.reason)


def attempt_started(run: Run, event: events.AttemptStarted) -> None:
    """The attempt's process is running."""
    job, step, attempt = find_attempt(run, event.job, event.step, event.attempt)
    move_attempt(attempt, AttemptStatus.STARTED)
    move(step, Status.RUNNING)
    job.agent_reported_at = event.at
    attempt.started_at = event.started_at
    cause = reason(ReasonCode.STARTED, f"runs on {attempt.agent_name}", agent=attempt.agent_name)
    attempt.reason = cause
    step.reason = cause


def attempt_finished(run: Run, event: events.AttemptFinished) -> None:
    """Records the attempt's result."""
    job, step, attempt = find_attempt(run, event.job, event.step, event.attempt)
    move_attempt(attempt, AttemptStatus.FINISHED)
    attempt.summary = event.summary
    attempt.annotations = event.annotations
    run.summary_length += len(event.summary) + sum(map(len, event.annotations))
    attempt.outcome = event.outcome
    attempt.exit_code = event.exit_code
    attempt.outputs = event.outputs
    if event.started_at is not None:
        attempt.started_at = event.started_at
    attempt.finished_at = event.finished_at
    attempt.output_bytes = event.output_bytes
    attempt.output_dropped = event.output_dropped
    attempt.reason = event.reason
    if attempt.agent is not None and attempt.outcome is not Outcome.LOST:
        job.agent_reported_at = event.at
    step.deadline_at = None
    step.reason = event.reason
    if event.env:
        attempt.exported = event.env
        job.env.update(event.env)


def retry_scheduled(run: Run, event: events.RetryScheduled) -> None:
    """The step waits for its next attempt."""
    _, step = find(run, event.job, event.step)
    assert event.attempt == len(step.attempts) + 1, "the retry must be the next attempt"
    move(step, Status.WAITING)
    step.retry_at = event.due_at
    step.reason = event.reason


def step_sleeping(run: Run, event: events.StepSleeping) -> None:
    """The step sleeps until its timer is due."""
    job, step = find(run, event.job, event.step)
    assert step is step.block.current, "only the current step of a block can sleep"
    move(step, Status.WAITING)
    step.due_at = event.due_at
    step.started_at = event.at
    step.reason = event.reason
    start_job(job, event.at, event.at + job.timeout_ms, event.reason)
    assert job.deadline_at is not None
    # Sleep does not count against the job's timeout.
    job.deadline_at += max(0, event.due_at - event.at)


def child_run_requested(run: Run, event: events.ChildRunRequested) -> None:
    """The attempt starts a child run."""
    job, step, attempt = find_attempt(run, event.job, event.step, event.attempt)
    assert attempt.status is AttemptStatus.PENDING, "only a pending attempt can request a child run"
    assert attempt.params is None, "the attempt has already requested a child run"
    attempt.params = {"workflow": event.workflow, "inputs": event.inputs, "wait": event.is_awaited}
    attempt.reason = event.reason
    if event.name is not None:
        step.name = event.name
    step.reason = event.reason
    step.deadline_at = event.deadline_at
    if step.started_at is None:
        step.started_at = event.at
    start_job(job, event.at, event.at + job.timeout_ms, event.reason)


def child_run_started(run: Run, event: events.ChildRunStarted) -> None:
    """The attempt's child run was created."""
    job, step, attempt = find_attempt(run, event.job, event.step, event.attempt)
    assert attempt.status is AttemptStatus.PENDING, "only a pending attempt can start a child run"
    assert attempt.params is not None, "the attempt has not requested a child run"
    assert attempt.child_run is None, "the attempt has already started a child run"
    attempt.child_run = event.run
    attempt.started_at = event.at
    attempt.reason = event.reason
    step.reason = event.reason
    job.reason = event.reason


def step_held(run: Run, event: events.StepHeld) -> None:
    """The step waits for a person's decision."""
    job, step = find(run, event.job, event.step)
    move(step, Status.WAITING)
    step.is_held = True
    step.reason = event.reason
    job.reason = event.reason


def _extend(job: Job, waited_ms: int) -> None:
    """Extends the job's timeout and its start timeout: the time that people take to decide does not count."""
    if job.deadline_at is not None:
        job.deadline_at += max(0, waited_ms)
    elif job.start_deadline_at is not None:
        job.start_deadline_at += max(0, waited_ms)


def step_completed(run: Run, event: events.StepCompleted) -> None:
    """A step has ended: the next one in its block follows, or the block ends."""
    job, step = find(run, event.job, event.step)
    block = step.block
    assert step is block.current, "steps must complete in order"
    assert not step.open_blocks, "the blocks inside the step have not completed"
    move(step, Status.COMPLETED)
    step.outcome = event.outcome
    step.conclusion = event.conclusion
    step.reason = event.reason
    step.completed_at = event.at
    step.due_at = None
    step.retry_at = None
    step.deadline_at = None
    if event.outputs is not None:
        step.own_outputs = event.outputs
    if event.env:
        job.env.update(event.env)
    if step.approval is not None:
        job.open_approvals -= 1
        _extend(job, event.at - (step.started_at or event.at))
    block.cursor += 1
    if event.conclusion in FAILURES and block.failed_step is None:
        block.failed_step = step
        if block.owner is not None and block.owner.failed_block is None:
            block.owner.failed_block = block
    if block.current is None:
        del job.blocks[block.number]
        if block.owner is not None:
            block.owner.open_blocks -= 1


def late_report(run: Run, event: events.LateReport) -> None:
    """Changes nothing: the event is only evidence."""
    find_attempt(run, event.job, event.step, event.attempt)[2].is_late_recorded = True


def step_entered(run: Run, event: events.StepEntered) -> None:
    """The step's blocks may start."""
    job, step = find(run, event.job, event.step)
    assert step is step.block.current, "only the current step of a block can be entered"
    move(step, Status.RUNNING)
    move(job, Status.RUNNING)
    if event.name is not None:
        step.name = event.name
    step.count = event.count
    step.items = event.items
    step.inputs = event.inputs
    step.max_parallel = event.max_parallel
    step.deadline_at = event.deadline_at
    step.started_at = event.at
    step.reason = event.reason
    job.reason = event.reason


def block_started(run: Run, event: events.BlockStarted) -> None:
    """The steps of a block are queued."""
    job, step = find(run, event.job, event.step)
    assert step.status is Status.RUNNING, "the step has not been entered"
    assert event.number == len(step.blocks), "blocks must start in order"
    block = job.new_block(step, step.plan.blocks[event.plan])
    step.open_blocks += 1
    run.steps_made += len(block.steps)


def step_timed_out(run: Run, event: events.StepTimedOut) -> None:
    """Everything that runs inside the step must end."""
    job, step = find(run, event.job, event.step)
    step.is_timed_out = True
    step.deadline_at = None
    step.reason = event.reason
    stop(job, StopUrgency.REQUESTED, event.reason, event.at, step)
