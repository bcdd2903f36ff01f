"""The model of a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PlainValidator

from waterflowd.dsl.models.defaults import Defaults
from waterflowd.dsl.models.field_types import (
    BooleanOrExpression,
    EnvironmentVariables,
    JsonValue,
    Minutes,
    MinutesOrExpression,
    Name,
    PatternsOrBoolean,
    StaticText,
    one_or_more,
    wrong,
)
from waterflowd.dsl.models.model import LanguageModel, empty_is_all
from waterflowd.dsl.models.placement import (
    Concurrency,
    DeploymentEnvironment,
    RunsOn,
    Strategy,
    concurrency_spelling,
    environment_spelling,
    group_spelling,
)
from waterflowd.dsl.models.step import Condition, Retry, Steps
from waterflowd.dsl.reporting.values import describe

#: What to do in place of `permissions`.
PERMISSIONS = "the word is reserved: the daemon's configuration says what a repository may do; remove it"


def _given_secrets(value: object) -> str | dict[str, str]:
    if value == "inherit":
        return "inherit"
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise wrong(
            f"expected inherit, or a mapping such as {{TOKEN: '${{{{ secrets.TOKEN }}}}'}}, not {describe(value)}"
        )
    return value


class Job(LanguageModel):
    """One job: `runs-on` and `steps`, or `uses`."""

    TITLE = "a job"
    INSTEAD = {
        "container": "run the command in a container by `run: docker run ...`",
        "services": "start what the job needs in a step, by `run: docker run ...`",
        "permissions": PERMISSIONS,
        "snapshot": "remove it",
    }

    name: Name | None = None
    runs_on: Annotated[RunsOn | None, BeforeValidator(group_spelling)] = None
    needs: Annotated[list[StaticText], BeforeValidator(one_or_more)] = []
    if_: Condition | None = None
    strategy: Annotated[Strategy | None, BeforeValidator(empty_is_all)] = None
    concurrency: Annotated[Concurrency | None, BeforeValidator(concurrency_spelling)] = None
    environment: Annotated[DeploymentEnvironment | None, BeforeValidator(environment_spelling)] = None
    timeout_minutes: MinutesOrExpression = 360.0
    start_timeout_minutes: Minutes = 60.0
    continue_on_error: BooleanOrExpression = False
    retry: Retry | None = None
    checkout: PatternsOrBoolean = True
    outputs: EnvironmentVariables = {}
    defaults: Annotated[Defaults, BeforeValidator(empty_is_all)] = Defaults()
    env: EnvironmentVariables = {}
    uses: StaticText | None = None
    with_: Annotated[dict[str, JsonValue], BeforeValidator(empty_is_all)] = {}
    secrets: Annotated[
        str | dict[str, str], PlainValidator(_given_secrets, json_schema_input_type=str | dict[str, str])
    ] = {}
    steps: Steps | None = None
