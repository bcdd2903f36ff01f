"""Gates: what a run, a job or a step waits for besides servers and timers. Data; written by `evolve` alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from waterflowd.model.plan import Queue
from waterflowd.model.reasons import Reason


@dataclass(slots=True, eq=False, repr=False)
class Approval:
    """The approval that a step, or a job before its environment, waits for."""

    approvers: tuple[str, ...]
    minimum: int
    may_approve_own: bool
    due_at: int | None
    environment: str = ""
    #: What happens at `due_at`: `approve` or `reject`.
    default: str = "reject"
    #: Who has approved, in order.
    approved_by: list[str] = field(default_factory=list)
    rejected_by: str | None = None


@dataclass(slots=True, eq=False, repr=False)
class Lock:
    """The slot in a concurrency group that a run or a job holds, or waits for."""

    group: str
    limit: int
    queue: Queue
    cancel_in_progress: bool
    requested_at: int
    is_held: bool = False
    #: Why it was refused.
    refusal: Reason | None = None
