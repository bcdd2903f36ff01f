"""Downloads of artifacts: parts of them, also after the artifact was replaced."""

from __future__ import annotations

from pathlib import Path

from tests.integration.api.clients import client_of
from tests.unit.artifacts.harness import attempt, new_store, put, reader_of
from waterflowd.model.ids import RunId
from waterflowd.testing.api import ApiHarness

FILE = "jobs: {a: {runs-on: web, steps: [{run: make}]}}"


async def test_a_download_of_a_replaced_artifact_begins_again(tmp_path: Path) -> None:
    """The beginning of one and the end of another would be neither; `If-Range` prevents that."""
    store = new_store(tmp_path)
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.services.artifacts = reader_of(store, harness.services.history, harness.clock)
        started = await client.post("/v1/runs", json={"yaml": FILE})
        run, now = started.json()["id"], harness.clock.now()
        url, path = f"/v1/runs/{run}/artifacts/site/content", {"path": "a"}
        put(store, "site", {"a": b"before"}, attempt(RunId(run)), now=now)
        tag = (await client.get(url, params=path)).headers["etag"]
        part = {"range": "bytes=3-", "if-range": tag}

        same = await client.get(url, params=path, headers=part)
        put(store, "site", {"a": b"AFTER"}, attempt(RunId(run)), now=now + 1_000)
        other = await client.get(url, params=path, headers=part)

        assert (same.status_code, same.content) == (206, b"ore")
        assert (other.status_code, other.content) == (200, b"AFTER")
