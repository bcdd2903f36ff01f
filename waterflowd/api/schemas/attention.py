"""What needs a person now, in the order in which it needs one."""

from __future__ import annotations

from typing import Literal

import msgspec

from waterflowd.api.schemas.runs import RunSummarySchema
from waterflowd.api.timestamps import Timestamp

#: In the order of the list.
AttentionKind = Literal["approval", "lost", "held", "failed", "stalled", "agent", "key", "repository", "file", "disk"]
AttentionAction = Literal[
    "approve", "reject", "rerun", "rerun-failed", "cancel", "approve-agent", "revoke-agent", "sync-repository"
]


class AttentionItem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that needs a person. `reason` is a sentence.

    `run` and `place` (`JOB[/STEP]`) name what it is about, or `name` an agent, a repository or a file. `streak` is the number
    of failures of the workflow in a row. `actions` are what can be done, whether or not the author of the request may.
    """

    kind: AttentionKind
    since: Timestamp | None
    due_at: Timestamp | None
    run: RunSummarySchema | None
    place: str | None
    name: str | None
    reason: str
    streak: int
    actions: list[AttentionAction]


class AttentionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What needs a person now: approvals by the time at which they are due, then problems by their kind.

    `counts` counts all items by kind, as far as they were looked for; `items` are the first 100 of each kind.
    """

    items: list[AttentionItem]
    counts: dict[str, int]
    #: Open runs by status, as far as they were looked at.
    open: dict[str, int]
