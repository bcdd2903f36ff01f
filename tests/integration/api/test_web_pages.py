"""The web pages beside the API on one port: what needs a token, what a page may do, and that they can be left out."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from waterflowd.api.app import Api
from waterflowd.testing.api import ApiHarness
from waterflowd.web.files import WebFiles

BROWSER = {"accept": "text/html,*/*;q=0.8"}


def _client(harness: ApiHarness) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(harness.api), base_url="http://127.0.0.1:8080")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token, of an API with pages."""
    async with ApiHarness(is_open=False) as harness:
        harness.services.web = WebFiles()
        harness.api = Api(harness.services)
        async with _client(harness) as made:
            yield made


async def test_pages_need_no_token_and_hold_no_data(client: httpx.AsyncClient) -> None:
    """Every address shows the same page to everybody; the data behind it needs a token."""
    pages = [await client.get(path, headers=BROWSER) for path in ("/", "/runs/secret-name", "/signin")]
    assert {page.status_code for page in pages} == {200}
    assert len({page.text for page in pages}) == 1
    assert (await client.get("/v1/runs", headers=BROWSER)).status_code == 401


async def test_the_policy_allows_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    """Scripts, styles and requests only from here, no frames, and no markup made of text."""
    page = await client.get("/", headers=BROWSER)
    policy = page.headers["content-security-policy"]
    for rule in (
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ):
        assert rule in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


async def test_all_files_of_the_page_exist_and_are_kept(client: httpx.AsyncClient) -> None:
    """What the page names is answered compressed and immutable; other names are not found, without a page in their place."""
    page = await client.get("/", headers=BROWSER)
    names = re.findall(r'"(/assets/[^"]+)"', page.text)
    assert len(names) == 4
    for name in names:
        file = await client.get(name)
        assert (file.status_code, file.headers["content-encoding"]) == (200, "gzip")
        assert file.headers["cache-control"].startswith("public, max-age=31536000, immutable")
        assert (await client.get(name, headers={"if-none-match": file.headers["etag"]})).status_code == 304
    unknown = await client.get("/assets/0/app.js", headers=BROWSER)
    assert unknown.status_code == 404
    assert unknown.headers["content-type"] == "application/problem+json"


async def test_programs_get_answers_of_the_api(client: httpx.AsyncClient) -> None:
    """Without `text/html` in `Accept`, an unknown address is a problem as before; changes are never pages."""
    assert (await client.get("/nothing")).headers["content-type"] == "application/problem+json"
    assert (await client.post("/", headers=BROWSER)).status_code == 401


async def test_pages_are_only_for_this_host(client: httpx.AsyncClient) -> None:
    """A foreign name that leads here (DNS rebinding) gets no page."""
    assert (await client.get("/", headers={**BROWSER, "host": "attacker.example"})).status_code == 403


async def test_pages_can_be_left_out() -> None:
    """With `api.web = false` the same addresses are those of an API without pages."""
    async with ApiHarness(is_open=False) as harness, _client(harness) as client:
        assert (await client.get("/", headers=BROWSER)).status_code == 401
