"""A run as a tree of lines: glyph, name, duration, server, and the reason of everything that is not simply good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from waterflowd.ctl.terminal import clean, glyph, span_text, style

#: Reasons that a glyph says already.
_OBVIOUS = frozenset({"created", "started", "succeeded", "waiting-needs", "dispatched", "exit-code-0"})


def header(run: dict[str, Any], now_ms: int | None) -> str:
    """The first line: how the run stands."""
    word = run["conclusion"] or run["status"]
    span = span_text(run["started_at"] or run["created_at"], run["completed_at"], now_ms)
    revision = f" @ {run['revision'][:10]}" if run["revision"] else ""
    name = style(clean(run["name"]), is_bold=True)
    return f"{glyph(run['status'], run['conclusion'])} {name} #{run['number']}{clean(revision)}  {word}  {span}  {run['id']}"


def lines(run: dict[str, Any], now_ms: int | None = None, *, is_short: bool = False) -> Iterator[str]:
    """The whole tree; with `is_short` the steps of jobs that ended well are left out."""
    yield header(run, now_ms) + _why(run)
    jobs = run["jobs"]
    for index, job in enumerate(jobs):
        is_last = index == len(jobs) - 1
        server = style(f"  on {clean(job['agent'])}", "bright_black") if job["agent"] else ""
        yield f"{'└' if is_last else '├'}─ {_thing(job, now_ms)}{server}{_why(job)}"
        if is_short and (job["conclusion"] in ("success", "skipped") or job["status"] == "queued"):
            continue
        bar = " " if is_last else "│"
        steps = job["steps"]
        for number, step in enumerate(steps):
            mark = "└" if number == len(steps) - 1 else "├"
            tries = f"  attempt {len(step['attempts'])}" if len(step["attempts"]) > 1 else ""
            yield f"{bar}  {mark}─ {_thing(step, now_ms)}{tries}{_why(step)}"


def _thing(thing: dict[str, Any], now_ms: int | None) -> str:
    is_running = thing["status"] == "running"
    span = span_text(thing["started_at"], thing["completed_at"], now_ms if is_running else None)
    name = clean(thing["name"] or thing["id"])
    return f"{glyph(thing['status'], thing['conclusion'])} {name}" + (f"  {span}" if span else "")


def _why(thing: dict[str, Any]) -> str:
    """The reason, where it says more than the glyph."""
    why = thing["reason"]
    if thing["conclusion"] == "success" or why["code"] in _OBVIOUS or not why["text"]:
        return ""
    return style(f"  {clean(why['text'])}", "bright_black")


def reasons(run: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(place, state, sentence) of each thing that is not completed, or did not end well."""
    if run["conclusion"] != "success":
        yield "run", run["conclusion"] or run["status"], run["reason"]["text"]
    for job in run["jobs"]:
        if job["conclusion"] != "success":
            yield job["id"], job["conclusion"] or job["status"], job["reason"]["text"]
        elif job["outcome"] not in (None, "success"):
            yield job["id"], job["outcome"], job["reason"]["text"]
        is_begun = job["status"] in ("running", "waiting", "completed") and job["conclusion"] != "skipped"
        for step in job["steps"]:
            outcome = step["outcome"] if step["conclusion"] == "success" else step["conclusion"]
            if is_begun and outcome != "success" and step["status"] != "queued":
                yield f"{job['id']}/{step['id']}", outcome or step["status"], step["reason"]["text"]
