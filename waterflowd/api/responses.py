"""JSON responses, and how routes declare the bodies that they take and return.

Rules of this file: a route declares the Struct that it encodes or decodes; openapi.py describes this very Struct.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

JSON_TYPE = "application/json"
#: Where the OpenAPI document holds the description of a type.
REF_TEMPLATE = "#/components/schemas/{name}"

_encoder = msgspec.json.Encoder()


def schema_name(name: str) -> str:
    """The name of a class in the OpenAPI document. There, everything is a schema, so its names do not say so."""
    return name.removesuffix("Schema")


def json_response(content: msgspec.Struct, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The Struct as JSON."""
    return Response(_encoder.encode(content), status_code=status, headers=headers, media_type=JSON_TYPE)


class Described(dict[str, Any]):
    """A response or request body in the OpenAPI document, with the type that its schema refers to."""

    def __init__(self, schema: type[msgspec.Struct], **other: Any) -> None:
        content = {JSON_TYPE: {"schema": {"$ref": REF_TEMPLATE.format(name=schema_name(schema.__name__))}}}
        super().__init__(other, content={**content, **other.get("content", {})})
        self.schema = schema


def returns(schema: type[msgspec.Struct], *other_types: str) -> Described:
    """A response, for `responses` of a route. `other_types` are media types that it may have instead of JSON."""
    description = (schema.__doc__ or "").partition("\n")[0]
    return Described(schema, description=description, content={name: {} for name in other_types})


def takes(schema: type[msgspec.Struct], *, is_yaml: bool = False) -> dict[str, Any]:
    """The request body, for `openapi_extra` of a route. With `is_yaml` a plain workflow file may be sent instead."""
    is_required = any(field.required for field in msgspec.structs.fields(schema))
    other = {"application/yaml": {"schema": {"type": "string"}}} if is_yaml else {}
    return {"requestBody": Described(schema, required=is_required, content=other)}
