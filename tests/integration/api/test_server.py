"""The API on real sockets: authentication, and streams without gaps or repeats."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.api.served import Served, serve
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Stalled
from waterflowd.access.roles import Role
from waterflowd.api.access import quotas
from waterflowd.api.server import ApiServer
from waterflowd.api.streaming import streams
from waterflowd.testing.awaiting import until

YAML = {"Content-Type": "application/yaml"}
HOLDING = (
    "name: holding\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: |\n          print first\n          hold\n"
)
HELLO = "name: hello\njobs:\n  a:\n    runs-on: web\n    steps:\n      - run: print hello\n"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(tmp_path) as made:
        yield made


async def collect(response: httpx.Response, count: int) -> list[tuple[str, Any]]:
    """Returns (id, data) of the next `count` events."""
    found: list[tuple[str, Any]] = []
    identity = ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            identity = line[4:]
        elif line.startswith("data: "):
            found.append((identity, json.loads(line[6:])))
            if len(found) == count:
                break
    return found


async def collect_all(response: httpx.Response) -> list[tuple[str, Any]]:
    """Returns all events; the last one must be the end."""
    found: list[tuple[str, Any]] = []
    identity = kind = ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            identity = line[4:]
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: ") and not kind:
            found.append((identity, json.loads(line[6:])))
    assert kind == "end"
    return found


# Access ---------------------------------------------------------------------------------------------------------------


async def test_the_unix_socket_is_for_admins_and_names_the_uid(served: Served) -> None:
    """No token is needed; the principal is the uid that the kernel reports, whatever the client's headers say."""
    async with served.unix() as client:
        started = await client.post("/v1/runs", content=HELLO, headers={**YAML, "Authorization": "Bearer wf_nonsense"})
        assert started.status_code == 201
        run = (await client.get(started.json()["url"])).json()
        assert run["trigger"]["by"] == f"uid:{os.getuid()}"
        assert (await client.get("/v1/tokens")).status_code == 200


async def test_the_socket_file_has_its_mode_and_is_removed_on_stop(tmp_path: Path) -> None:
    """The mode is 0660 whatever the umask is."""
    old = os.umask(0)
    try:
        async with serve(tmp_path) as served:
            assert stat.S_IMODE(served.path.stat().st_mode) == 0o660
            path = served.path
    finally:
        os.umask(old)
    assert not path.exists()


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/status", "/v1/agents", "/v1/events", "/v1/tokens", "/nothing"])
async def test_tcp_needs_a_token(served: Served, path: str) -> None:
    """A missing or wrong token, another scheme and a token in the URL all give a 401 with a challenge."""
    async with served.tcp() as client:
        for headers, query in [
            ({}, ""),
            ({"Authorization": "Bearer wf_wrong"}, ""),
            ({"Authorization": "Bearer"}, ""),
            ({"Authorization": "Basic d2Y6d2Y="}, ""),
            ({"Authorization": "Bearer wf_" + "x" * 5000}, ""),
            ({}, "?token=" + served.harness.token(Role.ADMIN)),
            ({}, "?access_token=" + served.harness.token(Role.ADMIN)),
        ]:
            response = await client.get(path + query, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        for public in ("/health", "/ready", "/version", "/openapi.json"):
            assert (await client.get(public)).status_code == 200


async def test_roles_are_enforced_on_every_change(served: Served) -> None:
    """A viewer changes nothing, a runner starts and cancels, an operator approves agents, an admin creates tokens."""
    changes = [
        (Role.RUNNER, "/v1/runs", {"yaml": HELLO}),
        (Role.RUNNER, "/v1/runs/0000/cancel", {}),
        (Role.RUNNER, "/v1/definitions/x/run", {}),
        (Role.OPERATOR, "/v1/agents/tokens", {"groups": ["web"]}),
        (Role.OPERATOR, "/v1/agents/x/approve", {"groups": ["web"]}),
        (Role.OPERATOR, "/v1/agents/x/revoke", {}),
        (Role.APPROVER, "/v1/repositories/x/sync", {}),
        (Role.ADMIN, "/v1/tokens", {"role": "viewer"}),
        (Role.ADMIN, "/v1/tokens/x/revoke", {}),
    ]
    for role in Role:
        async with served.tcp(served.harness.token(role)) as client:
            for needed, path, body in changes:
                response = await client.post(path, json=body)
                assert (response.status_code == 403) == (not role.includes(needed)), (role, path, response.text)
            assert (await client.get("/v1/tokens")).status_code == (200 if role is Role.ADMIN else 403)


async def test_a_token_for_a_group_starts_and_cancels_only_its_runs(served: Served) -> None:
    """With it, runs of another group can be neither started nor cancelled."""
    served.harness.connect("db-1", "db")
    async with (
        served.tcp(served.harness.token(Role.RUNNER, name="dbs", groups=("db",))) as client,
        served.unix() as admin,
    ):
        refused = await client.post("/v1/runs", content=HELLO, headers=YAML)
        assert (refused.status_code, refused.json()["code"]) == (403, "WF602")
        assert "web" in refused.json()["detail"]
        started = (await admin.post("/v1/runs", content=HOLDING, headers=YAML)).json()
        assert (await client.post(started["url"] + "/cancel")).status_code == 403
        allowed = await client.post("/v1/runs", content=HELLO.replace("web", "db"), headers=YAML)
        assert allowed.status_code == 201
        computed = HELLO.replace("runs-on: web", "runs-on: ${{ inputs.g }}").replace(
            "jobs:", "inputs: {g: {default: web}}\njobs:"
        )
        assert (await client.post("/v1/runs", content=computed, headers=YAML)).status_code in (403, 422)


async def test_tokens_are_displayed_once_expire_and_can_be_revoked(served: Served) -> None:
    """The secret is in no list and not in the event feed; revocation and expiry take effect at once."""
    async with served.unix() as admin:
        made = (await admin.post("/v1/tokens", json={"role": "viewer", "name": "ci", "ttl": "1h"})).json()
        secret = made["secret"]
        assert secret.startswith("wf_")
        assert (await admin.post("/v1/tokens", json={"role": "viewer", "name": "ci"})).status_code == 409
        listed = await admin.get("/v1/tokens")
        assert secret not in listed.text
        assert listed.json()["tokens"][0]["status"] == "valid"
        async with served.tcp(secret) as client:
            assert (await client.get("/v1/runs")).status_code == 200
            served.harness.clock.ahead_ms = 3_700_000
            assert (await client.get("/v1/runs")).status_code == 401
            served.harness.clock.ahead_ms = 0
        other = (await admin.post("/v1/tokens", json={"role": "admin", "name": "ops"})).json()
        async with served.tcp(other["secret"]) as client:
            assert (await client.get("/v1/tokens")).status_code == 200
            assert (await admin.delete("/v1/tokens/ops")).json()["status"] == "revoked"
            assert (await client.get("/v1/tokens")).status_code == 401
        assert secret.encode() not in b"".join(repr(fact).encode() for fact in served.harness.audit())


async def test_an_open_address_needs_no_token_but_checks_host_and_origin(tmp_path: Path) -> None:
    """`api.open` permits programs on this machine, but not web pages in a browser."""
    async with serve(tmp_path, is_open=True) as served, served.tcp() as client:
        assert (await client.get("/v1/runs")).status_code == 200
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1", "a b", "10.0.0.1"):
            response = await client.get("/v1/runs", headers={"Host": host})
            assert response.status_code in (400, 403), host
        for host in ("localhost", "localhost:1", "127.0.0.2", "[::1]:80", "LOCALHOST"):
            assert (await client.get("/v1/runs", headers={"Host": host})).status_code == 200, host
        for origin in ("null", "http://evil.example", "https://127.0.0.1", "http://localhost", "file://", "x"):
            response = await client.post("/v1/runs", content=HELLO, headers={**YAML, "Origin": origin})
            assert response.status_code == 403, origin
        own = await client.post("/v1/runs", content=HELLO, headers={**YAML, "Origin": served.address})
        assert own.status_code == 201
        crossed = await client.post("/v1/runs", content=HELLO, headers={**YAML, "Sec-Fetch-Site": "cross-site"})
        assert crossed.status_code == 403
        displayed = await client.get("/v1/runs")
        assert displayed.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in displayed.headers["content-security-policy"]
        assert "access-control-allow-origin" not in displayed.headers


async def test_garbage_on_the_port_does_not_affect_other_clients(served: Served) -> None:
    """The garbage is bytes that are not HTTP, an endless header, and a websocket upgrade."""
    assert served.server.port is not None
    for content in (
        b"\x00\xff" * 500,
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000,
        b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        writer.write(content)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):
                answered = await reader.read(200)
            assert not answered or answered.startswith(b"HTTP/1.1 4")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    async with served.tcp() as client:
        assert (await client.get("/health")).status_code == 200


# Listeners ----------------------------------------------------------------------------------------------------------------


async def test_the_socket_of_a_killed_daemon_is_replaced_and_that_of_a_running_one_is_not(tmp_path: Path) -> None:
    """After `kill -9` the next start succeeds; a second daemon on the same path fails with a message."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "s.sock"))
    left.close()
    async with serve(tmp_path) as served:
        async with served.unix() as client:
            assert (await client.get("/health")).status_code == 200
        with pytest.raises(Stalled, match="another daemon already listens"):
            await ApiServer(served.harness.api, None, served.path).start()
        with pytest.raises(Stalled, match="cannot listen"):
            await ApiServer(served.harness.api, f"127.0.0.1:{served.server.port}", None).start()
    with pytest.raises(Stalled, match="exceeds 107 bytes"):
        await ApiServer(served.harness.api, None, tmp_path / ("x" * 120)).start()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(Stalled, match="is not a socket"):
        await ApiServer(served.harness.api, None, tmp_path / "file").start()
    assert (tmp_path / "file").read_text() == "precious"


# Streams ------------------------------------------------------------------------------------------------------------------


async def test_run_events_follow_from_history_to_the_end_and_resume_anywhere(served: Served) -> None:
    """Every position arrives once, in order; resuming at any of them gives the same rest, up to the end event."""
    async with served.unix() as client:
        started = (await client.post("/v1/runs", content=HOLDING, headers=YAML)).json()
        key = (await served.harness.held())[0]
        path = started["url"] + "/events"
        async with client.stream("GET", path, params={"follow": "true"}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            served.harness.fleet.release(key)
            whole = await collect_all(response)
        assert [identity for identity, _ in whole] == [str(number) for number in range(1, len(whole) + 1)]
        assert whole[-1][1]["type"] == "run-completed"
        for index, (identity, _) in enumerate(whole):
            headers = {"Last-Event-ID": identity}
            async with client.stream("GET", path, params={"follow": "true"}, headers=headers) as response:
                assert await collect_all(response) == whole[index + 1 :]
        assert (await client.get(path, headers={"Last-Event-ID": "x"})).status_code == 400


async def test_logs_follow_live_and_resume_at_every_line_without_gap_and_repeat(served: Served) -> None:
    """Two attempts print interleaved partial lines on both streams; resuming at any line gives exactly the rest."""
    two_jobs = HOLDING + "  b:\n    runs-on: web\n    steps:\n      - run: hold\n"
    async with served.unix() as client:
        started = (await client.post("/v1/runs", content=two_jobs, headers=YAML)).json()
        one, two = await served.harness.held(2)
        path = started["url"] + "/logs"
        async with client.stream("GET", path, params={"follow": "true"}) as response:
            fleet = served.harness.fleet
            for key, stream, data in [
                (one, 1, "half ä".encode()[:-1]),
                (two, 1, b"whole\npart"),
                (one, 2, b"error\n"),
                (one, 1, "ä".encode()[1:] + b" line\r\n"),
                (two, 2, b"\xff\xfe bad\n"),
                (two, 1, b" done\n"),
                (one, 1, b"no end"),
            ]:
                await fleet.print(key, data, stream)
                await asyncio.sleep(0)
            for key in (one, two):
                fleet.release(key)
            whole = await collect_all(response)
        rows = [row for _, row in whole]
        assert sorted((row["job"], row["offset"], row["text"]) for row in rows) == [
            ("a", 0, "first"),
            ("a", 6, "half ä line"),
            ("a", 12, "error"),
            ("a", 26, "no end"),
            ("b", 0, "whole"),
            ("b", 6, "part done"),
            ("b", 10, "\ufffd\ufffd bad"),
        ]
        for index, (identity, row) in enumerate(whole):
            assert row["cursor"] == identity
            headers = {"Last-Event-ID": identity}
            async with client.stream("GET", path, params={"follow": "true"}, headers=headers) as response:
                rest = [(row["job"], row["offset"], row["text"]) for _, row in await collect_all(response)]
            assert sorted(rest) == sorted((row["job"], row["offset"], row["text"]) for row in rows[index + 1 :])


async def test_a_stream_shows_the_first_line_of_a_running_step_at_once(served: Served) -> None:
    """The stream does not wait for the end of the step."""
    async with served.unix() as client:
        started = (await client.post("/v1/runs", content=HOLDING, headers=YAML)).json()
        async with (
            asyncio.timeout(PATIENCE_S),
            client.stream("GET", started["url"] + "/logs", params={"follow": "true"}) as response,
        ):
            assert [row["text"] for _, row in await collect(response, 1)] == ["first"]
        async with client.stream("GET", started["url"] + "/logs") as response:
            assert [json.loads(line)["text"] async for line in response.aiter_lines()] == ["first"]
        # The server notices that the client has disconnected, and closes its stream.
        await until(lambda: served.harness.api.streams.count == 0)


async def test_the_whole_feed_is_resumable_and_hides_audit_from_viewers(served: Served) -> None:
    """All events are ordered by global sequence; only admins receive `audit`, and no hash of a secret is sent."""
    async with served.unix() as admin:
        await admin.post("/v1/tokens", json={"role": "viewer", "name": "v"})
        started = (await admin.post("/v1/runs", content=HELLO, headers=YAML)).json()
        await served.harness.completed(started["id"])
        last = served.harness.log.last_seq
        async with asyncio.timeout(PATIENCE_S), admin.stream("GET", "/v1/events", params={"cursor": "0"}) as response:
            everything = await collect(response, last)
        assert [identity for identity, _ in everything] == [str(number) for number in range(1, last + 1)]
        assert "secret_sha256" not in json.dumps(everything)
        assert {row["stream"] for _, row in everything} == {"audit", f"run/{started['id']}"}
    async with served.tcp(served.harness.token(Role.VIEWER)) as viewer:
        headers = {"Last-Event-ID": "0"}
        async with asyncio.timeout(PATIENCE_S), viewer.stream("GET", "/v1/events", headers=headers) as response:
            displayed = await collect(response, last - 2)
        assert {row["stream"] for _, row in displayed} == {f"run/{started['id']}"}


async def test_an_engine_without_a_feed_shows_its_runs_all_the_same(served: Served) -> None:
    """The order of all events is optional; the events of one run and the state of the system are not."""
    served.harness.services.feed = None
    async with served.unix() as client:
        started = (await client.post("/v1/runs", content=HELLO, headers=YAML)).json()
        await served.harness.completed(started["id"])
        refused = await client.get("/v1/events")
        assert (refused.status_code, refused.json()["code"]) == (404, "WF604")
        async with (
            asyncio.timeout(PATIENCE_S),
            client.stream("GET", started["url"] + "/events?follow=true") as response,
        ):
            found = await collect(response, 3)
        assert [identity for identity, _ in found] == ["1", "2", "3"]
        assert (await client.get("/v1/status")).json()["daemon"]["log_seq"] == 0


async def test_streams_end_themselves_when_the_server_stops(tmp_path: Path) -> None:
    """A stop does not wait for clients, and the stream does not claim that the run has ended."""
    async with serve(tmp_path) as served, served.unix() as client:
        started = (await client.post("/v1/runs", content=HOLDING, headers=YAML)).json()
        await served.harness.held()
        for path in (started["url"] + "/events?follow=true", started["url"] + "/logs?follow=true", "/v1/events"):
            async with asyncio.timeout(PATIENCE_S), client.stream("GET", path) as response:
                await until(lambda: served.harness.api.streams.count == 1)
                served.harness.api.stop()
                text = (await response.aread()).decode()
            assert "event: end" not in text
            served.harness.api.streams.stopping.clear()
            await until(lambda: served.harness.api.streams.count == 0)


async def test_a_stream_ends_when_its_token_is_revoked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revocation also affects open streams."""
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.02)
    secret = served.harness.token(Role.VIEWER)
    async with served.unix() as admin, served.tcp(secret) as viewer:
        async with asyncio.timeout(PATIENCE_S), viewer.stream("GET", "/v1/events") as response:
            await until(lambda: served.harness.api.streams.count == 1)
            await admin.post("/v1/tokens/viewer/revoke")
            text = (await response.aread()).decode()
        assert text.startswith("retry:")
        assert "event: end" not in text


async def test_the_number_of_open_streams_is_limited(served: Served) -> None:
    """A stream beyond the limit of its client is refused with a 429 that says so, until one ends."""
    served.harness.api.pools.unix.streams = quotas.Quota("streams", 8, 1)
    async with served.unix() as client:
        async with client.stream("GET", "/v1/events"):
            refused = await client.get("/v1/events")
            assert (refused.status_code, refused.json()["code"]) == (429, "WF609")
            assert refused.headers["Retry-After"] == "1"
            assert "you have 1 open streams" in refused.json()["detail"]
        await until(lambda: not served.harness.api.pools.unix.streams.count)
        async with client.stream("GET", "/v1/events") as response:
            assert response.status_code == 200


async def test_missing_announced_output_does_not_keep_a_stream_open(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the stream of a completed run ends with the available output, even with an incomplete line."""
    monkeypatch.setattr(streams, "_STRAGGLERS_S", 0.05)
    async with served.unix() as client:
        started = (await client.post("/v1/runs", content=HOLDING, headers=YAML)).json()
        key = (await served.harness.held())[0]
        await served.harness.fleet.print(key, b"half")
        size = served.harness.outputs.size
        monkeypatch.setattr(served.harness.outputs, "size", lambda name: size(name) + 100)
        served.harness.fleet.release(key)
        await served.harness.completed(started["id"])
        monkeypatch.setattr(served.harness.outputs, "size", size)
        async with asyncio.timeout(PATIENCE_S), client.stream("GET", started["url"] + "/logs?follow=true") as response:
            rows = [row for _, row in await collect_all(response)]
        assert [(row["text"], row["cut"]) for row in rows] == [("first", False), ("half", True)]


async def test_a_client_that_reads_right_after_the_result_gets_its_output(served: Served) -> None:
    """Output may arrive after its result, and the client waits for it."""
    async with served.unix() as client:
        started = (await client.post("/v1/runs", content=HOLDING, headers=YAML)).json()
        key = (await served.harness.held())[0]
        size = served.harness.outputs.size
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(served.harness.outputs, "size", lambda name: size(name) + 5)
            served.harness.fleet.release(key)
            await served.harness.completed(started["id"])
        reading = asyncio.create_task(client.get(started["url"] + "/logs"))
        await until(lambda: served.harness.api.streams.count == 1)
        await served.harness.fleet.print(key, b"late\n")
        rows = [json.loads(line) for line in (await reading).text.splitlines()]
        assert [row["text"] for row in rows] == ["first", "late"]
