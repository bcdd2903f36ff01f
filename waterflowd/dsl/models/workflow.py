"""The model of a workflow file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.defaults import Defaults
from waterflowd.dsl.models.field_types import (
    Accepts,
    EnvironmentVariables,
    FreeText,
    IdName,
    JsonValues,
    Minutes,
    OrEmpty,
    StaticName,
    short_for,
)
from waterflowd.dsl.models.inputs import Inputs
from waterflowd.dsl.models.job import PERMISSIONS, Job
from waterflowd.dsl.models.model import EXAMPLE_JOBS, LanguageModel, Page, key
from waterflowd.dsl.models.placement import Concurrency, concurrency_spelling
from waterflowd.dsl.models.triggers import Triggers, event_names

_EVENT_NAMES = {
    "enum": [str(field.alias) for field in Triggers.model_fields.values()],
    "x-takes": "the name of an event",
}


class Workflow(LanguageModel):
    """A workflow file: what starts it, its inputs, and its jobs. It is a YAML file under `workflows/` or
    `.waterflow/workflows/` of a watched repository, and its path identifies it.
    """

    TITLE = "a workflow"
    INSTEAD = {
        "run-name": "use name: a run shows the name of its workflow and what started it",
        "permissions": PERMISSIONS,
    }
    PAGE = Page(name="workflow", where="the file", frame="{}\n" + EXAMPLE_JOBS)

    name: StaticName | None = key(
        "The display name.",
        "name: deploy",
        default=None,
        without="the file's name without its ending",
        pitfalls=("If two files have the same name, commands need the path.",),
    )
    description: FreeText = key("A description, which the API returns.", "description: Deploys the shop", default="")
    on: Annotated[
        Triggers | None,
        BeforeValidator(event_names),
        Accepts({"type": "array", "items": _EVENT_NAMES, "minItems": 1}, is_first=True),
        Accepts(_EVENT_NAMES, is_first=True),
    ] = key(
        "What starts the workflow: the name of an event, a list of names, or a mapping of events to their filters.",
        "on: [push, workflow_dispatch]",
        default=None,
        without="a push that adds or changes this file, and starts by hand",
        takes="the name of an event, a list of names, or a mapping",
        pitfalls=("With `on`, only the listed events start the workflow: `on: push` alone cannot be started by hand.",),
    )
    inputs: Inputs = key(
        "Typed values that a start by hand gives; the same as `on.workflow_dispatch.inputs`. With inputs, the workflow can be"
        " started by hand. Callers give them too, unless `on.workflow_call.inputs` declares others. At most 100.",
        "inputs:\n  version: {required: true, pattern: '[0-9.]+'}\n  dry-run: {type: boolean, default: true}",
        default={},
        pitfalls=(
            "Declare inputs in one place only.",
            "Runs that a push, a schedule or a webhook starts have no inputs, not even the defaults, as on GitHub.",
        ),
    )
    vars: JsonValues = key(
        "Named values of any JSON type. A value may refer to inputs and to the variables above it. `--var` and the `vars` of a"
        " start or a schedule override them.",
        "vars:\n  app: shop\n  image: registry.example.org/${{ vars.app }}",
        default={},
        expressions="vars",
        pitfalls=(
            "`--var` on the command line always gives text.",
            "A variable cannot refer to those below it.",
        ),
    )
    env: EnvironmentVariables = key(
        "Environment variables of every step. Later layers override earlier ones: workflow, job, what earlier steps wrote to"
        " `$WATERFLOW_ENV`, step.",
        "env:\n  REGION: eu\n  PORT: 8080",
        default={},
        expressions="workflow-env",
        pitfalls=("Names are letters, digits and `_`; names that begin with `WF_EXPR_` are reserved.",),
    )
    defaults: OrEmpty[Defaults] = key(
        "Default settings of the scripts in all jobs.",
        "defaults:\n  run: {shell: sh, working-directory: app}",
        default=Defaults(),
        pitfalls=("They apply to `run` only: not to other nodes, and not to the steps of composite steps.",),
    )
    concurrency: Annotated[Concurrency | None, BeforeValidator(concurrency_spelling), short_for("group")] = key(
        "Limits how many runs of one concurrency group run at the same time. A text is short for `group`.",
        "concurrency: deploy-${{ git.branch }}",
        default=None,
        expressions="workflow",
        pitfalls=(
            "A called workflow cannot have it; write it in the job that calls, or in the jobs of the called workflow.",
        ),
    )
    timeout_minutes: Minutes | None = key(
        "The timeout of the whole run, including the time it waits.",
        "timeout-minutes: 90",
        default=None,
        without="30 days",
        pitfalls=("After the timeout everything that is left is skipped, even steps with `always()`.",),
    )
    jobs: Annotated[dict[IdName, Job], Field(min_length=1)] = key(
        "The jobs by id, at least one. A job starts as soon as the jobs in its `needs` are completed; jobs without `needs`"
        " run in parallel.",
        "jobs:\n  test:\n    runs-on: web-servers\n    steps:\n      - run: make test\n",
        pitfalls=("Ids are compared without case.",),
    )
