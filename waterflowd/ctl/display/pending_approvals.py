"""Jobs and steps that wait for approval, and the next command to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display.terminal import glyph, style, time_text

_SHOWN = 10


def part_of(row: dict[str, Any]) -> str:
    """Return `JOB` or `JOB/STEP`, as `approve` takes it."""
    return str(row["job"]) + (f"/{row['step']}" if row["step"] else "")


def argument(row: dict[str, Any]) -> str:
    """Return the part quoted for a shell, to which brackets are special."""
    return shlex.quote(escape_for_display(part_of(row)))


def sentence(row: dict[str, Any]) -> str:
    """Say who may approve, how many approvals are missing, and when it is decided automatically."""
    clauses = [f"waiting for {', '.join(row['approvers']) or 'an approver'}"]
    if row["environment"]:
        clauses[0] += f' to approve "{row["environment"]}"'
    if row["approved_by"] or row["minimum"] - len(row["approved_by"]) > 1:
        clauses.append(f"{len(row['approved_by'])} of {row['minimum']} approved")
    if not row["self_approval"]:
        clauses.append("the starter may not approve")
    if row["due_at"]:
        decision = "approved" if row["default"] == "approve" else "rejected"
        clauses.append(f"automatically {decision} at {time_text(row['due_at'])}")
    message = row["reason"].get("message")
    return escape_for_display("; ".join(clauses) + (f": {message}" if message else ""))


def lines(run: dict[str, Any]) -> Iterator[str]:
    """Yield what waits for approval in a run, and the commands that decide."""
    approvals = run.get("approvals") or []
    for row in approvals[:_SHOWN]:
        part = escape_for_display(part_of(row))
        yield f"{glyph('waiting', None)} {style(part, 'yellow')} {sentence(row)}"
    if len(approvals) > _SHOWN:
        yield f"  ... and {len(approvals) - _SHOWN} more"
    if approvals:
        part = f" {argument(approvals[0])}" if len(approvals) > 1 else ""
        yield f"next: waterflowctl approve {run['id']}{part}"
        yield f"next: waterflowctl reject {run['id']}{part}"
