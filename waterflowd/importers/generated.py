"""Adds workflows that an importer writes from scratch to a result, after making them valid."""

from __future__ import annotations

from collections.abc import Iterable

from waterflowd.importers import writing
from waterflowd.importers.findings import Imported, WrittenFile
from waterflowd.importers.origin import Origin
from waterflowd.importers.validity.loop import Target, make_valid
from waterflowd.importers.validity.text_edits import EditedText
from waterflowd.model.plan import Json

#: Parameters of `artifact/upload` with which files keep their paths, and hidden files are included, unlike on GitHub.
WHOLE_PATHS: dict[str, Json] = {"root": ".", "include-hidden-files": True}


def add_workflow(
    imported: Imported, origin: Origin, name: str, source: str, workflow: writing.Block, heading: Iterable[str] = ()
) -> bool:
    """Add the workflow `workflows/NAME.yml`; false if it cannot be made valid, which is recorded as a refusal."""
    text = EditedText(writing.document_text(workflow, heading))
    path = f"workflows/{name}.yml"
    written = {origin.target(file.path): file.content.encode() for file in imported.files}
    target = Target(
        path=origin.target(path),
        source=source,
        group=origin.group,
        read=lambda other: written.get(other) or origin.read(other),
        has_source_lines=False,
    )
    if not make_valid(text, target, imported):
        return False
    imported.files.append(WrittenFile(path=path, content=text.text, source=source))
    return True


def as_literal(text: str) -> str:
    """Return text of another system for a value that may contain expressions: `${{` in it stays text."""
    return text.replace("${{", "${{ '${{' }}")


def written_minutes(minutes: float) -> float | int:
    """Return minutes as people write them: whole ones without a fraction."""
    return int(minutes) if minutes == int(minutes) else round(minutes, 2)
