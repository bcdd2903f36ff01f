"""The audit trail: actions and rejections are recorded durably, at a limited rate, and only admins can read them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from waterflow_agent.errors import Retryable
from waterflowd.access import audit_trail
from waterflowd.access.events import AccessRefused
from waterflowd.access.roles import Role
from waterflowd.admin.ports import PendingRow, RepositoryRow
from waterflowd.api.timestamps import timestamp
from waterflowd.testing.api import ApiHarness
from waterflowd.testing.awaiting import until

WORKFLOW = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n"
ASKING = "SHA256:" + "n" * 43


def _client(harness: ApiHarness, secret: str | None = None, address: str = "192.0.2.7") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    transport = httpx.ASGITransport(harness.api, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


def _refused(harness: ApiHarness) -> list[AccessRefused]:
    return [fact for fact in harness.audit() if isinstance(fact, AccessRefused)]


async def test_every_action_is_in_the_audit_trail() -> None:
    """One entry per action, newest first, with the documented words."""
    async with ApiHarness(is_open=False) as harness:
        harness.connect("web-1", "web")
        harness.repositories.repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True))
        harness.repositories.files["one.yml"] = WORKFLOW.encode()
        harness.agents.waiting.append(
            PendingRow(fingerprint=ASKING, name="new", groups=(), hostname="h", requested_at=1)
        )
        began = harness.clock.now()
        async with _client(harness, harness.token(Role.ADMIN, name="ada")) as client:
            runs = [
                (await client.post("/v1/runs", json={"yaml": WORKFLOW, "path": "sent.yml"})).json()["id"],
                (await client.post("/v1/definitions/one.yml/run", json={})).json()["id"],
            ]
            await client.post("/v1/runs", json={"yaml": WORKFLOW, "dry_run": True})
            for path, body in [
                (f"/v1/runs/{runs[0]}/cancel", {"force": True}),
                ("/v1/agents/tokens", {"groups": ["web"], "uses": 2}),
                (f"/v1/agents/{ASKING}/approve", {"groups": ["web"]}),
                ("/v1/agents/new/revoke", {}),
                ("/v1/repositories/ops/sync", {}),
                ("/v1/repositories/ops/suspend", {}),
                ("/v1/repositories/ops/resume", {}),
                ("/v1/tokens", {"role": "viewer", "name": "ci", "ttl": "1h"}),
                ("/v1/tokens/ci/revoke", {}),
            ]:
                answered = await client.post(path, json=body)
                assert answered.is_success, answered.text
            page = (await client.get("/v1/audit")).json()
            rows: list[dict[str, Any]] = page["audit"]
            assert page["next"] is None
            assert [(row["what"], row["target"]) for row in reversed(rows)] == [
                ("start-run", "sent.yml"),
                ("start-run", "one.yml"),
                ("cancel-run", runs[0]),
                ("create-join-token", "web"),
                ("approve-agent", ASKING),
                ("revoke-agent", ASKING),
                ("sync-repository", "ops"),
                ("suspend-repository", "ops"),
                ("resume-repository", "ops"),
                ("create-token", "ci"),
                ("revoke-token", "ci"),
            ]
            assert {row["by"] for row in rows} == {"ada"}
            assert [row["facts"].get("run") for row in reversed(rows)][:2] == runs
            assert rows[0]["seq"] == len(rows)
            assert sorted(row["at"] for row in rows) == [row["at"] for row in reversed(rows)]
            assert rows[-1]["at"] >= timestamp(began)
            assert "secret" not in str(rows)


async def test_the_audit_trail_is_paged_and_filtered() -> None:
    """Newest first without gaps; filters are the author, the action and the time."""
    async with ApiHarness(is_open=False) as harness:
        harness.repositories.repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True))
        ada, bob = (harness.token(Role.ADMIN, name=name) for name in ("ada", "bob"))
        for number in range(7):
            async with _client(harness, ada if number % 2 else bob) as client:
                await client.post(f"/v1/repositories/ops/{'suspend' if number < 3 else 'sync'}")
        async with _client(harness, ada) as client:

            async def every(**filters: Any) -> list[int]:
                found: list[int] = []
                cursor: str | None = None
                while True:
                    requested = {"limit": 2, **filters} | ({"cursor": cursor} if cursor else {})
                    page = (await client.get("/v1/audit", params=requested)).json()
                    found += [row["seq"] for row in page["audit"]]
                    cursor = page["next"]
                    if cursor is None:
                        return found

            assert await every() == [7, 6, 5, 4, 3, 2, 1]
            assert await every(by="ada") == [6, 4, 2]
            assert await every(what="suspend-repository") == [3, 2, 1]
            third = (await client.get("/v1/audit", params={"cursor": "4", "limit": 1})).json()["audit"][0]
            assert await every(since=third["at"]) == [7, 6, 5, 4, 3]
            assert (await client.get("/v1/audit", params={"cursor": "x"})).status_code == 400
            assert (await client.get("/v1/audit", params={"since": "yesterday"})).status_code == 400


async def test_rejections_are_recorded() -> None:
    """With the principal if it is known, otherwise the address; the content of the request cannot forge an entry."""
    async with ApiHarness(is_open=False) as harness:
        async with _client(harness) as anonymous:
            await anonymous.get("/v1/runs")
            await anonymous.get("/v1/%1b[31mred", headers={"Authorization": "Bearer wf_guess"})
            await anonymous.get("/health", headers={"Host": "evil.example"})
        async with _client(harness, harness.token(Role.VIEWER)) as viewer:
            await viewer.post("/v1/tokens", json={"role": "admin"})
        await until(lambda: len(_refused(harness)) == 4)
        assert [(fact.by, fact.door, fact.code, fact.target) for fact in _refused(harness)] == [
            ("192.0.2.7", "api", "WF601", "GET /v1/runs"),
            ("192.0.2.7", "api", "WF601", "GET /v1/\\x1b[31mred"),
            ("192.0.2.7", "api", "WF603", "GET /health"),
            ("viewer", "api", "WF602", "POST /v1/tokens"),
        ]


async def test_records_of_rejections_are_rate_limited_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One source is limited, all sources together too, and later records are possible again."""
    async with ApiHarness(is_open=False) as harness:
        # It does not advance: otherwise a flood that takes a minute would be accepted again.
        began = harness.clock.now()
        monkeypatch.setattr(harness.clock, "now", lambda: began + harness.clock.ahead_ms)
        async with _client(harness) as anonymous:
            for _ in range(50):
                assert (await anonymous.get("/v1/runs")).status_code == 401
        assert len(_refused(harness)) <= audit_trail.SOURCE_BURST
        for number in range(150):
            async with _client(harness, address=f"192.0.2.{number}") as anonymous:
                await anonymous.get("/v1/runs")
        await until(lambda: len(_refused(harness)) >= audit_trail.BURST)
        assert len(_refused(harness)) == audit_trail.BURST
        harness.clock.ahead_ms += 120_000
        async with _client(harness, address="198.51.100.1") as anonymous:
            await anonymous.get("/v1/runs")
        await until(lambda: len(_refused(harness)) == audit_trail.BURST + 1)
        assert sum(1 + fact.left_out for fact in _refused(harness)) == 50 + 150 + 1


async def test_rejections_of_the_ports_for_agents_are_recorded() -> None:
    """At the same limited rate, with the fingerprint or the address."""
    async with ApiHarness() as harness:
        for _ in range(100):
            harness.services.audit.agent_rejected("WF212", "key \x1b[2Jabc is not approved", "192.0.2.9")
        await until(lambda: len(_refused(harness)) == audit_trail.SOURCE_BURST)
        first = _refused(harness)[0]
        assert (first.by, first.door, first.code) == ("192.0.2.9", "agents", "WF212")
        assert "\x1b" not in first.target


async def test_a_full_disk_does_not_change_the_answer_to_a_rejected_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is counted as left out and reported later."""
    async with ApiHarness(is_open=False) as harness:
        record = harness.driver.record
        tried: list[object] = []

        async def full(*values: Any) -> None:
            tried.append(values)
            raise Retryable("WF302", "the disk is full")

        async with _client(harness) as anonymous:
            monkeypatch.setattr(harness.driver, "record", full)
            assert (await anonymous.get("/v1/runs")).status_code == 401
            await until(lambda: bool(tried))
            monkeypatch.setattr(harness.driver, "record", record)
            assert (await anonymous.get("/v1/status")).status_code == 401
        await until(lambda: len(_refused(harness)) == 1)
        assert _refused(harness)[0].left_out == 1
