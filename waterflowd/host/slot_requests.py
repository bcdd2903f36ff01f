"""Wants: what an attempt asks of the server that it is placed on.

Rules of this file: a job keeps its server, so the first step that is placed asks for the nodes of all others too. A node of the
repository comes with the task; what it needs of a server is an agent that takes such tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from waterflow_agent.nodes.schema import FROM_REPOSITORY
from waterflowd.engine import Run, commands
from waterflowd.engine.state.blocks import SERVERLESS_NODES
from waterflowd.fleet.placement import SlotRequest
from waterflowd.model.ids import AttemptId
from waterflowd.model.plan import Plan, StepPlan


def of(run: Run, command: commands.RequestSlot, key: AttemptId) -> SlotRequest:
    """The want of the attempt that the command is about."""
    node = _needed(run.plan, command.node)
    later: frozenset[str] = frozenset()
    if command.agent is None:
        later = frozenset(_nodes(run.plan, run.jobs_by_id[command.job].plan.steps)) - {node}
    return SlotRequest(key, command.group, node, command.agent, command.labels, command.avoid, later)


def _needed(plan: Plan, node: str) -> str:
    return node if plan.node(node) is None else FROM_REPOSITORY


def _nodes(plan: Plan, steps: Iterable[StepPlan]) -> Iterator[str]:
    """What servers need to have for these steps, and for those inside of them."""
    for step in steps:
        if step.node not in SERVERLESS_NODES:
            yield _needed(plan, step.node)
        for block in step.blocks:
            yield from _nodes(plan, block.steps)
