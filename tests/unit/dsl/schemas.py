"""The JSON Schema held against files: what an editor would say of them."""

from __future__ import annotations

from functools import cache

import jsonschema_rs

from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import plain, to_json
from waterflowd.dsl.reference import json_schema
from waterflowd.dsl.reporting.report import Report


@cache
def _validator(kind: str) -> jsonschema_rs.Draft7Validator:
    document = json_schema.document(kind)
    jsonschema_rs.meta.validate(document)
    return jsonschema_rs.Draft7Validator(document)


def complaints(text: str, kind: str = "workflow") -> list[str]:
    """What the schema finds in a file, each with its place."""
    content = plain(to_json(reader.read(text, Report()).root))
    found = _validator(kind).iter_errors(content)
    return ["/".join(map(str, error.instance_path)) + ": " + error.message[:300] for error in found]
