"""What people write: one model per concept of the language, its fields the keys of the file.

Rules of this file: the models are the one source for validation, the JSON Schema and the reference page. Spellings (a
text, a list, a mapping) are made one before validation. What one model cannot see alone (needs, ids, expressions, a
node's parameters) is checked in `build` and its neighbours. Models of one noun stand in modules of their own: `rollout`
for where and how often a job runs, `events` for what starts a workflow, `control` for steps inside of steps.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator

from waterflowd.dsl.models import model
from waterflowd.dsl.models.events import Outputs, Secrets, Webhook, WorkflowRun
from waterflowd.dsl.models.field_types import (
    Attempts,
    Boolean,
    BooleanOrExpression,
    Bytes,
    Coefficient,
    Duration,
    Environment,
    FreeText,
    JsonValue,
    Minutes,
    MinutesOrExpression,
    Name,
    PatternsOrBoolean,
    Share,
    StaticName,
    StaticText,
    Text,
    Texts,
    wrong,
)
from waterflowd.dsl.models.github_events import GITHUB_EVENTS
from waterflowd.dsl.models.model import Concept, empty_is_all, keys, named
from waterflowd.dsl.models.placement import (
    Concurrency,
    Gate,
    RunsOn,
    Strategy,
    concurrency_spelling,
    environment_spelling,
    group_spelling,
)
from waterflowd.dsl.models.schedule import Schedules
from waterflowd.dsl.reporting.values import as_text, describe

__all__ = ["Concept", "concept_at", "keys", "named"]


def _event_names(value: object) -> object:
    if isinstance(value, str):
        return {value: None}
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise wrong("a list in on holds names of events, such as push")
        return dict.fromkeys(value)
    return value


def _condition(value: object) -> str:
    written = as_text(value)
    if not isinstance(written, str) or not written.strip():
        raise wrong(f"expected a condition, not {describe(value)}")
    return written


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _retry_reason(value: object) -> str:
    written = as_text(value)
    if isinstance(written, str):
        name, colon, number = written.partition(":")
        if not colon and name in ("failure", "timeout", "lost"):
            return written
        if colon and name == "exit" and number.isascii() and number.isdigit() and int(number[:4]) <= 255:
            return f"exit:{int(number)}"
    raise wrong(f"expected failure, timeout, lost or exit:N (N up to 255), not {describe(value)}")


def _retry_reasons(value: object) -> list[str]:
    return [_retry_reason(item) for item in (value if isinstance(value, list) else [value])]


_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGKILL")


def _signal(value: object) -> str:
    written = str(value).upper() if isinstance(value, str) else ""
    name = written if written.startswith("SIG") else f"SIG{written}"
    if name not in _SIGNALS:
        raise wrong(f"expected one of {', '.join(_SIGNALS)}, not {describe(value)}")
    return name


def _given_secrets(value: object) -> str | dict[str, str]:
    if value == "inherit":
        return "inherit"
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise wrong(
            f"expected inherit, or a mapping such as {{TOKEN: '${{{{ secrets.TOKEN }}}}'}}, not {describe(value)}"
        )
    return value


Condition = Annotated[str, BeforeValidator(_condition)]
RetryReasons = Annotated[list[str], BeforeValidator(_retry_reasons)]
Signal = Annotated[str, BeforeValidator(_signal)]


class Push(Concept):
    """`on.push`: runs when a branch moves."""

    TITLE = "push"

    branches: Texts = []
    branches_ignore: Texts = []
    tags: Texts = []
    tags_ignore: Texts = []
    paths: Texts = []
    paths_ignore: Texts = []


class Input(Concept):
    """One input of a start by hand."""

    TITLE = "an input"
    INSTEAD = {"deprecationMessage": "write it into description"}

    type: Literal["string", "number", "boolean", "choice", "json"] = "string"
    description: FreeText = ""
    required: Boolean = False
    default: JsonValue = None
    options: Texts = []
    pattern: StaticText | None = None


Inputs = Annotated[
    dict[str, Annotated[Input, BeforeValidator(empty_is_all)]], BeforeValidator(empty_is_all), Field(max_length=100)
]


class Dispatch(Concept):
    """`on.workflow_dispatch`: starts by hand, with inputs."""

    TITLE = "workflow_dispatch"

    inputs: Inputs = {}


class Call(Concept):
    """`on.workflow_call`: another workflow's job may be this one."""

    TITLE = "workflow_call"

    inputs: Inputs = {}
    outputs: Outputs = {}
    secrets: Secrets = {}


class Triggers(Concept):
    """`on`: what starts the workflow."""

    TITLE = "on"
    INSTEAD = GITHUB_EVENTS

    push: Annotated[Push | None, BeforeValidator(empty_is_all)] = None
    schedule: Schedules = []
    workflow_dispatch: Annotated[Dispatch | None, BeforeValidator(empty_is_all)] = Field(
        default=None, alias="workflow_dispatch"
    )
    manual: Annotated[Dispatch | None, BeforeValidator(empty_is_all)] = None
    webhook: Annotated[Webhook | None, BeforeValidator(empty_is_all)] = None
    workflow_run: Annotated[WorkflowRun | None, BeforeValidator(empty_is_all)] = Field(
        default=None, alias="workflow_run"
    )
    workflow_call: Annotated[Call | None, BeforeValidator(empty_is_all)] = Field(default=None, alias="workflow_call")


class Retry(Concept):
    """`retry`: when and how often a step is tried again."""

    TITLE = "retry"

    max_attempts: Attempts
    initial_interval: Duration = 1_000
    backoff_coefficient: Coefficient = 2.0
    max_interval: Duration = 60_000
    jitter: Share = 0.1
    on: RetryReasons = ["failure", "timeout"]
    never_on: RetryReasons = []


class Stop(Concept):
    """`stop`: how a step is ended."""

    TITLE = "stop"

    signal: Signal = "SIGTERM"
    grace: Duration = 10_000


class DefaultsOfRun(Concept):
    """`defaults.run`: what scripts take that do not say it themselves."""

    TITLE = "defaults.run"

    shell: StaticText | None = None
    working_directory: Text | None = None


class Defaults(Concept):
    """`defaults`: for all steps of the workflow or the job."""

    TITLE = "defaults"

    run: Annotated[DefaultsOfRun, BeforeValidator(empty_is_all)] = DefaultsOfRun()


class Step(Concept):
    """One step."""

    TITLE = "a step"
    INSTEAD = {
        "timeout": "write timeout-minutes",
    }

    id: StaticText | None = None
    name: Name | None = None
    if_: Condition | None = None
    run: Text | None = None
    shell: StaticText | None = None
    uses: StaticText | None = None
    with_: Annotated[dict[str, JsonValue], BeforeValidator(empty_is_all)] = {}
    env: Environment = {}
    working_directory: Text | None = None
    timeout_minutes: MinutesOrExpression | None = None
    continue_on_error: BooleanOrExpression = False
    retry: Retry | None = None
    retry_strategy: Retry | None = None
    on_lost: Literal["fail", "retry", "hold"] = "fail"
    stop: Stop = Stop()
    output_max_bytes: Bytes | None = None
    unsafe_interpolation: Boolean = False


_PERMISSIONS = "the word is reserved: the daemon's configuration says what a repository may do; remove it"


class Job(Concept):
    """One job: `runs-on` and `steps`, or `uses`."""

    TITLE = "a job"
    INSTEAD = {
        "container": "run the command in a container by `run: docker run ...`",
        "services": "start what the job needs in a step, by `run: docker run ...`",
        "permissions": _PERMISSIONS,
        "snapshot": "remove it",
    }

    name: Name | None = None
    runs_on: Annotated[RunsOn | None, BeforeValidator(group_spelling)] = None
    needs: Annotated[list[StaticText], BeforeValidator(_one_or_more)] = []
    if_: Condition | None = None
    strategy: Annotated[Strategy | None, BeforeValidator(empty_is_all)] = None
    concurrency: Annotated[Concurrency | None, BeforeValidator(concurrency_spelling)] = None
    environment: Annotated[Gate | None, BeforeValidator(environment_spelling)] = None
    timeout_minutes: MinutesOrExpression = 360.0
    start_timeout_minutes: Minutes = 60.0
    continue_on_error: BooleanOrExpression = False
    retry: Retry | None = None
    checkout: PatternsOrBoolean = True
    outputs: Environment = {}
    defaults: Annotated[Defaults, BeforeValidator(empty_is_all)] = Defaults()
    env: Environment = {}
    uses: StaticText | None = None
    with_: Annotated[dict[str, JsonValue], BeforeValidator(empty_is_all)] = {}
    secrets: Annotated[
        str | dict[str, str], PlainValidator(_given_secrets, json_schema_input_type=str | dict[str, str])
    ] = {}
    steps: Annotated[list[Step], Field(min_length=1)] | None = None


class Workflow(Concept):
    """A workflow file."""

    TITLE = "a workflow"
    INSTEAD = {
        "run-name": "write name; a run shows the name of its workflow and what started it",
        "permissions": _PERMISSIONS,
    }

    name: StaticName | None = None
    description: FreeText = ""
    on: Annotated[Triggers | None, BeforeValidator(_event_names)] = None
    inputs: Inputs = {}
    vars: Annotated[dict[str, JsonValue], BeforeValidator(empty_is_all)] = {}
    env: Environment = {}
    defaults: Annotated[Defaults, BeforeValidator(empty_is_all)] = Defaults()
    concurrency: Annotated[Concurrency | None, BeforeValidator(concurrency_spelling)] = None
    timeout_minutes: Minutes | None = None
    jobs: Annotated[dict[str, Job], Field(min_length=1)]


def concept_at(path: tuple[str | int, ...]) -> type[Concept]:
    """The concept whose keys stand at a path of a workflow file."""
    return model.concept_at(Workflow, path)
