"""A run as a tree of lines: glyph, name, duration, server, and the reason of everything that did not simply succeed.

A failure is explained once, at the part that failed: not at what contains it, nor at what was skipped because of it.
Of many instances of a job, or passes of a loop, only those that run or did not succeed are shown; the others are counted.
Responses of older daemons lack parts below jobs and steps, which count as absent.

Why not `rich.tree`: the lines must be plain and unwrapped in a pipe, and `watch` draws a tree of thousands of lines several
times a second. `draw` takes 3 ms for 5,000 lines, `rich.tree` 900 ms, and `show` would have to import rich.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display import fitting
from waterflowd.ctl.display.fitting import width
from waterflowd.ctl.display.run_parts import is_explained_below
from waterflowd.ctl.display.terminal import counted_down, glyph, localized, span_text, style

#: Reasons that repeat what the glyph says.
_OBVIOUS_REASONS = frozenset({"created", "started", "succeeded", "waiting-needs", "dispatched", "exit-code-0"})
#: Of a step after one that failed, which is in the same list.
_EARLIER_FAILURE = "earlier-failure"
#: Jobs with at most this many instances show all of them; others show at most `_INSTANCES_SHOWN` notable ones.
_INSTANCES_ALL_MAX = 8
_INSTANCES_SHOWN = 12
_UNREMARKABLE = frozenset({"success", "skipped", "queued"})
#: At most this many blocks of a step are shown.
_BLOCKS_MAX = 8
_ITEM_LENGTH_MAX = 60
#: Steps with a single block, whose line would add nothing.
_WITHOUT_BLOCK_LINES = frozenset({"composite", "condition"})


class TreeNode(NamedTuple):
    """One line and the nodes below it."""

    text: str
    children: Sequence[TreeNode] = ()


class _View(NamedTuple):
    """The time up to which durations advance, and the reason of the part above, which is not repeated."""

    now_ms: int | None
    above: dict[str, Any] | None = None

    def below(self, part: dict[str, Any]) -> _View:
        """The view of what is inside a part."""
        return self._replace(above=part["reason"])


def lines(
    run: dict[str, Any], now_ms: int | None = None, *, is_short: bool = False, columns: int | None = None
) -> Iterator[str]:
    """Yield the whole tree; with `is_short` without the steps of jobs that succeeded, with `columns` broken to fit them."""
    view = _View(now_ms)
    yield from _header(header(run, now_ms) + _reason(run, view, run["jobs"]), columns)
    yield from draw([_job_node(job, view.below(run), is_short=is_short) for job in run["jobs"]], columns=columns)


def part_lines(
    run: dict[str, Any],
    job: dict[str, Any],
    step: dict[str, Any] | None,
    now_ms: int | None,
    columns: int | None = None,
) -> Iterator[str]:
    """Yield the run's line, and below it only one job or step."""
    yield from _header(header(run, now_ms), columns)
    view = _View(now_ms)
    node = _job_node(job, view, is_short=False) if step is None else _step_node(step, view)
    yield from draw([node], columns=columns)


def header(run: dict[str, Any], now_ms: int | None) -> str:
    """Return the first line: the state of the run."""
    word = run["conclusion"] or run["status"]
    span = span_text(run["started_at"] or run["created_at"], run["completed_at"], now_ms)
    revision = f" @ {run['revision'][:10]}" if run["revision"] else ""
    name = style(escape_for_display(run["name"]), is_bold=True)
    sign = glyph(run["status"], run["conclusion"])
    parts = [
        f"{sign} {name} #{run['number']}{escape_for_display(revision)}",
        word,
        *([span] if span else []),
        run["id"],
    ]
    return "  ".join(parts)


def _header(text: str, columns: int | None) -> list[str]:
    return [text] if columns is None else fitting.broken(text, columns, 2)


def draw(nodes: Sequence[TreeNode], indent: str = "", columns: int | None = None) -> Iterator[str]:
    """Yield the lines of the nodes and of everything below them; with `columns`, long ones are broken."""
    for index, node in enumerate(nodes):
        is_last = index == len(nodes) - 1
        below = f"{indent}{' ' if is_last else '│'}  "
        first, *more = _fitting(node.text, None if columns is None else columns - len(below))
        yield f"{indent}{'└' if is_last else '├'}─ {first}"
        for line in more:
            yield f"{below}{'│' if node.children else ' '} {line}"
        yield from draw(node.children, below, columns)


def _fitting(text: str, columns: int | None) -> list[str]:
    """Return the text in lines; further ones leave space for the branch to what is below."""
    if columns is None or width(text) <= columns:
        return [text]
    first, *more = fitting.broken(text, columns, 2)
    return [first, *(line[2:] for line in more)]


def _label(part: dict[str, Any], now_ms: int | None) -> str:
    """Glyph, name and duration of a job or step."""
    is_running = part["status"] == "running"
    span = span_text(part["started_at"], part["completed_at"], now_ms if is_running else None)
    name = escape_for_display(part["name"] or part["id"])
    return f"{glyph(part['status'], part['conclusion'])} {name}" + (f"  {span}" if span else "")


def _reason(part: dict[str, Any], view: _View, below: Iterable[dict[str, Any]] = ()) -> str:
    """The reason, if it says more than the glyph, what is above, and what is `below`."""
    reason = part["reason"]
    if part.get("reused"):
        return _faint("  reused")
    if part["conclusion"] == "success" or reason["code"] in _OBVIOUS_REASONS or not reason["text"]:
        return ""
    if reason["code"] == _EARLIER_FAILURE or reason == view.above or is_explained_below(part, below):
        return ""
    text = localized(reason["text"])
    if view.now_ms is not None:
        text = counted_down(text, part.get("retry_at") or (part.get("batch") or {}).get("resume_at"), view.now_ms)
    return _faint(f"  {escape_for_display(text)}")


def _faint(text: str) -> str:
    return style(text, "bright_black")


def _others(counts: dict[str, int], visible: Iterable[str], noun: str) -> list[TreeNode]:
    """Count those that are not shown, by state; nothing if none is shown and all succeeded."""
    rest = Counter(counts)
    rest.subtract(visible)
    if set(counts) == {"success"} and rest == Counter(counts):
        return []
    return [
        TreeNode(f"{glyph(word, None)} {_faint(f'{count} more {noun}: {word}')}")
        for word, count in rest.items()
        if count
    ]


# Jobs


def _job_node(job: dict[str, Any], view: _View, *, is_short: bool) -> TreeNode:
    text = f"{_label(job, view.now_ms)}{_servers(job)}{_tries(job)}{_batch(job)}"
    text += _reason(job, view, [*job["steps"], *(job.get("jobs") or [])])
    if job.get("reused") or job["conclusion"] == "skipped":
        return TreeNode(text)
    if job.get("jobs_total"):
        return TreeNode(text, _instances(job, view.below(job), is_short=is_short))
    if is_short and (job["conclusion"] == "success" or job["status"] == "queued"):
        return TreeNode(text)
    return TreeNode(text, _step_nodes(job, view.below(job)))


def _servers(job: dict[str, Any]) -> str:
    total = job.get("jobs_total", 0)
    if job.get("kind") in ("each", "matrix") and total:
        noun = "servers" if job["kind"] == "each" and not job.get("matrix") else "instances"
        noun = noun if total != 1 else noun[:-1]
        counts = job["counts"]
        bad = [f"{counts[word]} {word}" for word in ("failure", "timed-out", "lost", "cancelled") if counts.get(word)]
        return _faint("  " + ", ".join([f"{counts.get('success', 0)}/{total} {noun}", *bad]))
    if job.get("calls"):
        return _faint(f"  calls {escape_for_display(job['calls'])}")
    return _faint(f"  on {escape_for_display(job['agent'])}") if job["agent"] else ""


def _tries(job: dict[str, Any]) -> str:
    return f"  try {job['tries']}" if job.get("tries", 1) > 1 else ""


def _batch(job: dict[str, Any]) -> str:
    batch = job.get("batch")
    is_open = job["status"] != "completed"
    return f"  batch {batch['number']} of {batch['of']}" if batch is not None and is_open else ""


def _instances(job: dict[str, Any], view: _View, *, is_short: bool) -> list[TreeNode]:
    instances = job["jobs"]
    visible = instances
    is_whole = job["jobs_total"] <= _INSTANCES_ALL_MAX and len(instances) == job["jobs_total"]
    if job["kind"] != "call" and not is_whole:
        # Completed ones first, because failures are what people look for.
        notable = [instance for instance in instances if _word(instance) not in _UNREMARKABLE]
        notable.sort(key=lambda instance: instance["conclusion"] is None)
        ids = {instance["id"] for instance in notable[:_INSTANCES_SHOWN]}
        visible = [instance for instance in instances if instance["id"] in ids]
    is_short = is_short or len(instances) > _INSTANCES_ALL_MAX
    nodes = [_job_node(instance, view, is_short=is_short) for instance in visible]
    noun = {"each": "servers", "matrix": "instances"}.get(job["kind"], "jobs")
    return nodes + _others(job["counts"], map(_word, visible), noun)


def _word(job: dict[str, Any]) -> str:
    return str(job["conclusion"] or job["status"])


# Steps


def _step_nodes(owner: dict[str, Any], view: _View) -> list[TreeNode]:
    """The steps of a job or block that the answer contains, and how many more there are."""
    steps = owner["steps"]
    hidden = owner.get("steps_total", 0) - len(steps)
    noun = "step" if hidden == 1 else "steps"
    more = [TreeNode(_faint(f"{hidden} more {noun}"))] if hidden > 0 else []
    return [_step_node(step, view) for step in steps] + more


def _step_node(step: dict[str, Any], view: _View) -> TreeNode:
    attempts = step["attempts"]
    attempt = f"  attempt {attempts[-1]['attempt']}" if attempts and attempts[-1]["attempt"] > 1 else ""
    blocks = step.get("blocks") or []
    text = f"{_label(step, view.now_ms)}{_block_count(step)}{attempt}{_child_run(step)}"
    text += _reason(step, view, (inner for block in blocks for inner in block["steps"]))
    return TreeNode(text, _block_nodes(step, blocks, view.below(step)))


def _child_run(step: dict[str, Any]) -> str:
    """The child run of a step that succeeded; otherwise the reason names it."""
    child_run = step["attempts"][-1].get("child_run") if step["attempts"] else None
    return _faint(f"  run {child_run}") if child_run and step["conclusion"] == "success" else ""


def _block_noun(step: dict[str, Any]) -> str:
    return "passes" if step["node"] == "loop" else "branches"


def _block_count(step: dict[str, Any]) -> str:
    total = step.get("blocks_total", 0)
    if step["node"] not in ("loop", "parallel") or not total:
        return ""
    return _faint(f"  {step['counts'].get('success', 0)}/{total} {_block_noun(step)}")


def _block_nodes(step: dict[str, Any], blocks: list[dict[str, Any]], view: _View) -> list[TreeNode]:
    if step["node"] in _WITHOUT_BLOCK_LINES:
        return [node for block in blocks for node in _step_nodes(block, view)]
    counts: dict[str, int] = step.get("counts") or {}
    visible = blocks
    if sum(counts.values()) > _BLOCKS_MAX:
        visible = [block for block in blocks if block["state"] != "success"][:_BLOCKS_MAX]
    nodes = [TreeNode(_block_text(block), _step_nodes(block, view)) for block in visible]
    return nodes + _others(counts, (block["state"] for block in visible), _block_noun(step))


def _block_text(block: dict[str, Any]) -> str:
    item = "" if block["item"] is None else f": {_item_text(block['item'])}"
    state = block["state"]
    sign = glyph("running", None) if state == "running" else glyph("completed", state)
    return f"{sign} {escape_for_display(block['name'])}{item}"


def _item_text(item: Any) -> str:
    text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False, separators=(",", ":"))
    return escape_for_display(text, _ITEM_LENGTH_MAX)
