"""Every route with every role: a new route must be added to the table."""

from __future__ import annotations

import os
from typing import Any

import httpx
import pytest

from waterflow_agent.errors import Rejected
from waterflowd.access.peer_roles import PeerRoles
from waterflowd.access.roles import Role
from waterflowd.admin.ports import RepositoryRow, RevokedRow
from waterflowd.api import openapi
from waterflowd.api.access.auth import PEER_UID, PUBLIC, SIGN_IN
from waterflowd.api.app import ROUTERS
from waterflowd.model.ids import RunId, run_stream
from waterflowd.testing.api import ApiHarness

#: The minimum role of each route. Routes of the older name have the same role as the newer ones.
TABLE: dict[str, Role | None] = {
    "GET /health": None,
    "GET /ready": None,
    "GET /version": None,
    "GET /v1/schema": None,
    "POST /v1/hooks/{name}": None,
    "GET /metrics": Role.VIEWER,
    "GET /v1/status": Role.VIEWER,
    "GET /v1/events": Role.VIEWER,
    "POST /v1/validate": Role.VIEWER,
    "GET /v1/runs": Role.VIEWER,
    "POST /v1/runs": Role.RUNNER,
    "GET /v1/runs/{run_id}": Role.VIEWER,
    "GET /v1/runs/{run_id}/events": Role.VIEWER,
    "GET /v1/runs/{run_id}/logs": Role.VIEWER,
    "GET /v1/runs/{run_id}/output": Role.VIEWER,
    "GET /v1/runs/{run_id}/why": Role.VIEWER,
    "GET /v1/runs/{run_id}/diff": Role.VIEWER,
    "GET /v1/runs/{run_id}/output/search": Role.VIEWER,
    "GET /v1/runs/{run_id}/output/raw": Role.VIEWER,
    "GET /v1/runs/{run_id}/reports": Role.VIEWER,
    "GET /v1/runs/{run_id}/report": Role.VIEWER,
    "GET /v1/runs/{run_id}/report/text": Role.VIEWER,
    "GET /v1/runs/{run_id}/artifacts": Role.VIEWER,
    "GET /v1/runs/{run_id}/artifacts/{name}": Role.VIEWER,
    "DELETE /v1/runs/{run_id}/artifacts/{name}": Role.RUNNER,
    "GET /v1/runs/{run_id}/artifacts/{name}/content": Role.VIEWER,
    "GET /v1/runs/{run_id}/jobs": Role.VIEWER,
    "GET /v1/runs/{run_id}/steps": Role.VIEWER,
    "GET /v1/runs/{run_id}/outline": Role.VIEWER,
    "GET /v1/runs/counts": Role.VIEWER,
    "GET /v1/attention": Role.VIEWER,
    "GET /v1/live": Role.VIEWER,
    "POST /v1/runs/{run_id}/cancel": Role.RUNNER,
    "POST /v1/runs/{run_id}/rerun": Role.RUNNER,
    "POST /v1/runs/{run_id}/approve": Role.APPROVER,
    "POST /v1/runs/{run_id}/reject": Role.APPROVER,
    "GET /v1/definitions": Role.VIEWER,
    "GET /v1/definitions/{path}": Role.VIEWER,
    "POST /v1/definitions/{path}/run": Role.RUNNER,
    "GET /v1/repositories": Role.VIEWER,
    "POST /v1/repositories": Role.ADMIN,
    "PATCH /v1/repositories/{name}": Role.ADMIN,
    "DELETE /v1/repositories/{name}": Role.ADMIN,
    "POST /v1/repositories/{name}/sync": Role.APPROVER,
    "POST /v1/repositories/{name}/suspend": Role.APPROVER,
    "POST /v1/repositories/{name}/resume": Role.APPROVER,
    "GET /v1/caches": Role.VIEWER,
    "DELETE /v1/caches": Role.APPROVER,
    "GET /v1/schedules": Role.VIEWER,
    "GET /v1/agents": Role.VIEWER,
    "GET /v1/groups": Role.VIEWER,
    "GET /v1/nodes": Role.VIEWER,
    "POST /v1/agents/tokens": Role.OPERATOR,
    "POST /v1/agents/{fingerprint}/approve": Role.OPERATOR,
    "POST /v1/agents/{fingerprint}/accept": Role.OPERATOR,
    "POST /v1/agents/{fingerprint}/revoke": Role.OPERATOR,
    "GET /v1/agents/revoked": Role.VIEWER,
    "GET /v1/agents/{fingerprint}": Role.VIEWER,
    "POST /v1/agents/{fingerprint}/drain": Role.OPERATOR,
    "POST /v1/agents/{fingerprint}/undrain": Role.OPERATOR,
    "POST /v1/agents/{fingerprint}/groups": Role.OPERATOR,
    "POST /v1/agents/{fingerprint}/remove": Role.OPERATOR,
    "DELETE /v1/agents/{fingerprint}": Role.OPERATOR,
    "GET /v1/agents/tokens": Role.OPERATOR,
    "POST /v1/agents/tokens/{token_id}/revoke": Role.OPERATOR,
    "DELETE /v1/agents/tokens/{token_id}": Role.OPERATOR,
    "GET /v1/tokens": Role.ADMIN,
    "POST /v1/tokens": Role.ADMIN,
    "POST /v1/tokens/{name}/revoke": Role.ADMIN,
    "DELETE /v1/tokens/{name}": Role.ADMIN,
    "POST /v1/session": None,
    "GET /v1/session": Role.VIEWER,
    "DELETE /v1/session": Role.VIEWER,
    "POST /v1/session-links": Role.VIEWER,
    "GET /v1/audit": Role.ADMIN,
    "GET /v1/retention": Role.ADMIN,
    "POST /v1/retention/prune": Role.ADMIN,
    "POST /v1/reload": Role.ADMIN,
    "GET /v1/notify": Role.VIEWER,
    "POST /v1/notify/test": Role.ADMIN,
    "GET /v1/removed-runs": Role.VIEWER,
    "POST /v1/temporal/decode": Role.VIEWER,
}
ROUTES = list(openapi.routes(ROUTERS))
ENDLESS = "/v1/events"


def _newer(path: str) -> str:
    return path.replace("/v1/workflows", "/v1/runs")


def _client(harness: ApiHarness, secret: str | None, state: dict[str, Any] | None = None) -> httpx.AsyncClient:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {}).update(state or {})
        await harness.api(scope, receive, send)

    # What a page sends, and other clients may.
    headers = {"Origin": "http://localhost", "X-Waterflow": "1"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


def test_every_route_has_its_role_in_the_table() -> None:
    """The table must match the routes: it detects a new, removed or changed one."""
    found = {f"{method} {_newer(path)}": role for method, path, role in ROUTES}
    assert found == TABLE
    assert {f"GET {path}" for path in PUBLIC} - {"GET /openapi.json"} | {
        "POST /v1/hooks/{name}",
        f"POST {SIGN_IN}",
    } == {n for n, role in TABLE.items() if role is None}


@pytest.mark.parametrize(("method", "path", "needed"), ROUTES, ids=lambda value: str(getattr(value, "word", value)))
async def test_a_role_permits_exactly_the_routes_in_the_table(method: str, path: str, needed: Role | None) -> None:
    """401 without a token, 403 for a lower role, neither for a sufficient one; whether or not the resource exists."""
    async with ApiHarness(is_open=False) as harness:
        url = path.replace("{", "").replace("}", "")
        async with _client(harness, None) as anonymous:
            answered = await anonymous.request(method, url)
            assert (answered.status_code == 401) == (needed is not None), answered.text
        for role in Role:
            if path == ENDLESS and needed is not None and role.includes(needed):
                continue
            async with _client(harness, harness.token(role)) as client:
                answered = await client.request(method, url)
            is_refused = needed is not None and not role.includes(needed)
            assert (answered.status_code == 403) == is_refused, (role, answered.text)
            assert answered.status_code != 401
            if is_refused:
                assert answered.json()["code"] == "WF602"
                assert role.value in answered.json()["detail"]


async def test_the_unix_socket_has_roles_by_uid() -> None:
    """Listed users have their role, all others the default one; with `none` every request is rejected."""
    roles = PeerRoles.of("viewer", {"1007": "runner", "1008": "none", "nobody": "approver"})
    assert (roles.of_uid(1007), roles.of_uid(1008), roles.of_uid(4242)) == (Role.RUNNER, None, Role.VIEWER)
    assert (roles.of_uid(0), roles.of_uid(os.geteuid())) == (Role.ADMIN, Role.ADMIN)
    assert PeerRoles.of("admin", {"0": "viewer"}).of_uid(0) is Role.VIEWER
    async with ApiHarness(is_open=True) as harness:
        harness.services.peers = roles
        for uid, method, path, status in [
            (1007, "GET", "/v1/runs", 200),
            (1007, "GET", "/v1/tokens", 403),
            (1008, "GET", "/v1/runs", 403),
            (4242, "POST", "/v1/runs", 403),
            (0, "GET", "/v1/tokens", 200),
        ]:
            async with _client(harness, None, {PEER_UID: uid}) as client:
                answered = await client.request(method, path)
            assert answered.status_code == status, (uid, path, answered.text)


@pytest.mark.parametrize(("default", "users"), [("root", {}), ("viewer", {"no such user": "viewer"}), ("", {"0": "x"})])
def test_a_role_or_a_user_that_does_not_exist_is_an_error_of_the_configuration(
    default: str, users: dict[str, str]
) -> None:
    """The message names the key."""
    with pytest.raises(Rejected, match=r"api\.socket-"):
        PeerRoles.of(default, users)


# Groups -------------------------------------------------------------------------------------------------------------------

JOB = "jobs:\n  a:\n    runs-on: {group}\n    steps:\n      - uses: log\n        with: {{message: m}}\n"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/runs", {"yaml": JOB.format(group="db")}),
        ("POST", "/v1/runs", {"yaml": JOB.format(group="all")}),
        ("POST", "/v1/runs", {"yaml": JOB.format(group="db"), "dry_run": True}),
        ("POST", "/v1/definitions/on-db.yml/run", {}),
        ("POST", "/v1/agents/tokens", {"groups": ["db"]}),
        ("POST", "/v1/agents/tokens", {"groups": ["web", "db"]}),
        ("POST", "/v1/agents/db-1/approve", {"groups": ["web"]}),
        ("POST", "/v1/agents/web-1/approve", {"groups": ["db"]}),
        ("POST", "/v1/agents/db-1/revoke", {}),
        ("DELETE", "/v1/agents/db-1", None),
        ("POST", "/v1/agents/db-1/drain", None),
        ("POST", "/v1/agents/db-1/undrain", None),
        ("POST", "/v1/agents/db-1/groups", {"groups": ["web"]}),
        ("POST", "/v1/agents/web-1/groups", {"groups": ["db"]}),
        ("POST", "/v1/agents/db-1/remove", None),
        ("POST", "/v1/agents/gone/remove", None),
        ("POST", "/v1/tokens", {"role": "viewer"}),
        ("POST", "/v1/tokens", {"role": "admin", "groups": ["db"]}),
        ("POST", "/v1/tokens/whole/revoke", {}),
        ("POST", "/v1/agents/tokens/1/revoke", {}),
        ("DELETE", "/v1/agents/tokens/1", None),
        ("POST", "/v1/repositories/both/sync", None),
        ("POST", "/v1/repositories/every/suspend", None),
        ("POST", "/v1/repositories/every/resume", None),
    ],
)
async def test_a_token_for_a_group_reaches_no_other(method: str, path: str, body: dict[str, Any] | None) -> None:
    """Even an admin's: it starts nothing on others, approves no agents for them, and creates no token with more groups."""
    async with ApiHarness(is_open=False) as harness:
        harness.connect("web-1", "web")
        harness.connect("db-1", "db")
        harness.repositories.files["on-db.yml"] = JOB.format(group="db").encode()
        for name, groups in (("both", ("web", "db")), ("every", ("web*",))):
            harness.repositories.repositories.append(RepositoryRow(name=name, url="/r", is_ready=True, groups=groups))
        await harness.agents.create_token(("db",), 60_000, 1, "whole")
        harness.agents.revoked_keys.append(
            RevokedRow(fingerprint="SHA256:gone", name="gone", revoked_at=1, revoked_by="ada")
        )
        harness.token(Role.ADMIN, name="whole")
        bound = harness.token(Role.ADMIN, name="bound", groups=("web",))
        async with _client(harness, bound) as client:
            answered = await client.request(method, path, json=body)
        assert (answered.status_code, answered.json()["code"]) == (403, "WF602"), answered.text
        assert "bound" in answered.json()["detail"]
        assert {(row.name, row.groups) for row in harness.agents.rows()} == {("web-1", ("web",)), ("db-1", ("db",))}
        assert len(harness.agents.revoked()) == 1
        assert [row.revoked_at for row in harness.agents.join_tokens] == [None]
        assert harness.repositories.synced == []
        assert all(row.is_ready for row in harness.repositories.status())
        assert not [fact for fact in harness.audit() if type(fact).__name__ != "AccessRefused"]


async def test_a_token_for_a_group_works_for_that_group() -> None:
    """It starts runs, approves agents, and creates tokens with the same group."""
    async with ApiHarness(is_open=False) as harness:
        harness.connect("web-1", "web")
        harness.repositories.repositories.append(RepositoryRow(name="web", url="/r", is_ready=True, groups=("web",)))
        async with _client(harness, harness.token(Role.ADMIN, name="bound", groups=("web",))) as client:
            for path, body in [
                ("/v1/runs", {"yaml": JOB.format(group="web")}),
                ("/v1/agents/tokens", {"groups": ["web"]}),
                ("/v1/tokens", {"role": "runner", "groups": ["web"]}),
            ]:
                answered = await client.post(path, json=body)
                assert answered.status_code == 201, answered.text
            assert (await client.get("/v1/runs")).status_code == 200
            assert (await client.post("/v1/agents/web-1/revoke")).status_code == 200
            assert (await client.post("/v1/agents/tokens/1/revoke")).status_code == 200
            assert (await client.post("/v1/repositories/web/sync")).status_code == 202


async def test_a_rerun_has_only_the_groups_that_both_starters_may_use() -> None:
    """A run follows from the earlier one: a re-run of a restricted run by an admin stays restricted, and the reverse."""
    async with ApiHarness(is_open=False) as harness:
        harness.connect("web-1", "web")
        scopes: list[tuple[str, ...] | None] = []
        for first, second in [((), ("web",)), (("web", "db"), ()), (("web", "db"), ("web", "x")), ((), ())]:
            harness.token(Role.ADMIN, name=f"one-{len(scopes)}", groups=first)
            harness.token(Role.ADMIN, name=f"two-{len(scopes)}", groups=second)
            secrets = [f"wf_{name}-{len(scopes):0<39}" for name in ("one", "two")]
            async with _client(harness, secrets[0]) as one, _client(harness, secrets[1]) as two:
                run = (await one.post("/v1/runs", json={"yaml": JOB.format(group="web")})).json()["id"]
                await harness.completed(run)
                again = (await two.post(f"/v1/runs/{run}/rerun", json={})).json()["id"]
            created = harness.log.read(run_stream(RunId(again)), 1, 1)[0].event
            assert created.trigger.principal == f"two-{len(scopes)}"
            scopes.append(created.trigger.scope)
        assert scopes == [("web",), ("web", "db"), ("web",), None]


async def test_the_last_use_of_a_token_is_listed() -> None:
    """Null before the first use; a rejected request counts as a use too."""
    async with ApiHarness(is_open=False) as harness:
        secret = harness.token(Role.VIEWER)
        async with _client(harness, harness.token(Role.ADMIN)) as admin, _client(harness, secret) as viewer:
            rows = {row["name"]: row for row in (await admin.get("/v1/tokens")).json()["tokens"]}
            assert rows["viewer"]["used_at"] is None
            assert rows["admin"]["used_at"] is not None
            assert (await viewer.get("/v1/tokens")).status_code == 403
            rows = {row["name"]: row for row in (await admin.get("/v1/tokens")).json()["tokens"]}
            assert rows["viewer"]["used_at"] is not None
