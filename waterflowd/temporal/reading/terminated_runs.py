"""Runs whose workflow an operator has ended with Temporal's own tools: they have no last fact, so readers add one.

Rules of this file: nothing is stored. The run is shown as completed with the reason `terminated` and the conclusion `lost`,
because nobody knows what its servers did afterwards; its jobs are shown as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from temporalio.client import WorkflowExecution, WorkflowExecutionStatus

from waterflowd.engine import events
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.temporal import run_turns
from waterflowd.temporal.reading.stream_reader import Stored

REASON = reason(
    ReasonCode.TERMINATED,
    "an operator ended the run's workflow in Temporal; what its servers did after that is unknown",
)
#: How a workflow ends without its last turn.
_STATUSES = frozenset(
    (
        WorkflowExecutionStatus.TERMINATED,
        WorkflowExecutionStatus.FAILED,
        WorkflowExecutionStatus.TIMED_OUT,
        WorkflowExecutionStatus.CANCELED,
    )
)
#: The same as a query.
QUERY = "ExecutionStatus IN ('Terminated', 'Failed', 'TimedOut', 'Canceled')"


def facts(stored: Stored) -> Sequence[bytes]:
    """All facts of a run, with the added one."""
    if not stored.terminated_at or not stored.facts:
        return stored.facts
    at = stored.terminated_at
    ended = events.RunCompleted(at=at, conclusion=Conclusion.LOST, reason=REASON)
    return [*stored.facts, run_turns.FACTS.pack(at, ended)]


def row(stored: RunSummary, execution: WorkflowExecution) -> RunSummary:
    """The row of a run as it is shown; `stored` is the one in its memo."""
    if stored.status is Status.COMPLETED or execution.status not in _STATUSES:
        return stored
    return msgspec.structs.replace(
        stored,
        status=Status.COMPLETED,
        conclusion=Conclusion.LOST,
        reason=REASON,
        completed_at=_ms(execution.close_time),
        seq=stored.seq + 1,
    )


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)
