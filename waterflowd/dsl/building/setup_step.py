"""The step that a job begins with when an `if` depends on its server: it takes a server, so that the `if` has one to ask.

Rules of this file: a job gets its server with its first step that runs on one. A condition before that, or beside it, would see
no server. The step does nothing and runs in the agent.
"""

from __future__ import annotations

from collections.abc import Callable

from waterflow_agent.nodes import schema
from waterflowd import expr
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


def _asks(step: StepPlan) -> bool:
    """Whether what the daemon evaluates before the step has its server refers to a server."""
    conditions = [step.condition]
    texts: list[str] = []
    if not _runs_on_server(step):
        conditions += [text for key in ("if", "while") if isinstance(text := step.params.get(key), str)]
        texts = [step.name, *_texts([step.params, step.outputs])]
    if any(conditions):
        # A condition may use a variable of the step.
        texts += _texts(dict(step.env))
    return (
        any(text is not None and _refers(expr.parse_condition, text) for text in conditions)
        or any(_refers(_expressions, text) for text in texts)
        or any(_asks(inner) for block in step.blocks for inner in block.steps)
    )


def _expressions(text: str) -> list[expr.Node]:
    return [expression.node for expression in expr.parse_template(text).expressions]


def _refers(parse: Callable[[str], expr.Node | list[expr.Node]], text: str) -> bool:
    if not any(name in text.lower() for name in _SERVER):
        return False
    try:
        parsed = parse(text)
    except expr.ExpressionError:
        return False
    nodes = parsed if isinstance(parsed, list) else [parsed]
    return any(path[0] in _SERVER for node in nodes for path, _ in expr.references(node))


def _texts(value: Json) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for item in value.values() for text in _texts(item)]
        case list() | tuple():
            return [text for item in value for text in _texts(item)]
    return []
