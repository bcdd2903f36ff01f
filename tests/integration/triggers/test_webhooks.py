"""Webhooks over real HTTP, from the signature to the run: permission, repeated deliveries, and uniform rejections."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.reconcile.reconciler_harness import Work
from tests.integration.triggers.trigger_harness import NAP, SECRET, UNIONS, TriggerHarness, served
from tests.patience import PATIENCE_S
from waterflowd.access.events import AccessRefused, ActionTaken
from waterflowd.model.ids import AUDIT, RunId, repository_stream, run_stream
from waterflowd.reconcile import codes, webhooks
from waterflowd.reconcile import events as repository_events
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.store import opening
from waterflowd.store.codec import Codec
from waterflowd.testing.memory_log import MemoryLog

HOOKED = "name: hooked\non: {webhook: {name: release, secret: HOOK}}\n" + NAP
OTHER = "name: other\non: {webhook: {name: release, secret: HOOK}}\n" + NAP


def settings_of(work: Work, name: str = "ops") -> RepositorySettings:
    return RepositorySettings(name=name, url=str(work.bare), interval_ms=20_000)


def signature(body: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def signed(body: bytes, secret: str = SECRET, **more: str) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signature(body, secret)}"}
    return headers | {name.replace("_", "-"): value for name, value in more.items()}


class Hooked:
    """A daemon with one workflow that has a webhook."""

    def __init__(self, harness: TriggerHarness, work: Work, client: httpx.AsyncClient) -> None:
        self.harness = harness
        self.work = work
        self.client = client

    async def post(self, body: bytes, headers: dict[str, str], name: str = "release") -> httpx.Response:
        return await self.client.post(f"/v1/hooks/{name}", content=body, headers=headers)

    def event(self, answered: httpx.Response) -> dict[str, Any]:
        run = RunId(answered.json()["id"])
        payload: dict[str, Any] = self.harness.log.read(run_stream(run))[0].event.trigger.payload
        return payload


@pytest.fixture
async def hooked(tmp_path: Path) -> AsyncIterator[Hooked]:
    work = Work(tmp_path, "ops")
    work.pushed({"workflows/hooked.yml": HOOKED})
    async with TriggerHarness(MemoryLog(Codec(UNIONS)), settings_of(work)) as harness:
        await harness.sync()
        async with (
            served(harness, tmp_path) as address,
            httpx.AsyncClient(base_url=address, timeout=PATIENCE_S) as client,
        ):
            yield Hooked(harness, work, client)


async def test_a_signed_request_starts_the_workflow_of_the_applied_commit(hooked: Hooked) -> None:
    """It needs no token and accepts any `Host`; 202 with the run, the payload in `event`, and an audit record."""
    body = json.dumps({"action": "published", "release": {"tag": "v1"}}).encode()
    headers = signed(body, X_GitHub_Delivery="d-1", X_GitHub_Event="release", Host="ci.example.org")
    answered = await hooked.post(body, headers)
    assert answered.status_code == 202, answered.text
    (row,) = hooked.harness.runs()
    assert (row.id, row.path, row.trigger.kind) == (answered.json()["id"], "workflows/hooked.yml", "webhook")
    assert row.revision == hooked.work.git("rev-parse", "HEAD")
    assert row.trigger.key == "hook:ops:release:d-1"
    event = hooked.event(answered)
    assert event["release"] == {"tag": "v1"}
    assert event["name"] == "webhook"
    assert event["webhook"] == {"name": "release", "delivery": "d-1", "event": "release"}
    facts = [record.event for record in hooked.harness.log.read(AUDIT)]
    (noted,) = [fact for fact in facts if isinstance(fact, ActionTaken)]
    assert (noted.by, noted.what, noted.target) == ("hook:release", "start-run", "workflows/hooked.yml")


async def test_g6_a19_a_repeated_delivery_returns_the_first_run(hooked: Hooked) -> None:
    """The body does not matter; another id starts another run."""
    body = b'{"n": 1}'
    first = await hooked.post(body, signed(body, X_GitHub_Delivery="d-1"))
    again = await hooked.post(body, signed(body, X_Gitea_Delivery="d-1"))
    other = await hooked.post(b'{"n": 2}', signed(b'{"n": 2}', X_Waterflow_Delivery="d-1"))
    assert [answered.status_code for answered in (first, again, other)] == [202] * 3
    assert first.json()["id"] == again.json()["id"] == other.json()["id"]
    fresh = await hooked.post(body, signed(body, X_GitHub_Delivery="d-2"))
    assert fresh.json()["id"] != first.json()["id"]
    assert len(hooked.harness.runs()) == 2


async def test_g6_the_same_body_without_an_id_is_the_same_delivery_for_a_while(hooked: Hooked) -> None:
    """This holds across the boundary of two windows too; much later the same body starts a new run."""
    body = b'{"n": 1}'
    hooked.harness.ahead_ms = -(time.time_ns() // 1_000_000) + 300_000 * 1_000 - 1_000
    first = await hooked.post(body, signed(body))
    hooked.harness.ahead_ms += 60_000
    again = await hooked.post(body, signed(body))
    assert first.json()["id"] == again.json()["id"]
    hooked.harness.ahead_ms += 600_000
    later = await hooked.post(body, signed(body))
    assert later.json()["id"] != first.json()["id"]


async def test_g6_the_same_body_is_the_same_delivery_when_the_clock_is_set_back_a_little(hooked: Hooked) -> None:
    """The clock is set back from after the boundary of two windows to before it."""
    body = b'{"n": 1}'
    hooked.harness.ahead_ms = -(time.time_ns() // 1_000_000) + 300_000 * 1_000 + 100
    first = await hooked.post(body, signed(body))
    hooked.harness.ahead_ms -= 60_000
    again = await hooked.post(body, signed(body))
    assert first.json()["id"] == again.json()["id"]


async def test_g6_the_same_body_is_the_same_delivery_while_the_first_is_pending(hooked: Hooked) -> None:
    """Both wait for the disk, one at the end of a window and one at the beginning of the next."""
    body = b'{"n": 1}'
    log, driver = hooked.harness.log, hooked.harness.driver
    assert isinstance(log, MemoryLog)
    log.hold()
    seen = repository_events.EmptyRepositorySeen(at=hooked.harness.clock.now())
    blocking = asyncio.create_task(driver.record(repository_stream("other"), [seen]))
    await hooked.harness.until(lambda: len(log._held) == 1)
    hooked.harness.ahead_ms = -(time.time_ns() // 1_000_000) + 300_000 * 1_000 - 60_000
    first = asyncio.create_task(hooked.post(body, signed(body)))
    await hooked.harness.until(lambda: len(driver._items) == 1)
    hooked.harness.ahead_ms += 120_000
    again = asyncio.create_task(hooked.post(body, signed(body)))
    await hooked.harness.until(lambda: len(driver._items) == 2)
    log.release()
    await blocking
    assert (await first).json()["id"] == (await again).json()["id"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Hub-Signature": "sha1=" + hmac.new(SECRET.encode(), b"{}", hashlib.sha1).hexdigest()},
        {"X-Hub-Signature-256": signature(b"{}")},
        {"X-Hub-Signature-256": "sha256=" + signature(b"{}", "wrong")},
        {"X-Hub-Signature-256": "sha256="},
        {"X-Hub-Signature-256": "sha256=" + signature(b"{}"), "X-Gitea-Signature": signature(b"{}", "wrong")},
        {"X-Gitlab-Token": SECRET},
        {"Authorization": f"Bearer {SECRET}"},
        {"X-Hub-Signature-256": "sha256=" + signature(b"{}"), "X-Waterflow-Timestamp": "1"},
        {"X-Hub-Signature-256": "sha256=" + signature(b"1..{}"), "X-Waterflow-Timestamp": "1"},
        {"X-Hub-Signature-256": "sha256=" + signature(b"soon..{}"), "X-Waterflow-Timestamp": "soon"},
    ],
)
async def test_a19_an_invalid_signature_is_refused_without_a_hint(hooked: Hooked, headers: dict[str, str]) -> None:
    """A missing, wrong, SHA-1, token or old signature gets the response for an unknown webhook or a missing secret."""
    headers = {"Content-Type": "application/json", **headers}
    refused = await hooked.post(b"{}", headers)
    unknown = await hooked.post(b"{}", headers, "nothing")
    hooked.harness.secrets.clear()
    powerless = await hooked.post(b"{}", signed(b"{}"))
    assert refused.status_code == unknown.status_code == powerless.status_code == 401
    answers = [answered.json() for answered in (refused, unknown, powerless)]
    assert [answer.pop("instance") for answer in answers] == [
        "/v1/hooks/release",
        "/v1/hooks/nothing",
        "/v1/hooks/release",
    ]
    assert answers[0] == answers[1] == answers[2]
    assert hooked.harness.runs() == []
    await hooked.harness.until(
        lambda: any(isinstance(record.event, AccessRefused) for record in hooked.harness.log.read(AUDIT))
    )


async def test_a19_a_timestamp_is_signed_and_expires(hooked: Hooked) -> None:
    """`timestamp.delivery.body` is signed; no part can be omitted, and it expires."""
    now = int(time.time())
    body = b'{"n": 1}'

    def timed(at: int, delivery: str = "") -> dict[str, str]:
        more = {"X-Waterflow-Delivery": delivery} if delivery else {}
        return signed(f"{at}.{delivery}.".encode() + body) | {"X-Waterflow-Timestamp": str(at)} | more

    first = await hooked.post(body, timed(now))
    again = await hooked.post(body, timed(now))
    named = await hooked.post(body, timed(now, "d-1"))
    assert [answered.status_code for answered in (first, again, named)] == [202] * 3
    assert first.json()["id"] == again.json()["id"] != named.json()["id"]
    for refused in (
        (body, timed(now - 400)),
        (body, timed(now + 400)),
        # A delivery id other than the signed one.
        (body, timed(now, "d-1") | {"X-Waterflow-Delivery": "d-2"}),
        # The signed text as a body, without a timestamp.
        (f"{now}.d-1.".encode() + body, {k: v for k, v in timed(now, "d-1").items() if "Timestamp" not in k}),
    ):
        assert (await hooked.post(*refused)).status_code == 401
    assert len(hooked.harness.runs()) == 2


async def begun(hooked: Hooked, name: str, length: str, body: bytes) -> int:
    """Returns the status of the response to a request of which only the beginning was sent."""
    url = hooked.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        head = f"POST /v1/hooks/{name} HTTP/1.1\r\nHost: x\r\nX-Hub-Signature-256: sha256=0\r\n{length}\r\n"
        writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        async with asyncio.timeout(PATIENCE_S):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def test_a19_large_bodies_and_other_types_are_refused_first(hooked: Hooked) -> None:
    """50 MB with or without a declared length, and types other than JSON or a form, are refused for any webhook."""
    piece = b"10000\r\n" + b" " * (1 << 16) + b"\r\n"
    for name in ("release", "nothing"):
        assert await begun(hooked, name, f"Content-Length: {50 << 20}", b"") == 413
        # Without a length it is refused as soon as it is too large, and is not read to its end.
        assert await begun(hooked, name, "Transfer-Encoding: chunked", piece * 17) == 413
        typed = await hooked.post(b"{}", signed(b"{}") | {"Content-Type": "text/plain"}, name)
        assert typed.status_code == 415
    nested = b"[" * 100_000 + b"]" * 100_000
    for body in (b"{", b'"\xff"', nested, b'{"n": 1' + b"0" * 200 + b"}"):
        answered = await hooked.post(body, signed(body))
        assert answered.status_code == 400, answered.text
    wrong_id = await hooked.post(b"{}", signed(b"{}", X_GitHub_Delivery="a/b"))
    assert wrong_id.status_code == 400
    assert hooked.harness.runs() == []
    assert (await hooked.post(b"{}", signed(b"{}"))).status_code == 202


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"payload=%7B%22a%22%3A+1%7D", {"a": 1}),
        (b"a=1&b=2&b=3", {"a": "1", "b": ["2", "3"]}),
    ],
)
async def test_forms_are_accepted_and_githubs_is_unpacked(
    hooked: Hooked, body: bytes, expected: dict[str, Any]
) -> None:
    """GitHub's form has the JSON in one field."""
    headers = signed(body) | {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    event = hooked.event(await hooked.post(body, headers))
    assert {name: value for name, value in event.items() if name not in webhooks.RESERVED} == expected


async def test_githubs_ping_starts_nothing(hooked: Hooked) -> None:
    """A signed ping succeeds and is not an event; an unsigned one is refused."""
    ping = signed(b"{}", X_GitHub_Event="ping", X_GitHub_Delivery="d-1")
    assert (await hooked.post(b"{}", ping)).status_code == 204
    assert (await hooked.post(b"{}", ping, "nothing")).status_code == 401
    assert hooked.harness.runs() == []


@pytest.mark.parametrize("body", [b"[1, 2]", b'{"name": "evil", "webhook": 1}'])
async def test_a_payload_cannot_forge_the_webhook_context(hooked: Hooked, body: bytes) -> None:
    """A payload that is not an object, or has a reserved key, is put into `event.payload`."""
    event = hooked.event(await hooked.post(body, signed(body)))
    assert (event["name"], event["webhook"]["name"], event["payload"]) == ("webhook", "release", json.loads(body))


async def test_a_webhook_depends_on_its_file(hooked: Hooked) -> None:
    """If the file has errors or is suspended, a signed request gets the reason; once removed, the hook is unknown."""
    harness, work = hooked.harness, hooked.work
    work.pushed({"workflows/hooked.yml": "jobs: ["})
    await harness.sync()
    broken = await hooked.post(b"{}", signed(b"{}"))
    assert (broken.status_code, broken.json()["code"]) == (409, codes.BROKEN_WORKFLOW)
    work.pushed({"workflows/hooked.yml": HOOKED})
    await harness.sync()
    await harness.repositories.suspend("ops", "token:ada")
    suspended = await hooked.post(b"{}", signed(b"{}"))
    assert (suspended.status_code, suspended.json()["code"]) == (409, codes.SUSPENDED)
    await harness.repositories.resume("ops", "token:ada")
    work.pushed({"workflows/hooked.yml": None})
    await harness.sync()
    assert (await hooked.post(b"{}", signed(b"{}"))).status_code == 401


class Delayed:
    """Holds a delivery whose plan must be recompiled, as after a restart, until it is released."""

    def __init__(self, hooked: Hooked) -> None:
        loop = hooked.harness.reconciler.loop("ops")
        self._is_asked, self._may_go_on, self._plan = asyncio.Event(), asyncio.Event(), loop.plan_recovery.plan
        loop.plan_recovery.plan = self._slow  # type: ignore[method-assign, assignment]
        self._posting = asyncio.create_task(hooked.post(b"{}", signed(b"{}")))

    async def _slow(self, ref: Any, version: Any) -> bytes:
        self._is_asked.set()
        await self._may_go_on.wait()
        return await self._plan(ref, version)

    async def waits(self) -> None:
        await self._is_asked.wait()

    async def answered(self) -> httpx.Response:
        self._may_go_on.set()
        return await self._posting


async def test_a_suspension_applies_to_a_delivery_that_waits_for_its_plan(hooked: Hooked) -> None:
    """A confirmed suspension is final."""
    delayed = Delayed(hooked)
    await delayed.waits()
    await hooked.harness.repositories.suspend("ops", "token:ada")
    answered = await delayed.answered()
    assert (answered.status_code, answered.json()["code"]) == (409, codes.SUSPENDED)
    assert hooked.harness.runs() == []


@pytest.mark.parametrize(
    ("pushed", "status"),
    [("jobs: [", 409), (None, 404), (HOOKED.replace("name: hooked", "name: newer"), 202)],
    ids=["broken", "gone", "changed"],
)
async def test_a_delivery_that_waits_for_its_plan_starts_the_current_file(
    hooked: Hooked, pushed: str | None, status: int
) -> None:
    """A push arrives while the plan is compiled: an old file never runs at the new commit."""
    harness, work = hooked.harness, hooked.work
    delayed = Delayed(hooked)
    await delayed.waits()
    work.pushed({"workflows/hooked.yml": pushed})
    await harness.sync()
    answered = await delayed.answered()
    assert answered.status_code == status, answered.text
    assert [(row.name, row.revision) for row in harness.runs()] == (
        [("newer", work.git("rev-parse", "HEAD"))] if status == 202 else []
    )


async def test_a_name_belongs_to_the_file_that_had_it_first(tmp_path: Path) -> None:
    """This holds across repositories and restarts; the other file has an error until the name is free."""
    work, second = Work(tmp_path, "ops"), Work(tmp_path, "other")
    log = MemoryLog(Codec(UNIONS))
    settings = (settings_of(second, "other"), settings_of(work))
    async with TriggerHarness(log, *settings) as harness:
        await harness.sync()
        await harness.sync("other")
        work.pushed({"workflows/hooked.yml": HOOKED})
        await harness.sync()
        second.pushed({"workflows/a.yml": OTHER})
        await harness.sync("other")
        work.pushed({"workflows/a.yml": "on: {push: , webhook: {name: release, secret: HOOK}}\n" + NAP})
        await harness.sync()
        assert harness.runs() == []
    async with TriggerHarness(log, *settings) as harness:
        await harness.sync()
        await harness.sync("other")
        rows = {(row.repository, row.path): row for row in await harness.repositories.definitions()}
        assert {name for name, row in rows.items() if row.is_ready} == {("ops", "workflows/hooked.yml")}
        assert rows["other", "workflows/a.yml"].errors[0].code == codes.WEBHOOK_NAME_TAKEN
        # A renamed file keeps its name.
        work.pushed(
            {
                "workflows/hooked.yml": None,
                "workflows/a.yml": None,
                "workflows/z.yml": "on: {push: , webhook: {name: release, secret: HOOK}}\n" + NAP,
            }
        )
        await harness.sync()
        await harness.until(lambda: harness.paths() == ["workflows/z.yml"])
        row = (await harness.repositories.definitions())[0]
        assert (row.repository, row.is_ready) == ("other", False)
        # Once the name is free, the next file gets it.
        work.pushed({"workflows/z.yml": None})
        await harness.sync()
        assert [row.is_ready for row in await harness.repositories.definitions()] == [True]


async def test_g6_a_delivery_survives_a_restart(tmp_path: Path) -> None:
    """With a real log on disk its plan is compiled again, and the same delivery starts nothing after the restart."""
    work = Work(tmp_path, "ops")
    work.pushed({"workflows/hooked.yml": HOOKED})
    runs: list[str] = []
    for life in range(3):
        with opening.open_store(tmp_path / "data", UNIONS, ballast_bytes=0) as store:
            async with TriggerHarness(store.log, settings_of(work)) as harness:
                if life == 0:
                    await harness.sync()
                    continue
                async with (
                    served(harness, tmp_path) as address,
                    httpx.AsyncClient(base_url=address, timeout=PATIENCE_S) as client,
                ):
                    await harness.sync()
                    headers = signed(b"{}", X_GitHub_Delivery="d-1")
                    answered = await client.post("/v1/hooks/release", content=b"{}", headers=headers)
                    assert answered.status_code == 202, answered.text
                    runs.append(answered.json()["id"])
                assert [row.id for row in harness.runs()] == runs[:1]
    assert runs[0] == runs[1]
