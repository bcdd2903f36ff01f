"""Sessions of browsers: signing in, the cookie, what a page of another origin can do with it, and how a session ends."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest

from waterflowd.access import browser_sessions
from waterflowd.access.browser_sessions import BrowserSessions
from waterflowd.access.events import AccessRefused
from waterflowd.access.peer_roles import PeerRoles
from waterflowd.access.roles import Principal, Role
from waterflowd.access.tokens import TokenRegistry
from waterflowd.api.access import wrong_secrets
from waterflowd.api.access.auth import PEER_UID
from waterflowd.api.streaming import streams
from waterflowd.testing.api import ApiHarness
from waterflowd.testing.awaiting import until

WORKFLOW = "jobs:\n  a:\n    runs-on: web\n    steps:\n      - run: hold\n"
NAME = "waterflow-AAAAAAAA"
#: What a page of the daemon sends with every request that changes something.
PAGE = {"Origin": "http://localhost", "X-Waterflow": "1"}


class Browser:
    """A browser that shows a page of the daemon, with its cookies."""

    def __init__(
        self, harness: ApiHarness, base: str = "http://localhost", state: dict[str, Any] | None = None
    ) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("state", {}).update(state or {})
            await harness.api(scope, receive, send)

        self.base = base
        self.cookie = ""
        self.attributes = ""
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base)

    async def send(self, method: str, path: str, headers: dict[str, str] | None = None, **other: Any) -> httpx.Response:
        """Sends a request with the cookie and exactly these headers."""
        sent = dict(headers or {}) | ({"Cookie": self.cookie} if self.cookie else {})
        self.http.cookies.clear()
        answered = await self.http.request(method, path, headers=sent, **other)
        if "set-cookie" in answered.headers:
            self.cookie, _, self.attributes = answered.headers["set-cookie"].partition("; ")
        return answered

    async def act(self, method: str, path: str, **other: Any) -> httpx.Response:
        """Sends a request as a page of the daemon does."""
        return await self.send(method, path, {"Origin": self.base, "X-Waterflow": "1"}, **other)

    async def sign_in(self, secret: str) -> dict[str, Any]:
        answered = await self.act("POST", "/v1/session", json={"token": secret})
        assert answered.status_code == 201, answered.text
        content: dict[str, Any] = answered.json()
        return content


def _refusals(harness: ApiHarness) -> list[tuple[str, str]]:
    return [(fact.code, fact.target) for fact in harness.audit() if isinstance(fact, AccessRefused)]


async def test_a_session_is_a_token_of_the_browser_with_the_name_role_and_groups_of_the_one_shown() -> None:
    """It does what the token may do and no more, under the same name; the answer has no secret, and the trail names it."""
    async with ApiHarness(is_open=False) as harness:
        harness.connect("web-1", "web")
        secret = harness.token(Role.RUNNER, name="ada", groups=("web",))
        browser = Browser(harness)
        begun = await browser.sign_in(secret)
        assert {**begun, "expires_at": None} == {
            "by": "ada",
            "role": "runner",
            "groups": ["web"],
            "way": "session",
            "expires_at": None,
        }
        assert (await browser.send("GET", "/v1/session")).json()["way"] == "session"
        assert re.fullmatch(rf"__Host-{NAME}=wfs_[\w-]{{43}}", browser.cookie)
        assert browser.attributes == "Max-Age=604800; Path=/; HttpOnly; SameSite=Strict; Secure"
        started = await browser.act("POST", "/v1/runs", json={"yaml": WORKFLOW})
        assert started.status_code == 201, started.text
        assert (await browser.act("POST", "/v1/runs", json={"yaml": WORKFLOW.replace("web", "db")})).status_code == 403
        assert (await browser.send("GET", "/v1/tokens")).status_code == 403
        assert (await browser.send("GET", f"/v1/runs/{started.json()['id']}")).json()["trigger"]["principal"] == "ada"
        admin = Browser(harness)
        await admin.sign_in(harness.token(Role.ADMIN, name="root"))
        rows = (await admin.send("GET", "/v1/tokens")).json()["tokens"]
        sessions = {(row["name"], row["parent"], row["status"]) for row in rows if row["parent"] is not None}
        assert sessions == {("ada", "t-ada", "valid"), ("root", "t-root", "valid")}
        entries = (await admin.send("GET", "/v1/audit")).json()["audit"]
        assert [(row["by"], row["what"], row["facts"]["parent"]) for row in entries if "session" in row["what"]] == [
            ("root", "begin-session", "t-root"),
            ("ada", "begin-session", "t-ada"),
        ]
        everything = str(harness.audit()) + str(rows) + str(entries) + str(begun)
        assert browser.cookie.partition("=")[2] not in everything


@pytest.mark.parametrize(
    ("url", "base", "name", "is_secure"),
    [
        ("", "http://localhost:8080", f"__Host-{NAME}", True),
        ("", "http://127.0.0.1:8080", f"__Host-{NAME}", True),
        ("", "http://[::1]:8080", f"__Host-{NAME}", True),
        ("", "http://10.0.0.5:8080", NAME, False),
        ("https://flow.internal", "https://flow.internal", f"__Host-{NAME}", True),
        ("http://flow.internal:8080", "http://flow.internal:8080", NAME, False),
    ],
)
async def test_the_cookie_is_as_strict_as_the_address_permits(url: str, base: str, name: str, is_secure: bool) -> None:
    """`__Host-` and `Secure` with https and on this machine. The other name does not count there."""
    async with ApiHarness(is_open=False, listen="0.0.0.0:8080", api_url=url) as harness:
        browser = Browser(harness, base)
        await browser.sign_in(harness.token(Role.VIEWER))
        assert browser.cookie.partition("=")[0] == name
        assert ("Secure" in browser.attributes) == is_secure
        assert "HttpOnly; SameSite=Strict" in browser.attributes
        assert (await browser.send("GET", "/v1/runs")).status_code == 200
        other = NAME if is_secure else f"__Host-{NAME}"
        browser.cookie = browser.cookie.replace(name, other)
        assert (await browser.send("GET", "/v1/runs")).status_code == 401


FOREIGN: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://evil.example", "X-Waterflow": "1"},
    {"Origin": "null", "X-Waterflow": "1"},
    {"Origin": "http://localhost:3000", "X-Waterflow": "1", "Sec-Fetch-Site": "same-site"},
    {"Origin": "http://localhost", "X-Waterflow": "1", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://localhost"},
    {"Origin": "http://localhost", "X-Waterflow": "0"},
    {"X-Waterflow": "1"},
    {},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_page_of_another_origin_changes_nothing_with_the_cookie(headers: dict[str, str]) -> None:
    """Every way in which it could post is refused, nothing changes, and the audit trail has the refusal."""
    async with ApiHarness(is_open=False) as harness:
        harness.connect("web-1", "web")
        browser = Browser(harness)
        await browser.sign_in(harness.token(Role.ADMIN, name="ada"))
        before = len(harness.audit())
        for method, path, body in [
            ("POST", "/v1/runs", {"yaml": WORKFLOW}),
            ("POST", "/v1/tokens", {"role": "admin", "name": "evil"}),
            ("POST", "/v1/session-links", {}),
            ("DELETE", "/v1/session", None),
        ]:
            answered = await browser.send(method, path, headers, json=body)
            assert (answered.status_code, answered.json()["code"]) == (403, "WF603"), (path, answered.text)
        await until(lambda: len(harness.audit()) == before + 4)
        assert _refusals(harness) == [
            ("WF603", "POST /v1/runs"),
            ("WF603", "POST /v1/tokens"),
            ("WF603", "POST /v1/session-links"),
            ("WF603", "DELETE /v1/session"),
        ]
        assert (await browser.send("GET", "/v1/runs")).json()["runs"] == []
        assert (await browser.send("GET", "/v1/session")).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_origin_reads_nothing_with_the_cookie(site: str) -> None:
    """It could not see the answer, but would hold the streams of its victim. Links from elsewhere send no cookie at all."""
    async with ApiHarness(is_open=False) as harness:
        browser = Browser(harness)
        await browser.sign_in(harness.token(Role.ADMIN))
        answered = await browser.send("GET", "/v1/events", {"Sec-Fetch-Site": site})
        assert (answered.status_code, answered.json()["code"]) == (403, "WF603")
        assert (await browser.send("GET", "/v1/runs", {"Sec-Fetch-Site": "same-origin"})).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_page_of_another_origin_signs_nobody_in(headers: dict[str, str]) -> None:
    """Otherwise it could let its visitor act under another name."""
    async with ApiHarness(is_open=False) as harness:
        secret, browser = harness.token(Role.VIEWER), Browser(harness)
        answered = await browser.send("POST", "/v1/session", headers, json={"token": secret})
        assert (answered.status_code, answered.json()["code"]) == (403, "WF603"), answered.text
        assert not browser.cookie


async def test_the_cookie_and_the_header_do_not_replace_each_other() -> None:
    """With an `Authorization` header the cookie does not count; neither secret is valid in the place of the other."""
    async with ApiHarness(is_open=False) as harness:
        secret, browser = harness.token(Role.ADMIN), Browser(harness)
        await browser.sign_in(secret)
        for authorization in ("Bearer wf_wrong", "Basic eDp5", "Bearer"):
            assert (await browser.send("GET", "/v1/runs", {"Authorization": authorization})).status_code == 401
        name, _, value = browser.cookie.partition("=")
        stranger = Browser(harness)
        assert (await stranger.send("GET", "/v1/runs", {"Authorization": f"Bearer {value}"})).status_code == 401
        stranger.cookie = f"{name}={secret}"
        assert (await stranger.send("GET", "/v1/runs")).status_code == 401
        answered = await stranger.act("POST", "/v1/session", json={"token": value})
        assert answered.status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"token": None},
        {"token": "wf_x", "code": "y"},
        {"token": 3},
        {"secret": "x"},
        [],
        {"code": "x", "next": "/"},
    ],
)
async def test_a_malformed_sign_in_is_a_400(body: Any) -> None:
    """The answer says what is expected."""
    async with ApiHarness(is_open=False) as harness:
        answered = await Browser(harness).act("POST", "/v1/session", json=body)
        assert (answered.status_code, answered.json()["code"]) == (400, "WF605"), answered.text


async def test_wrong_secrets_are_limited_per_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for wrong tokens in headers; a valid token from the same address still signs in."""
    # However slow the machine is, none of them is forgotten during the test.
    monkeypatch.setattr(wrong_secrets, "_PER_S", 1e-6)
    async with ApiHarness(is_open=False) as harness:
        browser = Browser(harness)
        for body in [{"token": "wf_wrong"}, {"code": "wrong"}] * 10:
            assert (await browser.act("POST", "/v1/session", json=body)).status_code == 401
        refused = await browser.act("POST", "/v1/session", json={"code": "wrong"})
        assert (refused.status_code, refused.json()["code"]) == (429, "WF611")
        assert "retry-after" in refused.headers
        await browser.sign_in(harness.token(Role.VIEWER))


# How a session ends -------------------------------------------------------------------------------------------------------


async def test_a_session_ends_when_its_user_signs_out() -> None:
    """The cookie is deleted and no longer valid; other sessions of the token continue."""
    async with ApiHarness(is_open=False) as harness:
        secret = harness.token(Role.ADMIN, name="ada")
        browser, other = Browser(harness), Browser(harness)
        await browser.sign_in(secret)
        await other.sign_in(secret)
        kept = browser.cookie
        assert (await browser.act("DELETE", "/v1/session")).status_code == 204
        assert browser.cookie == f"__Host-{NAME}="
        assert browser.attributes.startswith("Max-Age=0; ")
        browser.cookie = kept
        answered = await browser.send("GET", "/v1/runs")
        assert answered.status_code == 401
        assert "sign in again" in answered.json()["detail"]
        assert (await browser.send("GET", "/health")).status_code == 200
        entries = (await other.send("GET", "/v1/audit")).json()["audit"]
        # Refusals are recorded soon, so they may be before or after it.
        assert [row["by"] for row in entries if row["what"] == "end-session"] == ["ada"]
        by_header = {"Authorization": f"Bearer {secret}"}
        assert (await other.send("DELETE", "/v1/session", by_header)).status_code == 409


@pytest.mark.parametrize("end", ["revoke the token", "revoke the session", "expire the token"])
async def test_a_session_and_its_streams_end_with_the_token(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is refused at once; an open stream ends at its next look, within 15 seconds."""
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.01)
    async with ApiHarness(is_open=False) as harness:
        browser = Browser(harness)
        await browser.sign_in(harness.token(Role.VIEWER, name="ada", ttl_ms=3_600_000))
        admin = {"Authorization": f"Bearer {harness.token(Role.ADMIN, ttl_ms=100 * 86_400_000)}"}
        following = asyncio.create_task(browser.send("GET", "/v1/events"))
        await until(lambda: harness.api.streams.count == 1)
        rows = (await Browser(harness).send("GET", "/v1/tokens", admin)).json()["tokens"]
        [session] = [row for row in rows if row["parent"] == "t-ada"]
        if end == "expire the token":
            harness.clock.ahead_ms = 3_600_000
        else:
            name = "ada" if end == "revoke the token" else session["id"]
            revoked = await Browser(harness).send("POST", f"/v1/tokens/{name}/revoke", admin)
            assert revoked.json()["status"] == "revoked"
        assert (await following).status_code == 200
        assert harness.api.streams.count == 0
        assert (await browser.send("GET", "/v1/runs")).status_code == 401
        assert TokenRegistry(harness.audit()).sessions(harness.clock.now()) == []


async def test_a_session_ends_after_twelve_hours_without_use_and_after_a_week() -> None:
    """Each request extends the 12 hours, nothing the week; `expires_at` says which comes first."""
    async with ApiHarness(is_open=False) as harness:
        secret = harness.token(Role.VIEWER, ttl_ms=400 * 86_400_000)
        browser, idle = Browser(harness), Browser(harness)
        await browser.sign_in(secret)
        await idle.sign_in(secret)
        for _ in range(13):
            harness.clock.ahead_ms += browser_sessions.IDLE_MS - 60_000
            assert (await browser.send("GET", "/v1/runs")).status_code == 200
        assert (await idle.send("GET", "/v1/runs")).status_code == 401
        harness.clock.ahead_ms = browser_sessions.LIFE_MS + 1
        assert (await browser.send("GET", "/v1/runs")).status_code == 401


async def test_a_session_survives_the_restart_of_the_daemon() -> None:
    """It is in the log, with everything that it may do. The start counts as a use, since the log has no uses."""
    async with ApiHarness(is_open=False) as harness:
        browser = Browser(harness)
        parent = harness.token(Role.RUNNER, name="ada", groups=("web",), ttl_ms=400 * 86_400_000)
        await browser.sign_in(parent)
        began = harness.clock.now()
        value = browser.cookie.partition("=")[2]
        facts = harness.audit()
        started_at = began + 2 * browser_sessions.IDLE_MS
        restarted = TokenRegistry(facts, started_at=started_at)
        assert restarted.session(value, started_at + 1) == Principal(
            name="ada", role=Role.RUNNER, groups=("web",), token=facts[-1].token, parent="t-ada"
        )
        assert TokenRegistry(facts, started_at=began).session(value, started_at) is None


async def test_a_session_whose_token_was_revoked_meanwhile_is_not_valid() -> None:
    """The token may be revoked while the session is written: the log has the session after the revocation."""
    async with ApiHarness(is_open=False) as harness:
        browser = Browser(harness)
        harness.token(Role.VIEWER, name="ada")
        shown = harness.tokens.principal("wf_" + f"{'ada':0<43}", harness.clock.now())
        assert shown is not None
        beginning = asyncio.create_task(harness.services.sessions.begin(shown))
        await harness.services.token_admin.revoke(Principal(name="root", role=Role.ADMIN), "ada")
        session, secret = await beginning
        browser.cookie = f"__Host-{NAME}={secret}"
        assert (await browser.send("GET", "/v1/runs")).status_code == 401
        assert not session.is_valid(harness.clock.now())


# Limits -------------------------------------------------------------------------------------------------------------------


async def test_sessions_of_a_token_are_limited_in_rate_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes space in the log. The session that was not used for the longest time makes room, and the trail has it."""
    monkeypatch.setattr(browser_sessions, "PER_PRINCIPAL_MAX", 3)
    # One an hour, so that none is permitted during the test, however slow the machine is.
    monkeypatch.setattr(browser_sessions, "_PER_S", 1 / 3_600)
    async with ApiHarness(is_open=False) as harness:
        secret = harness.token(Role.VIEWER, name="ada", ttl_ms=400 * 86_400_000)
        browsers = [Browser(harness) for _ in range(10)]
        for browser in browsers:
            await browser.sign_in(secret)
            await browsers[0].send("GET", "/v1/runs")
        answers = [(await browser.send("GET", "/v1/runs")).status_code for browser in browsers]
        assert answers == [200, *[401] * 7, 200, 200]
        assert len([token for token in harness.tokens.tokens() if token.parent]) == 3
        refused = await Browser(harness).act("POST", "/v1/session", json={"token": secret})
        assert (refused.status_code, refused.json()["code"]) == (429, "WF611")
        assert int(refused.headers["retry-after"]) <= 3_601
        harness.clock.ahead_ms = 3_601_000
        await Browser(harness).sign_in(secret)


async def test_sessions_are_limited_in_total(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in memory. A token that has its own maximum replaces one of its own sessions."""
    monkeypatch.setattr(browser_sessions, "SESSIONS_MAX", 2)
    monkeypatch.setattr(browser_sessions, "PER_PRINCIPAL_MAX", 2)
    async with ApiHarness(is_open=False) as harness:
        ada, bo = harness.token(Role.VIEWER, name="ada"), harness.token(Role.VIEWER, name="bo")
        for _ in range(3):
            await Browser(harness).sign_in(ada)
        refused = await Browser(harness).act("POST", "/v1/session", json={"token": bo})
        assert (refused.status_code, refused.json()["code"]) == (429, "WF609")


async def test_all_sessions_of_a_token_share_its_limits() -> None:
    """Somebody with many sessions gets no more streams than with the token alone."""
    async with ApiHarness(is_open=False) as harness:
        secret = harness.token(Role.VIEWER, name="ada", ttl_ms=3_600_000)
        limit = harness.api.pools.tcp.limits.streams_per_client
        browsers = [Browser(harness), Browser(harness)]
        for browser in browsers:
            await browser.sign_in(secret)
        following = [asyncio.create_task(browsers[n % 2].send("GET", "/v1/events")) for n in range(limit)]
        await until(lambda: harness.api.streams.count == limit)
        assert (await browsers[0].send("GET", "/v1/events")).status_code == 429
        by_header = {"Authorization": f"Bearer {secret}"}
        assert (await Browser(harness).send("GET", "/v1/events", by_header)).status_code == 429
        harness.api.stop()
        await asyncio.gather(*following)


# Links --------------------------------------------------------------------------------------------------------------------


async def test_a_link_signs_a_browser_in_once() -> None:
    """Its code is in the fragment, which no log sees; used again it is refused, and so is an old one."""
    async with ApiHarness(is_open=False, api_url="https://flow.internal") as harness:
        secret = harness.token(Role.APPROVER, name="ada", groups=("web",), ttl_ms=400 * 86_400_000)
        links = [
            (await Browser(harness).send("POST", "/v1/session-links", {"Authorization": f"Bearer {secret}"})).json()
            for _ in range(2)
        ]
        assert links[0]["url"].startswith("https://flow.internal/signin#")
        codes = [link["url"].partition("#")[2] for link in links]
        browser = Browser(harness, "https://flow.internal")
        begun = await browser.act("POST", "/v1/session", json={"code": codes[0]})
        assert (begun.status_code, begun.json()["by"], begun.json()["role"]) == (201, "ada", "approver")
        assert begun.json()["groups"] == ["web"]
        assert (await browser.send("GET", "/v1/runs")).status_code == 200
        again = await Browser(harness, "https://flow.internal").act("POST", "/v1/session", json={"code": codes[0]})
        assert (again.status_code, again.json()["code"]) == (401, "WF601")
        assert "waterflowctl web" in again.json()["detail"]
        harness.clock.ahead_ms = browser_sessions.LINK_MS
        late = await Browser(harness, "https://flow.internal").act("POST", "/v1/session", json={"code": codes[1]})
        assert late.status_code == 401
        extending = await browser.act("POST", "/v1/session-links", json={})
        assert (extending.status_code, extending.json()["code"]) == (403, "WF602")


async def test_a_link_of_a_revoked_token_signs_nobody_in() -> None:
    """The permission is that of the token at this instant."""
    async with ApiHarness(is_open=False) as harness:
        by_header = {"Authorization": f"Bearer {harness.token(Role.VIEWER, name='ada')}"}
        link = (await Browser(harness).send("POST", "/v1/session-links", by_header)).json()
        await harness.services.token_admin.revoke(Principal(name="root", role=Role.ADMIN), "ada")
        answered = await Browser(harness).act("POST", "/v1/session", json={"code": link["url"].partition("#")[2]})
        assert answered.status_code == 401


async def test_a_user_of_the_unix_socket_signs_in_with_a_link() -> None:
    """The session has their name and role, and ends when the configuration takes the role away."""
    async with ApiHarness(is_open=False, listen="0.0.0.0:8080") as harness:
        services = harness.services
        services.peers = PeerRoles.of("none", {"4242": "approver"})
        services.sessions = BrowserSessions(services.tokens, services.runs, services.clock, services.peers)
        on_socket = Browser(harness, state={PEER_UID: 4242})
        assert (await on_socket.send("GET", "/v1/session")).json()["way"] == "socket"
        link = (await on_socket.send("POST", "/v1/session-links")).json()
        address, _, code = link["url"].partition("#")
        assert address == "http://localhost:8080/signin"
        browser = Browser(harness, "http://localhost:8080")
        begun = (await browser.act("POST", "/v1/session", json={"code": code})).json()
        assert (begun["by"], begun["role"]) == ("uid:4242", "approver")
        assert (await browser.send("GET", "/v1/runs")).status_code == 200
        for word, status in [("viewer", 401), ("none", 401), ("admin", 200)]:
            peers = PeerRoles.of("none", {"4242": word})
            services.sessions = BrowserSessions(services.tokens, services.runs, services.clock, peers)
            assert (await browser.send("GET", "/v1/runs")).status_code == status, word


async def test_nobody_signs_in_at_an_open_address() -> None:
    """Everybody is an admin there, and a link is just the address."""
    async with ApiHarness(is_open=True) as harness:
        browser = Browser(harness)
        shown = (await browser.send("GET", "/v1/session")).json()
        assert shown == {"by": "anonymous", "role": "admin", "groups": [], "way": "open", "expires_at": None}
        link = (await browser.send("POST", "/v1/session-links")).json()
        assert link == {"url": "http://127.0.0.1:8080/", "expires_at": None}
    async with ApiHarness(is_open=True, listen=None) as harness:
        answered = await Browser(harness).send("POST", "/v1/session-links")
        assert (answered.status_code, answered.json()["code"]) == (409, "WF606")


async def test_links_are_bounded() -> None:
    """Somebody who creates many of them makes only the oldest ones invalid."""
    async with ApiHarness(is_open=False) as harness:
        ada = Principal(name="ada", role=Role.VIEWER, token="t-ada")
        harness.token(Role.VIEWER, name="ada")
        codes = [harness.services.sessions.create_link(ada)[0] for _ in range(300)]
        redeemed = [harness.services.sessions.redeem(code) for code in codes]
        assert redeemed == [None] * 44 + [ada] * 256
