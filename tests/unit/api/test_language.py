"""The route that serves the JSON Schema of the language."""

from __future__ import annotations

import httpx

from waterflowd.dsl.reference.json_schema import schema_text
from waterflowd.testing.api import ApiHarness


async def test_the_schema_is_served_without_a_token() -> None:
    """Editors have no token; the text equals the command's output, and an unknown kind is a 400."""
    async with (
        ApiHarness(is_open=False) as harness,
        httpx.AsyncClient(transport=httpx.ASGITransport(harness.api), base_url="http://localhost") as client,
    ):
        for query, kind in (("", "workflow"), ("?kind=workflow", "workflow"), ("?kind=step", "step")):
            answered = await client.get(f"/v1/schema{query}")
            assert answered.status_code == 200
            assert answered.headers["content-type"] == "application/schema+json"
            assert answered.text == schema_text(kind)
        refused = await client.get("/v1/schema?kind=job")
    assert (refused.status_code, refused.json()["code"]) == (400, "WF605")
