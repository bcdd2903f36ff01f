"""What is promised about gates and order: approvals, concurrency groups, instances of jobs, and the servers of a job.

Rules of this file: the same as in promises.py. Each rule is written from the language's side, with the shadow runs as
they are before an event. What may hold for a moment within a batch is checked when the batch is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.simulator.checks import oracle
from tests.simulator.environment import Environment
from tests.simulator.language import LIMITS
from tests.simulator.truth import Execution
from waterflowd.engine import Run, events
from waterflowd.engine.state.gates import Lock
from waterflowd.engine.state.runs import Job
from waterflowd.fleet.locks import Holder, Locks
from waterflowd.fleet.placement import ServerListRequest
from waterflowd.model import chains
from waterflowd.model.ids import JobId, RunId, StepId
from waterflowd.model.records import Reused
from waterflowd.model.statuses import FAILURES, Conclusion, Status

#: The first events of a job that starts to work, and of an instance that may start.
_BEGIN = (events.JobReady, events.JobExpanded, events.JobEntered)
_TURN = (*_BEGIN, events.LockRequested)

Group = tuple[str, str]


class GateChecker:
    """The gate checkers of one simulation."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        #: People's decisions, according to the log.
        self._decided: set[tuple[RunId, JobId, StepId | None, str]] = set()
        #: When the holders that were granted a lock in the current batch started to wait.
        self._granted: list[tuple[Group, int]] = []
        self._has_locks = False
        #: When the next batch of a job may start.
        self._resumes: dict[tuple[RunId, JobId], int] = {}

    def forget(self) -> None:
        """Starts afresh, because the log is an older one."""
        self._decided.clear()
        self._granted.clear()

    def before(self, shadow: Run, event: Any) -> None:
        """Checks an event that is about to be applied to the shadow run."""
        if isinstance(event, _TURN) and event.job is not None:
            self._check_turn(shadow, shadow.jobs_by_id[event.job], event.at)
        if isinstance(event, _BEGIN):
            self._check_begin(shadow, shadow.jobs_by_id[event.job])
        if shadow.reused is not None:
            self._check_reused(shadow, shadow.reused, event)
        if isinstance(event, events.JobExpanded):
            self._check_expanded(shadow, event)
        elif isinstance(event, events.RunStarted):
            is_held = shadow.plan.concurrency is None or (shadow.lock is not None and shadow.lock.is_held)
            self._expect(is_held, f"{shadow.id} starts without its concurrency group")
        elif isinstance(event, events.LockGranted):
            self._has_locks = True
            lock = _lock(shadow, event.job)
            if lock is not None:
                self._granted.append(((shadow.repository or "", lock.group), lock.requested_at))
        elif isinstance(event, events.ApprovalDecided):
            self._check_decision(shadow, event)
        elif isinstance(event, events.AttemptDispatched):
            self._check_server(shadow, event)
            self._check_lease(shadow, event)
        elif isinstance(event, events.StepCompleted):
            self._check_approved(shadow, event)
        elif isinstance(event, events.BatchCompleted):
            self._resumes[shadow.id, event.job] = event.resume_at
        elif isinstance(event, events.BlockStarted):
            self._check_block(shadow, event)
        elif isinstance(event, events.JobRestarted):
            self._check_try(shadow, event)

    def _expect(self, is_kept: object, text: str) -> None:
        self._environment.expect(is_kept, text)

    # Order of instances -----------------------------------------------------------------------------------------------

    def _check_turn(self, shadow: Run, job: Job, at: int) -> None:
        """Instances start in their order, batch by batch, and never more than `max-parallel` at a time."""
        parent = job.parent
        if job.status is not Status.QUEUED or not job.is_instance or parent is None or parent.children is None:
            return
        name = f"{job.id} of {shadow.id}"
        siblings = parent.children.jobs
        begun = [one for one in siblings if one.status is not Status.QUEUED]
        self._expect(len(begun) == job.position, f"{name} starts as number {len(begun)}")
        limit = parent.children.max_parallel
        active = oracle.active(siblings)
        self._expect(limit is None or active < limit, f"{name} starts beside {active} others, max-parallel is {limit}")
        self._expect(oracle.batch_is_open(job), f"{name} starts before the previous batch has ended")
        failed = sum(one.conclusion in FAILURES for one in siblings)
        most = 0 if parent.children.fail_fast else parent.children.max_failures
        self._expect(most is None or failed <= most, f"{name} starts although {failed} have failed")
        resumes_at = self._resumes.get((shadow.id, parent.id), 0)
        self._expect(at >= resumes_at, f"{name} starts {resumes_at - at} ms too early after a batch")

    def _check_begin(self, shadow: Run, job: Job) -> None:
        """Needs, approval and lock come before a job's work."""
        name = f"job {job.id} of {shadow.id}"
        open_needs = [need for need in job.plan.needs if job.scope.jobs[need].conclusion is None]
        self._expect(job.is_instance or not open_needs, f"{name} starts before {open_needs}")
        self._expect(shadow.started_at is not None, f"{name} starts before its run")
        gate = job.plan.environment
        if gate is not None and not job.is_instance and job.children is None:
            approved_by = set(job.approval.approved_by) if job.approval is not None else set()
            self._expect(
                len(approved_by) >= gate.minimum, f"{name} starts with {len(approved_by)} approvals of {gate.minimum}"
            )
            is_rejected = job.approval is not None and job.approval.rejected_by
            self._expect(not is_rejected, f"{name} starts although it was rejected")
        if oracle.takes_lock(job):
            self._expect(job.lock is not None and job.lock.is_held, f"{name} starts without its concurrency group")

    def _check_expanded(self, shadow: Run, event: events.JobExpanded) -> None:
        """A job that runs on each server has exactly one instance per server and matrix combination."""
        job = shadow.jobs_by_id[event.job]
        self._expect(job.children is None, f"{job.id} of {shadow.id} is expanded twice")
        if job.plan.target is None:
            return
        locations = [(one.agent, repr(one.matrix)) for one in event.instances]
        self._expect(len(set(locations)) == len(locations), f"{job.id} of {shadow.id} has a server twice: {locations}")
        self._expect(all(one.agent for one in event.instances), f"{job.id} of {shadow.id} has an instance on no server")

    def _check_server(self, shadow: Run, event: events.AttemptDispatched) -> None:
        """A job keeps its server for a whole try; an instance for one server runs on that server."""
        job = shadow.jobs_by_id[event.job]
        name = f"{event.job}/{event.step}#{event.attempt} of {shadow.id}"
        self._expect(job.agent in (None, event.agent), f"{name} is sent to {event.agent}, its job is on {job.agent}")
        self._expect(
            job.pinned in (None, event.agent), f"{name} is sent to {event.agent}, it is pinned to {job.pinned}"
        )

    def _check_lease(self, shadow: Run, event: events.AttemptDispatched) -> None:
        """An attempt has a lease exactly when its end may start something elsewhere."""
        job = shadow.jobs_by_id[event.job]
        needs = oracle.is_exclusive(shadow, job, job.steps_by_id[event.step])
        name = f"{event.job}/{event.step}#{event.attempt} of {shadow.id}"
        self._expect((event.lease_ms > 0) == needs, f"{name} has a lease of {event.lease_ms} ms")

    def process_started(self, shadow: Run, execution: Execution) -> None:
        """No more holders of a group are at work at the same time than it has slots, wherever their processes run (G3)."""
        execution.held += self._held(shadow, shadow.jobs_by_id[execution.key.attempt.job])
        for group, _ in execution.held:
            at_work = {
                holder
                for other in self._environment.truth.running
                if not other.is_orphan and other.key.epoch >= self._environment.restored_epoch
                for held, holder in other.held
                if held == group
            }
            self._expect(len(at_work) <= LIMITS[group[1]], f"G3: {at_work} work at the same time in {group}")

    def _held(self, shadow: Run, job: Job) -> list[tuple[Group, Holder]]:
        """Returns the slots that a step of this job works for: of its job, the jobs above, its run, and the step that waits."""
        found: list[tuple[Group, Holder]] = []
        repository = shadow.repository or ""
        if shadow.lock is not None and shadow.lock.is_held:
            found.append(((repository, shadow.lock.group), Holder(shadow.id, None)))
        owner: Job | None = job
        while owner is not None:
            if owner.lock is not None and owner.lock.is_held:
                found.append(((repository, owner.lock.group), Holder(shadow.id, owner.id)))
            owner = owner.parent
        parent: dict[str, Any] = shadow.trigger.payload.get(chains.PARENT_RUN) or {}
        above = self._environment.shadows.get(RunId(parent["id"])) if parent else None
        if above is not None:
            attempt = above.attempt(parent["job"], parent["step"], parent["attempt"])
            if attempt is not None and attempt.params is not None and attempt.params["wait"]:
                found += self._held(above, above.jobs_by_id[parent["job"]])
        return found

    def _check_try(self, shadow: Run, event: events.JobRestarted) -> None:
        job = shadow.jobs_by_id[event.job]
        most = job.plan.retry.max_attempts if job.plan.retry is not None else 1
        self._expect(event.number <= most, f"{job.id} of {shadow.id} has try {event.number} of {most}")
        due_at = job.retry_at
        self._expect(due_at is not None and event.at >= due_at, f"{job.id} of {shadow.id} is retried too early")
        open_steps = [step.id for step in job.steps_by_id.values() if step.last is not None and step.last.is_open]
        self._expect(not open_steps, f"{job.id} of {shadow.id} is retried while {open_steps} run")

    def _check_block(self, shadow: Run, event: events.BlockStarted) -> None:
        """A loop continues only after iterations that did not fail, and not forever; branches are those of the file."""
        step = shadow.jobs_by_id[event.job].steps_by_id[event.step]
        name = f"block {event.number} of {event.job}/{event.step} of {shadow.id}"
        begun, params = len(step.blocks), step.plan.params
        self._expect(event.number == begun, f"{name} starts as number {begun}")
        if step.plan.node != "loop":
            most = 1 if step.plan.node == "condition" else len(step.plan.blocks)
            self._expect(begun < most, f"{name} starts, and there are {most}")
            return
        has_failed = any(block.failed_step is not None for block in step.blocks)
        self._expect(not has_failed, f"{name} starts after one that failed")
        most = params["max-iterations"] if "while" in params else len(params["items"])
        self._expect(begun < most, f"{name} starts, and there are {most}")

    def _check_reused(self, shadow: Run, reused: Reused, event: Any) -> None:
        """What a re-run keeps is not executed again, and is unchanged."""
        if isinstance(event, (*_BEGIN, events.LockRequested, events.ApprovalRequested)) and event.job is not None:
            is_whole = isinstance(event, events.ApprovalRequested) and event.step is not None
            self._expect(is_whole or event.job not in reused.jobs, f"{event.job} of {shadow.id} is reused, but starts")
        elif isinstance(event, events.JobCompleted) and event.job in reused.jobs:
            known = reused.jobs[event.job]
            is_same = (event.conclusion, event.outputs) == (known.conclusion, known.outputs)
            is_cut = shadow.is_cancelled or shadow.is_timed_out or event.conclusion is Conclusion.CANCELLED
            self._expect(is_same or is_cut, f"{event.job} of {shadow.id} is reused, but ends differently")
        elif isinstance(event, events.AttemptQueued | events.StepEntered | events.StepSleeping):
            is_reused = event.step in reused.steps.get(event.job, {}) and shadow.jobs_by_id[event.job].number == 1
            self._expect(not is_reused, f"{event.job}/{event.step} of {shadow.id} is reused, but starts")

    # Approvals --------------------------------------------------------------------------------------------------------

    def _check_decision(self, shadow: Run, event: events.ApprovalDecided) -> None:
        job = shadow.jobs_by_id[event.job]
        approval = job.approval if event.step is None else job.steps_by_id[event.step].approval
        self._decided.add((shadow.id, event.job, event.step, event.by))
        if approval is None or event.by == "timeout":
            return
        name = f"{event.job}/{event.step} of {shadow.id}"
        is_asked = not approval.approvers or event.by in approval.approvers
        self._expect(is_asked, f"{name} is decided by {event.by}, who is not an approver")
        self._expect(event.by not in approval.approved_by, f"{name} is approved by {event.by} twice")

    def _check_approved(self, shadow: Run, event: events.StepCompleted) -> None:
        step = shadow.jobs_by_id[event.job].steps_by_id[event.step]
        if step.approval is not None and event.outcome is Conclusion.SUCCESS:
            count = len(step.approval.approved_by)
            text = (
                f"{event.job}/{event.step} of {shadow.id} continues with {count} approvals of {step.approval.minimum}"
            )
            self._expect(count >= step.approval.minimum and not step.approval.rejected_by, text)

    def decision_acknowledged(self, run: RunId, job: JobId, step: StepId | None, by: str) -> None:
        """Records that a decision was confirmed to a person (G1)."""
        is_known = (run, job, step, by) in self._decided
        self._expect(is_known, f"G1: the decision of {by} about {job}/{step} of {run} is not in the log")

    # Concurrency groups -----------------------------------------------------------------------------------------------

    def check_groups(self) -> None:
        """After a batch: no group exceeds its limit, the order was kept, and no holder waits while a slot is free."""
        granted, self._granted = self._granted, []
        if not self._has_locks:
            return
        holders: dict[Group, int] = {}
        waiting: dict[Group, list[int]] = {}
        for shadow in self._environment.shadows.values():
            for _, lock in _locks(shadow):
                group = (shadow.repository or "", lock.group)
                if lock.is_held:
                    holders[group] = holders.get(group, 0) + 1
                else:
                    waiting.setdefault(group, []).append(lock.requested_at)
        for group, count in holders.items():
            self._expect(count <= LIMITS[group[1]], f"{count} hold a lock of {group}, which has {LIMITS[group[1]]}")
        for group in waiting:
            self._expect(holders.get(group, 0) >= LIMITS[group[1]], f"a holder waits for a free slot of {group}")
        for group, wanted_at in granted:
            is_first = all(wanted_at <= other for other in waiting.get(group, ()))
            self._expect(is_first, f"a later holder was granted a slot of {group}")

    def check_host(self, shadow: Run, locks: Locks, server_lists: set[ServerListRequest]) -> None:
        """The host's locks and server list requests of the run are those that its state needs."""
        kept: dict[Holder, bool] = {}
        for holder, name in locks._of_runs.get(shadow.id, {}).items():
            kept[holder] = holder in locks._groups[name].holders
        expected = {Holder(shadow.id, job): lock.is_held for job, lock in _locks(shadow)}
        self._expect(kept == expected, f"locks of {shadow.id}: {kept}, expected {expected}")
        requested = {
            ServerListRequest(shadow.id, job.id) for job in shadow.jobs if not shadow.is_completed and oracle.asks(job)
        }
        self._expect(
            server_lists == requested, f"server list requests of {shadow.id}: {server_lists}, expected {requested}"
        )


def _lock(shadow: Run, job: JobId | None) -> Lock | None:
    return shadow.lock if job is None else shadow.jobs_by_id[job].lock


def _locks(shadow: Run) -> Iterator[tuple[JobId | None, Lock]]:
    """Yields the locks that the run and its jobs hold or wait for."""
    if shadow.is_completed:
        return
    is_ending = shadow.is_cancelled or shadow.is_timed_out
    if shadow.lock is not None and _is_wanted(shadow.lock, is_ending=is_ending):
        yield None, shadow.lock
    for job in shadow.jobs:
        has_ended = job.status is Status.COMPLETED
        if job.lock is not None and not has_ended and _is_wanted(job.lock, is_ending=job.is_cancelled):
            yield job.id, job.lock


def _is_wanted(lock: Lock, *, is_ending: bool) -> bool:
    return lock.refusal is None and (lock.is_held or not is_ending)
