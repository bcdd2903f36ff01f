"""Validation without a start. Beyond the file it is known which nodes the servers have, as far as they are connected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from fastapi import APIRouter, Request, Response

from waterflow_agent.nodes import schema
from waterflowd.api import starting
from waterflowd.api.auth import Ports, Viewer
from waterflowd.api.bodies import answer
from waterflowd.api.lookup import Text
from waterflowd.api.problems import Invalid
from waterflowd.api.services import AgentRow
from waterflowd.api.shapes import WORKFLOW_BODY, Problem, Valid
from waterflowd.dsl import codes
from waterflowd.dsl.diagnostics import Diagnostic
from waterflowd.dsl.inputs import check_inputs
from waterflowd.model import plan as plans

router = APIRouter(tags=["validate"])


@router.post("/v1/validate", openapi_extra=WORKFLOW_BODY, responses={200: {"model": Valid}, 422: {"model": Problem}})
async def validate(request: Request, services: Ports, _: Viewer, path: Text = None) -> Response:
    """Compiles the file that is sent, and checks inputs if there are any; a 422 holds all errors with their places."""
    sent = await starting.read_file(request, path)
    plan = plans.decode(await starting.compile_file(services, sent))
    if unseen := list(_unseen_nodes(plan, services.agents.rows())):
        raise Invalid(unseen)
    if sent.inputs:
        check_inputs(plan.inputs, sent.inputs)
    jobs = [{"id": job.id, "group": job.group, "steps": len(job.steps)} for job in plan.jobs]
    return answer({"valid": True, "name": plan.name, "path": plan.path, "jobs": jobs, "errors": []})


def _unseen_nodes(plan: plans.Plan, agents: Sequence[AgentRow]) -> Iterator[Diagnostic]:
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
