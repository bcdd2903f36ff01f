"""Suspending and resuming a repository through the API."""

from __future__ import annotations

import httpx

from waterflowd.access.roles import Role
from waterflowd.admin.ports import RepositoryRow
from waterflowd.testing.api import ApiHarness


async def test_suspend_and_resume_are_in_the_audit_trail() -> None:
    """With the principal's name. For an unknown repository the error lists the known ones."""
    async with ApiHarness() as harness:
        transport = httpx.ASGITransport(harness.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            harness.repositories.repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True))
            for action, status in (("suspend", "degraded"), ("resume", "ready")):
                response = await client.post(f"/v1/repositories/ops/{action}")
                assert (response.status_code, response.json()["status"]) == (200, status)
                assert (harness.audit()[-1].what, harness.audit()[-1].target) == (f"{action}-repository", "ops")
                missing = await client.post(f"/v1/repositories/opps/{action}")
                assert (missing.status_code, "ops" in missing.json()["detail"]) == (404, True)


async def test_a_runner_may_not_suspend() -> None:
    """It takes the role approver, as for syncing."""
    async with ApiHarness(is_open=False) as harness:
        harness.repositories.repositories.append(RepositoryRow(name="ops", url="/r", is_ready=True))
        transport = httpx.ASGITransport(harness.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            for role, status in ((Role.RUNNER, 403), (Role.APPROVER, 200)):
                headers = {"Authorization": f"Bearer {harness.token(role)}"}
                response = await client.post("/v1/repositories/ops/suspend", headers=headers)
                assert response.status_code == status
