"""What a run or job waits for before it may continue: approvals by people, and slots in a concurrency group."""

from __future__ import annotations

from typing import Literal, cast

import msgspec

from waterflowd.api.schemas.reasons import ReasonSchema, reason_schema
from waterflowd.api.timestamps import Timestamp, timestamp
from waterflowd.engine.rules import approvals
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.gates import Approval, Lock
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.plan import Queue

#: Approvals of one run in one answer.
PENDING_MAX = 100
#: What happens if there is no decision in time.
ApprovalDefault = Literal["approve", "reject"]


class ApprovalSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An approval that is pending or decided. With no `approvers`, everybody with the role may decide."""

    environment: str | None
    approvers: tuple[str, ...]
    minimum: int
    approved_by: list[str]
    rejected_by: str | None
    self_approval: bool
    due_at: Timestamp | None
    default: ApprovalDefault | None

    @classmethod
    def of(cls, approval: Approval) -> ApprovalSchema:
        """The approval of a job or step."""
        return cls(
            environment=approval.environment or None,
            approvers=approval.approvers,
            minimum=approval.minimum,
            approved_by=approval.approved_by,
            rejected_by=approval.rejected_by,
            self_approval=approval.may_approve_own,
            due_at=timestamp(approval.due_at),
            default=_default(approval),
        )


class PendingApprovalSchema(ApprovalSchema, frozen=True, kw_only=True):
    """An approval that is pending, with the run and the part of it that wait."""

    run: str
    name: str
    job: str
    step: str | None
    reason: ReasonSchema

    @classmethod
    def of_part(cls, run: Run, job: Job, step: Step | None, approval: Approval) -> PendingApprovalSchema:
        """The approval for which a job, or a step of it, waits."""
        return cls(
            run=run.id,
            name=run.plan.name,
            job=job.id,
            step=step.id if step is not None else None,
            reason=reason_schema(step.reason if step is not None else job.reason),
            **msgspec.structs.asdict(ApprovalSchema.of(approval)),
        )


def pending_approvals(run: Run) -> list[PendingApprovalSchema]:
    """The first `PENDING_MAX` approvals for which the run waits."""
    return [
        PendingApprovalSchema.of_part(run, job, step, approval)
        for job, step, approval in approvals.pending(run)[:PENDING_MAX]
    ]


def _default(approval: Approval) -> ApprovalDefault | None:
    # The compiler accepts nothing else.
    return cast(ApprovalDefault, approval.default) if approval.due_at is not None else None


class ConcurrencySchema(msgspec.Struct, frozen=True, kw_only=True):
    """A slot in a concurrency group, requested or held."""

    group: str
    limit: int
    queue: Queue
    cancel_in_progress: bool
    is_held: bool
    requested_at: Timestamp | None

    @classmethod
    def of(cls, lock: Lock) -> ConcurrencySchema:
        """The slot of a run or job."""
        return cls(
            group=lock.group,
            limit=lock.limit,
            queue=lock.queue,
            cancel_in_progress=lock.cancel_in_progress,
            is_held=lock.is_held,
            requested_at=timestamp(lock.requested_at),
        )
