"""Gates: what a run, a job or a step waits for that is neither a server nor a timer. Data; written by `evolve` alone."""

from __future__ import annotations

from waterflowd.model.plan import Queue
from waterflowd.model.reasons import Reason


class Approval:
    """What waits for people: a step, or a job before an environment."""

    __slots__ = ("approvers", "default", "due_at", "environment", "given", "may_approve_own", "minimum", "rejected_by")

    def __init__(self, approvers: tuple[str, ...], minimum: int, may_approve_own: bool, due_at: int | None) -> None:
        self.environment = ""
        self.approvers = approvers
        self.minimum = minimum
        self.may_approve_own = may_approve_own
        self.due_at = due_at
        #: What happens at `due_at`: `approve` or `reject`.
        self.default = "reject"
        #: Who has approved, in order.
        self.given: list[str] = []
        self.rejected_by: str | None = None


class Lock:
    """A place in a concurrency group that a run or a job wants, or has."""

    __slots__ = ("cancel_in_progress", "group", "is_held", "limit", "queue", "refusal", "wanted_at")

    def __init__(self, group: str, limit: int, queue: Queue, cancel_in_progress: bool, wanted_at: int) -> None:
        self.wanted_at = wanted_at
        self.group = group
        self.limit = limit
        self.queue = queue
        self.cancel_in_progress = cancel_in_progress
        self.is_held = False
        #: Why there will be none.
        self.refusal: Reason | None = None
