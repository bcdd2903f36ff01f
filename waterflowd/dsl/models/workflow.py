"""The model of a workflow file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.defaults import Defaults
from waterflowd.dsl.models.field_types import EnvironmentVariables, FreeText, JsonValue, Minutes, StaticName
from waterflowd.dsl.models.inputs import Inputs
from waterflowd.dsl.models.job import PERMISSIONS, Job
from waterflowd.dsl.models.model import LanguageModel, empty_is_all
from waterflowd.dsl.models.placement import Concurrency, concurrency_spelling
from waterflowd.dsl.models.triggers import Triggers, event_names


class Workflow(LanguageModel):
    """A workflow file."""

    TITLE = "a workflow"
    INSTEAD = {
        "run-name": "write name; a run shows the name of its workflow and what started it",
        "permissions": PERMISSIONS,
    }

    name: StaticName | None = None
    description: FreeText = ""
    on: Annotated[Triggers | None, BeforeValidator(event_names)] = None
    inputs: Inputs = {}
    vars: Annotated[dict[str, JsonValue], BeforeValidator(empty_is_all)] = {}
    env: EnvironmentVariables = {}
    defaults: Annotated[Defaults, BeforeValidator(empty_is_all)] = Defaults()
    concurrency: Annotated[Concurrency | None, BeforeValidator(concurrency_spelling)] = None
    timeout_minutes: Minutes | None = None
    jobs: Annotated[dict[str, Job], Field(min_length=1)]
