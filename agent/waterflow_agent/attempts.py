"""The identity of an attempt and its possible outcomes, shared by both distributions.

Rules of this file: it imports only msgspec, so that the wire, the ledger and the daemon's pure packages can import it. The
daemon imports these names through `waterflowd.model.ids` and `waterflowd.model.statuses`.
"""

from __future__ import annotations

from enum import Enum
from typing import NewType

import msgspec

RunId = NewType("RunId", str)
#: The key of a job in its workflow file; for an instance or a called job, with a part that makes it unique.
JobId = NewType("JobId", str)
#: The step's `id`, or its 1-based position when it has none; inside a block, below the id of the block's step.
#: Unique in its job.
StepId = NewType("StepId", str)
#: 1 for the first try of a step.
AttemptNo = NewType("AttemptNo", int)


class AttemptId(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Identifies one attempt: one try of one step of one job of one run."""

    run: RunId
    job: JobId
    step: StepId
    number: AttemptNo

    def __str__(self) -> str:
        return f"{self.run}, {self.job}/{self.step}, attempt {self.number}"


class Outcome(Enum):
    """How an attempt ended, as its agent reported it."""

    #: The node succeeded.
    SUCCESS = "success"
    #: It ran and failed.
    FAILURE = "failure"
    #: It was stopped because it timed out.
    TIMED_OUT = "timed-out"
    #: It was stopped because it was cancelled.
    CANCELLED = "cancelled"
    #: The outcome is unknown: the runner or the server went away while the step ran.
    LOST = "lost"
    #: The agent never started it and never will.
    REFUSED = "refused"

    #: Members are singletons: hashing them by identity is fast, while `Enum` runs Python code to hash the name.
    __hash__ = object.__hash__
