"""A run's events as plain lines, one for each change that somebody who waits wants to see."""

from __future__ import annotations

from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.run_parts import all_jobs, all_steps
from waterflowd.ctl.display.terminal import glyph, span_text, time_text

_BEGINNINGS = frozenset(
    {"run-started", "attempt-dispatched", "step-sleeping", "step-entered", "job-expanded", "job-entered",
     "approval-requested"}
)  # fmt: skip
_WAITS = frozenset(
    {"attempt-waiting", "step-sleeping", "retry-scheduled", "step-held", "approval-requested", "lock-waiting",
     "job-waiting", "job-retry-scheduled", "batch-completed"}
)  # fmt: skip
#: Events that a plain watch shows.
_SHOWN = frozenset(
    {"run-started", "attempt-waiting", "attempt-started", "retry-scheduled", "step-sleeping", "step-held",
     "step-entered", "step-timed-out", "step-completed", "approval-requested", "approval-given", "lock-waiting",
     "lock-refused", "job-waiting", "job-expanded", "job-entered", "job-halted", "job-cancelled", "job-skipped",
     "job-retry-scheduled", "batch-completed", "job-completed", "job-timed-out", "cancel-requested", "run-timed-out",
     "run-completed"}
)  # fmt: skip


class ChangeLines:
    """Events as lines; remembers when things began, so that their ends can say how long they took."""

    def __init__(self, run: dict[str, Any]) -> None:
        self._run = run
        self._names = {
            (job["id"], step["id"]): step["name"] for job in all_jobs(run["jobs"]) for step in all_steps(job["steps"])
        }
        self._began: dict[tuple[str | None, str | None], str] = {}

    def text(self, event: dict[str, Any]) -> str | None:
        """The line of one event; None when it is not shown."""
        job, step = event.get("job"), event.get("step")
        if step is not None and event.get("name"):
            self._names[job, step] = event["name"]
        if event["type"] in _BEGINNINGS:
            self._began.setdefault((job, step), event["at"])
            self._began.setdefault((job, None), event["at"])
        if event["type"] not in _SHOWN:
            return None
        status = "waiting" if event["type"] in _WAITS else "running"
        sign = glyph(status, event.get("conclusion"))
        text = escape_for_display(f"{self._place(job, step)}: {self._what(event, job, step)}")
        return f"{time_text(event['at'])} {sign} {text}"

    def _place(self, job: str | None, step: str | None) -> str:
        if job is None:
            return str(self._run["name"])
        if step is None:
            return job
        name = self._names.get((job, step), step)
        return f"{job}/{step}" + (f" ({name})" if name != step else "")

    def _what(self, event: dict[str, Any], job: str | None, step: str | None) -> str:
        if event["type"] in ("attempt-started", "run-started"):
            return "started"
        why = str((event.get("reason") or {}).get("text") or event["type"])
        ended = event.get("conclusion")
        if ended is None:
            return why
        took = span_text(self._began.get((job, step)), event["at"])
        text = f"{ended} in {took}" if took else str(ended)
        return text if ended == "success" else f"{text}: {why}"
