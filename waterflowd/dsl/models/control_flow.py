"""The models of `with` of the nodes that the engine runs itself: `condition`, `loop`, `parallel` and `approval`.

The records in `waterflow_agent.nodes.schema` describe the nodes and have the same keys; these models check the steps inside.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from waterflowd.dsl.models.field_types import (
    ApprovalsOrExpression,
    Condition,
    CountOrExpression,
    DurationOrExpression,
    JsonSchema,
    JsonValue,
    StaticText,
    Text,
    TextsOrExpressions,
)
from waterflowd.dsl.models.model import LanguageModel, key
from waterflowd.dsl.models.step import Step, Steps

BRANCHES_MAX = 100


class _AcceptsSteps:
    """A branch of one step needs no list."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Lists of steps, or steps."""
        branches = handler(core)
        steps = branches["items"]
        takes = "a list of branches, each a list of steps, or one step"
        return {**branches, "items": {"anyOf": [steps, steps["items"]]}, "x-takes": takes}


def _branch_spelling(value: object) -> object:
    return [[item] if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


class ConditionParameters(LanguageModel):
    """`with` of the node `condition`."""

    TITLE = "condition"

    if_: Condition = key(
        "A condition, like the `if` of a step.",
        "if: git.branch == 'main'\nthen: [{run: ./deploy.sh}]",
        expressions="step-if",
    )
    then: Steps = key("The steps to run if it is true.", "if: git.tag != ''\nthen:\n  - run: ./release.sh")
    else_: list[Step] = key(
        "The steps to run if it is false.", "if: git.tag != ''\nthen: [{run: a}]\nelse: [{run: b}]", default=[]
    )


class LoopParameters(LanguageModel):
    """`with` of the node `loop`."""

    TITLE = "loop"

    items: JsonValue = key(
        "A list, or an expression that yields one. At most 10,000 items.",
        'items: [alpha, beta]\nsteps:\n  - run: echo "${{ item }}"',
        default=None,
        expressions="step",
        takes="a list, or one expression",
        pitfalls=("It cannot be combined with `while`.",),
    )
    as_: StaticText = key(
        "The name of the item in expressions.",
        'items: [a]\nas: host\nsteps:\n  - run: echo "${{ host }}"',
        default="item",
    )
    max_parallel: CountOrExpression = key(
        "How many iterations run at the same time.",
        "items: [a, b]\nmax-parallel: 2\nsteps: [{run: make}]",
        default=1,
        expressions="step",
    )
    while_: Condition | None = key(
        "Repeats the steps while the condition is true. It is evaluated before each iteration, and sees what steps of earlier"
        " iterations wrote to `$WATERFLOW_ENV`.",
        "while: env.STATE != 'ready'\nmax-iterations: 10\n"
        'steps:\n  - run: echo "STATE=$(./state.sh)" >> "$WATERFLOW_ENV"',
        default=None,
        expressions="step-if",
        pitfalls=("It requires `max-iterations`.", "It does not see the steps inside the loop."),
    )
    max_iterations: CountOrExpression | None = key(
        "With `while`: the number of iterations after which the step fails.",
        "while: always()\nmax-iterations: 3\nsteps: [{run: make}]",
        default=None,
        expressions="step",
    )
    steps: Steps = key("The steps of an iteration.", "items: [a, b]\nsteps:\n  - run: make")


class ParallelParameters(LanguageModel):
    """`with` of the node `parallel`."""

    TITLE = "parallel"

    branches: Annotated[
        list[Steps], BeforeValidator(_branch_spelling), Field(min_length=1, max_length=BRANCHES_MAX), _AcceptsSteps()
    ] = key(
        "Up to 100 lists of steps; a branch with one step needs no list.",
        "branches:\n  - [{run: make a}, {run: make b}]\n  - {run: make c}",
    )
    max_parallel: CountOrExpression | None = key(
        "How many branches run at the same time.",
        "branches: [{run: a}, {run: b}, {run: c}]\nmax-parallel: 2",
        default=None,
        expressions="step",
        without="all",
    )


class ApprovalParameters(LanguageModel):
    """`with` of the node `approval`."""

    TITLE = "approval"

    approvers: TextsOrExpressions = key(
        "Who may approve.",
        "approvers: [ann, bob]",
        default=[],
        expressions="step",
        without="anyone with the role approver",
    )
    minimum: ApprovalsOrExpression = key(
        "How many people must approve.", "approvers: [ann, bob]\nminimum: 2", default=1, expressions="step"
    )
    message: Text | None = key(
        "The question for the approvers.",
        'message: "Release ${{ git.short-sha }}?"',
        default=None,
        expressions="step",
    )
    timeout: DurationOrExpression | None = key(
        "How long to wait.",
        "timeout: 2d",
        default=None,
        expressions="step",
        without="no limit other than the run's timeout",
    )
    default: Literal["approve", "reject"] = key(
        "The decision after `timeout`.",
        "timeout: 2d\ndefault: approve",
        default="reject",
        pitfalls=("It is only allowed with `timeout`.",),
    )


#: The control flow nodes; the `with` of all but `approval` holds steps.
CONTROL_FLOW: dict[str, type[LanguageModel]] = {
    "condition": ConditionParameters,
    "loop": LoopParameters,
    "parallel": ParallelParameters,
    "approval": ApprovalParameters,
}
