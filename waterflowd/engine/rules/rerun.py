"""Re-runs: what a new run reuses from an earlier one, and what it runs again. Pure.

Rules of this file: a re-run is a new run. A job is reused as a whole, with its outputs, if it succeeded and none of its
needs runs again; of the job in which a re-run starts, the steps before the starting point are reused. Instances are reused
one by one, so that new ones are added if the matrix or the group has grown.

A re-run from an instant reuses what had succeeded by then: it looks at the run as it was. A job that was at work then keeps the
steps that had succeeded, up to the first one that had not.

A job that starts at a step needs the files that its reused steps have left, if they ran on a server: it continues there, in the
directory of the earlier job, which the server keeps for a while after a failure (`directory_problem`). Without that directory
the whole job has to run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.engine.state.blocks import NODES_IN_AGENT, Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import durations
from waterflowd.model.ids import JobId
from waterflowd.model.plan import JobPlan, Plan
from waterflowd.model.records import KeptDirectory, Reused, ReusedJob, ReusedStep
from waterflowd.model.statuses import FAILURES, Conclusion

#: Allowed values of `servers`.
SERVER_CHOICES = ("failed", "not-reached")
#: Conclusions of steps that a re-run from an instant does not repeat.
_KEPT = frozenset({Conclusion.SUCCESS, Conclusion.SKIPPED})


class RerunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts to run again; without any of these, everything."""

    #: Everything that did not succeed, and what follows it.
    is_failed: bool = False
    #: From this part on: `JOB`, `JOB/STEP`, or the id of a step that only one job has.
    start: str | None = None
    #: Of jobs with `target: each`: only the servers with these conclusions.
    servers: tuple[str, ...] = ()


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What is reused and what runs again, both for the new run and as text for people."""

    reused: Reused | None
    #: Jobs and `job/step`s.
    reused_names: list[str]
    rerun_names: list[str]


def select(run: Run, plan: Plan, request: RerunRequest) -> Selection:
    """What is reused and what runs again when `plan` replaces the run's own.

    Raises `Rejected` WF606 when the run is open or the plan does not fit, WF605 if the request names nothing that exists.
    """
    check_completed(run)
    unknown = [choice for choice in request.servers if choice not in SERVER_CHOICES]
    if unknown:
        raise Rejected("WF605", f"servers: expected {' or '.join(SERVER_CHOICES)}, not {unknown[0]}", where="servers")
    if not (request.is_failed or request.start or request.servers):
        return Selection(reused=None, reused_names=[], rerun_names=[job.id for job in plan.jobs])
    rerun_jobs, first, step = _jobs_to_rerun(run, request)
    return _selection(run, plan, request, rerun_jobs, [(first, step)] if first is not None else [])


def select_after(past: Run, plan: Plan, whole: Collection[str] = ()) -> Selection:
    """The same for a run as it was after an event: what had succeeded by then is reused. Of the jobs `whole` no steps are."""
    requested = {job.id for job in past.scope.jobs.values() if job.conclusion is not Conclusion.SUCCESS}
    if not requested:
        text = f"all of run {past.id} had succeeded after event {past.seq}; name an earlier event"
        raise Rejected("WF605", text, where="after")
    rerun_jobs = _with_dependents(past, requested)
    starts: list[tuple[Job, Step | None]] = []
    for job in past.scope.jobs.values():
        if job.id not in requested or job.id in whole:
            continue
        if job.children is None and _may_reuse_instances(job, rerun_jobs):
            step = next((step for step in job.steps if step.conclusion not in _KEPT), None)
            if step is not None and step is not job.steps[0]:
                starts.append((job, step))
    return _selection(past, plan, RerunRequest(), rerun_jobs, starts)


def directory_problem(job: Job, now: int, kept_ms: int) -> str | None:
    """Why a server that keeps directories for `kept_ms` has not kept that of a job of a completed run; None if it has."""
    assert job.completed_at is not None, "the run is completed"
    if job.conclusion not in FAILURES:
        return f"only the directory of a failed job is kept, and {job.id} ended with {job.conclusion}"
    if now - job.completed_at >= kept_ms:
        return f"the directory of a failed job is kept for {durations.text(kept_ms)}, and that time is over"
    return None


def check_completed(run: Run) -> None:
    """Raises `Rejected` WF606 when the run is open."""
    if not run.is_completed:
        raise Rejected("WF606", f"run {run.id} is not completed; cancel it, or wait until it ends", status=409)


def _selection(
    run: Run, plan: Plan, request: RerunRequest, rerun_jobs: set[JobId], starts: list[tuple[Job, Step | None]]
) -> Selection:
    """`starts` are the jobs of which a part is reused, with the first step that is not; None for the whole job."""
    _check_fits(run, plan, starts)
    begun = {job.id for job, _ in starts}
    jobs: dict[str, ReusedJob] = {}
    servers: dict[str, list[str]] = {}
    for job in run.scope.jobs.values():
        if job.id not in rerun_jobs:
            _reuse_job(job, jobs)
        elif job.children is not None and job.children.scope is None and job.id not in begun:
            if job.plan.target is not None and request.servers:
                servers[job.id] = _servers(job, request.servers)
            for child in job.children.jobs:
                if child.conclusion is Conclusion.SUCCESS and _may_reuse_instances(job, rerun_jobs):
                    _reuse_job(child, jobs)
    found = {job.id: _steps_before(job, step) for job, step in starts if step is not None}
    steps: dict[str, dict[str, ReusedStep]] = {job: before for job, before in found.items() if before}
    directories: dict[str, KeptDirectory] = {
        job.id: KeptDirectory(agent=job.agent, agent_name=job.agent_name)
        for job, _ in starts
        if job.id in steps and job.agent is not None and _uses_directory(job, steps[job.id])
    }
    reused = Reused(run=run.id, jobs=jobs, steps=steps, servers=servers, directories=directories)
    names = [*jobs, *(f"{job}/{name}" for job, before in steps.items() for name in before)]
    done = [job.id for job in run.scope.jobs.values() if job.id in rerun_jobs]
    rest = {job.id: _steps_from(plan, job, step) for job, step in starts if step is not None and job.id in steps}
    return Selection(reused=reused, reused_names=names, rerun_names=_rerun_names(run, done, reused, rest))


def _uses_directory(job: Job, reused: Collection[str]) -> bool:
    """Whether one of the reused steps, or of those inside them, may have left something in the job's directory."""
    if job.kept is not None:
        return True
    return any(
        step.last is not None
        and step.last.agent is not None
        and step.plan.node not in NODES_IN_AGENT
        and _outermost(step).id in reused
        for step in job.steps_by_id.values()
    )


def _outermost(step: Step) -> Step:
    while (above := step.block.owner) is not None:
        step = above
    return step


def _jobs_to_rerun(run: Run, request: RerunRequest) -> tuple[set[JobId], Job | None, Step | None]:
    """The top-level jobs that run again, and the job and step from which, if a part is named."""
    first: Job | None = None
    step: Step | None = None
    if request.start is not None:
        first, step = _find_part(run, request.start)
        requested = {first.id}
        requested |= {
            job.id
            for job in run.scope.jobs.values()
            if job.conclusion is not Conclusion.SUCCESS and job.id not in _before(run, first)
        }
    elif request.servers:
        requested = {
            job.id
            for job in run.scope.jobs.values()
            if job.plan.target is not None and job.children is not None and _servers(job, request.servers)
        }
        if not requested:
            raise Rejected(
                "WF605", f"no job of run {run.id} has servers with conclusion {' or '.join(request.servers)}"
            )
    else:
        requested = {job.id for job in run.scope.jobs.values() if job.conclusion is not Conclusion.SUCCESS}
        if not requested:
            raise Rejected("WF605", f"nothing in run {run.id} failed; omit --failed to re-run all of it")
    rerun_jobs = _with_dependents(run, requested)
    return rerun_jobs, first, step


def _with_dependents(run: Run, requested: set[JobId]) -> set[JobId]:
    rerun_jobs = set(requested)
    # Jobs are in any order, so repeat until nothing changes.
    while more := {
        job.id
        for job in run.scope.jobs.values()
        if job.id not in rerun_jobs and any(run.scope.jobs[need].id in rerun_jobs for need in job.plan.needs)
    }:
        rerun_jobs |= more
    return rerun_jobs


def _before(run: Run, job: Job) -> set[JobId]:
    """Everything that the job needs, directly or not."""
    found: set[JobId] = set()
    waiting = list(job.plan.needs)
    while waiting:
        need = waiting.pop()
        if need not in found:
            found.add(need)
            waiting += run.scope.jobs[need].plan.needs
    return found


def _may_reuse_instances(job: Job, rerun_jobs: set[JobId]) -> bool:
    return not any(need in rerun_jobs for need in job.plan.needs)


def _reuse_job(job: Job, jobs: dict[str, ReusedJob]) -> None:
    assert job.conclusion is not None
    if job.children is not None and job.children.scope is None:
        # Jobs that read the outputs of single instances need them all.
        for child in job.children.jobs:
            _reuse_job(child, jobs)
        return
    jobs[job.id] = ReusedJob(conclusion=job.conclusion, outputs=job.outputs, report=job.report)


def _servers(job: Job, choices: Iterable[str]) -> list[str]:
    assert job.children is not None
    found = []
    for child in job.children.jobs:
        is_failed = child.conclusion in FAILURES
        is_reached = child.agent is not None
        if ("failed" in choices and is_failed and is_reached) or ("not-reached" in choices and not is_reached):
            found.append(child.pinned_name)
    return found


def _find_part(run: Run, start: str) -> tuple[Job, Step | None]:
    """The job and step that `start` names."""
    name, _, rest = start.partition("/")
    job = next((job for job in run.scope.jobs.values() if job.id == name), None)
    if job is not None and not rest:
        return job, None
    matches = [
        (owner, step)
        for owner in ([job] if job is not None else run.scope.jobs.values())
        for step in owner.steps
        if step.id == (rest if job is not None else start)
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(f"{owner.id}/{step.id}" for owner, step in matches)
        raise Rejected("WF605", f'"{start}" is in several jobs; write one of {names}', where="from")
    raise Rejected(
        "WF605", f'run {run.id} has no job or step "{start}"; look with waterflowctl show {run.id}', where="from"
    )


def _steps_before(job: Job, step: Step) -> dict[str, ReusedStep]:
    reused: dict[str, ReusedStep] = {}
    for earlier in job.steps:
        if earlier is step:
            return reused
        if earlier.outcome is None or earlier.conclusion is None:
            raise Rejected(
                "WF606", f'step "{earlier.name}" before it has never ended, so it cannot be reused', status=409
            )
        env = earlier.last.exported if earlier.last is not None else {}
        reused[earlier.id] = ReusedStep(
            outcome=earlier.outcome, conclusion=earlier.conclusion, outputs=earlier.outputs, env=env
        )
    return reused


def _check_fits(run: Run, plan: Plan, starts: list[tuple[Job, Step | None]]) -> None:
    """Checks that the reused parts mean the same in the new plan."""
    if plan is run.plan:
        return
    theirs = {job.id: job for job in plan.jobs}
    for job in run.scope.jobs.values():
        other = theirs.get(job.plan.id)
        if other is None:
            raise _unfit(f'it has no job "{job.id}"')
        if other.needs != job.plan.needs:
            raise _unfit(f'its job "{job.id}" needs other jobs')
    for first, step in starts:
        if step is not None:
            _check_steps(first, step, theirs[first.plan.id])


def _check_steps(job: Job, step: Step, other: JobPlan) -> None:
    ids = [own.id for own in job.plan.steps]
    position = ids.index(step.plan.id)
    if [their.id for their in other.steps][: position + 1] != ids[: position + 1]:
        raise _unfit(f'the steps of its job "{job.id}" up to "{step.id}" are not the same')


def _unfit(text: str) -> Rejected:
    return Rejected("WF606", f"the workflow of that commit does not match the run: {text}", status=409)


def _steps_from(plan: Plan, job: Job, step: Step) -> list[str]:
    """The steps of a job that run when it starts at a step."""
    ids = [one.id for one in next(one for one in plan.jobs if one.id == job.plan.id).steps]
    return [f"{job.id}/{name}" for name in ids[ids.index(step.plan.id) :]]


def _rerun_names(run: Run, rerun_jobs: list[JobId], reused: Reused, rest: dict[JobId, list[str]]) -> list[str]:
    """`rest` are the steps of jobs that start at a step."""
    names: list[str] = []
    for name in rerun_jobs:
        job = run.jobs_by_id[name]
        if name in reused.servers:
            names += [f"{name}[{server}]" for server in reused.servers[name]]
        elif name in rest:
            names += rest[name]
        elif job.children is not None and job.children.scope is None:
            names += [child.id for child in job.children.jobs if child.id not in reused.jobs]
        else:
            names.append(name)
    return names
