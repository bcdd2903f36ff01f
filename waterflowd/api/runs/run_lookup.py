"""Finding runs, jobs and steps by the names that clients send.

Rules of this file: an unknown name is a 404 that lists the known ones. The name of a job includes everything that it expanded
into: `roll` includes `roll[web-1]`, `deploy` includes `deploy/check`. The name of a step includes the steps inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import Query

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.api.services import Services
from waterflowd.api.timestamps import format_timestamp
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import RUN_ID_LENGTH, RunId, StepId, is_run_id
from waterflowd.model.statuses import Conclusion, Status

#: A short text of a query.
Text = Annotated[str | None, Query(max_length=300)]
#: A status or a conclusion.
STATUSES = [*(status.value for status in Status), *(conclusion.value for conclusion in Conclusion)]
StatusFilter = Annotated[str | None, Query(max_length=300, json_schema_extra={"enum": STATUSES})]
At = Annotated[int | None, Query(ge=1, le=1 << 62, description="Position of an event of the run, from 1.")]
#: The name of a job or step, or both: calls are nested up to 4 levels, steps 10 levels, and a name has 200 characters at most.
Part = Annotated[str | None, Query(max_length=4_000)]

_ID_CHARACTERS = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
#: As many as fit into one sentence.
_CANDIDATES = 5
_NAMES_SHOWN = 20


async def resolve(services: Services, text: str) -> RunId:
    """The run with this id, or with an id that begins so; `Rejected` 404 for none, 410 for a removed one, 409 for several."""
    prefix = text.upper()
    missing = Rejected(
        "WF604", f'run "{escape_for_display(text, 40)}" not found; list runs with `waterflowctl runs`', status=404
    )
    if is_run_id(prefix):
        if await services.history.run(RunId(prefix)) is None:
            raise _removed(services, RunId(prefix)) or missing
        return RunId(prefix)
    if not 0 < len(prefix) < RUN_ID_LENGTH or not _ID_CHARACTERS.issuperset(prefix):
        raise missing
    found = await services.history.runs_by_prefix(prefix, _CANDIDATES + 1)
    if not found:
        raise missing
    if len(found) > 1:
        listed = ", ".join(found[:_CANDIDATES]) + (", ..." if len(found) > _CANDIDATES else "")
        raise Rejected("WF606", f'several runs begin with "{prefix}": {listed}; use a longer prefix', status=409)
    return found[0]


def _removed(services: Services, run: RunId) -> Rejected | None:
    """The error for a run that retention has removed, as long as it is remembered."""
    found = services.retention.removed_run(run) if services.retention is not None else None
    if found is None:
        return None
    name = escape_for_display(f"{found.name} #{found.number}", 60)
    text = f"run {run} ({name}) was removed at {format_timestamp(found.at)} by the retention rule {found.rule.value}"
    return Rejected("WF604", text, status=410)


def check_output_exists(services: Services, run: RunId) -> None:
    """`Rejected` 410 for a run whose output retention has removed."""
    found = services.retention.removed_output(run) if services.retention is not None else None
    if found is not None:
        text = f"the output of run {run} was removed at {format_timestamp(found.at)} by the retention rule"
        raise Rejected("WF604", f"{text} {found.rule.value}", status=410)


async def read_run(services: Services, run: RunId, at: int | None = None) -> Run:
    """The run, now or after its first `at` events; `Rejected` 404 when its log has been deleted meanwhile.

    Read it before the next `await`, after which it may change.
    """
    found = await services.reader.run(run, at)
    if found is None:
        raise Rejected("WF604", f"run {run} no longer exists", status=404)
    return found


async def readable_run(services: Services, run: RunId) -> Run | None:
    """The run as a part of an answer about many; None if it no longer exists, or cannot be read now."""
    try:
        return await services.reader.run(run)
    except Retryable:
        return None


def is_within(name: str, selected: str) -> bool:
    """Whether `name` is the selected job or step, or is below it."""
    return name == selected or (name.startswith(selected) and name[len(selected)] in "[/")


def check_names(run: Run, job: str | None, step: str | None) -> None:
    """`Rejected` 404 for a job or step that the run does not have."""
    jobs = run.jobs if job is None else [found for found in run.jobs if is_within(found.id, job)]
    if not jobs:
        raise _missing("job", job or "", (found.id for found in run.scope.jobs.values()))
    if step is not None and not any(is_within(name, step) for found in jobs for name in _steps(found)):
        raise _missing("step", step, (name for found in jobs for name in _steps(found)))


def find_job(run: Run, name: str) -> Job:
    """The job with this id; `Rejected` 404 for none."""
    for job in run.jobs:
        if job.id == name:
            return job
    raise _missing("job", name, (job.id for job in run.scope.jobs.values()))


def find_step(job: Job, name: str) -> Step | None:
    """The step with this id; None for one of the file that does not exist yet. `Rejected` 404 for none."""
    found = job.steps_by_id.get(StepId(name))
    if found is None and (job.steps_by_id or all(name != step.id for step in job.plan.steps)):
        raise _missing("step", name, _steps(job))
    return found


def split_part(run: Run, text: str) -> tuple[str, str | None]:
    """Job and step of `JOB[/STEP]`. Both may contain slashes, so the longest existing job wins. `Rejected` 404."""
    end = len(text)
    while end > 0:
        name = text[:end]
        if name in run.jobs_by_id:
            step = text[end + 1 :] or None
            check_names(run, name, step)
            return name, step
        end = text.rfind("/", 0, end)
    raise _missing("job", text, (job.id for job in run.scope.jobs.values()))


def find_part(run: Run, text: str) -> tuple[Job, Step | None]:
    """The job of `JOB[/STEP]`, and the step if one is named; `Rejected` 404 for none."""
    name, step = split_part(run, text)
    job = find_job(run, name)
    if step is None:
        return job, None
    found = job.steps_by_id.get(StepId(step))
    if found is None:
        raise _missing("step", step, _steps(job))
    return job, found


def _steps(job: Job) -> Iterator[str]:
    yield from job.steps_by_id
    if not job.steps_by_id:
        # The job has not expanded yet.
        yield from (step.id for step in job.plan.steps)


def _missing(kind: str, name: str, known: Iterator[str]) -> Rejected:
    names = list(dict.fromkeys(known))
    listed = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    text = f'{kind} "{escape_for_display(name, 60)}" not found; the {kind}s are: {escape_for_display(listed)}'
    return Rejected("WF604", text, where=kind, status=404)
