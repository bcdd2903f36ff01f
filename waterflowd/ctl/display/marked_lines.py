"""Errors, warnings and notices that steps have marked in their output, listed with the run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display import log_lines
from waterflowd.ctl.display.run_parts import all_jobs, all_steps
from waterflowd.ctl.display.terminal import style, wrapped

#: Of a whole run.
_LINES_MAX = 20


def lines(run: dict[str, Any]) -> Iterator[str]:
    """Yield what the steps of a run have marked, and how to see more."""
    found = list(_of(run["jobs"]))
    shown = 0
    for part, marked in found:
        if shown >= _LINES_MAX:
            break
        yield style(f"marked by {escape_for_display(part)}", is_bold=True)
        yield from _shown(marked[: _LINES_MAX - shown])
        shown += len(marked[: _LINES_MAX - shown])
    left = sum(len(marked) for _, marked in found) - shown
    if left:
        yield f"... and {left} more marked lines"
        yield f"  next: waterflowctl logs {shlex.quote(escape_for_display(run['id']))}"


def part_lines(job: dict[str, Any], step: dict[str, Any] | None) -> Iterator[str]:
    """Yield what a step has marked, or each step of a job."""
    for part, marked in _of([job]):
        if step is None or part == f"{job['id']}/{step['id']}":
            yield style(f"marked by {escape_for_display(part)}", is_bold=True)
            yield from _shown(marked)


def _of(jobs: Iterable[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the steps whose newest attempt has marked lines. Responses of older daemons have none."""
    for job in all_jobs(list(jobs)):
        for step in all_steps(job["steps"]):
            marked = step["attempts"][-1].get("annotations") if step["attempts"] else None
            if marked:
                yield f"{job['id']}/{step['id']}", marked


def _shown(marked: Iterable[str]) -> Iterator[str]:
    for line in marked:
        if (text := log_lines.shown(line)) is not None:
            yield from wrapped(f"  {text}", 4).split("\n")
