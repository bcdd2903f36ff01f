"""The parts of a run: jobs with the jobs that they expanded into, steps with their attempts and the blocks inside them.

Rules of this file:

- The list at the top holds the jobs of the file, with the steps of the file. The instances of a job, or the jobs of the
  workflow that it calls, are in its `jobs`; what runs inside a step is in its `blocks`.
- An answer is bounded, however large the run is, because it is built in one iteration of the event loop. It has all jobs of
  the file. Beyond these it has at most `LIST_MAX` rows in one list, `ROWS_MAX` steps of the file and `ROWS_MAX` rows below
  them, with `VALUES_BYTES_MAX` of outputs. `jobs_total`, `steps_total` and `blocks_total` are the real numbers, and `counts`
  counts all jobs and blocks by state. Rows that failed or are active take precedence. `routes/run_parts.py` pages through
  everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from waterflowd.api.schemas.gates import ApprovalSchema, ConcurrencySchema
from waterflowd.api.schemas.reasons import ReasonSchema, reason_schema
from waterflowd.api.timestamps import Timestamp, timestamp
from waterflowd.engine.state.blocks import CONDITION, LOOP, PARALLEL, Attempt, Block, Step
from waterflowd.engine.state.runs import Job
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.statuses import AttemptStatus, Conclusion, Outcome, Status

#: Rows of one list: what a person can read through.
LIST_MAX = 100
#: Steps of the file's jobs in one answer; the same number applies to the rows below them. Each attempt of a step after the
#: first counts as such a row. About 400 KB, 6 ms.
ROWS_MAX = 300
#: Outputs of those rows in one answer.
VALUES_BYTES_MAX = 2 << 20
#: The newest attempts of one step.
ATTEMPTS_MAX = 100

JobKind = Literal["steps", "matrix", "each", "call"]
BlockState = Literal["running", "success", "failure", "cancelled"]

_Value = TypeVar("_Value")
_Part = TypeVar("_Part", Job, Step, Block)
_Row = TypeVar("_Row")
_encoder = msgspec.json.Encoder()
#: Shown first, then the active ones, then the rest.
_UNSUCCESSFUL = frozenset({Conclusion.FAILURE, Conclusion.LOST, Conclusion.TIMED_OUT, Conclusion.CANCELLED})
_ACTIVE = frozenset({Status.RUNNING, Status.WAITING})


class Budget:
    """How much more an answer may hold."""

    def __init__(self) -> None:
        self._file_rows = ROWS_MAX
        self._rows = ROWS_MAX
        self._bytes = VALUES_BYTES_MAX
        self._is_first = True

    def value(self, value: _Value) -> _Value | None:
        """The value, or None when it exceeds the budget. The first value always fits, so that a page of one row holds it."""
        if not value:
            return value
        size = len(_encoder.encode(value))
        if size > self._bytes and not self._is_first:
            return None
        self._is_first = False
        self._bytes -= size
        return value

    def rows(
        self,
        parts: Sequence[_Part],
        rank: Callable[[_Part], int],
        row: Callable[[_Part], _Row],
        *,
        is_of_file: bool = False,
    ) -> list[_Row]:
        """Rows of the parts that the answer shows, in their order; of too many, those with the lowest ranks."""
        count = min(LIST_MAX, self._file_rows if is_of_file else self._rows)
        if is_of_file:
            self._file_rows -= min(count, len(parts))
        else:
            self._rows -= min(count, len(parts))
        return in_order(parts, rank, row, count)

    def newest(self, attempts: Sequence[Attempt]) -> Sequence[Attempt]:
        """The attempts that the answer shows: the newest one, and those before it as far as there is space."""
        shown = attempts[-min(ATTEMPTS_MAX, 1 + max(self._rows, 0)) :]
        self._rows -= max(len(shown) - 1, 0)
        return shown


def in_order(
    parts: Sequence[_Part], rank: Callable[[_Part], int], row: Callable[[_Part], _Row], count: int | None = None
) -> list[_Row]:
    """Rows of the `count` parts with the lowest ranks, in the order of the parts.

    Those with the lowest ranks are made first, so that a budget suffices for what is below them.
    """
    ranked = sorted(range(len(parts)), key=lambda index: rank(parts[index]))[:count]
    made = {index: row(parts[index]) for index in ranked}
    return [made[index] for index in sorted(made)]


class AttemptSchema(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of a step. `child_run` is the run that it started.

    `summary` is what it wrote to `WATERFLOW_SUMMARY`, or null if that did not fit into the answer. `annotations` are the first
    lines of its output that it has marked as error, warning or notice, each with the mark; null likewise.
    """

    attempt: int
    status: AttemptStatus
    outcome: Outcome | None
    reason: ReasonSchema
    exit_code: int | None
    agent: str | None
    agent_fingerprint: str | None
    child_run: str | None
    epoch: int
    queued_at: Timestamp | None
    dispatched_at: Timestamp | None
    started_at: Timestamp | None
    finished_at: Timestamp | None
    output_bytes: int
    output_dropped: int
    summary: str | None
    annotations: list[str] | None

    @classmethod
    def of(cls, attempt: Attempt, budget: Budget) -> AttemptSchema:
        """The attempt as it is now."""
        return cls(
            attempt=attempt.number,
            status=attempt.status,
            outcome=attempt.outcome,
            reason=reason_schema(attempt.reason),
            exit_code=attempt.exit_code,
            agent=attempt.agent_name or None,
            agent_fingerprint=attempt.agent,
            child_run=attempt.child_run,
            epoch=attempt.epoch,
            queued_at=timestamp(attempt.queued_at),
            dispatched_at=timestamp(attempt.dispatched_at),
            started_at=timestamp(attempt.started_at),
            finished_at=timestamp(attempt.finished_at),
            output_bytes=attempt.output_bytes,
            output_dropped=attempt.output_dropped,
            summary=budget.value(attempt.summary),
            annotations=budget.value(attempt.annotations),
        )


class StepSchema(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step of a job. `outputs` are null when they did not fit into the answer."""

    id: str
    name: str
    node: str
    unsafe: bool
    parent: str | None
    status: Status
    conclusion: Conclusion | None
    outcome: Conclusion | None
    reason: ReasonSchema
    exit_code: int | None
    outputs: dict[str, Any] | None
    approval: ApprovalSchema | None
    reused: bool
    due_at: Timestamp | None
    retry_at: Timestamp | None
    started_at: Timestamp | None
    completed_at: Timestamp | None
    attempts: list[AttemptSchema]
    counts: dict[str, int]
    blocks_total: int
    blocks: list[BlockSchema]

    @classmethod
    def row(cls, step: Step, budget: Budget) -> StepSchema:
        """A step in a list of steps: without its blocks."""
        return cls.of(step, budget, budget.value(step.outputs), with_blocks=False)

    @classmethod
    def of(cls, step: Step, budget: Budget, outputs: dict[str, Any] | None, *, with_blocks: bool) -> StepSchema:
        """A step as it is now."""
        owner = step.block.owner
        return cls(
            id=step.id,
            name=step.name,
            node=step.plan.node,
            unsafe=step.plan.is_unsafe,
            parent=owner.id if owner is not None else None,
            status=step.status,
            conclusion=step.conclusion,
            outcome=step.outcome,
            reason=reason_schema(step.reason),
            exit_code=step.exit_code,
            outputs=outputs,
            approval=ApprovalSchema.of(step.approval) if step.approval is not None else None,
            reused=step.reason.code is ReasonCode.REUSED,
            due_at=timestamp(step.due_at),
            retry_at=timestamp(step.retry_at),
            started_at=timestamp(step.started_at),
            completed_at=timestamp(step.completed_at),
            attempts=[AttemptSchema.of(attempt, budget) for attempt in budget.newest(step.attempts)],
            counts=dict(Counter(block_state(block) for block in step.blocks)) if step.blocks else {},
            blocks_total=max(len(step.blocks), step.count or 0),
            blocks=_blocks(step, budget) if with_blocks and step.blocks else [],
        )


class BlockSchema(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Steps inside a step: a pass of a loop, a branch, or the steps of a composite step."""

    index: int
    name: str
    item: Any
    state: BlockState
    steps_total: int
    steps: list[StepSchema]

    @classmethod
    def of(cls, step: Step, block: Block, budget: Budget) -> BlockSchema:
        """A block of a step, with what is inside it."""
        return cls(
            index=block.index,
            name=_block_name(step, block),
            item=budget.value(block.item),
            state=block_state(block),
            steps_total=len(block.steps),
            steps=budget.rows(
                block.steps,
                rank_of,
                lambda inner: StepSchema.of(inner, budget, budget.value(inner.outputs), with_blocks=True),
            ),
        )


def _blocks(step: Step, budget: Budget) -> list[BlockSchema]:
    return budget.rows(step.blocks, _block_rank, lambda block: BlockSchema.of(step, block, budget))


def _block_name(step: Step, block: Block) -> str:
    """A name for people: `then`, `pass 3`, `branch 2`."""
    if step.plan.node == LOOP:
        return f"pass {block.index + 1}"
    if step.plan.node == PARALLEL:
        return f"branch {block.index + 1}"
    if step.plan.node == CONDITION:
        return "then" if step.inputs.get("if") else "else"
    return "steps"


def block_state(block: Block) -> BlockState:
    """`failure` as soon as a step in it failed, `success` or `cancelled` once it has ended, otherwise `running`."""
    if block.failed_step is not None:
        return "failure"
    if block.current is None:
        if any(step.conclusion is Conclusion.CANCELLED for step in block.steps):
            return "cancelled"
        return "success"
    return "running"


def _block_rank(block: Block) -> int:
    state = block_state(block)
    return 2 if state == "success" else 1 if state == "running" else 0


class BatchSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The current batch, counted from 1. `resume_at` is set during the pause before it."""

    number: int
    of: int
    resume_at: Timestamp | None


class JobSchema(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One job of a run. `outputs` are null when they did not fit into the answer."""

    id: str
    name: str
    parent: str | None
    status: Status
    conclusion: Conclusion | None
    outcome: Conclusion | None
    reason: ReasonSchema
    group: str
    labels: dict[str, str]
    agent: str | None
    agent_fingerprint: str | None
    key: str | None
    matrix: dict[str, Any]
    server: str | None
    kind: JobKind
    calls: str | None
    tries: int
    retry_at: Timestamp | None
    needs: tuple[str, ...]
    outputs: dict[str, Any] | None
    approval: ApprovalSchema | None
    concurrency: ConcurrencySchema | None
    reused: bool
    batch: BatchSchema | None
    started_at: Timestamp | None
    completed_at: Timestamp | None
    steps_total: int
    steps: list[StepSchema]
    counts: dict[str, int]
    jobs_total: int
    jobs: list[JobSchema]

    @classmethod
    def row(cls, job: Job, budget: Budget) -> JobSchema:
        """A job in a list of jobs: without the jobs below it and without the blocks of its steps."""
        return cls.of(job, budget, budget.value(job.outputs), is_deep=False)

    @classmethod
    def alone(cls, job: Job, step: Step | None, budget: Budget) -> JobSchema:
        """A job as in a list, with one of its steps, or with none."""
        steps = [StepSchema.row(step, budget)] if step is not None else []
        return msgspec.structs.replace(cls.row(job, Budget()), steps=steps)

    @classmethod
    def of(cls, job: Job, budget: Budget, outputs: dict[str, Any] | None, *, is_deep: bool = True) -> JobSchema:
        """A job as it is now, with its steps and, when `is_deep`, everything below them."""
        jobs = job.children.jobs if job.children is not None else []
        return cls(
            id=job.id,
            name=job.name,
            parent=job.parent.id if job.parent is not None else None,
            status=job.status,
            conclusion=job.conclusion,
            outcome=job.outcome,
            reason=reason_schema(job.reason),
            group=job.group,
            labels=job.labels,
            agent=job.agent_name or None,
            agent_fingerprint=job.agent,
            key=job.key,
            matrix=job.matrix,
            server=job.pinned_name or None,
            kind=job_kind(job),
            calls=job.plan.call.path if job.plan.call is not None else None,
            tries=job.number,
            retry_at=timestamp(job.retry_at),
            needs=job.plan.needs,
            outputs=outputs,
            approval=ApprovalSchema.of(job.approval) if job.approval is not None else None,
            concurrency=ConcurrencySchema.of(job.lock) if job.lock is not None else None,
            reused=job.reason.code is ReasonCode.REUSED,
            batch=_batch(job),
            started_at=timestamp(job.started_at),
            completed_at=timestamp(job.completed_at),
            steps_total=len(job.steps),
            steps=budget.rows(
                job.steps,
                rank_of,
                lambda step: StepSchema.of(
                    step,
                    budget,
                    step.outputs if job.parent is None else budget.value(step.outputs),
                    with_blocks=is_deep,
                ),
                is_of_file=job.parent is None,
            ),
            counts=dict(Counter((child.conclusion or child.status).value for child in jobs)) if jobs else {},
            jobs_total=len(jobs),
            jobs=_jobs(jobs, budget) if is_deep else [],
        )


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the jobs of a run; each without what is below it."""

    jobs: list[JobSchema]
    next: str | None


class StepList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the steps of a job, including the steps inside others; each without its blocks."""

    steps: list[StepSchema]
    next: str | None


def _jobs(jobs: Sequence[Job], budget: Budget) -> list[JobSchema]:
    return budget.rows(jobs, rank_of, lambda child: JobSchema.of(child, budget, budget.value(child.outputs)))


def job_kind(job: Job) -> JobKind:
    """What the job becomes: steps, instances, or the jobs of a called workflow."""
    if job.plan.call is not None:
        return "call"
    if not job.is_template:
        return "steps"
    return "each" if job.plan.target is not None else "matrix"


def _batch(job: Job) -> BatchSchema | None:
    children = job.children
    if children is None or len(children.batches) < 2:
        return None
    number = min(children.batch + 1, len(children.batches))
    return BatchSchema(number=number, of=len(children.batches), resume_at=timestamp(children.resume_at))


def rank_of(part: Job | Step) -> int:
    """The lowest for jobs and steps that failed, then for active ones."""
    if part.conclusion in _UNSUCCESSFUL:
        return 0
    return 1 if part.status in _ACTIVE else 2
