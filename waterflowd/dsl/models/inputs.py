"""The model of one input: of a workflow that is started by hand or called, or of a composite step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from waterflowd.dsl.models.field_types import Boolean, FreeText, IdName, JsonValue, OrEmpty, StaticText, Texts
from waterflowd.dsl.models.model import EXAMPLE_JOBS, LanguageModel, Page, key


class Input(LanguageModel):
    """One typed value that is set by a start by hand, by a call, or by the step that uses a composite step. All inputs
    together are limited to 64 KiB.
    """

    TITLE = "an input"
    INSTEAD = {"deprecationMessage": "put it into description"}
    PAGE = Page(
        name="inputs",
        where="`inputs.<name>`, `on.workflow_dispatch.inputs.<name>`, `on.workflow_call.inputs.<name>`",
        frame="inputs:\n  version:\n    {}\n" + EXAMPLE_JOBS,
    )

    type: Literal["string", "number", "boolean", "choice", "json", "environment"] = key(
        "The type of the value. `environment` is text, as for GitHub.",
        "type: choice\noptions: [staging, production]",
        default="string",
    )
    description: FreeText = key("A description for people.", "description: version to release", default="")
    required: Boolean = key("Whether a value must be passed if there is no default.", "required: true", default=False)
    default: JsonValue = key(
        "The default value.",
        "type: number\ndefault: 3",
        default=None,
        without="by type: empty text, 0, false, the first option, or null",
        pitfalls=("It is a plain value; an expression is not allowed.",),
    )
    options: Texts = key("The allowed values of a `choice`.", "type: choice\noptions: [a, b]", default=[])
    pattern: StaticText | None = key(
        "A regular expression that the whole value of a `string` must match.",
        "pattern: '[0-9]+\\.[0-9]+'",
        default=None,
        without="any text",
        pitfalls=("Look-around and back-references are not supported, so that matching takes linear time.",),
    )


#: The inputs of one workflow or composite step.
Inputs = OrEmpty[Annotated[dict[IdName, OrEmpty[Input]], Field(max_length=100)]]
