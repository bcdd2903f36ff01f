"""Clients of an API in this process."""

from __future__ import annotations

import httpx

from waterflowd.testing.api import ApiHarness


def client_of(harness: ApiHarness) -> httpx.AsyncClient:
    """A client without credentials."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(harness.api), base_url="http://localhost")


async def start(client: httpx.AsyncClient, yaml: str) -> str:
    """Starts a run of this workflow; returns its id."""
    started = await client.post("/v1/runs", json={"yaml": yaml})
    run: str = started.json()["id"]
    return run
