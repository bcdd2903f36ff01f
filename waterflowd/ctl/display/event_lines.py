"""The events of a run as plain lines, one for each change that matters to somebody who is watching."""

from __future__ import annotations

from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.run_parts import FAILED_INSIDE, all_jobs, all_steps
from waterflowd.ctl.display.terminal import glyph, localized, span_text, time_text

#: Events from which durations are measured.
_STARTS = frozenset(
    {
        "run-started",
        "attempt-dispatched",
        "step-sleeping",
        "step-entered",
        "job-expanded",
        "job-entered",
        "approval-requested",
    }
)
#: Events that are printed, with the status that their glyph shows.
_PRINTED = {
    "run-started": "running",
    "attempt-waiting": "waiting",
    "attempt-started": "running",
    "retry-scheduled": "waiting",
    "step-sleeping": "waiting",
    "step-held": "waiting",
    "step-entered": "running",
    "step-timed-out": "running",
    "step-completed": "running",
    "approval-requested": "waiting",
    "approval-decided": "running",
    "lock-waiting": "waiting",
    "lock-refused": "running",
    "job-waiting": "waiting",
    "job-expanded": "running",
    "job-entered": "running",
    "job-halted": "running",
    "job-cancelled": "running",
    "job-skipped": "running",
    "job-retry-scheduled": "waiting",
    "batch-completed": "waiting",
    "job-completed": "running",
    "job-timed-out": "running",
    "cancel-requested": "running",
    "run-timed-out": "running",
    "run-completed": "running",
}


class EventLines:
    """Turns events into lines; remembers start times, so that completions can show durations."""

    def __init__(self, run: dict[str, Any]) -> None:
        self._run = run
        self._names = {
            (job["id"], step["id"]): step["name"] for job in all_jobs(run["jobs"]) for step in all_steps(job["steps"])
        }
        self._started: dict[tuple[str | None, str | None], str] = {}

    def text(self, event: dict[str, Any]) -> str | None:
        """Return the line of an event; None if it is not printed."""
        job, step = event.get("job"), event.get("step")
        if step is not None and event.get("name"):
            self._names[job, step] = event["name"]
        if event["type"] in _STARTS:
            self._started.setdefault((job, step), event["at"])
            self._started.setdefault((job, None), event["at"])
        status = _PRINTED.get(event["type"])
        if status is None:
            return None
        sign = glyph(status, event.get("conclusion"))
        text = escape_for_display(f"{self._part(job, step)}: {self._change(event, job, step)}")
        return f"{time_text(event['at'])} {sign} {text}"

    def _part(self, job: str | None, step: str | None) -> str:
        if job is None:
            return str(self._run["name"])
        if step is None:
            return job
        name = self._names.get((job, step), step)
        return f"{job}/{step}" + (f" ({name})" if name != step else "")

    def _change(self, event: dict[str, Any], job: str | None, step: str | None) -> str:
        if event["type"] in ("attempt-started", "run-started"):
            return "started"
        reason = localized(str((event.get("reason") or {}).get("text") or event["type"]))
        conclusion = event.get("conclusion")
        if conclusion is None:
            return reason
        duration = span_text(self._started.get((job, step)), event["at"])
        text = f"{conclusion} in {duration}" if duration else str(conclusion)
        # What failed inside has just been printed with its reason.
        is_explained = conclusion == "success" or (event.get("reason") or {}).get("code") == FAILED_INSIDE
        return text if is_explained else f"{text}: {reason}"
