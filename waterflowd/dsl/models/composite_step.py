"""The models of the file of a composite step."""

from __future__ import annotations

from typing import Literal

from waterflowd.dsl.models.field_types import FreeText, StaticName
from waterflowd.dsl.models.inputs import Inputs
from waterflowd.dsl.models.model import LanguageModel, Page, key
from waterflowd.dsl.models.step import Steps
from waterflowd.dsl.models.triggers import Outputs


class CompositeRuns(LanguageModel):
    """The steps in the syntax of GitHub's actions."""

    TITLE = "runs"
    INSTEAD = dict.fromkeys(
        ("main", "pre", "post", "image", "entrypoint", "args", "pre-if", "post-if", "env"),
        "only composite steps are supported: write the commands as steps with run",
    )
    PAGE = Page(name="composite-runs", where="`runs` of a composite step", frame="runs:\n  {}\n")

    using: Literal["composite"] = key(
        "`composite` is the only kind of action that can be used.", "using: composite\nsteps: [{run: ./deploy.sh}]"
    )
    steps: Steps = key("The steps, at least one.", "using: composite\nsteps: [{run: ./deploy.sh}]")


class CompositeStep(LanguageModel):
    """Several steps in a file, used as one: `uses: ./steps/deploy` runs the steps in `steps/deploy/step.yml` (or
    `action.yml`, as on GitHub). They run on the server, in the directory and with the environment of the step that uses
    them. They see their own `inputs` and `steps`, and `run`, `git`, `event`, `env`, `job` and `agent`; they see nothing else
    of the workflow.
    """

    TITLE = "a composite step"
    INSTEAD = {"author": "write it in a comment", "branding": "remove it"}
    PAGE = Page(name="composite-step", where="the file `step.yml` of a composite step", frame="")

    name: StaticName | None = key("The display name.", "name: Deploy\nsteps: [{run: ./deploy.sh}]", default=None)
    description: FreeText = key(
        "A description for people.", "description: Deploys the shop\nsteps: [{run: ./deploy.sh}]", default=""
    )
    inputs: Inputs = key(
        "The inputs, which the step that uses it gives with `with`.",
        'inputs:\n  to: {type: choice, options: [staging, production]}\nsteps:\n  - run: ./deploy.sh "${{ inputs.to }}"',
        default={},
    )
    outputs: Outputs = key(
        "Names and values, from its own `steps`. A text is short for `value`.",
        'outputs:\n  url: ${{ steps.go.outputs.url }}\nsteps:\n  - id: go\n    run: echo "url=x" >> "$WATERFLOW_OUTPUT"',
        default={},
    )
    steps: Steps | None = key(
        "The steps, at least one. Required unless `runs` is used.", "steps:\n  - run: ./deploy.sh", default=None
    )
    runs: CompositeRuns | None = key(
        "The steps in GitHub's syntax.",
        "runs:\n  using: composite\n  steps:\n    - run: ./deploy.sh",
        default=None,
        pitfalls=("`steps` and `runs` are mutually exclusive.",),
    )
