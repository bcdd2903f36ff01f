"""Chains: runs that start one another, after their end (`workflow_run`) or by a step (`parent_run`).

Rules of this file: what a run was started by stands in its trigger's payload, with the number of runs before it. Both ways
count in one number, so that a chain that mixes them has an end too.
"""

from __future__ import annotations

from waterflowd.model.records import Trigger, TriggerKind

#: Kinds of triggers by which one run starts another; the payload holds a mapping of the same name.
AFTER = TriggerKind.WORKFLOW_RUN.value
PARENT_RUN = TriggerKind.PARENT_RUN.value
#: Runs in a row, of which each started the next one by a step.
CHILD_RUN_DEPTH_MAX = 8


def depth_of(trigger: Trigger) -> int:
    """How many runs before this one started one another."""
    name = trigger.payload.get("name")
    about = trigger.payload.get(name) if name in (AFTER, PARENT_RUN) else None
    depth = about.get("depth") if isinstance(about, dict) else None
    return depth if isinstance(depth, int) else 0
