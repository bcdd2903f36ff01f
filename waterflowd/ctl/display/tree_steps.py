"""Steps in the tree, with the steps inside of them: passes of a loop by their number and item, branches, composite steps.

Rules of this file: of many passes those that did not end well or are at work are shown, the others are counted.
"""

from __future__ import annotations

import json
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import glyph
from waterflowd.ctl.display.tree import Node, faint, folded, thing, why

#: Up to so many passes are all shown; of more, so many of those that are of interest.
_PASSES_MAX = 8
_ITEM_LENGTH_MAX = 60
#: Steps whose blocks need no line of their own: there is one, and it says nothing.
_PLAIN = frozenset({"composite", "condition"})


def step_nodes(steps: list[dict[str, Any]], now_ms: int | None) -> list[Node]:
    """Steps, each with what is inside of it."""
    return [_step_node(step, now_ms) for step in steps]


def _step_node(step: dict[str, Any], now_ms: int | None) -> Node:
    attempts = step["attempts"]
    tries = f"  attempt {attempts[-1]['attempt']}" if attempts and attempts[-1]["attempt"] > 1 else ""
    blocks = step.get("blocks") or []
    passes = _passes(step)
    return Node(
        f"{thing(step, now_ms)}{passes}{tries}{_child_run(step)}{why(step)}", _block_nodes(step, blocks, now_ms)
    )


def _child_run(step: dict[str, Any]) -> str:
    """The run that the step has started, where its reason does not name it."""
    started = step["attempts"][-1].get("child_run") if step["attempts"] else None
    return faint(f"  run {started}") if started and step["conclusion"] == "success" else ""


def _passes(step: dict[str, Any]) -> str:
    total = step.get("blocks_total", 0)
    if step["node"] not in ("loop", "parallel") or not total:
        return ""
    noun = "passes" if step["node"] == "loop" else "branches"
    return faint(f"  {step['counts'].get('success', 0)}/{total} {noun}")


def _block_nodes(step: dict[str, Any], blocks: list[dict[str, Any]], now_ms: int | None) -> list[Node]:
    if step["node"] in _PLAIN:
        return [node for block in blocks for node in step_nodes(block["steps"], now_ms)]
    counts: dict[str, int] = step.get("counts") or {}
    shown = blocks
    if sum(counts.values()) > _PASSES_MAX:
        shown = [block for block in blocks if block["state"] != "success"][:_PASSES_MAX]
    nodes = [Node(_block_text(block), step_nodes(block["steps"], now_ms)) for block in shown]
    noun = "passes" if step["node"] == "loop" else "branches"
    return nodes + folded(counts, (block["state"] for block in shown), noun)


def _block_text(block: dict[str, Any]) -> str:
    item = "" if block["item"] is None else f": {_item_text(block['item'])}"
    state = block["state"]
    sign = glyph("running", None) if state == "running" else glyph("completed", state)
    return f"{sign} {escape_for_display(block['name'])}{item}"


def _item_text(item: Any) -> str:
    text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False, separators=(",", ":"))
    return escape_for_display(text if len(text) <= _ITEM_LENGTH_MAX else text[: _ITEM_LENGTH_MAX - 1] + "…")
