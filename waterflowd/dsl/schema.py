"""What people write: one model per concept of the language, its fields the keys of the file.

Rules of this file: the models are the one source for validation, the JSON Schema and the reference page. Unknown keys
are refused; `NOT_BUILT` holds the keys that the language knows and this version cannot do, `INSTEAD` what to do in
place of a key that only GitHub has. Spellings (a text, a list, a mapping) are made one before validation. What one
model cannot see alone (needs, ids, expressions, a node's parameters) is checked in `build` and its neighbours.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from waterflowd.dsl import cron
from waterflowd.dsl.githubevents import GITHUB_EVENTS
from waterflowd.dsl.places import quoted
from waterflowd.dsl.values import as_text, describe, has_expression
from waterflowd.dsl.written import (
    Attempts,
    Boolean,
    BooleanOrExpression,
    Coefficient,
    Duration,
    Environment,
    FreeText,
    JsonValue,
    Minutes,
    MinutesOrExpression,
    Name,
    Share,
    StaticName,
    StaticText,
    Text,
    Texts,
    wrong,
)


def _key(field: str) -> str:
    return field.rstrip("_").replace("_", "-")


class Concept(BaseModel):
    """Base of the models: keys with hyphens, unknown ones refused, values of the right kind only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=_key)

    #: What the thing is called in messages.
    TITLE: ClassVar[str] = ""
    NOT_BUILT: ClassVar[frozenset[str]] = frozenset()
    INSTEAD: ClassVar[dict[str, str]] = {}

    def has(self, field: str) -> bool:
        """Whether the file gives the field, be it with a null."""
        return field in self.model_fields_set


def _empty_is_all(value: object) -> object:
    return {} if value is None else value


def _event_names(value: object) -> object:
    if isinstance(value, str):
        return {value: None}
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise wrong("a list in on holds names of events, such as push")
        return dict.fromkeys(value)
    return value


def _group(value: object) -> object:
    if isinstance(value, list):
        raise wrong("a list of labels chooses a server at GitHub; here it is one group, such as web-servers")
    return value if isinstance(value, dict) else {"group": value}


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


def _cron(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise wrong(f"expected a cron expression in quotes such as '0 3 * * *', not {describe(value)}")
    try:
        return cron.check(value)
    except cron.CronError as error:
        raise wrong(str(error)) from None


def _zone(value: object) -> str:
    if not isinstance(value, str) or has_expression(value):
        raise wrong(f"expected a time zone such as Europe/Berlin, not {describe(value)}")
    try:
        return cron.zone_of(value).key
    except cron.CronError as error:
        raise wrong(str(error)) from None


def _schedule(value: object) -> object:
    return value if isinstance(value, dict) else {"cron": value}


Condition = Annotated[str, BeforeValidator(_condition)]
RetryReasons = Annotated[list[str], BeforeValidator(_retry_reasons)]
Signal = Annotated[str, BeforeValidator(_signal)]


class Push(Concept):
    """`on.push`: runs when a branch or a tag moves."""

    TITLE = "push"

    branches: Texts = []
    branches_ignore: Texts = []
    tags: Texts = []
    tags_ignore: Texts = []
    paths: Texts = []
    paths_ignore: Texts = []


class Schedule(Concept):
    """One entry of `on.schedule`: runs at the instants of a cron expression."""

    TITLE = "a schedule"

    cron: Annotated[str, PlainValidator(_cron, json_schema_input_type=str)]
    timezone: Annotated[str, PlainValidator(_zone, json_schema_input_type=str)] = "UTC"
    overlap: Literal["skip", "queue", "cancel"] | None = None
    catch_up: Literal["none", "last", "all"] = "last"
    vars: Annotated[dict[str, JsonValue], BeforeValidator(_empty_is_all)] = {}


#: More than any file needs; each of them is a timer.
_SCHEDULES_MAX = 50
Schedules = Annotated[
    list[Annotated[Schedule, BeforeValidator(_schedule)]],
    BeforeValidator(_one_or_more),
    Field(min_length=1, max_length=_SCHEDULES_MAX),
]


class Input(Concept):
    """One input of a start by hand."""

    TITLE = "an input"

    type: Literal["string", "number", "boolean", "choice", "json"] = "string"
    description: FreeText = ""
    required: Boolean = False
    default: JsonValue = None
    options: Texts = []
    pattern: StaticText | None = None


Inputs = Annotated[
    dict[str, Annotated[Input, BeforeValidator(_empty_is_all)]], BeforeValidator(_empty_is_all), Field(max_length=100)
]


class Dispatch(Concept):
    """`on.workflow_dispatch`: starts by hand, with inputs."""

    TITLE = "workflow_dispatch"

    inputs: Inputs = {}


class Triggers(Concept):
    """`on`: what starts the workflow."""

    TITLE = "on"
    NOT_BUILT = frozenset(["webhook", "workflow_run", "workflow_call"])
    INSTEAD = GITHUB_EVENTS

    push: Annotated[Push | None, BeforeValidator(_empty_is_all)] = None
    schedule: Schedules = []
    workflow_dispatch: Annotated[Dispatch | None, BeforeValidator(_empty_is_all)] = Field(
        default=None, alias="workflow_dispatch"
    )
    manual: Annotated[Dispatch | None, BeforeValidator(_empty_is_all)] = None


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


class RunsOn(Concept):
    """`runs-on`: where a job runs."""

    TITLE = "runs-on"
    NOT_BUILT = frozenset(
        ["labels", "target", "batch", "max-parallel", "max-failures", "pause", "offline", "wait-minutes"]
    )

    group: Text


class Step(Concept):
    """One step."""

    TITLE = "a step"
    INSTEAD = {"timeout": "write timeout-minutes"}

    id: StaticText | None = None
    name: Name | None = None
    if_: Condition | None = None
    run: Text | None = None
    shell: StaticText | None = None
    uses: StaticText | None = None
    with_: Annotated[dict[str, JsonValue], BeforeValidator(_empty_is_all)] = {}
    env: Environment = {}
    working_directory: Text | None = None
    timeout_minutes: MinutesOrExpression | None = None
    continue_on_error: BooleanOrExpression = False
    retry: Retry | None = None
    retry_strategy: Retry | None = None
    on_lost: Literal["fail", "retry", "hold"] = "fail"
    stop: Stop = Stop()
    unsafe_interpolation: Boolean = False


class Job(Concept):
    """One job."""

    TITLE = "a job"
    NOT_BUILT = frozenset(
        ["strategy", "defaults", "concurrency", "retry", "checkout", "environment", "uses", "with", "secrets"]
    )
    INSTEAD = {
        "container": "run the command in a container by `run: docker run ...`",
        "services": "start what the job needs in a step, by `run: docker run ...`",
        "permissions": "the daemon's configuration says what a repository may do; remove it",
        "snapshot": "remove it",
    }

    name: Name | None = None
    runs_on: Annotated[RunsOn, BeforeValidator(_group)]
    needs: Annotated[list[StaticText], BeforeValidator(_one_or_more)] = []
    if_: Condition | None = None
    timeout_minutes: MinutesOrExpression = 360.0
    start_timeout_minutes: Minutes = 60.0
    continue_on_error: BooleanOrExpression = False
    outputs: Environment = {}
    env: Environment = {}
    steps: Annotated[list[Step], Field(min_length=1)]


class Workflow(Concept):
    """A workflow file."""

    TITLE = "a workflow"
    NOT_BUILT = frozenset(["concurrency", "defaults", "permissions"])
    INSTEAD = {"run-name": "write name"}

    name: StaticName | None = None
    description: FreeText = ""
    on: Annotated[Triggers | None, BeforeValidator(_event_names)] = None
    inputs: Inputs = {}
    vars: Annotated[dict[str, JsonValue], BeforeValidator(_empty_is_all)] = {}
    env: Environment = {}
    timeout_minutes: Minutes | None = None
    jobs: Annotated[dict[str, Job], Field(min_length=1)]


def keys(concept: type[Concept]) -> list[str]:
    """The keys of a concept, in the order of the model."""
    return [str(field.alias) for field in concept.model_fields.values()]


def concept_at(path: tuple[str | int, ...]) -> type[Concept]:
    """The concept whose keys stand at a path of the file: the deepest model on the way there."""
    found: type[Concept] = Workflow
    place: Any = Workflow
    for part in path:
        place = _below(place, part)
        if isinstance(place, type) and issubclass(place, Concept):
            found = place
    return found


def _below(place: Any, part: str | int) -> Any:
    """The annotation of what hangs at a key or position of a value with the annotation `place`."""
    if isinstance(place, type) and issubclass(place, Concept):
        field = next((field for field in place.model_fields.values() if field.alias == part), None)
        return _model_or_container(field.annotation) if field is not None else None
    origin, arguments = get_origin(place), get_args(place)
    return _model_or_container(arguments[-1]) if origin in (dict, list) else None


def _model_or_container(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _model_or_container(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return next((part for part in map(_model_or_container, get_args(annotation)) if part is not None), None)
    is_model = isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, Concept)
    return annotation if is_model or get_origin(annotation) in (dict, list) else None


def named(concept: type[Concept], key: str) -> str:
    """How a message names a key of a concept."""
    return f"{quoted(key)} of {concept.TITLE}"
