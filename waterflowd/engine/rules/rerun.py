"""Re-runs: what a new run reuses from an earlier one, and what it runs again. Pure.

Rules of this file: a re-run is a new run. A job is reused as a whole, with its outputs, if it succeeded and none of its
needs runs again; of the job in which a re-run starts, the steps before the starting point are reused. Instances are reused
one by one, so that new ones are added if the matrix or the group has grown.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import JobId
from waterflowd.model.plan import JobPlan, Plan
from waterflowd.model.records import Kept, KeptJob, KeptStep
from waterflowd.model.statuses import FAILURES, Conclusion

#: Allowed values of `servers`.
SERVER_CHOICES = ("failed", "not-reached")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """Which parts to run again; without any of these, everything."""

    #: Everything that did not succeed, and what follows it.
    is_failed: bool = False
    #: From this part on: `JOB`, `JOB/STEP`, or the id of a step that only one job has.
    start: str | None = None
    #: Of jobs with `target: each`: only the servers with these conclusions.
    servers: tuple[str, ...] = ()


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What is reused and what runs again, both for the new run and as text for people."""

    kept: Kept | None
    #: Jobs and `job/step`s.
    kept_names: list[str]
    again_names: list[str]


def select(run: Run, plan: Plan, wish: Wish) -> Selection:
    """What is reused and what runs again when `plan` replaces the run's own.

    Raises `Rejected` WF606 when the run is open or the plan does not fit, WF605 if the wish names nothing that exists.
    """
    if not run.is_completed:
        raise Rejected("WF606", f"run {run.id} is not completed; cancel it, or wait until it ends", status=409)
    unknown = [choice for choice in wish.servers if choice not in SERVER_CHOICES]
    if unknown:
        raise Rejected("WF605", f"servers: expected {' or '.join(SERVER_CHOICES)}, not {unknown[0]}", where="servers")
    if not (wish.is_failed or wish.start or wish.servers):
        return Selection(kept=None, kept_names=[], again_names=[job.id for job in plan.jobs])
    again, first, step = _again(run, wish)
    _check_fits(run, plan, first, step)
    jobs: dict[str, KeptJob] = {}
    servers: dict[str, list[str]] = {}
    for job in run.scope.jobs.values():
        if job.id not in again:
            _keep_job(job, jobs)
        elif job.children is not None and job.children.scope is None and job is not first:
            if job.plan.target is not None and wish.servers:
                servers[job.id] = _servers(job, wish.servers)
            for child in job.children.jobs:
                if child.conclusion is Conclusion.SUCCESS and _may_keep_instances(job, again):
                    _keep_job(child, jobs)
    steps = _steps_before(first, step) if first is not None and step is not None else {}
    kept = Kept(run=run.id, jobs=jobs, steps={first.id: steps} if first is not None and steps else {}, servers=servers)
    names = [*jobs, *(f"{first.id}/{name}" for name in steps if first is not None)]
    done = [job.id for job in run.scope.jobs.values() if job.id in again]
    return Selection(kept=kept, kept_names=names, again_names=_rerun_names(run, done, jobs, servers))


def _again(run: Run, wish: Wish) -> tuple[set[JobId], Job | None, Step | None]:
    """The top-level jobs that run again, and the job and step from which, if a part is named."""
    first: Job | None = None
    step: Step | None = None
    if wish.start is not None:
        first, step = _find_part(run, wish.start)
        requested = {first.id}
        requested |= {
            job.id
            for job in run.scope.jobs.values()
            if job.conclusion is not Conclusion.SUCCESS and job.id not in _before(run, first)
        }
    elif wish.servers:
        requested = {
            job.id
            for job in run.scope.jobs.values()
            if job.plan.target is not None and job.children is not None and _servers(job, wish.servers)
        }
        if not requested:
            raise Rejected("WF605", f"no job of run {run.id} has servers with conclusion {' or '.join(wish.servers)}")
    else:
        requested = {job.id for job in run.scope.jobs.values() if job.conclusion is not Conclusion.SUCCESS}
        if not requested:
            raise Rejected("WF605", f"nothing in run {run.id} failed; omit --failed to re-run all of it")
    again = _with_dependents(run, requested)
    return again, first, step


def _with_dependents(run: Run, requested: set[JobId]) -> set[JobId]:
    again = set(requested)
    # Jobs are in any order, so repeat until nothing changes.
    while more := {
        job.id
        for job in run.scope.jobs.values()
        if job.id not in again and any(run.scope.jobs[need].id in again for need in job.plan.needs)
    }:
        again |= more
    return again


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


def _may_keep_instances(job: Job, again: set[JobId]) -> bool:
    return not any(need in again for need in job.plan.needs)


def _keep_job(job: Job, jobs: dict[str, KeptJob]) -> None:
    assert job.conclusion is not None
    if job.children is not None and job.children.scope is None:
        # Jobs that read the outputs of single instances need them all.
        for child in job.children.jobs:
            _keep_job(child, jobs)
        return
    jobs[job.id] = KeptJob(conclusion=job.conclusion, outputs=job.outputs)


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


def _steps_before(job: Job, step: Step) -> dict[str, KeptStep]:
    kept: dict[str, KeptStep] = {}
    for earlier in job.steps:
        if earlier is step:
            return kept
        if earlier.outcome is None or earlier.conclusion is None:
            raise Rejected(
                "WF606", f'step "{earlier.name}" before it has never ended, so it cannot be kept', status=409
            )
        env = earlier.last.exported if earlier.last is not None else {}
        kept[earlier.id] = KeptStep(
            outcome=earlier.outcome, conclusion=earlier.conclusion, outputs=earlier.outputs, env=env
        )
    return kept


def _check_fits(run: Run, plan: Plan, first: Job | None, step: Step | None) -> None:
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
    if first is not None and step is not None:
        _check_steps(first, step, theirs[first.plan.id])


def _check_steps(job: Job, step: Step, other: JobPlan) -> None:
    ids = [own.id for own in job.plan.steps]
    position = ids.index(step.plan.id)
    if [their.id for their in other.steps][: position + 1] != ids[: position + 1]:
        raise _unfit(f'the steps of its job "{job.id}" up to "{step.id}" are not the same')


def _unfit(text: str) -> Rejected:
    return Rejected("WF606", f"the workflow of that commit does not match the run: {text}", status=409)


def _rerun_names(run: Run, again: list[JobId], kept: dict[str, KeptJob], servers: dict[str, list[str]]) -> list[str]:
    names: list[str] = []
    for name in again:
        job = run.jobs_by_id[name]
        if name in servers:
            names += [f"{name}[{server}]" for server in servers[name]]
        elif job.children is not None and job.children.scope is None:
            names += [child.id for child in job.children.jobs if child.id not in kept]
        else:
            names.append(name)
    return names
