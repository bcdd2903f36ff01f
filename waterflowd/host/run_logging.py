"""Lines of the daemon's own log about runs: when a run starts and ends, and when something fails in between.

Rules of this file: nothing is read for a line. The log engine logs durable events. On Temporal the daemon that takes a turn
logs its decisions, so a line is repeated if the turn is. Successful steps and jobs are logged at level `debug`. Run, job, step
and agent are fields, so that lines can be filtered by them. A line is formatted only if its level is enabled, which it is not
for most events.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from waterflowd.engine import events
from waterflowd.model.records import Batch, RunSummary
from waterflowd.model.statuses import FAILURES, Outcome

logger = logging.getLogger("waterflow.run")

_Fields = dict[str, Any]
_Line = tuple[str, _Fields]


def log_batch(batch: Batch) -> None:
    """Logs the events of one durable batch."""
    least = logger.getEffectiveLevel()
    rows: dict[str, RunSummary] | None = None
    for append in batch.appends:
        run = append.stream.removeprefix("run/")
        if run == append.stream:
            continue
        for event in append.events:
            rule = _RULES.get(type(event))
            if rule is None or (level := rule.level(event)) < least:
                continue
            rows = {row.id: row for row in batch.summaries} if rows is None else rows
            _log(level, run, rule.line(event), rows.get(run))


def log_events(run: str, found: Iterable[events.RunEvent], row: Callable[[], RunSummary]) -> None:
    """Logs new events of one run; `row` makes its row, which is only needed for a line."""
    least = logger.getEffectiveLevel()
    for event in found:
        rule = _RULES.get(type(event))
        if rule is not None and (level := rule.level(event)) >= least:
            _log(level, run, rule.line(event), row())


def _log(level: int, run: str, line: _Line, row: RunSummary | None) -> None:
    text, fields = line
    logger.log(level, text, extra={"run": run, **_of_run(row), **fields})


def _of_run(row: RunSummary | None) -> _Fields:
    return {} if row is None else {"workflow": row.path, "repository": row.repository}


def _always(level: int) -> Callable[[Any], int]:
    return lambda event: level


def _by_conclusion(event: events.JobCompleted | events.StepCompleted) -> int:
    return logging.WARNING if event.conclusion in FAILURES else logging.DEBUG


def _by_run(event: events.RunCompleted) -> int:
    return logging.WARNING if event.conclusion in FAILURES else logging.INFO


def _by_outcome(event: events.AttemptFinished) -> int:
    return logging.DEBUG if event.outcome is Outcome.SUCCESS else logging.INFO


def _created(event: events.RunCreated) -> _Line:
    trigger = event.trigger
    return f"run {event.number} started", {"trigger": trigger.kind.value, "by": trigger.by}


def _completed(event: events.RunCompleted) -> _Line:
    text = f"run completed: {event.conclusion.value}: {event.reason.text}"
    return text, {"conclusion": event.conclusion.value}


def _job_completed(event: events.JobCompleted) -> _Line:
    text = f"job completed: {event.conclusion.value}: {event.reason.text}"
    return text, {"job": event.job, "conclusion": event.conclusion.value}


def _step_completed(event: events.StepCompleted) -> _Line:
    text = f"step completed: {event.conclusion.value}: {event.reason.text}"
    fields = {"job": event.job, "step": event.step, "conclusion": event.conclusion.value}
    return text, fields


def _attempt(event: Any) -> _Fields:
    return {"job": event.job, "step": event.step, "attempt": event.attempt}


def _dispatched(event: events.AttemptDispatched) -> _Line:
    return f"attempt sent to {event.agent_name}", {**_attempt(event), "agent": event.agent_name}


def _finished(event: events.AttemptFinished) -> _Line:
    text = f"attempt finished: {event.outcome.value}: {event.reason.text}"
    return text, {**_attempt(event), "exit_code": event.exit_code}


def _retried(event: events.RetryScheduled) -> _Line:
    return f"step will be retried: {event.reason.text}", _attempt(event)


def _late(event: events.LateReport) -> _Line:
    text = f"late report ignored: {event.outcome.value}"
    return text, {**_attempt(event), "agent": event.agent}


def _cancelled(event: events.CancelRequested) -> _Line:
    return "cancel requested", {"by": event.by, "forced": event.is_forced}


def _run_timed_out(event: events.RunTimedOut) -> _Line:
    return f"run timed out: {event.reason.text}", {}


def _job_timed_out(event: events.JobTimedOut) -> _Line:
    return f"job timed out: {event.reason.text}", {"job": event.job}


class _LogRule(NamedTuple):
    """Level and text for one kind of event."""

    level: Callable[[Any], int]
    line: Callable[[Any], _Line]


_RULES: dict[type, _LogRule] = {
    events.RunCreated: _LogRule(_always(logging.INFO), _created),
    events.RunCompleted: _LogRule(_by_run, _completed),
    events.RunTimedOut: _LogRule(_always(logging.WARNING), _run_timed_out),
    events.CancelRequested: _LogRule(_always(logging.INFO), _cancelled),
    events.JobCompleted: _LogRule(_by_conclusion, _job_completed),
    events.JobTimedOut: _LogRule(_always(logging.WARNING), _job_timed_out),
    events.StepCompleted: _LogRule(_by_conclusion, _step_completed),
    events.AttemptDispatched: _LogRule(_always(logging.DEBUG), _dispatched),
    events.AttemptFinished: _LogRule(_by_outcome, _finished),
    events.RetryScheduled: _LogRule(_always(logging.INFO), _retried),
    events.LateReport: _LogRule(_always(logging.WARNING), _late),
}
