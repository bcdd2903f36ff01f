"""Random requests to every route: the answer is never a 500, and always JSON or a problem."""

from __future__ import annotations

import re
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from waterflowd.admin.ports import RepositoryRow
from waterflowd.testing.api import ApiHarness

_ROUNDS = 25
_NASTY = ["", "..", "\x00", "a/b", "0", "-1", "01J00000000000000000000000", "c1;2=3", "SHA256:" + "x" * 43, "true", "\u202e",
          "😀", "x" * 299, "9" * 300, "2026-01-01", "%s%n", "{{7*7}}", "'; drop", "web", "admin", "1h", "ops"]  # fmt: skip
_KEYS = ["yaml", "vars", "inputs", "dry_run", "path", "groups", "ttl", "uses", "role", "name", "force", "odd"]
_TYPES = [b"application/json", b"application/yaml", b"text/plain", b"", b"application/json; charset=utf-16", b"\xff"]
_QUERY = ["limit", "cursor", "status", "name", "since", "at", "from", "job", "step", "path", "wait", "repository"]
_VALUES: list[Any] = [None, True, 0, -1, 1 << 63, 1 << 70, 1.5, 1e308, [], {}, [[[]]], {"a": {"b": [1]}}, *_NASTY]


def routes(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns (method, path) of every described operation except the endless stream."""
    found = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    return [route for route in found if route[1] not in ("/v1/events", "/v1/live")]


def request_of(random: Random, method: str, path: str) -> dict[str, Any]:
    """Returns one absurd request."""
    # Dots are escaped; otherwise the client would normalize the path itself.
    url = re.sub(r"\{[^}]*\}", lambda _: quote(random.choice(_NASTY), safe="").replace(".", "%2E"), path)
    sent: dict[str, Any] = {}
    if method != "GET":
        choice = random.randrange(3)
        if choice == 0:
            sent["content"] = random.randbytes(random.randrange(60))
        elif choice == 1:
            sent["json"] = {key: random.choice(_VALUES) for key in random.sample(_KEYS, random.randrange(4))}
        else:
            sent["json"] = random.choice(_VALUES)
    kind = random.choice(_TYPES)
    return {
        "method": method,
        "url": url,
        "headers": [(b"content-type", kind)] if kind else [],
        "params": {name: random.choice(_NASTY) for name in random.sample(_QUERY, random.randrange(4))},
        **sent,
    }


@pytest.mark.parametrize("seed", range(2))
async def test_no_request_makes_the_api_fail(seed: int) -> None:
    """Random paths, queries, bodies and types on every route; the seed is in the name of the test."""
    random = Random(seed)
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        harness.repositories.repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True))
        transport = httpx.ASGITransport(harness.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            known = routes((await client.get("/openapi.json")).json())
            assert len(known) > 20
            for _ in range(_ROUNDS):
                for method, path in known:
                    options = request_of(random, method, path)
                    response = await client.request(**options)
                    assert response.status_code < 500, (options, response.text)
                    if not (path == "/metrics" and response.status_code == 200):
                        assert "json" in response.headers["content-type"], options
