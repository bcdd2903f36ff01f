"""What starts a workflow beside a push and a person: the models of `webhook`, `workflow_run` and `workflow_call`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.field_types import Boolean, FreeText, StaticText, Text, Texts, wrong
from waterflowd.dsl.models.model import Concept, empty_is_all

_CONCLUSIONS = Literal["success", "failure", "cancelled", "timed-out", "skipped", "lost"]


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _completed(value: object) -> object:
    words = value if isinstance(value, list) else [value]
    for word in words:
        if word in ("requested", "in_progress"):
            raise wrong(f"{word} does not exist here; a workflow can start after the end of another one (completed)")
    return words


def _value_spelling(value: object) -> object:
    return value if isinstance(value, dict) else {"value": value}


class Webhook(Concept):
    """`on.webhook`: starts by a signed request."""

    TITLE = "webhook"

    name: StaticText | None = None
    secret: Text


class WorkflowRun(Concept):
    """`on.workflow_run`: starts after another workflow."""

    TITLE = "workflow_run"

    workflows: Annotated[Texts, Field(min_length=1)]
    types: Annotated[list[Literal["completed"]], BeforeValidator(_completed)] = []
    conclusions: Annotated[list[_CONCLUSIONS], BeforeValidator(_one_or_more)] = []
    branches: Texts = []
    branches_ignore: Texts = []


class CallOutput(Concept):
    """One output of a reusable workflow or a composite step."""

    TITLE = "an output"

    description: FreeText = ""
    value: Text


class CallSecret(Concept):
    """One secret that a reusable workflow takes."""

    TITLE = "a secret"

    description: FreeText = ""
    required: Boolean = False


Outputs = Annotated[dict[str, Annotated[CallOutput, BeforeValidator(_value_spelling)]], BeforeValidator(empty_is_all)]
Secrets = Annotated[
    dict[str, Annotated[CallSecret, BeforeValidator(empty_is_all)]],
    BeforeValidator(empty_is_all),
    Field(max_length=100),
]
