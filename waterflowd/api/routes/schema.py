"""The JSON Schema of the workflow language, for editors."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

router = APIRouter(tags=["language"])

Kind = Annotated[Literal["workflow", "step"], Query(description="Workflow files, or files of composite steps.")]


@router.get("/v1/schema", response_class=Response, responses={200: {"content": {"application/schema+json": {}}}})
async def schema(kind: Kind = "workflow") -> Response:
    """The JSON Schema (draft 7) of workflow files, or of the files of composite steps."""
    return Response(_text(kind), media_type="application/schema+json")


@cache
def _text(kind: str) -> bytes:
    # Workflows are compiled in a separate process; this one imports the language only when the schema is requested.
    from waterflowd.dsl.reference.json_schema import schema_text

    return schema_text(kind).encode()
