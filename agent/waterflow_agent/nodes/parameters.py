"""Convert the parameters of a task to the node's record; the daemon has only checked those that are constant."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.type_errors import explain

Record = TypeVar("Record", bound=msgspec.Struct)


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
        text, field = explain(error)
        raise Rejected("WF702", f'node "{name}": {f"with.{field}: " if field else ""}{text}') from error
