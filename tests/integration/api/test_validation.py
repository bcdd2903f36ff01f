"""Validations and dry runs name what the configuration does not let a workflow use, as a push or a start would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from waterflowd.access.policy import AccessPolicy, EnvironmentRules, Grant
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.testing.api import ApiHarness

JOB = "{{runs-on: {group}, steps: [{{run: print x, env: {{V: '${{{{ secrets.{secret} }}}}'}}}}]}}"
SHOP = RepositorySettings(name="shop", url="/srv/shop.git", groups=("web*",), webhook_keys=("SHOP_HOOK",))
GRANTS = (
    Grant(secrets=("KEY",), repositories=("shop",)),
    Grant(secrets=("SENT",), without_repository=True),
)
CALLER = "jobs: {a: {uses: ./lib/b.yml, secrets: inherit}}"


def workflow(group: str = "web", secret: str = "KEY", more: str = "") -> str:
    return f"{more}jobs:\n  a: {JOB.format(group=group, secret=secret)}\n"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with ApiHarness() as harness:
        harness.connect("web-1", "web")
        harness.services.access = AccessPolicy(
            [SHOP], [EnvironmentRules(name="production", groups=("web-prod",))], GRANTS
        )
        transport = httpx.ASGITransport(app=harness.api)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client


@pytest.mark.parametrize(
    ("text", "repository", "code", "line"),
    [
        (workflow(), "shop", None, None),
        (workflow(secret="SENT"), None, None, None),
        (workflow(), None, "WF529", "without-repository = true"),
        (workflow(secret="SENT"), "shop", "WF529", 'secrets = ["SENT"]\nrepositories = ["shop"]\ngroups = ["web"]'),
        (workflow(secret="SHOP_HOOK"), "shop", "WF529", ""),
        (workflow(group="db"), "shop", "WF526", "use one of its groups (web*)"),
        (workflow(group="web-prod"), "shop", "WF528", "environment: production"),
        (
            workflow(more="on: {webhook: {name: n, secret: OTHER}}\n"),
            "shop",
            "WF530",
            'webhook-keys = ["SHOP_HOOK", "OTHER"]',
        ),
    ],
)
async def test_a_validation_names_what_may_not_be_used(
    client: httpx.AsyncClient, text: str, repository: str | None, code: str | None, line: str | None
) -> None:
    """The error has the line of the job and the lines to add; the name of the repository may be in the body or the query."""
    body = {"yaml": text, "path": "workflows/a.yml"}
    answers = [
        await client.post("/v1/validate", json=body | ({"repository": repository} if repository else {})),
        await client.post(
            "/v1/validate",
            content=text,
            params={"path": "workflows/a.yml"} | ({"repository": repository} if repository else {}),
            headers={"Content-Type": "application/yaml"},
        ),
    ]
    for answer in answers:
        if code is None:
            assert answer.status_code == 200, answer.text
            continue
        assert answer.status_code == 422, answer.text
        (error,) = answer.json()["errors"]
        assert (error["code"], error["path"]) == (code, "workflows/a.yml")
        assert line is not None
        assert line in error["suggestion"]


async def test_files_that_a_workflow_uses_are_sent_with_it(client: httpx.AsyncClient) -> None:
    """The error names the line of the calling job; a file that is missing is an error of the workflow."""
    body: dict[str, Any] = {"yaml": f"name: caller\n{CALLER}\n", "repository": "shop"}
    callee = workflow(secret="NONE", more="on: {workflow_call: {}}\n")
    answer = await client.post("/v1/validate", json=body | {"files": {"lib/b.yml": callee}})
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["code"], error["line"]) == (422, "WF529", 2)
    assert error["message"] == 'job "a/a": no grant lets repository "shop" read secret NONE here'
    granted = callee.replace("NONE", "KEY")
    answer = await client.post("/v1/validate", json=body | {"files": {"lib/b.yml": granted}})
    assert answer.status_code == 200, answer.text
    for files in ({}, {"lib/c.yml": granted}):
        answer = await client.post("/v1/validate", json=body | {"files": files})
        assert answer.status_code == 422
        assert "lib/b.yml" in answer.json()["errors"][0]["message"]


async def test_an_unknown_repository_is_a_404_that_names_the_known_ones(client: httpx.AsyncClient) -> None:
    """A typing error must not look like a workflow without errors."""
    answer = await client.post("/v1/validate", json={"yaml": workflow(), "repository": "shopp"})
    assert (answer.status_code, answer.json()["code"]) == (404, "WF604")
    assert 'repository "shopp" not found; configured repositories: shop' in answer.json()["detail"]


async def test_a_dry_run_is_refused_like_the_start(client: httpx.AsyncClient) -> None:
    """The same status, code and lines; and with a grant the same dry run is valid."""
    refused = await client.post("/v1/runs", json={"yaml": workflow(), "dry_run": True})
    assert (refused.status_code, refused.json()["code"]) == (403, "WF529")
    assert "without-repository = true" in refused.json()["detail"]
    allowed = await client.post("/v1/runs", json={"yaml": workflow(secret="SENT"), "dry_run": True})
    assert allowed.status_code == 200
