"""What a run's jobs have become and what its steps hold, in pages: a run may have thousands of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Response

from waterflowd.api.gate import Ports, Viewer
from waterflowd.api.pagination import ROWS_MAX, Limit, PageCursor, one_of
from waterflowd.api.request_bodies import answer
from waterflowd.api.run_lookup import Place, Text, find_job, is_within, read_run, resolve
from waterflowd.api.streaming.streams import position_of
from waterflowd.api.views.run_rendering import Budget, job_json, step_json
from waterflowd.api.views.run_shapes import JobList, StepList
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job
from waterflowd.model.statuses import Conclusion, Status

router = APIRouter(tags=["runs"])

_WORDS = [status.value for status in Status] + [conclusion.value for conclusion in Conclusion]
_Thing = TypeVar("_Thing", Job, Step)

OfJob = Annotated[str, Query(max_length=4_000, description="the job's id")]


@router.get("/v1/runs/{run_id}/jobs", responses={200: {"model": JobList}})
async def list_jobs(
    services: Ports,
    _: Viewer,
    run_id: str,
    job: Place = None,
    status: Text = None,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """All jobs of a run, the file's own first, then what they have become; or with `job` what that one has become.

    Each comes with its steps, and without what is below it; `status` is a status or a conclusion.
    """
    run = read_run(services, resolve(services, run_id))
    jobs: Iterable[Job] = run.jobs
    if job is not None:
        children = find_job(run, job).children
        jobs = children.jobs if children is not None else ()
    found, following = _page(jobs, status, limit, cursor)
    return answer({"jobs": _rendered(found, _row), "next": following})


@router.get("/v1/runs/{run_id}/steps", responses={200: {"model": StepList}})
async def list_steps(
    services: Ports,
    _: Viewer,
    run_id: str,
    job: OfJob,
    step: Place = None,
    status: Text = None,
    limit: Limit = ROWS_MAX,
    cursor: PageCursor = None,
) -> Response:
    """All steps of a job that have come so far, those inside of others behind the file's own; with `step` that one and those
    inside of it. `status` is a status or a conclusion."""
    run = read_run(services, resolve(services, run_id))
    steps = find_job(run, job).steps_by_id.values()
    wanted = steps if step is None else (found for found in steps if is_within(found.id, step))
    found, following = _page(wanted, status, limit, cursor)
    return answer({"steps": _rendered(found, step_json), "next": following})


def _row(job: Job, budget: Budget) -> dict[str, Any]:
    return job_json(job, budget, outputs=budget.value(job.outputs), is_deep=False)


def _rendered(found: list[_Thing], render: Callable[[_Thing, Budget], dict[str, Any]]) -> list[dict[str, Any]]:
    budget = Budget()
    return [render(thing, budget) for thing in found]


def _page(
    things: Iterable[_Thing], status: str | None, limit: int, cursor: str | None
) -> tuple[list[_Thing], str | None]:
    """Rows of a list that only grows at its end: a page begins behind the number of rows before it."""
    word = one_of(status, _WORDS, "status") if status is not None else None
    begin = position_of(cursor) if cursor is not None else 0
    matching = _matching(things, word, begin)
    found = list(islice(matching, limit))
    following = next(matching, None)
    return [thing for _, thing in found], str(following[0]) if following is not None else None


def _matching(things: Iterable[_Thing], word: str | None, begin: int) -> Iterator[tuple[int, _Thing]]:
    for number, thing in enumerate(islice(things, begin, None), begin):
        conclusion = thing.conclusion.value if thing.conclusion is not None else None
        if word is None or word in (thing.status.value, conclusion):
            yield number, thing
