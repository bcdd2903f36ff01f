"""The row of a run in the log's index."""

from __future__ import annotations

import msgspec

from waterflowd.engine import Run
from waterflowd.model.records import RunSummary, Trigger

#: A row is written with each batch of events, so it has a bound.
NAMES_MAX = 50


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
        jobs=run.leaves,
        jobs_completed=run.leaves_completed,
        jobs_failed=run.leaves_failed,
        first_failure=run.first_failure,
        groups=_names(run.groups),
        servers=_names(run.servers),
    )


def counts(run: Run) -> tuple[int, int, int, int]:
    """Numbers that change with what the row says about jobs, groups and servers."""
    return run.leaves, run.leaves_completed, min(len(run.groups), NAMES_MAX + 1), min(len(run.servers), NAMES_MAX + 1)


def _names(used: dict[str, None]) -> tuple[str, ...] | None:
    return tuple(used) if len(used) <= NAMES_MAX else None


def _without_payload(trigger: Trigger) -> Trigger:
    """A payload may have a megabyte; it stays in the run's first event."""
    return msgspec.structs.replace(trigger, payload={}) if trigger.payload else trigger
