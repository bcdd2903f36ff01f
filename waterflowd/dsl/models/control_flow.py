"""The models of `with` of the nodes that the engine runs itself: `condition`, `loop`, `parallel` and `approval`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.field_types import (
    ApprovalsOrExpression,
    CountOrExpression,
    DurationOrExpression,
    JsonValue,
    StaticText,
    Text,
    TextsOrExpressions,
)
from waterflowd.dsl.models.model import LanguageModel
from waterflowd.dsl.models.step import Condition, Step, Steps

BRANCHES_MAX = 100


class ConditionParameters(LanguageModel):
    """`with` of the node `condition`."""

    TITLE = "condition"

    if_: Condition
    then: Steps
    else_: list[Step] = []


class LoopParameters(LanguageModel):
    """`with` of the node `loop`."""

    TITLE = "loop"

    items: JsonValue = None
    as_: StaticText = "item"
    max_parallel: CountOrExpression = 1
    while_: Condition | None = None
    max_iterations: CountOrExpression | None = None
    steps: Steps


def _lists(value: object) -> object:
    """A branch of one step may be written without its list."""
    return [[item] if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


class ParallelParameters(LanguageModel):
    """`with` of the node `parallel`."""

    TITLE = "parallel"

    branches: Annotated[list[Steps], BeforeValidator(_lists), Field(min_length=1, max_length=BRANCHES_MAX)]
    max_parallel: CountOrExpression | None = None


class ApprovalParameters(LanguageModel):
    """`with` of the node `approval`."""

    TITLE = "approval"

    approvers: TextsOrExpressions = []
    minimum: ApprovalsOrExpression = 1
    message: Text | None = None
    timeout: DurationOrExpression | None = None
    default: Literal["approve", "reject"] = "reject"


#: The nodes whose `with` holds more than values.
CONTROL_FLOW: dict[str, type[LanguageModel]] = {
    "condition": ConditionParameters,
    "loop": LoopParameters,
    "parallel": ParallelParameters,
    "approval": ApprovalParameters,
}
