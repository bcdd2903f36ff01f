"""Validates files with the JSON Schema, as an editor does."""

from __future__ import annotations

from functools import cache

import jsonschema_rs

from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import plain, to_json
from waterflowd.dsl.reference import json_schema
from waterflowd.dsl.reporting.report import DiagnosticReport


@cache
def _validator(kind: str) -> jsonschema_rs.Draft7Validator:
    document = json_schema.document(kind)
    jsonschema_rs.meta.validate(document)
    return jsonschema_rs.Draft7Validator(document)


def complaints(text: str, kind: str = "workflow") -> list[str]:
    """Returns the errors that the schema finds in a file, each with its path."""
    content = plain(to_json(reader.read(text, DiagnosticReport()).root))
    errors = _validator(kind).iter_errors(content)
    return ["/".join(map(str, error.instance_path)) + ": " + error.message[:300] for error in errors]
