"""What waits for people, and the next command to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import glyph, style, time_text

_SHOWN = 10


def place_of(found: dict[str, Any]) -> str:
    """`JOB` or `JOB/STEP`, as `approve` takes it."""
    return str(found["job"]) + (f"/{found['step']}" if found["step"] else "")


def argument(found: dict[str, Any]) -> str:
    """The same as a word of a command: brackets mean something to a shell."""
    return shlex.quote(escape_for_display(place_of(found)))


def sentence(found: dict[str, Any]) -> str:
    """Who is asked, how many are missing, and until when."""
    whom = ", ".join(found["approvers"]) or "an approver"
    missing = found["minimum"] - len(found["approved_by"])
    parts = [f"waits for {whom}"]
    if found["environment"]:
        parts[0] += f' to let it into environment "{found["environment"]}"'
    if found["approved_by"] or missing > 1:
        parts.append(f"{len(found['approved_by'])} of {found['minimum']} have approved")
    if not found["self_approval"]:
        parts.append("not by who started it")
    if found["due_at"]:
        ends = "approved" if found["default"] == "approve" else "rejected"
        parts.append(f"{ends} at {time_text(found['due_at'])}")
    message = found["reason"].get("message")
    return escape_for_display("; ".join(parts) + (f": {message}" if message else ""))


def lines(run: dict[str, Any]) -> Iterator[str]:
    """What of a run waits for people, and how to decide."""
    approvals = run.get("approvals") or []
    for found in approvals[:_SHOWN]:
        place = escape_for_display(place_of(found))
        yield f"{glyph('waiting', None)} {style(place, 'yellow')} {sentence(found)}"
    if len(approvals) > _SHOWN:
        yield f"  ... and {len(approvals) - _SHOWN} more"
    if approvals:
        name = f" {argument(approvals[0])}" if len(approvals) > 1 else ""
        yield f"next: waterflowctl approve {run['id']}{name}, or waterflowctl reject {run['id']}{name}"
