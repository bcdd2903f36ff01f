"""How events change jobs: their gates, expansion and completion. See evolve.py for the rules."""

from __future__ import annotations

from waterflowd.engine import events
from waterflowd.engine.fold.transitions import cancel_job, move, stop
from waterflowd.engine.state.blocks import StopUrgency
from waterflowd.engine.state.gates import Approval, Lock
from waterflowd.engine.state.runs import Children, Job, Run, Scope
from waterflowd.model.ids import JobId
from waterflowd.model.records import FirstFailure
from waterflowd.model.statuses import FAILURES, Conclusion, Status


def _admit(job: Job) -> None:
    """Marks an instance as started at its first event."""
    if not job.is_instance or job.is_admitted:
        return
    assert job.parent is not None
    assert job.parent.children is not None
    assert job.position == job.parent.children.next_index, "instances must start in order"
    job.is_admitted = True
    job.parent.children.next_index += 1
    job.parent.children.active += 1


# Gates ----------------------------------------------------------------------------------------------------------------


def lock_requested(run: Run, event: events.LockRequested) -> None:
    """The run or job waits for a slot in a concurrency group."""
    lock = Lock(event.group, event.limit, event.queue, event.cancel_in_progress, event.at)
    owner: Run | Job = run
    if event.job is None:
        run.lock = lock
    else:
        owner = job = run.jobs_by_id[event.job]
        job.lock = lock
        _admit(job)
    move(owner, Status.WAITING)
    owner.reason = event.reason


def _lock(run: Run, job: JobId | None) -> tuple[Run | Job, Lock]:
    owner = run if job is None else run.jobs_by_id[job]
    assert owner.lock is not None, "no lock was requested"
    return owner, owner.lock


def lock_waiting(run: Run, event: events.LockWaiting) -> None:
    """The concurrency group is full: records why the run or job waits."""
    owner, lock = _lock(run, event.job)
    assert not lock.is_held, "the lock is already held"
    owner.reason = event.reason


def lock_granted(run: Run, event: events.LockGranted) -> None:
    """The run or job holds its slot in the concurrency group."""
    _lock(run, event.job)[1].is_held = True


def lock_refused(run: Run, event: events.LockRefused) -> None:
    """The concurrency group refused the run or job."""
    owner, lock = _lock(run, event.job)
    assert not lock.is_held, "a held lock cannot be refused"
    lock.refusal = event.reason
    owner.reason = event.reason


def environment_entered(run: Run, event: events.EnvironmentEntered) -> None:
    """The job has this environment from now on."""
    job = run.jobs_by_id[event.job]
    assert job.environment is None, "a job has one environment"
    job.environment = event.environment


def approval_requested(run: Run, event: events.ApprovalRequested) -> None:
    """A step, or a job with an environment, waits for approval."""
    job = run.jobs_by_id[event.job]
    approval = Approval(event.approvers, event.minimum, event.may_approve_own, event.due_at)
    approval.environment = event.environment
    approval.default = event.default
    if event.step is None:
        _admit(job)
        move(job, Status.WAITING)
        job.approval = approval
    else:
        step = job.steps_by_id[event.step]
        assert step is step.block.current, "only the current step of a block can request an approval"
        move(step, Status.WAITING)
        step.approval = approval
        step.started_at = event.at
        step.reason = event.reason
        job.open_approvals += 1
        move(job, Status.RUNNING if job.has_other_active_step(step) else Status.WAITING)
    job.reason = event.reason


def approval_decided(run: Run, event: events.ApprovalDecided) -> None:
    """Records a decision about an approval."""
    job = run.jobs_by_id[event.job]
    approval = job.approval if event.step is None else job.steps_by_id[event.step].approval
    assert approval is not None, "no approval was requested"
    if event.is_approved:
        approval.approved_by.append(event.by)
    else:
        approval.rejected_by = event.by
    if event.step is None:
        job.reason = event.reason
        job.is_approved = event.is_approved and len(approval.approved_by) >= approval.minimum
    else:
        job.steps_by_id[event.step].reason = event.reason


# What a job becomes ---------------------------------------------------------------------------------------------------


def job_ready(run: Run, event: events.JobReady) -> None:
    """The job waits for a server, or, for an instance on each, for the list of servers."""
    job = run.jobs_by_id[event.job]
    _admit(job)
    move(job, Status.WAITING)
    job.is_begun = True
    job.name = event.name
    job.group = event.group
    run.groups.setdefault(event.group)
    job.labels = event.labels
    job.timeout_ms = event.timeout_ms
    job.ready_at = event.at
    job.start_deadline_at = event.start_deadline_at
    job.reason = event.reason


def job_waiting(run: Run, event: events.JobWaiting) -> None:
    """Records why the list of servers is not available yet."""
    run.jobs_by_id[event.job].reason = event.reason


def _begin(job: Job, at: int) -> Children:
    _admit(job)
    move(job, Status.RUNNING)
    job.is_begun = True
    job.started_at = at
    job.start_deadline_at = None
    job.children = Children()
    return job.children


def job_expanded(run: Run, event: events.JobExpanded) -> None:
    """The job becomes its instances."""
    job = run.jobs_by_id[event.job]
    children = _begin(job, event.at)
    job.reason = event.reason
    children.max_parallel = event.max_parallel
    children.max_failures = event.max_failures
    children.fail_fast = event.fail_fast
    children.batches = event.batches
    children.pause_ms = event.pause_ms
    children.open = len(event.instances)
    # Without any, the job itself counts.
    run.leaves += max(0, len(event.instances) - 1)
    for position, instance in enumerate(event.instances):
        child = run.add_job(job.plan, JobId(f"{job.id}[{instance.key}]"), job.scope, job, instance.key)
        child.position = position
        child.matrix = instance.matrix
        child.pinned = instance.agent
        child.pinned_name = instance.agent_name
        child.name = instance.name or job.name
        child.group = job.group
        children.jobs.append(child)


def job_entered(run: Run, event: events.JobEntered) -> None:
    """The job becomes the jobs of the workflow that it calls."""
    job = run.jobs_by_id[event.job]
    call = job.plan.call
    assert call is not None, "the job does not call a workflow"
    children = _begin(job, event.at)
    job.name = event.name
    job.reason = event.reason
    scope = children.scope = Scope(call.name, call.env, job.scope_ref, call.secrets)
    scope.inputs = event.inputs
    scope.vars = event.vars
    for plan in call.jobs:
        child = run.add_job(plan, JobId(f"{job.id}/{plan.id}"), scope, job)
        scope.jobs[plan.id] = child
        children.jobs.append(child)
    children.open = len(children.jobs)
    run.leaves += len(children.jobs) - 1
    run.connect(scope)


def job_halted(run: Run, event: events.JobHalted) -> None:
    """No new instance of the job starts."""
    children = run.jobs_by_id[event.job].children
    assert children is not None, "the job has no instances to halt"
    children.halted = event.reason
    if event.is_stopped:
        for child in children.jobs:
            cancel_job(child, event.reason, event.at)


def job_cancelled(run: Run, event: events.JobCancelled) -> None:
    """The job must end."""
    cancel_job(run.jobs_by_id[event.job], event.reason, event.at)


def batch_completed(run: Run, event: events.BatchCompleted) -> None:
    """The next batch starts, now or after a pause."""
    job = run.jobs_by_id[event.job]
    children = job.children
    assert children is not None, "the job has no instances"
    assert event.batch == children.batch + 1, "batches must complete in order"
    children.batch += 1
    children.resume_at = event.resume_at if event.resume_at > event.at else None
    job.reason = event.reason


def batch_started(run: Run, event: events.BatchStarted) -> None:
    """The pause before the batch has ended."""
    children = run.jobs_by_id[event.job].children
    assert children is not None, "the job has no instances"
    children.resume_at = None


# Its end --------------------------------------------------------------------------------------------------------------


def job_retry_scheduled(run: Run, event: events.JobRetryScheduled) -> None:
    """The job waits for its next try."""
    job = run.jobs_by_id[event.job]
    assert event.number == job.number + 1, "the retry must have the next number"
    move(job, Status.WAITING)
    job.retry_at = event.due_at
    job.reason = event.reason


def job_restarted(run: Run, event: events.JobRestarted) -> None:
    """The job restarts; its attempts continue their numbering."""
    job = run.jobs_by_id[event.job]
    job.number = event.number
    job.retry_at = None
    job.kept = None
    if job.agent is not None and job.pinned is None:
        job.avoid = (*job.avoid, job.agent)
    job.agent = None
    job.agent_name = ""
    job.agent_facts = {}
    job.agent_boot_id = ""
    job.agent_reported_at = 0
    job.env = {}
    job.started_at = None
    job.deadline_at = None
    job.is_timed_out = False
    job.ready_at = event.at
    job.start_deadline_at = event.start_deadline_at
    job.reason = event.reason
    job.new_root()


def job_skipped(run: Run, event: events.JobSkipped) -> None:
    """The job is skipped; whatever it started must end first."""
    job = run.jobs_by_id[event.job]
    job.is_skipped = True
    job.stop_reason = event.reason
    stop(job, StopUrgency.REQUESTED, event.reason, event.at)


def job_timed_out(run: Run, event: events.JobTimedOut) -> None:
    """Everything that runs in the job must end."""
    job = run.jobs_by_id[event.job]
    job.is_timed_out = True
    job.reason = event.reason
    stop(job, StopUrgency.REQUESTED, event.reason, event.at)


def _skip_steps(job: Job, event: events.JobCompleted) -> None:
    """Steps whose turn had not come when the job ended never ran. They have no outcome, and a re-run reuses nothing of them."""
    for step in job.steps[job.root.cursor :]:
        if step.status is Status.QUEUED:
            move(step, Status.COMPLETED)
            step.conclusion = Conclusion.SKIPPED
            step.reason = event.reason
            step.completed_at = event.at


def _count(run: Run, job: Job) -> None:
    """Counts the end of a job that has not become others."""
    run.leaves_completed += 1
    if job.conclusion not in FAILURES:
        return
    run.leaves_failed += 1
    if run.first_failure is None:
        failed = [step for step in job.steps_by_id.values() if step.conclusion in FAILURES and not step.blocks]
        first = min(failed, key=lambda step: step.completed_at or 0, default=None)
        part = job.id if first is None else f"{job.id}/{first.id}"
        cause = job.reason if first is None else first.reason
        run.first_failure = FirstFailure(part=part, agent=job.agent_name, reason=cause)


def job_completed(run: Run, event: events.JobCompleted) -> None:
    """The job has ended: others may start."""
    job = run.jobs_by_id[event.job]
    _admit(job)
    move(job, Status.COMPLETED)
    job.outcome = event.outcome
    job.conclusion = event.conclusion
    job.outputs = event.outputs
    job.report = event.report
    if event.report is not None:
        run.report_length += event.report.length
    job.reason = event.reason
    job.completed_at = event.at
    job.blocks.clear()
    _skip_steps(job, event)
    needs = [job.scope.jobs[need] for need in job.plan.needs]
    job.has_success = event.conclusion is Conclusion.SUCCESS and all(need.has_success for need in needs)
    job.has_failure = event.conclusion in FAILURES or any(need.has_failure for need in needs)
    if job.parent is None:
        run.open_jobs -= 1
    else:
        children = job.parent.children
        assert children is not None
        children.open -= 1
        children.active -= job.is_admitted
        children.failures += event.conclusion in FAILURES
    if job.children is None or not job.children.jobs:
        _count(run, job)
    for dependent in run.dependents.get(job.id, ()):
        dependent.open_needs -= 1
