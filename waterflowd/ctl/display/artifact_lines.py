"""The artifacts of a run in one paragraph, for the screen of the run."""

from __future__ import annotations

from typing import Any

from waterflow_agent.display import escape_for_display, size_text
from waterflowd.ctl.options import count

#: A run may have 1,000 artifacts; `waterflowctl artifacts` lists all of them.
_SHOWN = 8


def lines(run: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines; none without artifacts."""
    if not rows:
        return []
    shown = ", ".join(_text(row) for row in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return [f"artifacts: {shown}{more}", f"next: waterflowctl artifacts {run}"]


def _text(row: dict[str, Any]) -> str:
    facts = f"{count(row['files'], 'file')}, {size_text(row['bytes'])}"
    removal = f"; {removal_text(row['removal'])}" if row.get("removal") else ""
    return f"{escape_for_display(row['name'])} ({facts}{removal})"


def removal_text(removal: dict[str, Any]) -> str:
    """Return why an artifact is gone."""
    by = f" by {escape_for_display(removal['by'])}" if removal["by"] else ""
    return f"{escape_for_display(removal['reason'])}{by}"
