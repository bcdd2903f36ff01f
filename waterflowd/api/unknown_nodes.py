"""Nodes that no server of the job's group has. The compiler sees only the file; the daemon also knows the servers.

Rules of this file: only certain cases are errors. A disconnected server may have the node; but when all servers of the group
are connected and none has it, the file is wrong, or was sent too early.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from waterflow_agent.nodes import schema
from waterflowd.admin.ports import AgentRow
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model import plan as plans


def unknown_nodes(plan: plans.Plan, agents: Sequence[AgentRow]) -> Iterator[Diagnostic]:
    """An error for each step whose node is missing on all servers of its group, when all of them are connected."""
    for job in plans.leaf_jobs(plan.jobs):
        members = [row for row in agents if job.group in row.groups]
        if not members or not all(row.is_connected for row in members):
            continue
        for step in _steps(job.steps):
            is_known = plan.node(step.node) is not None or any(step.node in row.nodes for row in members)
            if is_known or not schema.OWN_NAME.fullmatch(step.node) or schema.find(step.node) is not None:
                continue
            text = f'no server of group "{job.group}" has the node "{step.node}"'
            hint = f"add {schema.path_of(step.node)} to the repository, or install it in the node path of the servers"
            yield Diagnostic(
                code=codes.UNKNOWN_NODE, path=plan.path, line=step.line, column=1, message=text, suggestion=hint
            )


def _steps(steps: Iterable[plans.StepPlan]) -> Iterator[plans.StepPlan]:
    for step in steps:
        yield step
        for block in step.blocks:
            yield from _steps(block.steps)
