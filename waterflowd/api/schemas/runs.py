"""Runs: rows of lists, whole runs, and the requests that start, repeat, cancel and approve them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec

from waterflowd.api.runs.reports import jobs_with_report
from waterflowd.api.schemas.gates import ConcurrencySchema, PendingApprovalSchema, pending_approvals
from waterflowd.api.schemas.jobs import LIST_MAX, Budget, JobSchema, in_order, rank_of
from waterflowd.api.schemas.reasons import ReasonSchema, reason_schema
from waterflowd.api.timestamps import Timestamp, timestamp
from waterflowd.engine.rules.rerun import SERVER_CHOICES, Selection
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import chains
from waterflowd.model.plan import Plan
from waterflowd.model.records import FirstFailure, KeptDirectory, Reused, RunSummary, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status

#: The path of a workflow that is sent without one.
DEFAULT_PATH = "workflow.yml"
#: A sentence or two; recorded in the run's history.
COMMENT_LENGTH_MAX = 1_000
#: A longer first line of a commit's message is cut.
SUBJECT_MAX = 200
#: As many other files as a workflow can use.
FILES_MAX = 100
#: Names of reused and repeated parts in one answer.
RERUN_NAMES_MAX = 1_000

_PartName = Annotated[str, msgspec.Meta(max_length=4_000)]
#: Checked by the engine, which names the choices in its error.
_ServerChoice = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(SERVER_CHOICES)})]
#: msgspec has no union of an enumeration and a literal.
_RerunStatus = Annotated[
    str, msgspec.Meta(extra_json_schema={"enum": [*(status.value for status in Status), "not-started"]})
]


def run_url(run: str) -> str:
    """The path of a run in the API."""
    return f"/v1/runs/{run}"


class RunTriggerSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What started a run.

    `principal` is the authenticated principal that started it, or an earlier run that led to it; null for an unattended run.
    `scope` is the groups of that principal's token, which the run may use, and null for all.
    """

    kind: TriggerKind
    by: str
    principal: str | None
    scope: list[str] | None
    ref: str | None
    key: str | None
    git: dict[str, Any]

    @classmethod
    def of(cls, trigger: Trigger) -> RunTriggerSchema:
        """The trigger without its payload."""
        return cls(
            kind=trigger.kind,
            by=trigger.by,
            principal=trigger.principal,
            scope=None if trigger.scope is None else list(trigger.scope),
            ref=trigger.ref,
            key=trigger.key,
            git=trigger.git,
        )


class HeadSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The commit that a run is about: the first line of its message, and its author, which anyone can forge."""

    subject: str
    author: str

    @classmethod
    def of(cls, trigger: Trigger) -> HeadSchema | None:
        """None for a run without a commit."""
        message, author = trigger.git.get("message"), trigger.git.get("author")
        if not isinstance(message, str) or not isinstance(author, str):
            return None
        return cls(subject=message.partition("\n")[0][:SUBJECT_MAX], author=author)


class ProgressSchema(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of a run are completed, of those that it has so far, and how many of these failed.

    A job that becomes others (a matrix, each server, a called workflow) is counted as these.
    """

    done: int
    total: int
    failed: int


class FirstFailureSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The step that failed first, or the job if none of its steps did; `agent` is the name of its server, or null."""

    place: str
    agent: str | None
    reason: ReasonSchema

    @classmethod
    def of(cls, found: FirstFailure | None) -> FirstFailureSchema | None:
        """None if nothing has failed."""
        if found is None:
            return None
        return cls(place=found.part, agent=found.agent or None, reason=reason_schema(found.reason))


class RunSummarySchema(msgspec.Struct, frozen=True, kw_only=True):
    """A run in a list."""

    id: str
    number: int
    name: str
    path: str
    repository: str | None
    revision: str | None
    trigger: RunTriggerSchema
    rerun_of: str | None
    status: Status
    conclusion: Conclusion | None
    reason: ReasonSchema
    created_at: Timestamp | None
    started_at: Timestamp | None
    completed_at: Timestamp | None
    #: From the start to the end; null until then.
    duration_ms: int | None
    progress: ProgressSchema
    #: Of the run so far.
    first_failure: FirstFailureSchema | None
    head: HeadSchema | None
    seq: int
    url: str

    @classmethod
    def of(cls, row: RunSummary) -> RunSummarySchema:
        """The run as its row in the index says."""
        return cls(
            id=row.id,
            number=row.number,
            name=row.name,
            path=row.path,
            repository=row.repository,
            revision=row.revision,
            trigger=RunTriggerSchema.of(row.trigger),
            rerun_of=row.rerun_of,
            status=row.status,
            conclusion=row.conclusion,
            reason=reason_schema(row.reason),
            created_at=timestamp(row.created_at),
            started_at=timestamp(row.started_at),
            completed_at=timestamp(row.completed_at),
            duration_ms=duration(row.started_at, row.completed_at),
            progress=ProgressSchema(done=row.jobs_completed, total=row.jobs, failed=row.jobs_failed),
            first_failure=FirstFailureSchema.of(row.first_failure),
            head=HeadSchema.of(row.trigger),
            seq=row.seq,
            url=run_url(row.id),
        )


def duration(started_at: int | None, completed_at: int | None) -> int | None:
    """How long a run took, in ms; None if it has not ended, or ended before it started."""
    return completed_at - started_at if started_at is not None and completed_at is not None else None


class RunCountsSchema(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs a filter selects, by status, or by conclusion for completed runs. With `more` there may be others."""

    counts: dict[str, int]
    total: int
    more: bool


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs."""

    runs: list[RunSummarySchema]
    next: str | None


class OlderRunList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs under the older name of the resource."""

    workflows: list[RunSummarySchema]
    next: str | None


class ParentRunSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The step that started the run."""

    run: str
    job: str
    step: str
    attempt: int

    @classmethod
    def of(cls, trigger: Trigger) -> ParentRunSchema | None:
        """None for a run that another trigger started."""
        parent = trigger.payload.get(chains.PARENT_RUN)
        if trigger.kind is not TriggerKind.PARENT_RUN or not isinstance(parent, dict):
            return None
        return cls(run=parent["id"], job=parent["job"], step=parent["step"], attempt=parent["attempt"])


class ReuseSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What a re-run reuses of the earlier run: how many jobs and steps. `servers` are those that run again, by job."""

    run: str
    jobs: int
    steps: int
    servers: dict[str, list[str]]

    @classmethod
    def of(cls, reused: Reused) -> ReuseSchema:
        """How much a run reuses."""
        steps = sum(len(of_job) for of_job in reused.steps.values())
        return cls(run=reused.run, jobs=len(reused.jobs), steps=steps, servers=reused.servers)


class RunSchema(RunSummarySchema, frozen=True, kw_only=True):
    """A run with all its parts. `reports` are the ids of its first jobs that have a report."""

    parent_run: ParentRunSchema | None
    deadline_at: Timestamp | None
    plan_hash: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    vars: dict[str, Any]
    concurrency: ConcurrencySchema | None
    reused: ReuseSchema | None
    approvals: list[PendingApprovalSchema]
    reports: list[str]
    jobs: list[JobSchema]

    @classmethod
    def of_run(cls, run: Run, jobs: Sequence[tuple[Job, Step | None]] | None = None) -> RunSchema:
        """The run as it is now, within the bounds of one answer. With `jobs`, only these, each with at most that one step."""
        budget = Budget()
        if jobs is None:
            shown = in_order(list(run.scope.jobs.values()), rank_of, lambda job: JobSchema.of(job, budget, job.outputs))
        else:
            shown = [JobSchema.alone(job, step, budget) for job, step in jobs]
        return cls(
            id=run.id,
            number=run.number,
            name=run.plan.name,
            path=run.plan.path,
            repository=run.repository,
            revision=run.revision,
            trigger=RunTriggerSchema.of(run.trigger),
            rerun_of=run.rerun_of,
            parent_run=ParentRunSchema.of(run.trigger),
            status=run.status,
            conclusion=run.conclusion,
            reason=reason_schema(run.reason),
            created_at=timestamp(run.created_at),
            started_at=timestamp(run.started_at),
            completed_at=timestamp(run.completed_at),
            deadline_at=timestamp(run.deadline_at),
            duration_ms=duration(run.started_at, run.completed_at),
            progress=ProgressSchema(done=run.leaves_completed, total=run.leaves, failed=run.leaves_failed),
            first_failure=FirstFailureSchema.of(run.first_failure),
            head=HeadSchema.of(run.trigger),
            seq=run.seq,
            url=run_url(run.id),
            plan_hash=run.plan_hash,
            inputs=run.inputs,
            outputs=run.outputs,
            vars=run.vars,
            concurrency=ConcurrencySchema.of(run.lock) if run.lock is not None else None,
            reused=ReuseSchema.of(run.reused) if run.reused is not None else None,
            approvals=pending_approvals(run),
            reports=[job.id for job in jobs_with_report(run)[:LIST_MAX]],
            jobs=shown,
        )


class RunPartSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a run that waits, with the reason. Without a job, it is the run itself.

    `until` is when something happens by itself, such as the next attempt.
    """

    run: str
    name: str
    job: str | None
    step: str | None
    reason: ReasonSchema
    until: Timestamp | None


# Requests -------------------------------------------------------------------------------------------------------------


class StartRunBody(msgspec.Struct, forbid_unknown_fields=True):
    """A workflow to start or to validate."""

    yaml: str
    vars: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    dry_run: bool = False
    #: Runs of one path are numbered together.
    path: str = DEFAULT_PATH


class ValidateBody(StartRunBody, forbid_unknown_fields=True):
    """A workflow to validate, with the files of its repository that it uses, by path."""

    #: The repository that it belongs to; without one it is checked like a workflow that is started with the API.
    repository: str | None = None
    files: Annotated[dict[str, str], msgspec.Meta(max_length=FILES_MAX)] = {}


class StartDefinitionBody(msgspec.Struct, forbid_unknown_fields=True):
    """Values for a run of a known workflow."""

    inputs: dict[str, Any] = {}
    vars: dict[str, Any] = {}
    dry_run: bool = False


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """How to cancel a run. With `force`, only steps with a lease or `on-lost: hold` are waited for."""

    force: bool = False


class DecisionBody(msgspec.Struct, forbid_unknown_fields=True):
    """The job or step to approve or reject. Both may be omitted when only one part of the run waits."""

    job: _PartName | None = None
    step: _PartName | None = None
    comment: Annotated[str, msgspec.Meta(max_length=COMMENT_LENGTH_MAX)] = ""


class RerunBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which parts run again. Without `failed`, `from`, `servers` and `after`, all of them do.

    `failed` selects what did not succeed and everything after it; `from` is `JOB`, `JOB/STEP`, or a step that only one job has.
    `servers` selects servers of jobs on each server by how they ended. `after` is an event of the run: what had succeeded by
    then is reused. `at` is the revision whose file runs. With `dry_run` nothing starts.
    """

    failed: bool = False
    start: _PartName | None = msgspec.field(name="from", default=None)
    servers: Annotated[list[_ServerChoice], msgspec.Meta(max_length=2)] = []
    after: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)] | None = None
    at: Annotated[str, msgspec.Meta(min_length=4, max_length=64)] | None = None
    dry_run: bool = False


# Answers to them ------------------------------------------------------------------------------------------------------


class StartedRunSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has been started."""

    id: str
    number: int
    name: str
    status: Status
    url: str

    @classmethod
    def of(cls, row: RunSummary) -> StartedRunSchema:
        """The new run."""
        return cls(id=row.id, number=row.number, name=row.name, status=row.status, url=run_url(row.id))


class DryRunSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A run that would have been started."""

    valid: Literal[True]
    name: str
    path: str
    inputs: dict[str, Any]
    status: Literal["not-started"]

    @classmethod
    def of(cls, plan: Plan, inputs: dict[str, Any]) -> DryRunSchema:
        """The run that these inputs would start."""
        return cls(valid=True, name=plan.name, path=plan.path, inputs=inputs, status="not-started")


class RerunSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A re-run: its jobs and steps (`JOB/STEP`) that are reused or run again, the first 1,000 of each.

    For a dry run `id`, `number` and `url` are null, and `status` is `not-started`.
    """

    id: str | None
    number: int | None
    name: str
    status: _RerunStatus
    url: str | None
    rerun_of: str
    revision: str | None
    reused: list[str]
    reused_total: int
    will_run: list[str]
    will_run_total: int
    #: Jobs that start at a step in the directory of the earlier job, with the server that has kept it.
    continued: dict[str, str]

    @classmethod
    def of(
        cls, row: RunSummary | None, earlier: Run, plan: Plan, revision: str | None, selection: Selection
    ) -> RerunSchema:
        """The re-run of an earlier run; `row` is None for a dry run."""
        return cls(
            id=row.id if row is not None else None,
            number=row.number if row is not None else None,
            name=row.name if row is not None else plan.name,
            status=row.status.value if row is not None else "not-started",
            url=run_url(row.id) if row is not None else None,
            rerun_of=earlier.id,
            revision=revision,
            reused=selection.reused_names[:RERUN_NAMES_MAX],
            reused_total=len(selection.reused_names),
            will_run=selection.rerun_names[:RERUN_NAMES_MAX],
            will_run_total=len(selection.rerun_names),
            continued={
                job: kept.agent_name for job, kept in itertools.islice(_directories(selection), RERUN_NAMES_MAX)
            },
        )


def _directories(selection: Selection) -> Iterable[tuple[str, KeptDirectory]]:
    return selection.reused.directories.items() if selection.reused is not None else ()
