"""The description of the API: enumerations, events by type, and references that resolve."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from waterflowd.access.roles import Role
from waterflowd.engine import events
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import TriggerKind
from waterflowd.model.statuses import AttemptStatus, Conclusion, Status
from waterflowd.testing.api import ApiHarness


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Returns the document as clients receive it."""

    async def get() -> dict[str, Any]:
        async with (
            ApiHarness(is_open=False) as harness,
            httpx.AsyncClient(transport=httpx.ASGITransport(harness.api), base_url="http://localhost") as client,
        ):
            found: dict[str, Any] = (await client.get("/openapi.json")).json()
            return found

    return asyncio.run(get())


@pytest.mark.parametrize("enumeration", [Status, Conclusion, AttemptStatus, ReasonCode, TriggerKind, Role])
def test_closed_sets_of_words_are_enumerations(document: dict[str, Any], enumeration: Any) -> None:
    """A generated client knows every status, conclusion, reason code, kind of trigger and role."""
    described = document["components"]["schemas"][enumeration.__name__]
    assert sorted(described["enum"]) == sorted(item.value for item in enumeration)


def test_events_are_one_of_all_types(document: dict[str, Any]) -> None:
    """Each type has its own fields, and `type` tells them apart."""
    items = document["components"]["schemas"]["EventList"]["properties"]["events"]["items"]
    types = [kind.__struct_config__.tag for kind in events.RunEvent.__args__]
    assert len(items["oneOf"]) == len(types)
    assert sorted(items["discriminator"]["mapping"]) == sorted(types)
    finished = document["components"]["schemas"]["AttemptFinished"]
    assert finished["properties"]["started_at"]["anyOf"][0] == {"type": "string", "format": "date-time"}
    assert finished["properties"]["reason"] == {"$ref": "#/components/schemas/Reason"}
    assert {"seq", "log_seq", "stream", "at", "type", "job", "outcome"} <= set(finished["required"])


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    """Every component is used, too."""
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert references == set(document["components"]["schemas"])


def test_every_route_has_a_summary_and_describes_its_answers(document: dict[str, Any]) -> None:
    """Successful responses have a schema, or a media type other than JSON."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            for status, response in operation["responses"].items():
                assert status == "204" or response["content"], (method, path, status)
                assert response["description"], (method, path, status)
                for media in response.get("content", {}).values():
                    assert "application/json" not in response["content"] or media != {"schema": {}}, (method, path)
