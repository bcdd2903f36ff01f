"""The models of `on`: what starts a workflow."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.field_types import (
    AcceptsOne,
    Boolean,
    FreeText,
    IdName,
    OneOrMore,
    OrEmpty,
    StaticText,
    Text,
    Texts,
    short_for,
    wrong,
)
from waterflowd.dsl.models.github_events import GITHUB_EVENTS
from waterflowd.dsl.models.inputs import Inputs
from waterflowd.dsl.models.model import EXAMPLE_JOBS, LanguageModel, Page, key
from waterflowd.dsl.models.schedule import Schedules

_PATTERNS = (
    "As on GitHub, `*` does not match `/` and `**` does; a pattern with a leading `!` excludes what earlier patterns included,"
    " and the last pattern that matches decides."
)


def _completed(value: object) -> object:
    types = value if isinstance(value, list) else [value]
    for name in types:
        if name in ("requested", "in_progress"):
            raise wrong(f"{name} does not exist here; a workflow can only start after another one has completed")
    return types


def _value_spelling(value: object) -> object:
    return value if isinstance(value, dict) else {"value": value}


def event_names(value: object) -> object:
    """`on: push` and `on: [push, manual]` are events without filters."""
    if isinstance(value, str):
        return {value: None}
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise wrong("a list in on holds names of events, such as push")
        return dict.fromkeys(value)
    return value


class Push(LanguageModel):
    """Which updates of branches and tags start the workflow. Without filters, every update of a watched ref does."""

    TITLE = "push"
    PAGE = Page(name="on-push", where="`on.push`", frame="on:\n  push:\n    {}\n" + EXAMPLE_JOBS)

    branches: Texts = key(
        f"Branch patterns. {_PATTERNS}",
        "branches: [main, 'release/**', '!release/old/**']",
        default=[],
        without="all",
        pitfalls=("With filters for branches only, tags start nothing.",),
    )
    branches_ignore: Texts = key(
        "Patterns of branches that start nothing.",
        "branches-ignore: ['wip/**']",
        default=[],
        pitfalls=("It cannot be combined with `branches`; use `!` there.",),
    )
    tags: Texts = key(
        "Tag patterns.",
        "tags: ['v*']",
        default=[],
        without="all, unless there are filters for branches",
        pitfalls=("The repository must watch tags: see `refs` in the configuration.",),
    )
    tags_ignore: Texts = key("Patterns of tags that start nothing.", "tags-ignore: ['*-rc*']", default=[])
    paths: Texts = key(
        "Path patterns; at least one changed path must match.",
        "paths: ['app/**']",
        default=[],
        without="all",
        pitfalls=("Path filters do not apply to tags.",),
    )
    paths_ignore: Texts = key(
        "Path patterns; at least one changed path must match none of them.",
        "paths-ignore: ['docs/**']",
        default=[],
        pitfalls=("It cannot be combined with `paths`.",),
    )


class WorkflowDispatch(LanguageModel):
    """Starts by hand."""

    TITLE = "workflow_dispatch"
    PAGE = Page(
        name="on-workflow-dispatch",
        where="`on.workflow_dispatch`, `on.manual`",
        frame="on:\n  workflow_dispatch:\n    {}\n" + EXAMPLE_JOBS,
    )

    inputs: Inputs = key("The inputs of a start.", "inputs:\n  reason: {description: why}", default={})


class Webhook(LanguageModel):
    """Starts by a signed request to `/v1/hooks/NAME`. The context `event` holds the request's body."""

    TITLE = "webhook"
    PAGE = Page(name="on-webhook", where="`on.webhook`", frame="on:\n  webhook:\n    {}\n" + EXAMPLE_JOBS)

    name: StaticText | None = key(
        "The last part of the address: letters, digits, `_`, `-` and `.`.",
        "name: forge\nsecret: FORGE_HOOK",
        default=None,
        without="the file's name without its ending",
    )
    secret: Text = key(
        "The name of the secret that signs the requests (HMAC).",
        "secret: FORGE_HOOK",
        pitfalls=("The secret's name, never its value.",),
    )


class WorkflowRun(LanguageModel):
    """Starts after a run of another workflow of the repository has completed."""

    TITLE = "workflow_run"
    PAGE = Page(
        name="on-workflow-run", where="`on.workflow_run`", frame="on:\n  workflow_run:\n    {}\n" + EXAMPLE_JOBS
    )

    workflows: Annotated[Texts, Field(min_length=1)] = key(
        "Names or paths of other workflows.", "workflows: [build, workflows/test.yml]"
    )
    types: Annotated[list[Literal["completed"]], BeforeValidator(_completed), AcceptsOne()] = key(
        "GitHub's key; `completed` is the only value.",
        "workflows: [build]\ntypes: [completed]",
        default=[],
        without="`completed`",
    )
    conclusions: OneOrMore[Literal["success", "failure", "cancelled", "timed-out", "skipped", "lost"]] = key(
        "Which conclusions of the other run start this workflow.",
        "workflows: [build]\nconclusions: [failure, lost]",
        default=[],
        without="all",
    )
    branches: Texts = key(
        "Patterns for the branch of the other run.",
        "workflows: [build]\nbranches: [main]",
        default=[],
        without="all",
    )
    branches_ignore: Texts = key(
        "Patterns of branches whose runs start nothing.",
        "workflows: [build]\nbranches-ignore: ['wip/**']",
        default=[],
        pitfalls=("It cannot be combined with `branches`.",),
    )


class CallOutput(LanguageModel):
    """One output of a reusable workflow or a composite step."""

    TITLE = "an output"
    PAGE = Page(
        name="outputs",
        where="`on.workflow_call.outputs.<name>`, `outputs.<name>` of a composite step",
        frame="on:\n  workflow_call:\n    outputs:\n      result:\n        {}\n" + EXAMPLE_JOBS,
    )

    description: FreeText = key("A description for people.", "description: the result\nvalue: ok", default="")
    value: Text = key(
        "The value.",
        "value: ${{ jobs.build.result }}",
        expressions="call-outputs",
        pitfalls=("In a composite step it sees `steps` instead of `jobs`.",),
    )


class CallSecret(LanguageModel):
    """One secret that a reusable workflow takes."""

    TITLE = "a secret"
    PAGE = Page(
        name="secrets",
        where="`on.workflow_call.secrets.<name>`",
        frame="on:\n  workflow_call:\n    secrets:\n      TOKEN:\n        {}\n" + EXAMPLE_JOBS,
    )

    description: FreeText = key(
        "A description for people.", "description: token with write access to the registry", default=""
    )
    required: Boolean = key("Whether the caller must pass it.", "required: true", default=False)


Outputs = OrEmpty[dict[IdName, Annotated[CallOutput, BeforeValidator(_value_spelling), short_for("value")]]]
Secrets = OrEmpty[Annotated[dict[IdName, OrEmpty[CallSecret]], Field(max_length=100)]]


class WorkflowCall(LanguageModel):
    """Makes the file a reusable workflow: a job of another workflow calls it with `uses: ./path`."""

    TITLE = "workflow_call"
    PAGE = Page(
        name="on-workflow-call", where="`on.workflow_call`", frame="on:\n  workflow_call:\n    {}\n" + EXAMPLE_JOBS
    )

    inputs: Inputs = key(
        "The inputs that the caller passes with `with`.",
        "inputs:\n  target: {required: true}",
        default={},
        without="the `inputs` at the top of the file",
    )
    outputs: Outputs = key(
        "The outputs that the caller reads as `needs.<id>.outputs`: names and values. A text is short for `value`.",
        "outputs:\n  result: ${{ jobs.build.result }}",
        default={},
        expressions="call-outputs",
    )
    secrets: Secrets = key("The secrets that the caller passes.", "secrets:\n  TOKEN: {required: true}", default={})


class Triggers(LanguageModel):
    """The events that start the workflow. `on: push` and `on: [push, manual]` name events without filters."""

    TITLE = "on"
    INSTEAD = GITHUB_EVENTS
    PAGE = Page(name="on", where="`on`", frame="on:\n  {}\n" + EXAMPLE_JOBS)

    push: OrEmpty[Push | None] = key(
        "A watched branch or tag was created or updated.",
        "push: {branches: [main]}",
        default=None,
        pitfalls=("The configuration says which refs are watched; without `refs` it is the default branch only.",),
    )
    schedule: Schedules = key(
        "The times of cron expressions: one entry, or a list of at most 50. A text is short for `cron`.",
        "schedule: '30 2 * * *'",
        default=[],
        pitfalls=("Put the expression in quotes: in YAML, `*` begins an alias.",),
    )
    workflow_dispatch: OrEmpty[WorkflowDispatch | None] = key(
        "A start by hand, with `waterflowctl run` or the API.",
        "workflow_dispatch: {inputs: {reason: {}}}",
        default=None,
        alias="workflow_dispatch",
    )
    manual: OrEmpty[WorkflowDispatch | None] = key(
        "An alias of `workflow_dispatch`.", "manual: {}", default=None, pitfalls=("Use one of the two.",)
    )
    webhook: OrEmpty[Webhook | None] = key(
        "A signed request to `/v1/hooks/NAME`.", "webhook: {name: forge, secret: FORGE_HOOK}", default=None
    )
    workflow_run: OrEmpty[WorkflowRun | None] = key(
        "A run of another workflow of the repository has completed.",
        "workflow_run: {workflows: [build], conclusions: [failure]}",
        default=None,
        alias="workflow_run",
        pitfalls=("A workflow cannot start after itself.",),
    )
    workflow_call: OrEmpty[WorkflowCall | None] = key(
        "A call by a job of another workflow.",
        "workflow_call: {inputs: {target: {required: true}}}",
        default=None,
        alias="workflow_call",
    )
