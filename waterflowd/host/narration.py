"""What the daemon's own log tells of runs: a line when one begins and ends, and for whatever did not go well in between.

Rules of this file: only what is durable is told, and nothing is read for it. What went as it should inside of a run is told at
level `debug`. The facts stand in fields, so that a line can be found by its run, job, step or agent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from waterflowd.engine import events
from waterflowd.model.records import Batch, RunSummary
from waterflowd.model.statuses import FAILURES, Conclusion, Outcome

logger = logging.getLogger("waterflow.run")

_Fields = dict[str, Any]


def narrate(batch: Batch) -> None:
    """Tells of one durable batch."""
    if not logger.isEnabledFor(logging.INFO):
        return
    rows: dict[str, RunSummary] | None = None
    for append in batch.appends:
        run = append.stream.removeprefix("run/")
        if run == append.stream:
            continue
        for event in append.events:
            line = _LINES.get(type(event))
            if line is None:
                continue
            level, text, fields = line(event)
            if logger.isEnabledFor(level):
                rows = {row.id: row for row in batch.summaries} if rows is None else rows
                logger.log(level, text, extra={"run": run, **_of_run(rows.get(run)), **fields})


def _of_run(row: RunSummary | None) -> _Fields:
    return {} if row is None else {"workflow": row.path, "repository": row.repository}


def _level(conclusion: Conclusion) -> int:
    return logging.WARNING if conclusion in FAILURES else logging.DEBUG


def _created(event: events.RunCreated) -> tuple[int, str, _Fields]:
    trigger = event.trigger
    return logging.INFO, f"run {event.number} started", {"trigger": trigger.kind, "by": trigger.by}


def _completed(event: events.RunCompleted) -> tuple[int, str, _Fields]:
    level = max(logging.INFO, _level(event.conclusion))
    text = f"run completed: {event.conclusion.value}: {event.reason.text}"
    return level, text, {"conclusion": event.conclusion.value}


def _job_completed(event: events.JobCompleted) -> tuple[int, str, _Fields]:
    text = f"job completed: {event.conclusion.value}: {event.reason.text}"
    return _level(event.conclusion), text, {"job": event.job, "conclusion": event.conclusion.value}


def _step_completed(event: events.StepCompleted) -> tuple[int, str, _Fields]:
    text = f"step completed: {event.conclusion.value}: {event.reason.text}"
    fields = {"job": event.job, "step": event.step, "conclusion": event.conclusion.value}
    return _level(event.conclusion), text, fields


def _attempt(event: Any) -> _Fields:
    return {"job": event.job, "step": event.step, "attempt": event.attempt}


def _dispatched(event: events.AttemptDispatched) -> tuple[int, str, _Fields]:
    return logging.DEBUG, f"attempt sent to {event.agent_name}", {**_attempt(event), "agent": event.agent_name}


def _finished(event: events.AttemptFinished) -> tuple[int, str, _Fields]:
    level = logging.DEBUG if event.outcome is Outcome.SUCCESS else logging.INFO
    text = f"attempt finished: {event.outcome.value}: {event.reason.text}"
    return level, text, {**_attempt(event), "exit_code": event.exit_code}


def _retried(event: events.RetryScheduled) -> tuple[int, str, _Fields]:
    return logging.INFO, f"the step is tried again: {event.reason.text}", _attempt(event)


def _late(event: events.LateReport) -> tuple[int, str, _Fields]:
    text = f"a report came too late and changes nothing: {event.outcome.value}"
    return logging.WARNING, text, {**_attempt(event), "agent": event.agent}


def _cancelled(event: events.CancelRequested) -> tuple[int, str, _Fields]:
    return logging.INFO, "cancel requested", {"by": event.by, "forced": event.is_forced}


def _run_timed_out(event: events.RunTimedOut) -> tuple[int, str, _Fields]:
    return logging.WARNING, f"run timed out: {event.reason.text}", {}


def _job_timed_out(event: events.JobTimedOut) -> tuple[int, str, _Fields]:
    return logging.WARNING, f"job timed out: {event.reason.text}", {"job": event.job}


_LINES: dict[type, Callable[[Any], tuple[int, str, _Fields]]] = {
    events.RunCreated: _created,
    events.RunCompleted: _completed,
    events.RunTimedOut: _run_timed_out,
    events.CancelRequested: _cancelled,
    events.JobCompleted: _job_completed,
    events.JobTimedOut: _job_timed_out,
    events.StepCompleted: _step_completed,
    events.AttemptDispatched: _dispatched,
    events.AttemptFinished: _finished,
    events.RetryScheduled: _retried,
    events.LateReport: _late,
}
