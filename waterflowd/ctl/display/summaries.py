"""What steps wrote to `WATERFLOW_SUMMARY`: Markdown, shown as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.run_parts import all_jobs, all_steps
from waterflowd.ctl.display.terminal import clean_line, style, wrapped

#: Of a whole run: steps, and lines of each.
_STEPS_MAX = 10
_LINES_MAX = 20


def lines(run: dict[str, Any]) -> Iterator[str]:
    """Yield the beginning of each summary of a run, and how to see more."""
    found = list(_of(run["jobs"]))
    for job, step, summary in found[:_STEPS_MAX]:
        part = f"{job['id']}/{step['id']}"
        command = f"next: waterflowctl show {shlex.quote(escape_for_display(run['id'] + '/' + part))}"
        yield style(f"summary of {escape_for_display(part)}", is_bold=True)
        if summary is None:
            # It did not fit into the answer.
            yield f"  {command}"
            continue
        texts = list(_text(summary))
        yield from texts[:_LINES_MAX]
        if len(texts) > _LINES_MAX:
            yield f"  ... and {len(texts) - _LINES_MAX} more lines"
            yield f"  {command}"
    if len(found) > _STEPS_MAX:
        yield f"... and summaries of {len(found) - _STEPS_MAX} more steps"


def part_lines(job: dict[str, Any], step: dict[str, Any] | None) -> Iterator[str]:
    """Yield the whole summary of a step, or of each step of a job."""
    for _, other, summary in _of([job]):
        if step is None or other["id"] == step["id"]:
            yield style(f"summary of {escape_for_display(other['id'])}", is_bold=True)
            yield from _text(summary or "")


def is_complete(step: dict[str, Any]) -> bool:
    """Return whether the answer has the summary of the step's newest attempt."""
    return not step["attempts"] or step["attempts"][-1].get("summary", "") is not None


def _of(jobs: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str | None]]:
    """Yield the steps whose newest attempt has a summary; None for one that did not fit into the answer."""
    for job in all_jobs(list(jobs)):
        for step in all_steps(job["steps"]):
            # Responses of older daemons have none.
            summary = step["attempts"][-1].get("summary", "") if step["attempts"] else ""
            if summary != "":
                yield job, step, summary


def _text(summary: str) -> Iterator[str]:
    for line in summary.rstrip("\n").split("\n"):
        yield from wrapped(f"  {clean_line(line, has_colors=False)}", 2).split("\n")
