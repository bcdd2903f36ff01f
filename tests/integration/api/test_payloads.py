"""The route for Temporal's own tools: who may open what, what is recorded, and which web pages may use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from temporalio.api.common.v1 import Payload

from tests.integration.api.served import Served, serve
from waterflowd.access.events import AccessRefused, ActionTaken
from waterflowd.access.roles import Role
from waterflowd.api.routes import payloads
from waterflowd.temporal.sealing import codec
from waterflowd.temporal.sealing.payload_decoder import PayloadDecoder
from waterflowd.temporal.sealing.payload_keys import PayloadKeys

KEYS = PayloadKeys([bytes(range(32))])
PATH = "/v1/temporal/decode"
RUN = "run/01J8XQ5T3MZ6V0K9B7N2C4D1EF"
UI = "https://temporal.example:8233"


def body(*streams: str) -> dict[str, Any]:
    from google.protobuf import json_format

    made = [
        codec.seal(
            Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(f"in {stream}").encode()),
            stream,
            KEYS,
            number.to_bytes(24, "big"),
        )
        for number, stream in enumerate(streams)
    ]
    return {"payloads": [json_format.MessageToDict(payload) for payload in made]}


def install(served: Served, ui: str = "") -> None:
    served.harness.services.payloads = PayloadDecoder(KEYS)
    served.harness.services.temporal_ui = ui


async def test_a_viewer_sees_runs_and_only_an_admin_the_fleet(tmp_path: Path) -> None:
    """The same as through the rest of the API; one forbidden payload refuses the request."""
    async with serve(tmp_path) as served:
        install(served)
        viewer, admin = served.harness.token(Role.VIEWER), served.harness.token(Role.ADMIN)
        async with served.tcp(viewer) as client:
            answer = await client.post(
                PATH, json=body(RUN, "repo/ops", "lock/ops/deploy"), headers={"X-Namespace": "w"}
            )
            assert answer.status_code == 200, answer.text
            datas = [payload["data"] for payload in answer.json()["payloads"]]
            assert datas[0] == "ImluIHJ1bi8wMUo4WFE1VDNNWjZWMEs5QjdOMkM0RDFFRiI="
            for stream in ("fleet", "audit", "something-new", "runs"):
                refused = await client.post(PATH, json=body(RUN, stream))
                assert refused.status_code == 403
                assert refused.json()["detail"] == (
                    f'token "viewer" has role viewer; payloads of {stream} need role admin'
                )
                assert "data" not in refused.json()
        async with served.tcp(admin) as client:
            assert (await client.post(PATH, json=body("fleet", "audit"))).status_code == 200
        async with served.tcp() as client:
            assert (await client.post(PATH, json=body(RUN))).status_code == 401


async def test_a_reader_of_a_stream_is_recorded_once_an_hour(tmp_path: Path) -> None:
    """A page of Temporal's sends dozens of requests for one run."""
    async with serve(tmp_path) as served:
        install(served)
        async with served.tcp(served.harness.token(Role.VIEWER)) as client:
            for _ in range(3):
                await client.post(PATH, json=body(RUN, RUN))
            await client.post(PATH, json=body("repo/ops"))
            await client.post(PATH, json=body("fleet"))
            served.harness.clock.ahead_ms += payloads.RECORDED_AGAIN_MS
            # The token has expired by then.
        async with served.tcp(served.harness.token(Role.VIEWER, name="v2")) as client:
            await client.post(PATH, json=body(RUN))
            served.harness.clock.ahead_ms += payloads.RECORDED_AGAIN_MS // 100
            await client.post(PATH, json=body(RUN))
    facts = served.harness.audit()
    actions = [(fact.by, fact.what, fact.target) for fact in facts if isinstance(fact, ActionTaken)]
    assert actions == [
        ("viewer", "read-payloads", RUN),
        ("viewer", "read-payloads", "repo/ops"),
        ("v2", "read-payloads", RUN),
    ]
    assert [fact.code for fact in facts if isinstance(fact, AccessRefused)] == ["WF602"]


def test_recent_readers_are_bounded_and_forgotten_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest are recorded again."""
    monkeypatch.setattr(payloads, "_RECORDED_MAX", 2)
    readers = payloads.RecentReaders()
    for name in "abc":
        readers.add(name, RUN, 1000)
    assert [readers.is_new(name, RUN, 1001) for name in "abc"] == [True, False, False]
    assert readers.is_new("c", RUN, 1000 + payloads.RECORDED_AGAIN_MS)
    assert readers.is_new("c", "repo/ops", 1001)


async def test_requests_have_limits(tmp_path: Path) -> None:
    """On the size, the number of payloads, and the type of the content."""
    async with serve(tmp_path) as served, served.tcp(served.harness.token(Role.VIEWER)) as client:
        without = await client.post(PATH, json=body(RUN))
        assert (without.status_code, without.json()["code"]) == (404, "WF604")
        install(served)
        many = await client.post(PATH, json={"payloads": [{}] * (payloads.PAYLOADS_MAX + 1)})
        assert (many.status_code, many.json()["code"]) == (400, "WF605")
        large = await client.post(PATH, json={"payloads": [{"data": "A" * (payloads.BODY_BYTES_MAX)}]})
        assert large.status_code == 413
        for content in (
            b"{",
            b"[]",
            b'{"payloads": 1}',
            b'{"payloads": [{"data": "?"}]}',
            b'{"payloads": [{"data": 1}]}',
        ):
            malformed = await client.post(PATH, content=content, headers={"Content-Type": "application/json"})
            assert malformed.status_code == 400, content
        plain = await client.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"})
        assert plain.status_code == 415
        empty = await client.post(PATH, json={})
        assert (empty.status_code, empty.json()) == (200, {"payloads": []})


async def test_only_the_configured_page_may_use_it_and_only_this_route(tmp_path: Path) -> None:
    """It still needs a token; cookies are not allowed."""
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-namespace"}
    async with serve(tmp_path) as served:
        install(served, UI)
        async with served.tcp(served.harness.token(Role.VIEWER)) as client:
            answer = await client.post(
                PATH, json=body(RUN), headers={"Origin": UI, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
            )
            assert answer.status_code == 200, answer.text
            assert answer.headers["access-control-allow-origin"] == UI
            assert answer.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in answer.headers
            for origin in ("https://temporal.example", UI + ".evil.example", "null", UI.replace("https", "http"), ""):
                other = await client.post(PATH, json=body(RUN), headers={"Origin": origin})
                assert other.status_code == 403, origin
                assert "access-control-allow-origin" not in other.headers
            for path in ("/v1/validate", "/v1/runs", PATH + "/", "/v1/temporal/encode"):
                elsewhere = await client.post(path, json={}, headers={"Origin": UI})
                assert elsewhere.status_code == 403, path
                assert "access-control-allow-origin" not in elsewhere.headers
        async with served.tcp() as client:
            allowed = await client.options(PATH, headers={"Origin": UI, **preflight})
            assert (allowed.status_code, allowed.content) == (204, b"")
            assert allowed.headers["access-control-allow-methods"] == "POST"
            assert set(re.split(", ?", allowed.headers["access-control-allow-headers"])) == {
                "authorization",
                "authorization-extras",
                "content-type",
                "x-namespace",
            }
            # The page can read why it was refused.
            refused = await client.post(PATH, json=body(RUN), headers={"Origin": UI})
            assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, UI)
            for headers in ({"Origin": "https://evil.example", **preflight}, {"Origin": UI}):
                denied = await client.options(PATH, headers=headers)
                assert denied.status_code in (401, 403), headers
            other_path = await client.options("/v1/runs", headers={"Origin": UI, **preflight})
            assert other_path.status_code == 403
            served.harness.services.temporal_ui = ""
            assert (await client.options(PATH, headers={"Origin": UI, **preflight})).status_code == 403


async def test_preflights_count_for_the_rate_limit(tmp_path: Path) -> None:
    """They need no token, but cost a request."""
    async with serve(tmp_path, requests_per_s=1) as served:
        install(served, UI)
        headers = {"Origin": UI, "Access-Control-Request-Method": "POST"}
        async with served.tcp() as client:
            answers: list[httpx.Response] = [await client.options(PATH, headers=headers) for _ in range(8)]
    assert {answer.status_code for answer in answers} == {204, 429}
