"""The models of `defaults`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from waterflowd.dsl.models.field_types import StaticText, Text
from waterflowd.dsl.models.model import LanguageModel, empty_is_all


class RunDefaults(LanguageModel):
    """`defaults.run`: what scripts take that do not say it themselves."""

    TITLE = "defaults.run"

    shell: StaticText | None = None
    working_directory: Text | None = None


class Defaults(LanguageModel):
    """`defaults`: for all steps of the workflow or the job."""

    TITLE = "defaults"

    run: Annotated[RunDefaults, BeforeValidator(empty_is_all)] = RunDefaults()
