"""The model of one input: of a workflow started by hand or called, or of a composite step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from waterflowd.dsl.models.field_types import Boolean, FreeText, JsonValue, StaticText, Texts
from waterflowd.dsl.models.model import LanguageModel, empty_is_all


class Input(LanguageModel):
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
