"""Hostile and broken peers on the real ports: they lose their session, and no other peer is affected."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from tests.integration.dispatch.link_harness import FINISHED, KEY, STARTED, TASK, LinkHarness, Peer, started, until
from tests.patience import PATIENCE_S
from waterflow_agent.wire import codec, messages
from waterflowd.dispatch import enrollment
from waterflowd.model.ids import AgentId


async def test_a_claimed_routing_id_has_no_effect(tmp_path: Path) -> None:
    """A peer that claims another's routing id keeps the identity of its key, and gets nothing of the other's."""
    async with started(tmp_path) as link:
        good = link.peer()
        await good.open()
        thief = Peer(link)
        link.enroller.approved.add(thief.public.decode())
        thief.connect(link.dispatch.endpoints.work, identity=good.agent.encode())
        await thief.open(instance="thief")
        link.dispatch.send(good.agent, [messages.Offer(task=TASK)])

        assert await good.hear(messages.Offer)
        assert {name for name, whose in link.listener.calls if whose == thief.agent} == {"settle", "connected"}
        assert thief.agent != good.agent
        await link.proves_alive(good)


async def test_a_bad_frame_ends_that_session_only(tmp_path: Path) -> None:
    """Garbage from an approved agent is answered with a reject; other agents are not affected, and it may reconnect."""
    async with started(tmp_path) as link:
        good, bad = link.peer(), link.peer()
        await good.open()
        await bad.open()
        await bad.socket.send(b"\xc1 no frame")

        (rejected,) = await bad.hear(messages.Reject)

        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF202"
        assert link.names(bad.agent)[-1] == "disconnected"
        await link.proves_alive(good)
        await bad.open()


async def test_a_frame_beyond_the_limit_disconnects_only_its_sender(tmp_path: Path) -> None:
    """ZeroMQ drops the connection of a peer that sends too large a part; the others continue."""
    async with started(tmp_path) as link:
        good, bad = link.peer(), link.peer()
        await good.open()
        await bad.open()
        received = link.dispatch.counters["frames_received"]
        await bad.socket.send(bytes(messages.MESSAGE_BYTES_MAX + 1))

        await link.proves_alive(good)
        assert link.dispatch.counters["frames_received"] == received + 1
        await bad.open()


async def test_parts_that_belong_to_no_frame_are_refused(tmp_path: Path) -> None:
    """A message of several parts costs its sender the connection, and nobody else anything."""
    async with started(tmp_path) as link:
        good, agent = link.peer(), link.peer()
        await good.open()
        await agent.open()
        await agent.socket.send_multipart([b"one", b"two"])

        await until(lambda: link.names(agent.agent)[-1] == "disconnected")
        await link.proves_alive(good)
        await until(lambda: link.dispatch.counters["frames_refused"] == 1)


@pytest.mark.parametrize(("protocol", "slots", "code"), [(2, 4, "WF210"), (0, 4, "WF210"), (1, 1_000_000, "WF214")])
async def test_a_rejected_hello_has_a_reason(tmp_path: Path, protocol: int, slots: int, code: str) -> None:
    """Another protocol version and invalid values are rejected with a text."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.hello(protocol=protocol, slots=slots)

        (rejected,) = await agent.hear(messages.Reject)

        assert isinstance(rejected, messages.Reject)
        assert rejected.code == code
        assert rejected.text
        assert link.listener.calls == []


async def test_only_a_hello_is_permitted_before_the_welcome(tmp_path: Path) -> None:
    """Before the welcome only a hello is permitted."""
    async with started(tmp_path) as link:
        agent = link.peer()
        agent.session.queue(STARTED)
        hello = messages.Hello("not-open-yet", 1, 1, "0", "i", "m", "b", 1, "h", "l", "a", {}, [], [])
        await agent.say(hello)
        await until(lambda: link.dispatch.counters["frames_refused"] == 1)
        assert link.listener.calls == []


async def test_a_flood_of_hellos_is_rejected(tmp_path: Path) -> None:
    """Settling costs the host work; beyond a burst, hellos are rejected for a while."""
    async with started(tmp_path) as link:
        agent = link.peer()
        for _ in range(60):
            await agent.hello()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                frame = codec.decode_frame(await agent.socket.recv(), codec.Side.DAEMON)
                if isinstance(frame.loose[0], messages.Reject):
                    break

        assert frame.loose[0].code == "WF216"
        assert link.names(agent.agent).count("settle") < 60


async def test_a_failing_listener_costs_one_session(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bug that one agent's report triggers ends that session and is logged; the readers continue."""
    async with started(tmp_path) as link:
        good, other = link.peer(), link.peer()
        await good.open()
        await other.open()

        def fail(durable: Callable[[], None]) -> None:
            raise ZeroDivisionError("a bug")

        link.listener.on_received = fail
        await other.say(FINISHED)
        await until(lambda: link.names(other.agent)[-1] == "disconnected")
        link.listener.on_received = lambda durable: durable()

        await link.proves_alive(good)
        assert "internal error in a frame" in caplog.text


async def test_messages_for_an_agent_without_a_session_are_dropped(tmp_path: Path) -> None:
    """Its next settlement sends them again."""
    async with started(tmp_path) as link:
        link.dispatch.send(AgentId("SHA256:nobody"), [messages.Offer(task=TASK)])

        assert link.dispatch.counters["messages_dropped"] == 1


async def test_a_frame_of_too_many_messages_is_refused(tmp_path: Path) -> None:
    """12,000 empty outputs are small, and took the daemon most of a second to handle."""
    async with started(tmp_path) as link:
        good, bad = link.peer(), link.peer()
        await good.open()
        await bad.open()
        outputs = [codec.encode_message(messages.Output(KEY, 0, []))] * 12_000
        await bad.socket.send(codec.encode_frame(bad.session.token, 0, 1, [], outputs))

        (rejected,) = await bad.hear(messages.Reject)

        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF202"
        assert link.listener.outputs == []
        await link.proves_alive(good)


async def test_an_agent_that_is_rejected_again_and_again_is_disconnected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the host rejects is charged to its sender and logged a few times; another agent is not affected."""
    async with started(tmp_path) as link:
        good, bad = link.peer(), link.peer()
        await good.open()
        await bad.open()
        link.listener.on_output = lambda agent, output: link.dispatch.reject(agent, "WF215", "not its attempt")
        outputs = [codec.encode_message(messages.Output(KEY, 0, []))] * messages.FRAME_MESSAGES_MAX
        frame = codec.encode_frame(bad.session.token, 0, 1, [], outputs)
        with caplog.at_level(logging.WARNING, logger="waterflow.dispatch"):
            while link.names(bad.agent)[-1] != "disconnected":
                await bad.socket.send(frame)
                await asyncio.sleep(0)
            await link.proves_alive(good)

        assert 1_000 < link.dispatch.counters["frames_refused"] < 50 * messages.FRAME_MESSAGES_MAX
        assert len(caplog.records) < 20
        (rejected,) = await bad.hear(messages.Reject)
        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF218"


# Strangers ----------------------------------------------------------------------------------------------------------------


async def test_a_foreign_key_never_reaches_the_work_port(tmp_path: Path) -> None:
    """An unknown CURVE key is rejected in the handshake, with a log line for the administrator."""
    async with started(tmp_path) as link:
        stranger = Peer(link).connect(link.dispatch.endpoints.work)
        await stranger.hello()

        await until(lambda: link.dispatch.counters["frames_refused"] >= 1)

        assert link.dispatch.counters["frames_received"] == 0


async def test_other_mechanisms_and_garbage_are_refused_and_a_valid_agent_continues(tmp_path: Path) -> None:
    """NULL, PLAIN, a wrong server key, HTTP, an old ZeroMQ greeting and noise on both ports: all are rejected."""
    async with started(tmp_path) as link:
        good = link.peer()
        await good.open()
        received = link.dispatch.counters["frames_received"]
        plain: list[socket.socket] = []
        for endpoint in link.dispatch.endpoints:
            null, password, mistaken = link.socket(), link.socket(), Peer(link)
            password.plain_username, password.plain_password = b"root", b"root"
            wrong = zmq.curve_keypair()[0]
            mistaken.socket.curve_publickey, mistaken.socket.curve_secretkey = mistaken.public, mistaken.secret
            mistaken.socket.curve_serverkey = wrong
            for peer in (null, password, mistaken.socket):
                peer.connect(endpoint)
                await peer.send(b"let me in")
            port = int(endpoint.rpartition(":")[2])
            for noise in (
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"\xff\0\0\0\0\0\0\0\1\x7f\1\1",
                bytes(4096),
                b"\xff" * 4096,
            ):
                connection = socket.create_connection(("127.0.0.1", port))
                connection.sendall(noise)
                plain.append(connection)

        for _ in range(20):
            await link.proves_alive(good)

        assert link.dispatch.counters["frames_received"] == received + 20
        assert link.dispatch.connected == {good.agent}
        for connection in plain:
            connection.close()


class Wiretap:
    """A TCP proxy in front of a port, for one connection, that records what its client sent."""

    def __init__(self, port: int) -> None:
        self.captured = bytearray()
        self.has_ended = asyncio.Event()
        self._port = port

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, inward = await asyncio.open_connection("127.0.0.1", self._port)

        async def forth() -> None:
            while some := await reader.read(65_536):
                self.captured.extend(some)
                inward.write(some)
            inward.close()

        async def back() -> None:
            while some := await onward.read(65_536):
                writer.write(some)

        try:
            await asyncio.gather(forth(), back(), return_exceptions=True)
        finally:
            for ending in (inward, writer):
                ending.close()
                await asyncio.gather(ending.wait_closed(), return_exceptions=True)
            self.has_ended.set()


async def test_a_captured_stream_replayed_does_nothing(tmp_path: Path) -> None:
    """The bytes of a whole valid session, sent again by an eavesdropper, open no session and repeat no result."""
    async with started(tmp_path) as link:
        port = int(link.dispatch.endpoints.work.rpartition(":")[2])
        tap = Wiretap(port)
        async with await asyncio.start_server(tap, "127.0.0.1", 0) as proxy:
            agent = Peer(link)
            link.enroller.approved.add(agent.public.decode())
            agent.connect(f"tcp://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            await agent.open()
            await link.proves_alive(agent)
            agent.socket.close(linger=0)
            async with asyncio.timeout(PATIENCE_S):
                await tap.has_ended.wait()
        await until(lambda: link.names(agent.agent)[-1] == "disconnected")
        seen, received = list(link.listener.calls), link.dispatch.counters["frames_received"]

        with socket.create_connection(("127.0.0.1", port)) as thief:
            thief.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(thief, bytes(tap.captured))
            async with asyncio.timeout(PATIENCE_S):
                with suppress(ConnectionResetError):
                    while await loop.sock_recv(thief, 65_536):
                        pass

        assert FINISHED in link.listener.reports
        assert link.listener.calls == seen
        assert link.dispatch.counters["frames_received"] == received


async def test_many_tiny_frames_do_not_starve_other_agents(tmp_path: Path) -> None:
    """Ten thousand frames of one agent are all handled, and another agent's result gets through meanwhile."""
    async with started(tmp_path) as link:
        good, eager = link.peer(), link.peer()
        await good.open()
        await eager.open()

        output = codec.encode_message(messages.Output(KEY, 0, []))
        frame = codec.encode_frame(eager.session.token, 0, 1, [], [output])

        async def flood() -> None:
            for _ in range(10_000):
                await eager.socket.send(frame)

        flooding = asyncio.create_task(flood())
        for _ in range(5):
            await link.proves_alive(good)
        await flooding
        await link.proves_alive(eager)
        assert link.dispatch.counters["frames_received"] > 10_000


async def test_an_agent_whose_frames_bring_nothing_new_is_disconnected(tmp_path: Path) -> None:
    """After a few hundred of them: handling them all takes a good part of the event loop, and none of them has a use."""
    async with started(tmp_path) as link:
        good, idle = link.peer(), link.peer()
        await good.open()
        await idle.open()
        frame = codec.encode_frame(idle.session.token, 0, 1, [], [])
        sent = 0
        while link.names(idle.agent)[-1] != "disconnected":
            await idle.socket.send(frame)
            await asyncio.sleep(0)
            sent += 1
        assert sent > 200
        assert link.dispatch.counters["frames_received"] < 1_000
        await link.proves_alive(good)
        (rejected,) = await idle.hear(messages.Reject)
        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF218"


async def test_only_a_request_to_enroll_is_answered_on_the_enrollment_port(tmp_path: Path) -> None:
    """Every other kind of message is rejected by name and does not reach the enroller."""
    async with started(tmp_path) as link:
        others: list[messages.Message] = [
            STARTED,
            FINISHED,
            messages.Output(key=KEY, offset=0, chunks=[]),
            messages.Reset(text="x"),
        ]
        for message in others:
            stranger = Peer(link).connect(link.dispatch.endpoints.enroll)
            await stranger.socket.send(bytes(memoryview(codec.encode_message(message))))
            answer = codec.decode_enroll_answer(await stranger.socket.recv())
            assert answer.state == "refused"

        assert link.enroller.requests == []
        assert link.listener.calls == []


async def test_requests_to_enroll_are_rate_limited_per_key(tmp_path: Path) -> None:
    """One key may ask a few times, then has to wait; another key is not affected."""
    async with started(tmp_path) as link:
        request = bytes(memoryview(codec.encode_message(messages.EnrollRequest(1, "", "n", [], "h", "m", "v"))))
        pair = zmq.curve_keypair()
        texts = []
        for _ in range(enrollment.PER_KEY_BURST + 5):
            # A connection is for one request.
            eager = Peer(link, pair).connect(link.dispatch.endpoints.enroll)
            await eager.socket.send(request)
            texts.append(codec.decode_enroll_answer(await eager.socket.recv()).text)
            eager.socket.close(linger=0)

        assert any("too many requests" in text for text in texts)
        assert len(link.enroller.requests) < len(texts)
        calm = Peer(link).connect(link.dispatch.endpoints.enroll)
        await calm.socket.send(request)
        assert codec.decode_enroll_answer(await calm.socket.recv()).text == "wait for approval"


async def test_rejections_do_not_flood_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flood is counted completely and logged in a bounded number of lines."""
    async with started(tmp_path) as link:
        agent = link.peer()
        with caplog.at_level(logging.WARNING, logger="waterflow.dispatch"):
            for _ in range(500):
                await agent.socket.send(b"\xc1")
            await until(lambda: link.dispatch.counters["frames_refused"] == 500)

        assert len(caplog.records) < 100


async def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    """The daemon cannot start on a port that is in use, and leaves nothing open."""
    async with started(tmp_path) as link:
        taken = link.dispatch.endpoints.work
        other = LinkHarness(tmp_path, silence_ms=1_000)
        with pytest.raises(Exception, match="WF221"):
            await other.dispatch.start(taken, "tcp://127.0.0.1:*")
        other.context.destroy(linger=0)
