"""What differs between a run and the last good one, or any other."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.admin.ports import CommitRow
from waterflowd.api.dependencies import Ports, Viewer
from waterflowd.api.responses import json_response, returns
from waterflowd.api.routes.runs.artifacts import NO_ARTIFACTS
from waterflowd.api.runs import artifact_comparison, comparison
from waterflowd.api.runs.artifact_comparison import ChangedArtifact
from waterflowd.api.runs.report_comparison import changed_reports
from waterflowd.api.runs.run_lookup import read_run, resolve, split_part
from waterflowd.api.schemas.differences import DifferencesSchema
from waterflowd.api.schemas.runs import RunSummarySchema
from waterflowd.api.services import Services
from waterflowd.api.streaming.output_pages import read_lines
from waterflowd.engine.state.runs import Run
from waterflowd.model.ids import AttemptId, JobId, RunId, StepId
from waterflowd.model.records import RunFilter, RunSummary
from waterflowd.model.statuses import Conclusion

router = APIRouter(tags=["runs"])

GOOD = "good"
#: Good runs among which one of the same ref is preferred.
_CANDIDATES = 50
#: Lines of output that are compared.
_LINES_MAX = 10_000
#: Artifacts whose files are compared: one may have 100,000 of them.
_ARTIFACTS_OPENED = 10

Against = Annotated[
    str,
    Query(max_length=40, description="`good`: the last run of the workflow before this one that succeeded; or an id."),
]


@router.get("/v1/runs/{run_id}/diff", responses={200: returns(DifferencesSchema)})
async def compare_runs(services: Ports, _: Viewer, run_id: str, against: Against = GOOD) -> Response:
    """What differs between a run and an earlier one, such as commits, inputs, steps, reports, artifacts and output."""
    run_row = await _row(services, await resolve(services, run_id))
    other_row = await _last_good(services, run_row)
    if against != GOOD:
        other_row = await _row(services, await resolve(services, against))
    if other_row is None:
        text = f"no run of {_workflow(run_row)} before this one has succeeded; name another run to compare it with"
        raise Rejected("WF604", text, where="against", status=404)
    # Copies: each of them may change, or be dropped, while the other is read.
    before, after = await read_run(services, other_row.id), await read_run(services, run_row.id)
    unknown: dict[str, str] = {}
    values = (
        comparison.changed_values(before.inputs, after.inputs),
        comparison.changed_values(before.vars, after.vars),
        comparison.changed_servers(before, after),
        comparison.changed_steps(before, after),
    )
    reports = await services.time_slices.do(changed_reports(before, after))
    failure = after.first_failure
    pair = _logs(before, after, failure.part) if failure is not None else None
    inputs, variables, servers, steps = values
    commits, more = await _commits(services, other_row, run_row, unknown)
    content = DifferencesSchema(
        against=RunSummarySchema.of(other_row),
        commits=commits,
        more_commits=more,
        file=await _file(services, other_row, run_row, unknown),
        inputs=inputs,
        vars=variables,
        servers=servers,
        steps=steps,
        reports=reports,
        artifacts=await _artifacts(services, other_row.id, run_row.id, unknown),
        log=await _changed_line(services, failure.part if failure is not None else None, pair, unknown),
        unknown=unknown,
    )
    return json_response(content)


async def _row(services: Services, run: RunId) -> RunSummary:
    row = await services.history.run(run)
    if row is None:
        raise Rejected("WF604", f"run {run} no longer exists", status=404)
    return row


async def _last_good(services: Services, row: RunSummary) -> RunSummary | None:
    """The newest run of the workflow before this one that succeeded, if there is one on the same ref."""
    name = row.name if row.repository is None else None
    selected = RunFilter(path=row.path, repository=row.repository, name=name, status=Conclusion.SUCCESS.value)
    found, _ = await services.history.runs(selected, before=row.id, limit=_CANDIDATES)
    good = [other for other in found if other.repository == row.repository and _workflow(other) == _workflow(row)]
    return next((other for other in good if other.trigger.ref == row.trigger.ref), good[0] if good else None)


def _workflow(row: RunSummary) -> str:
    """What tells a run's workflow from others: its file, or the name of one that was sent to the API and has no file."""
    return row.path if row.repository is not None else row.name


async def _commits(
    services: Services, before: RunSummary, after: RunSummary, unknown: dict[str, str]
) -> tuple[list[CommitRow] | None, bool]:
    if before.revision is not None and before.revision == after.revision:
        return [], False
    known = _revisions(before, after)
    if known is None or services.revisions is None:
        unknown["commits"] = "the runs are not of commits of one repository"
        return None, False
    repository, was, now = known
    try:
        found = await services.revisions.commits(repository, now, was)
    except WaterflowError as error:
        unknown["commits"] = error.text
        return None, False
    if found is None:
        unknown["commits"] = (
            f"{now[:10]} does not follow {was[:10]} in {repository}, or the repository is not configured"
        )
        return None, False
    return found


async def _file(services: Services, before: RunSummary, after: RunSummary, unknown: dict[str, str]) -> str | None:
    if before.revision is not None and before.revision == after.revision and before.path == after.path:
        return ""
    known = _revisions(before, after)
    if known is None or services.revisions is None:
        unknown["file"] = "a workflow that was sent to the API is not kept as a file"
        return None
    repository, was, now = known
    try:
        old = await services.revisions.file(repository, was, before.path)
        new = await services.revisions.file(repository, now, after.path)
    except WaterflowError as error:
        unknown["file"] = error.text
        return None
    if old is None or new is None:
        unknown["file"] = f"{after.path} cannot be read at {(was if old is None else now)[:10]}"
        return None
    texts = old.decode("utf-8", "replace"), new.decode("utf-8", "replace")
    return await asyncio.to_thread(comparison.unified_diff, *texts, after.path, was, now)


async def _artifacts(
    services: Services, before: RunId, after: RunId, unknown: dict[str, str]
) -> list[ChangedArtifact] | None:
    reader = services.artifacts
    if reader is None:
        unknown["artifacts"] = NO_ARTIFACTS
        return None
    try:
        were, are = await reader.of_run(before), await reader.of_run(after)
        found = artifact_comparison.changed_artifacts(were, are, services.clock.now())
        left = comparison.ENTRIES_MAX
        for number, changed in enumerate(found[:_ARTIFACTS_OPENED]):
            if any(state is None or state.is_removed for state in (changed.before, changed.after)):
                continue
            was, now = [await reader.open(run, changed.name) for run in (before, after)]
            with_files = artifact_comparison.with_files
            found[number] = await asyncio.to_thread(with_files, changed, was.files, now.files, left)
            left -= len(found[number].files or ())
    except WaterflowError as error:
        unknown["artifacts"] = error.text
        return None
    return found


def _revisions(before: RunSummary, after: RunSummary) -> tuple[str, str, str] | None:
    """The repository of both and their revisions."""
    if after.repository is None or after.repository != before.repository:
        return None
    if before.revision is None or after.revision is None:
        return None
    return after.repository, before.revision, after.revision


def _logs(before: Run, after: Run, place: str) -> tuple[AttemptId, AttemptId] | None:
    """The newest attempts of a step in both runs."""
    job, step = split_part(after, place)
    names = []
    for run in (before, after):
        found = run.step(JobId(job), StepId(step)) if step is not None else None
        if found is None or not found.attempts:
            return None
        names.append(AttemptId(run.id, JobId(job), found.id, found.attempts[-1].number))
    return names[0], names[1]


async def _changed_line(
    services: Services, place: str | None, pair: tuple[AttemptId, AttemptId] | None, unknown: dict[str, str]
) -> comparison.ChangedLine | None:
    if place is None or pair is None:
        unknown["log"] = "no step has failed" if place is None else f"{place} did not run in both runs"
        return None
    try:
        was, now = [await _lines(services, name) for name in pair]
    except WaterflowError as error:
        unknown["log"] = error.text
        return None
    found = await asyncio.to_thread(comparison.changed_line, place, was, now)
    if found is None:
        unknown["log"] = f"the output of {place} does not differ in what was compared, at most 1 MiB"
    return found


async def _lines(services: Services, name: AttemptId) -> list[str]:
    marks = await services.outputs.line_marks(name)
    blocks = await read_lines(services.outputs, name, marks, 1, _LINES_MAX)
    return "".join(block.text for block in blocks).split("\n")
