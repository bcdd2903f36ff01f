"""The models of `on`: what starts a workflow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.field_types import Boolean, FreeText, StaticText, Text, Texts, one_or_more, wrong
from waterflowd.dsl.models.github_events import GITHUB_EVENTS
from waterflowd.dsl.models.inputs import Inputs
from waterflowd.dsl.models.model import LanguageModel, empty_is_all
from waterflowd.dsl.models.schedule import Schedules

_CONCLUSIONS = Literal["success", "failure", "cancelled", "timed-out", "skipped", "lost"]


def _completed(value: object) -> object:
    words = value if isinstance(value, list) else [value]
    for word in words:
        if word in ("requested", "in_progress"):
            raise wrong(f"{word} does not exist here; a workflow can start after the end of another one (completed)")
    return words


def _value_spelling(value: object) -> object:
    return value if isinstance(value, dict) else {"value": value}


def event_names(value: object) -> object:
    if isinstance(value, str):
        return {value: None}
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise wrong("a list in on holds names of events, such as push")
        return dict.fromkeys(value)
    return value


class Push(LanguageModel):
    """`on.push`: runs when a branch moves."""

    TITLE = "push"

    branches: Texts = []
    branches_ignore: Texts = []
    tags: Texts = []
    tags_ignore: Texts = []
    paths: Texts = []
    paths_ignore: Texts = []


class WorkflowDispatch(LanguageModel):
    """`on.workflow_dispatch`: starts by hand, with inputs."""

    TITLE = "workflow_dispatch"

    inputs: Inputs = {}


class Webhook(LanguageModel):
    """`on.webhook`: starts by a signed request."""

    TITLE = "webhook"

    name: StaticText | None = None
    secret: Text


class WorkflowRun(LanguageModel):
    """`on.workflow_run`: starts after another workflow."""

    TITLE = "workflow_run"

    workflows: Annotated[Texts, Field(min_length=1)]
    types: Annotated[list[Literal["completed"]], BeforeValidator(_completed)] = []
    conclusions: Annotated[list[_CONCLUSIONS], BeforeValidator(one_or_more)] = []
    branches: Texts = []
    branches_ignore: Texts = []


class CallOutput(LanguageModel):
    """One output of a reusable workflow or a composite step."""

    TITLE = "an output"

    description: FreeText = ""
    value: Text


class CallSecret(LanguageModel):
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


class WorkflowCall(LanguageModel):
    """`on.workflow_call`: another workflow's job may be this one."""

    TITLE = "workflow_call"

    inputs: Inputs = {}
    outputs: Outputs = {}
    secrets: Secrets = {}


class Triggers(LanguageModel):
    """`on`: what starts the workflow."""

    TITLE = "on"
    INSTEAD = GITHUB_EVENTS

    push: Annotated[Push | None, BeforeValidator(empty_is_all)] = None
    schedule: Schedules = []
    workflow_dispatch: Annotated[WorkflowDispatch | None, BeforeValidator(empty_is_all)] = Field(
        default=None, alias="workflow_dispatch"
    )
    manual: Annotated[WorkflowDispatch | None, BeforeValidator(empty_is_all)] = None
    webhook: Annotated[Webhook | None, BeforeValidator(empty_is_all)] = None
    workflow_run: Annotated[WorkflowRun | None, BeforeValidator(empty_is_all)] = Field(
        default=None, alias="workflow_run"
    )
    workflow_call: Annotated[WorkflowCall | None, BeforeValidator(empty_is_all)] = Field(
        default=None, alias="workflow_call"
    )
