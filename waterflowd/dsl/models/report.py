"""The model of `report`: a table with a row for each instance of a job."""

from __future__ import annotations

from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from waterflowd.dsl.models.field_types import TEXT_SCHEMA, Accepts, JsonValue, StaticName, wrong
from waterflowd.dsl.models.model import LanguageModel, Page, key
from waterflowd.dsl.reporting.values import describe

#: Columns that a person can compare, and that fit a wide screen.
COLUMNS_MAX = 20
HEADING_CHARACTERS_MAX = 60

_HEADINGS = {"type": "string", "minLength": 1, "maxLength": HEADING_CHARACTERS_MAX}
_NAMES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": COLUMNS_MAX}
#: The short form.
OUTPUTS_LIST = Accepts({**_NAMES, "x-takes": "a list of outputs, which is short for `columns`"})


def report_spelling(value: object) -> object:
    """A list is `columns`."""
    if isinstance(value, list):
        return {"columns": value}
    if not isinstance(value, dict):
        raise wrong(f"expected a list of outputs or a mapping, not {describe(value)}")
    return value


def _columns(value: object) -> object:
    if not isinstance(value, dict | list):
        raise wrong(f"expected a mapping of headings to text, or a list of outputs, not {describe(value)}")
    if not value:
        raise wrong("a report has at least one column")
    if len(value) > COLUMNS_MAX:
        raise wrong(f"a report has at most {COLUMNS_MAX} columns, and these are {len(value)}")
    return value


class Report(LanguageModel):
    """A table that is kept with the run: a row for each instance of the job, which is each server with `target: each`."""

    TITLE = "report"
    PAGE = Page(
        name="report",
        where="`jobs.<id>.report`",
        frame="jobs:\n  inspect:\n    runs-on: all-servers\n    outputs:\n      kernel: ${{ steps.facts.outputs.kernel }}\n"
        "    report:\n      {}\n    steps:\n"
        '      - id: facts\n        run: echo "kernel=$(uname -r)" >> "$WATERFLOW_OUTPUT"\n',
    )

    title: StaticName | None = key(
        "What the table is called.",
        "title: Kernels\ncolumns: [kernel]",
        default=None,
        without="the id of the job",
    )
    columns: Annotated[
        dict[str, JsonValue] | list[JsonValue],
        PlainValidator(_columns),
        WithJsonSchema(
            {
                "anyOf": [
                    {
                        "type": "object",
                        "additionalProperties": TEXT_SCHEMA,
                        "propertyNames": _HEADINGS,
                        "minProperties": 1,
                        "maxProperties": COLUMNS_MAX,
                    },
                    _NAMES,
                ],
                "x-takes": "a mapping of headings to text with expressions, or a list of outputs of the job",
            }
        ),
    ] = key(
        "The columns after the server and its result, in order: headings and values. A list of outputs of the job is short"
        " for columns with these names and values.",
        "columns:\n  Kernel: ${{ steps.facts.outputs.kernel }}\n  System: ${{ agent.os }} on ${{ agent.arch }}",
        expressions="step",
        pitfalls=(
            "They are evaluated when the job ends, also if it failed. A value that cannot be evaluated is missing from its"
            " row, and the row says why; the job does not fail.",
            "A value is one line of at most 500 characters, and all values of a run have at most 4 MiB. A list or mapping is"
            " shown as JSON.",
            "Text whose expressions all have no value is left out, so `${{ steps.disk.outputs.free }} GB` is not ` GB`.",
        ),
    )
