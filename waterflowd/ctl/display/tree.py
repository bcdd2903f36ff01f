"""A run as a tree of lines: glyph, name, duration, server, and the reason of everything that is not simply good.

Rules of this file: it draws; what stands in the tree is made by tree_jobs.py and tree_steps.py. An answer of a daemon of an
older release has no parts below jobs and steps: what is missing counts as none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import glyph, span_text, style

#: Reasons that a glyph says already.
_OBVIOUS = frozenset({"created", "started", "succeeded", "waiting-needs", "dispatched", "exit-code-0"})


class Node(NamedTuple):
    """One line and what hangs below it."""

    text: str
    below: Sequence[Node] = ()


def header(run: dict[str, Any], now_ms: int | None) -> str:
    """The first line: how the run stands."""
    word = run["conclusion"] or run["status"]
    span = span_text(run["started_at"] or run["created_at"], run["completed_at"], now_ms)
    revision = f" @ {run['revision'][:10]}" if run["revision"] else ""
    name = style(escape_for_display(run["name"]), is_bold=True)
    sign = glyph(run["status"], run["conclusion"])
    return f"{sign} {name} #{run['number']}{escape_for_display(revision)}  {word}  {span}  {run['id']}"


def lines(run: dict[str, Any], now_ms: int | None = None, *, is_short: bool = False) -> Iterator[str]:
    """The whole tree; with `is_short` the steps of jobs that ended well are left out."""
    from waterflowd.ctl.display.tree_jobs import job_node

    yield header(run, now_ms) + why(run)
    yield from draw([job_node(job, now_ms, is_short=is_short) for job in run["jobs"]])


def draw(nodes: Sequence[Node], indent: str = "") -> Iterator[str]:
    """The nodes with what hangs below them."""
    for index, node in enumerate(nodes):
        is_last = index == len(nodes) - 1
        yield f"{indent}{'└' if is_last else '├'}─ {node.text}"
        yield from draw(node.below, f"{indent}{' ' if is_last else '│'}  ")


def thing(found: dict[str, Any], now_ms: int | None) -> str:
    """Glyph, name and duration of a job or step."""
    is_running = found["status"] == "running"
    span = span_text(found["started_at"], found["completed_at"], now_ms if is_running else None)
    name = escape_for_display(found["name"] or found["id"])
    return f"{glyph(found['status'], found['conclusion'])} {name}" + (f"  {span}" if span else "")


def why(found: dict[str, Any]) -> str:
    """The reason, where it says more than the glyph."""
    reason = found["reason"]
    if found.get("reused"):
        return faint("  kept")
    if found["conclusion"] == "success" or reason["code"] in _OBVIOUS or not reason["text"]:
        return ""
    return faint(f"  {escape_for_display(reason['text'])}")


def faint(text: str) -> str:
    """Text in the background."""
    return style(text, "bright_black")


def folded(counts: dict[str, int], shown: Iterable[str], noun: str) -> list[Node]:
    """A line for those of each state that are not shown one by one; nothing when all of them have ended well."""
    rest = Counter(counts)
    rest.subtract(shown)
    if set(counts) == {"success"} and rest == Counter(counts):
        return []
    return [
        Node(f"{glyph(word, None)} {faint(f'{count} more {noun}: {word}')}") for word, count in rest.items() if count
    ]
