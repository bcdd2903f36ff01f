"""The row of a run in the log's index."""

from __future__ import annotations

import msgspec

from waterflowd.engine import Run
from waterflowd.model.records import RunSummary, Trigger


def summary(run: Run) -> RunSummary:
    """The run's current row."""
    return RunSummary(
        id=run.id,
        number=run.number,
        name=run.plan.name,
        path=run.plan.path,
        repository=run.repository,
        revision=run.revision,
        trigger=_without_payload(run.trigger),
        status=run.status,
        conclusion=run.conclusion,
        reason=run.reason,
        created_at=run.created_at,
        started_at=run.started_at,
        completed_at=run.completed_at,
        seq=run.seq,
        rerun_of=run.rerun_of,
    )


def _without_payload(trigger: Trigger) -> Trigger:
    """A payload may have a megabyte; it stays in the run's first event."""
    return msgspec.structs.replace(trigger, payload={}) if trigger.payload else trigger
