"""Nodes that a file names and nobody has: beyond the file, the daemon knows which nodes its servers have.

Rules of this file: only what is certain is an error. A server that is away may have the node; but where all servers of a group
are there and none has it, the file is wrong or comes too early.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from waterflow_agent.nodes import schema
from waterflowd.admin.ports import AgentRow
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model import plan as plans


def unseen(plan: plans.Plan, agents: Sequence[AgentRow]) -> Iterator[Diagnostic]:
    """Nodes that no server of the job's group has, where all of these are connected and can be asked."""
    for job in plans.leaf_jobs(plan.jobs):
        members = [row for row in agents if job.group in row.groups]
        if not members or not all(row.is_connected for row in members):
            continue
        for step in _steps(job.steps):
            is_known = plan.node(step.node) is not None or any(step.node in row.nodes for row in members)
            if is_known or not schema.OWN_NAME.fullmatch(step.node) or schema.find(step.node) is not None:
                continue
            text = f'no server of group "{job.group}" has the node "{step.node}"'
            hint = f"write {schema.path_of(step.node)} in the repository, or put it on the servers' node path"
            yield Diagnostic(
                code=codes.UNKNOWN_NODE, path=plan.path, line=step.line, column=1, message=text, suggestion=hint
            )


def _steps(steps: Iterable[plans.StepPlan]) -> Iterator[plans.StepPlan]:
    for step in steps:
        yield step
        for block in step.blocks:
            yield from _steps(block.steps)
