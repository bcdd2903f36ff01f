"""The step that a job begins with when an `if` depends on its server: it takes a server, so that the `if` has one to ask.

Rules of this file: a job gets its server with its first step that runs on one. A condition before that, or beside it, would see
no server. The step does nothing and runs in the agent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from waterflow_agent.nodes import schema
from waterflowd import expr
from waterflowd.dsl.building.embedded_expressions import condition_nodes, embedded
from waterflowd.model.ids import StepId
from waterflowd.model.plan import SETUP_STEP, Json, StepPlan

_SERVER = ("agent", "runner")


def with_setup(steps: tuple[StepPlan, ...]) -> tuple[StepPlan, ...]:
    """The steps of a job, after a step that takes a server if one is needed."""
    for step in steps:
        if _asks(step):
            setup = StepPlan(
                id=StepId(SETUP_STEP), name="Set up job", node="set-outputs", params={"outputs": {}}, line=step.line
            )
            return (setup, *steps)
        if step.condition is None and _runs_on_server(step):
            break
    return steps


def _runs_on_server(step: StepPlan) -> bool:
    known = schema.find(step.node)
    return not step.blocks and (known is None or known.runs_in is not schema.RunsIn.ENGINE)


def _asks(step: StepPlan, inherited: Sequence[Json] = ()) -> bool:
    """Whether what the daemon evaluates before the step has its server refers to a server.

    `inherited` are the variables of the steps around it.
    """
    conditions = [step.condition]
    values: list[Json] = []
    if not _runs_on_server(step):
        conditions += [text for key in ("if", "while") if isinstance(text := step.params.get(key), str)]
        values = [step.name, step.params, step.outputs]
    variables = [*inherited, dict(step.env)]
    used = _contexts([*(node for condition in conditions for node in condition_nodes(condition)), *embedded(values)])
    if "env" in used:
        used |= _contexts(embedded(variables))
    return not used.isdisjoint(_SERVER) or any(
        _asks(inner, variables) for block in step.blocks for inner in block.steps
    )


def _contexts(nodes: Iterable[expr.Node]) -> set[str]:
    return {path[0] for node in nodes for path, _ in expr.references(node)}
