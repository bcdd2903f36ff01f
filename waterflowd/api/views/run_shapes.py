"""The shapes of runs for `/openapi.json`; see shapes.py for the rules."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Base of all shapes: exact, so that the test sees every difference."""

    model_config = ConfigDict(extra="forbid")


class ReasonShape(BaseModel):
    """Why something is as it is; its facts stand beside these two."""

    model_config = ConfigDict(extra="allow")
    code: str
    text: str


class TriggerShape(Shape):
    """What started a run."""

    kind: str
    by: str
    ref: str | None
    key: str | None
    git: dict[str, Any]


class ApprovalShape(Shape):
    """What waits for people, or did; `approvers` empty: whoever has the role."""

    environment: str | None
    approvers: list[str]
    minimum: int
    given: list[str]
    rejected_by: str | None
    self_approval: bool
    due_at: str | None
    default: str | None


class PendingApprovalShape(ApprovalShape):
    """An approval that waits, and where in its run."""

    job: str
    step: str | None
    reason: ReasonShape


class ConcurrencyShape(Shape):
    """A place in a concurrency group that is wanted, or held."""

    group: str
    limit: int
    queue: str
    cancel_in_progress: bool
    is_held: bool
    wanted_at: str | None


class KeptShape(Shape):
    """What a re-run has taken over: how many jobs and steps; and the servers that alone are done again, by job."""

    run: str
    jobs: int
    steps: int
    servers: dict[str, list[str]]


class BatchShape(Shape):
    """The batch that is at work, from 1; `resume_at` while the pause before it lasts."""

    number: int
    of: int
    resume_at: str | None


class ParentRunShape(Shape):
    """The step that has started the run."""

    run: str
    job: str
    step: str
    attempt: int


class AttemptShape(Shape):
    """One try of a step; `child_run` is the run that it has started."""

    attempt: int
    status: str
    outcome: str | None
    reason: ReasonShape
    exit_code: int | None
    agent: str | None
    agent_fingerprint: str | None
    child_run: str | None
    epoch: int
    queued_at: str | None
    dispatched_at: str | None
    started_at: str | None
    finished_at: str | None
    output_bytes: int
    output_dropped: int


class StepShape(Shape):
    """One step of a job. `outputs` are null where they did not fit into the answer."""

    id: str
    name: str
    node: str
    unsafe: bool
    parent: str | None
    status: str
    conclusion: str | None
    outcome: str | None
    reason: ReasonShape
    exit_code: int | None
    outputs: dict[str, Any] | None
    approval: ApprovalShape | None
    kept: bool
    due_at: str | None
    retry_at: str | None
    started_at: str | None
    completed_at: str | None
    attempts: list[AttemptShape]
    counts: dict[str, int]
    blocks_total: int
    blocks: list[BlockShape]


class BlockShape(Shape):
    """Steps inside of a step: a pass of a loop, a branch, a composite step's own."""

    index: int
    name: str
    item: Any
    state: str
    steps: list[StepShape]


class JobShape(Shape):
    """One job of a run; `kind` is `steps`, `matrix`, `each` or `call`. `outputs` are null where they did not fit."""

    id: str
    name: str
    parent: str | None
    status: str
    conclusion: str | None
    outcome: str | None
    reason: ReasonShape
    group: str
    labels: dict[str, str]
    agent: str | None
    agent_fingerprint: str | None
    key: str | None
    matrix: dict[str, Any]
    server: str | None
    kind: str
    calls: str | None
    tries: int
    retry_at: str | None
    needs: list[str]
    outputs: dict[str, Any] | None
    approval: ApprovalShape | None
    concurrency: ConcurrencyShape | None
    kept: bool
    batch: BatchShape | None
    started_at: str | None
    completed_at: str | None
    steps: list[StepShape]
    counts: dict[str, int]
    jobs_total: int
    jobs: list[JobShape]


class JobList(Shape):
    """A page of what jobs have become; each without what is below it."""

    jobs: list[JobShape]
    next: str | None


class StepList(Shape):
    """A page of a job's steps, those inside of others too; each without what is inside of it."""

    steps: list[StepShape]
    next: str | None


class RunRow(Shape):
    """A run in a list."""

    id: str
    number: int
    name: str
    path: str
    repository: str | None
    revision: str | None
    trigger: TriggerShape
    rerun_of: str | None
    status: str
    conclusion: str | None
    reason: ReasonShape
    created_at: str | None
    started_at: str | None
    completed_at: str | None
    seq: int
    url: str


class RunShape(RunRow):
    """A run with all its parts."""

    parent_run: ParentRunShape | None
    deadline_at: str | None
    plan_hash: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    vars: dict[str, Any]
    concurrency: ConcurrencyShape | None
    kept: KeptShape | None
    approvals: list[PendingApprovalShape]
    jobs: list[JobShape]


class RunList(Shape):
    """A page of runs."""

    runs: list[RunRow]
    next: str | None
