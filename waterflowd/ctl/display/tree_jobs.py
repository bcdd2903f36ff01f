"""Jobs in the tree: on one server, on many as instances, or as the jobs of a workflow that they call.

Rules of this file: of many instances those that did not end well or are at work are shown, the others are counted. The count of
a job on many servers says how many have ended well, of how many.
"""

from __future__ import annotations

from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.tree import Node, faint, folded, thing, why
from waterflowd.ctl.display.tree_steps import step_nodes

#: Up to so many instances are all shown.
_ALL_MAX = 8
#: Of more, so many of those that are of interest.
_SHOWN_MAX = 12
_DULL = frozenset({"success", "skipped", "queued"})


def job_node(job: dict[str, Any], now_ms: int | None, *, is_short: bool) -> Node:
    """A job, its steps, and what it has become."""
    text = f"{thing(job, now_ms)}{_servers(job)}{_tries(job)}{_batch(job)}{why(job)}"
    if job.get("reused"):
        return Node(text)
    if job.get("jobs_total"):
        return Node(text, _children(job, now_ms, is_short=is_short))
    if is_short and (job["conclusion"] in ("success", "skipped") or job["status"] == "queued"):
        return Node(text)
    return Node(text, step_nodes(job["steps"], now_ms))


def _servers(job: dict[str, Any]) -> str:
    total = job.get("jobs_total", 0)
    if job.get("kind") in ("each", "matrix") and total:
        noun = "servers" if job["kind"] == "each" and not job.get("matrix") else "instances"
        noun = noun if total != 1 else noun[:-1]
        counts = job["counts"]
        bad = [f"{counts[word]} {word}" for word in ("failure", "timed-out", "lost", "cancelled") if counts.get(word)]
        return faint("  " + ", ".join([f"{counts.get('success', 0)}/{total} {noun}", *bad]))
    if job.get("calls"):
        return faint(f"  calls {escape_for_display(job['calls'])}")
    return faint(f"  on {escape_for_display(job['agent'])}") if job["agent"] else ""


def _tries(job: dict[str, Any]) -> str:
    return f"  try {job['tries']}" if job.get("tries", 1) > 1 else ""


def _batch(job: dict[str, Any]) -> str:
    batch = job.get("batch")
    is_open = job["status"] != "completed"
    return f"  batch {batch['number']} of {batch['of']}" if batch is not None and is_open else ""


def _children(job: dict[str, Any], now_ms: int | None, *, is_short: bool) -> list[Node]:
    children = job["jobs"]
    if job["kind"] == "call" or (job["jobs_total"] <= _ALL_MAX and len(children) == job["jobs_total"]):
        shown = children
    else:
        # What ended badly first: it is what one looks for.
        wanted = sorted((child for child in children if _word(child) not in _DULL), key=_is_at_work)[:_SHOWN_MAX]
        ids = {child["id"] for child in wanted}
        shown = [child for child in children if child["id"] in ids]
    nodes = [job_node(child, now_ms, is_short=is_short or len(children) > _ALL_MAX) for child in shown]
    noun = {"each": "servers", "matrix": "instances"}.get(job["kind"], "jobs")
    return nodes + folded(job["counts"], map(_word, shown), noun)


def _word(job: dict[str, Any]) -> str:
    return str(job["conclusion"] or job["status"])


def _is_at_work(job: dict[str, Any]) -> bool:
    return job["conclusion"] is None
