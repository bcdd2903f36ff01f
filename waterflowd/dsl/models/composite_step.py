"""The models of the file of a composite step."""

from __future__ import annotations

from typing import Literal

from waterflowd.dsl.models.field_types import FreeText, StaticName
from waterflowd.dsl.models.inputs import Inputs
from waterflowd.dsl.models.model import LanguageModel
from waterflowd.dsl.models.step import Steps
from waterflowd.dsl.models.triggers import Outputs


class CompositeRuns(LanguageModel):
    """`runs` of a GitHub action; only composite ones can be used."""

    TITLE = "runs"
    INSTEAD = dict.fromkeys(
        ("main", "pre", "post", "image", "entrypoint", "args", "pre-if", "post-if", "env"),
        "only composite steps run here: write steps, with what it does as run",
    )

    using: Literal["composite"]
    steps: Steps


class CompositeStep(LanguageModel):
    """The file of a composite step."""

    TITLE = "a composite step"
    INSTEAD = {"author": "write it as a comment", "branding": "remove it"}

    name: StaticName | None = None
    description: FreeText = ""
    inputs: Inputs = {}
    outputs: Outputs = {}
    steps: Steps | None = None
    runs: CompositeRuns | None = None
