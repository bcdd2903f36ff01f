"""What needs a person: in which order, what clears it, and filters and counts of runs."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.api.clients import client_of
from waterflowd.admin.ports import AgentRow, PendingRow, RepositoryRow
from waterflowd.api.runs import attention
from waterflowd.testing.api import ApiHarness

JOB = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: {script}\n"
APPROVAL = """
jobs:
  gate:
    runs-on: web
    steps:
      - id: ask
        uses: approval
        with: {{timeout: {timeout}}}
"""


async def _start(harness: ApiHarness, client: httpx.AsyncClient, yaml: str, path: str, *, ends: bool = True) -> str:
    started = await client.post("/v1/runs", json={"yaml": yaml, "path": path})
    assert started.status_code == 201, started.text
    run: str = started.json()["id"]
    if ends:
        await harness.completed(run)
    return run


async def _attention(client: httpx.AsyncClient) -> list[tuple[str, str | None, str | None, int]]:
    items = (await client.get("/v1/attention")).json()["items"]
    return [(item["kind"], item["run"]["id"] if item["run"] else None, item["place"], item["streak"]) for item in items]


async def test_nothing_needs_anybody_on_a_new_daemon() -> None:
    """An empty list, not an error."""
    async with ApiHarness() as harness, client_of(harness) as client:
        assert (await client.get("/v1/attention")).json() == {"items": [], "counts": {}, "open": {}}


async def test_a_failure_is_listed_until_its_workflow_succeeds() -> None:
    """With the part that failed first, and how often in a row; another workflow's success clears nothing."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        await _start(harness, client, JOB.format(script="exit 0"), "one.yml")
        await _start(harness, client, JOB.format(script="exit 1"), "one.yml")
        newest = await _start(harness, client, JOB.format(script="exit 2"), "one.yml")
        await _start(harness, client, JOB.format(script="exit 0"), "two.yml")
        assert await _attention(client) == [("failed", newest, "a/1", 2)]
        [item] = (await client.get("/v1/attention")).json()["items"]
        assert item["actions"] == ["rerun-failed", "rerun"]
        assert "exit code 2" in item["reason"]
        await _start(harness, client, JOB.format(script="exit 0"), "one.yml")
        assert await _attention(client) == []


async def test_decisions_come_first_and_those_that_are_due_first() -> None:
    """Then failures, then agents, keys and repositories."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        failed = await _start(harness, client, JOB.format(script="exit 1"), "bad.yml")
        late = await _start(harness, client, APPROVAL.format(timeout="3h"), "late.yml", ends=False)
        soon = await _start(harness, client, APPROVAL.format(timeout="1h"), "soon.yml", ends=False)
        running = await _start(harness, client, JOB.format(script="hold"), "run.yml", ends=False)
        await harness.held()
        harness.agents.agents.append(
            AgentRow(fingerprint="f", name="web-9", groups=("web",), is_connected=False, text="silent for 42 s")
        )
        harness.agents.waiting.append(
            PendingRow(fingerprint="SHA256:new", name="n", groups=("web",), hostname="host-9", requested_at=1)
        )
        harness.repositories.repositories.append(
            RepositoryRow(name="ops", url="/r", is_ready=False, text="authentication failed")
        )
        answered = (await client.get("/v1/attention")).json()
        assert [(item["kind"], (item["run"] or {}).get("id"), item["name"]) for item in answered["items"]] == [
            ("approval", soon, None),
            ("approval", late, None),
            ("failed", failed, None),
            ("agent", None, "web-9"),
            ("key", None, "SHA256:new"),
            ("repository", None, "ops"),
        ]
        assert answered["counts"] == {"approval": 2, "failed": 1, "agent": 1, "key": 1, "repository": 1}
        assert sum(answered["open"].values()) == 3
        first = answered["items"][0]
        assert (first["place"], first["actions"]) == ("gate/ask", ["approve", "reject"])
        assert first["due_at"] < answered["items"][1]["due_at"]
        assert running not in str(answered["items"])
        assert (await client.post(f"/v1/runs/{soon}/approve")).status_code == 200
        assert (await _attention(client))[0][1] == late


async def test_the_list_is_bounded_and_the_counts_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person cannot read is counted."""
    monkeypatch.setattr(attention, "OF_KIND_MAX", 3)
    async with ApiHarness() as harness, client_of(harness) as client:
        for number in range(10):
            harness.agents.agents.append(
                AgentRow(fingerprint=f"f{number}", name=f"web-{number}", groups=(), is_connected=False, text="silent")
            )
        answered = (await client.get("/v1/attention")).json()
        assert len(answered["items"]) == 3
        assert answered["counts"] == {"agent": 10}


# Filters ------------------------------------------------------------------------------------------------------------------


async def test_filters_are_combined_and_counted() -> None:
    """Each condition alone and all together; the counts are those of the same filter."""
    async with ApiHarness() as harness, client_of(harness) as client:
        harness.connect("web-1", "web")
        runs: dict[str, str] = {}
        for name, script in [("good", "exit 0"), ("bad", "exit 1"), ("held", "hold")]:
            runs[name] = await _start(
                harness, client, JOB.format(script=script), f"flows/{name}.yml", ends=script != "hold"
            )
        await harness.held()

        async def found(**query: Any) -> set[str]:
            page = (await client.get("/v1/runs", params=query)).json()
            counted = (await client.get("/v1/runs/counts", params=query)).json()
            assert counted["total"] == len(page["runs"])
            assert counted["more"] is False
            states = [row["conclusion"] or row["status"] for row in page["runs"]]
            assert counted["counts"] == {state: states.count(state) for state in states}
            return {name for name, run in runs.items() if run in [row["id"] for row in page["runs"]]}

        assert await found() == {"good", "bad", "held"}
        assert await found(status="failure,running") == {"bad", "held"}
        assert await found(status="completed") == {"good", "bad"}
        assert await found(text="FLOWS/g") == {"good"}
        assert await found(by="anonymous") == {"good", "bad", "held"}
        assert await found(by="ada") == set()
        assert await found(repository="ops") == set()
        assert await found(since="2001-01-01T00:00:00Z", until="2002-01-01T00:00:00Z") == set()
        assert await found(status="failure", text="bad", by="anonymous", trigger="api") == {"bad"}
        rows = {row["id"]: row for row in (await client.get("/v1/runs")).json()["runs"]}
        assert rows[runs["good"]]["duration_ms"] >= 0
        assert rows[runs["held"]]["duration_ms"] is None
        assert rows[runs["good"]]["head"] is None


@pytest.mark.parametrize(
    "query", ["status=failure,none", "status=", "status=a,", "until=x", "since=x", "text=" + "x" * 301]
)
async def test_wrong_filters_are_refused(query: str) -> None:
    """With the name of the parameter."""
    async with ApiHarness() as harness, client_of(harness) as client:
        for path in ("/v1/runs", "/v1/runs/counts"):
            answered = await client.get(f"{path}?{query}")
            assert answered.status_code == 400, answered.text
            assert query.partition("=")[0] in answered.json()["detail"]
