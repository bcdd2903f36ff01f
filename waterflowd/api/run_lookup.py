"""Which run, job and step somebody means.

Rules of this file: what is not there is a 404 that says what is. A job's name means everything that it has become: `roll` is
`roll[web-1]` too, `deploy` is `deploy/check` too; a step's name means the steps inside of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import Query

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.api.services import Services
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import RUN_ID_LENGTH, RunId, is_run_id

#: A short text of a query.
Text = Annotated[str | None, Query(max_length=300)]
#: A job's or step's name: jobs call one another 4 deep, steps stand 10 deep, a part has 200 characters at most.
Place = Annotated[str | None, Query(max_length=4_000)]

_ID_CHARACTERS = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
#: As many as fit in one sentence.
_CANDIDATES = 5
_NAMES_SHOWN = 20


def resolve(services: Services, text: str) -> RunId:
    """The run that a whole or partial id means; `Rejected` 404 for none, 409 for several."""
    wanted = text.upper()
    missing = Rejected(
        "WF604", f'there is no run "{escape_for_display(text, 40)}"; see `waterflowctl runs`', status=404
    )
    if is_run_id(wanted):
        if services.log.run(RunId(wanted)) is None:
            raise missing
        return RunId(wanted)
    if not 0 < len(wanted) < RUN_ID_LENGTH or not _ID_CHARACTERS.issuperset(wanted):
        raise missing
    found = services.log.runs_by_prefix(wanted, _CANDIDATES + 1)
    if not found:
        raise missing
    if len(found) > 1:
        shown = ", ".join(found[:_CANDIDATES]) + (", ..." if len(found) > _CANDIDATES else "")
        raise Rejected("WF606", f'several runs begin with "{wanted}": {shown}; write more of the id', status=409)
    return found[0]


def read_run(services: Services, run: RunId) -> Run:
    """The run as it is; `Rejected` 404 when its log has gone meanwhile."""
    found = services.reader.run(run)
    if found is None:
        raise Rejected("WF604", f"run {run} cannot be read any more", status=404)
    return found


def is_within(name: str, wanted: str) -> bool:
    """Whether `name` is the job or step that is wanted, or something that it has become, or is inside of it."""
    return name == wanted or (name.startswith(wanted) and name[len(wanted)] in "[/")


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


def place(run: Run, text: str) -> tuple[str, str | None]:
    """Job and step of `JOB[/STEP]`, both of which may hold slashes: the longest job that is there. `Rejected` 404."""
    end = len(text)
    while end > 0:
        name = text[:end]
        if name in run.jobs_by_id:
            step = text[end + 1 :] or None
            check_names(run, name, step)
            return name, step
        end = text.rfind("/", 0, end)
    raise _missing("job", text, (job.id for job in run.scope.jobs.values()))


def _steps(job: Job) -> Iterator[str]:
    yield from job.steps_by_id
    if not job.steps_by_id:
        # It has not become its instances yet.
        yield from (step.id for step in job.plan.steps)


def _missing(kind: str, name: str, known: Iterator[str]) -> Rejected:
    names = list(dict.fromkeys(known))
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    text = f'there is no {kind} "{escape_for_display(name, 60)}"; there are {escape_for_display(shown)}'
    return Rejected("WF604", text, where=kind, status=404)
