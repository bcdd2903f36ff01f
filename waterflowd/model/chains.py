"""Chains: runs that start one another, after their end (`workflow_run`) or by a step (`parent_run`).

Rules of this file: the payload of a run's trigger names the run that started it, with the number of runs before it. Both kinds
of starts share one count, so that a chain that mixes them is bounded too.
"""

from __future__ import annotations

from waterflowd.model.records import Trigger, TriggerKind

#: Kinds of triggers by which one run starts another; the payload holds a mapping of the same name.
AFTER = TriggerKind.WORKFLOW_RUN.value
PARENT_RUN = TriggerKind.PARENT_RUN.value
#: Maximum length of a chain in which a step of each run started the next run.
CHILD_RUN_DEPTH_MAX = 8


def depth_of(trigger: Trigger) -> int:
    """Number of runs before this one in the chain."""
    name = trigger.payload.get("name")
    about = trigger.payload.get(name) if name in (AFTER, PARENT_RUN) else None
    depth = about.get("depth") if isinstance(about, dict) else None
    return depth if isinstance(depth, int) else 0
