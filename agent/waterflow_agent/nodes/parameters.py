"""Convert the parameters of a task to the node's record; the daemon has only checked those that are constant."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema

Record = TypeVar("Record", bound=msgspec.Struct)

_WORDS = (
    ("Object contains unknown field", "unknown key"),
    ("Object missing required field", "missing key"),
    ("`str` matching regex '^[^,]*$'", "text without a comma"),
    ("`object`", "a map"),
    ("`array`", "a list"),
    ("`str`", "text"),
    ("`int`", "a whole number"),
    ("`float`", "a number"),
    ("`bool`", "true or false"),
    ("`null`", "nothing"),
    ("`", ""),
)


def find(name: str) -> schema.NodeSchema:
    """Return the node of that name. Raises `Rejected` WF701 if agents do not run it."""
    node = schema.find(name)
    if node is None or node.runs_in is schema.RunsIn.ENGINE:
        known = ", ".join(runnable())
        raise Rejected("WF701", f'this agent has no node "{name}"; available: {known}')
    return node


def runnable() -> list[str]:
    """Return the names and aliases of the nodes that this version of the agent runs."""
    names: list[str] = []
    for node in (*schema.BUILT_IN.values(), *schema.INTERNAL.values()):
        if node.runs_in is not schema.RunsIn.ENGINE:
            names += (node.name, *node.aliases)
    return names


def convert(name: str, record: type[Record], params: dict[str, Any]) -> Record:
    """Return the node's record. Raises `Rejected` WF702 that names the field and the expected type."""
    try:
        return msgspec.convert(params, record, strict=True)
    except msgspec.ValidationError as error:
        raise Rejected("WF702", f'node "{name}": {_in_words(str(error))}') from error


def _in_words(text: str) -> str:
    """Rewrite an error such as `Expected `str`, got `int` - at `$.message`` without the notation of msgspec."""
    expectation, separator, path = text.partition(" - at ")
    for technical, plain in _WORDS:
        expectation = expectation.replace(technical, plain)
    field = path.strip("`").removeprefix("$").removeprefix(".")
    return f"with.{field}: {expectation[:1].lower()}{expectation[1:]}" if separator and field else expectation
