"""Release notes from a list of changes."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from waterflow_agent.nodes.node import Context, Node, NodeFailure, Parameters

TITLES = {"feature": "Features", "fix": "Fixes"}


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """One change."""

    text: str
    kind: Literal["feature", "fix"] = "feature"


class NotesParameters(Parameters, kw_only=True):
    """`with` of the node."""

    version: str
    changes: list[Change]
    path: str = "NOTES.md"


class Notes(Node[NotesParameters]):
    """Writes release notes, sorted by the kind of change."""

    async def run(self, context: Context, parameters: NotesParameters) -> dict[str, Any]:
        """Prints the notes and writes them into the file."""
        if not parameters.changes:
            raise NodeFailure(f"version {parameters.version} changes nothing")
        lines = [f"# {parameters.version}"]
        kinds = sorted({change.kind for change in parameters.changes})
        for kind in kinds:
            lines += [
                f"## {TITLES[kind]}",
                *(f"- {change.text}" for change in parameters.changes if change.kind == kind),
            ]
        context.path(parameters.path).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for line in lines:
            context.log(line)
        return {"path": parameters.path, "count": len(parameters.changes), "parts": len(kinds)}
