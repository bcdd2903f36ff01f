"""Hostile and broken peers on the real ports: their behaviour ends their own session and affects no other agent."""

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

from tests.integration.dispatch_world import FINISHED, KEY, STARTED, TASK, Peer, World, started, until
from tests.patience import PATIENCE_S
from waterflow_agent.wire import codec, messages
from waterflowd.dispatch import enrollment
from waterflowd.model.ids import AgentId


async def test_a_claimed_identity_is_worth_nothing(tmp_path: Path) -> None:
    """A peer that claims another's routing id keeps the identity of its key, and receives none of its messages."""
    async with started(tmp_path) as world:
        good = world.peer()
        await good.open()
        thief = Peer(world)
        world.enrollments.approved.add(thief.public.decode())
        thief.connect(world.dispatch.endpoints.work, identity=good.agent.encode())
        await thief.open(instance="thief")
        world.dispatch.send(good.agent, [messages.Offer(task=TASK)])

        assert await good.hear(messages.Offer)
        assert {name for name, whose in world.desk.calls if whose == thief.agent} == {"settle", "connected"}
        assert thief.agent != good.agent
        await world.proves_alive(good)


async def test_a_bad_frame_ends_that_session_only(tmp_path: Path) -> None:
    """Garbage from an approved agent is answered with a reject; other agents are unaffected, and it may reconnect."""
    async with started(tmp_path) as world:
        good, bad = world.peer(), world.peer()
        await good.open()
        await bad.open()
        await bad.socket.send(b"\xc1 no frame")

        (rejected,) = await bad.hear(messages.Reject)

        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF202"
        assert world.names(bad.agent)[-1] == "disconnected"
        await world.proves_alive(good)
        await bad.open()


async def test_a_frame_beyond_the_limit_cuts_its_sender_only(tmp_path: Path) -> None:
    """ZeroMQ closes the connection of a peer that sends an oversized message part; other connections continue."""
    async with started(tmp_path) as world:
        good, bad = world.peer(), world.peer()
        await good.open()
        await bad.open()
        received = world.dispatch.counters["frames_received"]
        await bad.socket.send(bytes(messages.MESSAGE_BYTES_MAX + 1))

        await world.proves_alive(good)
        assert world.dispatch.counters["frames_received"] == received + 1
        await bad.open()


async def test_parts_that_belong_to_no_frame_are_refused(tmp_path: Path) -> None:
    """A message with several parts is counted and reaches no handler."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        await agent.socket.send_multipart([b"one", b"two"])

        await world.proves_alive(agent)
        assert world.dispatch.counters["frames_misshapen"] == 1


@pytest.mark.parametrize(("protocol", "slots", "code"), [(2, 4, "WF210"), (0, 4, "WF210"), (1, 1_000_000, "WF214")])
async def test_a_hello_that_makes_no_session_says_why(tmp_path: Path, protocol: int, slots: int, code: str) -> None:
    """An unknown protocol version and invalid numbers in a hello are refused with a text."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.hello(protocol=protocol, slots=slots)

        (rejected,) = await agent.hear(messages.Reject)

        assert isinstance(rejected, messages.Reject)
        assert rejected.code == code
        assert rejected.text
        assert world.desk.calls == []


async def test_a_hello_comes_alone(tmp_path: Path) -> None:
    """Only a hello is permitted before the welcome."""
    async with started(tmp_path) as world:
        agent = world.peer()
        agent.session.queue(STARTED)
        hello = messages.Hello("not-open-yet", 1, 1, "0", "i", "m", "b", 1, "h", "l", "a", {}, [], [])
        await agent.say(hello)
        await until(lambda: world.dispatch.counters["frames_refused"] == 1)
        assert world.desk.calls == []


async def test_a_flood_of_hellos_is_turned_away(tmp_path: Path) -> None:
    """Settlement is expensive for the host, so hellos beyond a burst are refused for a while."""
    async with started(tmp_path) as world:
        agent = world.peer()
        for _ in range(60):
            await agent.hello()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                frame = codec.decode_frame(await agent.socket.recv(), codec.Side.DAEMON)
                if isinstance(frame.loose[0], messages.Reject):
                    break

        assert frame.loose[0].code == "WF216"
        assert world.names(agent.agent).count("settle") < 60


async def test_a_failing_desk_costs_one_session(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bug triggered by one agent's report ends that session and is logged; the readers continue."""
    async with started(tmp_path) as world:
        good, other = world.peer(), world.peer()
        await good.open()
        await other.open()

        def fail(durable: Callable[[], None]) -> None:
            raise ZeroDivisionError("a bug")

        world.desk.on_received = fail
        await other.say(FINISHED)
        await until(lambda: world.names(other.agent)[-1] == "disconnected")
        world.desk.on_received = lambda durable: durable()

        await world.proves_alive(good)
        assert "could not be handled" in caplog.text


async def test_messages_for_an_agent_without_a_session_are_dropped(tmp_path: Path) -> None:
    """Messages for an agent without a session are dropped; its next settlement sends them again."""
    async with started(tmp_path) as world:
        world.dispatch.send(AgentId("SHA256:nobody"), [messages.Offer(task=TASK)])

        assert world.dispatch.counters["messages_dropped"] == 1


# Strangers ----------------------------------------------------------------------------------------------------------------


async def test_a_foreign_key_never_reaches_the_work_port(tmp_path: Path) -> None:
    """An unknown CURVE key is refused during the handshake, with a log line for the administrator."""
    async with started(tmp_path) as world:
        stranger = Peer(world).connect(world.dispatch.endpoints.work)
        await stranger.hello()

        await until(lambda: world.dispatch.counters["frames_refused"] >= 1)

        assert world.dispatch.counters["frames_received"] == 0


async def test_other_mechanisms_and_garbage_are_refused_while_a_good_agent_goes_on(tmp_path: Path) -> None:
    """NULL, PLAIN, a wrong server key, HTTP, an old ZMTP greeting and noise are refused on both ports."""
    async with started(tmp_path) as world:
        good = world.peer()
        await good.open()
        received = world.dispatch.counters["frames_received"]
        plain: list[socket.socket] = []
        for endpoint in world.dispatch.endpoints:
            null, password, mistaken = world.socket(), world.socket(), Peer(world)
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
            await world.proves_alive(good)

        assert world.dispatch.counters["frames_received"] == received + 20
        assert world.dispatch.connected == {good.agent}
        for connection in plain:
            connection.close()


class Wiretap:
    """A TCP proxy in front of a port, for one connection, that records what its client sent."""

    def __init__(self, port: int) -> None:
        self.captured = bytearray()
        self.is_over = asyncio.Event()
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
            self.is_over.set()


async def test_a_captured_stream_replayed_does_nothing(tmp_path: Path) -> None:
    """The bytes of a complete valid session, replayed by an eavesdropper, open no session and repeat no result."""
    async with started(tmp_path) as world:
        port = int(world.dispatch.endpoints.work.rpartition(":")[2])
        tap = Wiretap(port)
        async with await asyncio.start_server(tap, "127.0.0.1", 0) as proxy:
            agent = Peer(world)
            world.enrollments.approved.add(agent.public.decode())
            agent.connect(f"tcp://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
            await agent.open()
            await world.proves_alive(agent)
            agent.socket.close(linger=0)
            async with asyncio.timeout(PATIENCE_S):
                await tap.is_over.wait()
        seen, received = list(world.desk.calls), world.dispatch.counters["frames_received"]

        with socket.create_connection(("127.0.0.1", port)) as thief:
            thief.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(thief, bytes(tap.captured))
            async with asyncio.timeout(PATIENCE_S):
                with suppress(ConnectionResetError):
                    while await loop.sock_recv(thief, 65_536):
                        pass

        assert FINISHED in world.desk.reports
        assert world.desk.calls == seen
        assert world.dispatch.counters["frames_received"] == received


async def test_many_tiny_frames_starve_nobody(tmp_path: Path) -> None:
    """All of ten thousand frames of one agent are handled, and another agent's result arrives meanwhile."""
    async with started(tmp_path) as world:
        good, eager = world.peer(), world.peer()
        await good.open()
        await eager.open()

        async def flood() -> None:
            for _ in range(10_000):
                await eager.beat()

        flooding = asyncio.create_task(flood())
        for _ in range(5):
            await world.proves_alive(good)
        await flooding
        await world.proves_alive(eager)
        assert world.dispatch.counters["frames_received"] > 10_000


async def test_only_a_request_to_enroll_is_answered_on_the_enrollment_port(tmp_path: Path) -> None:
    """Any other message from a stranger is refused by its kind and reaches no handler."""
    async with started(tmp_path) as world:
        others: list[messages.Message] = [
            STARTED,
            FINISHED,
            messages.Output(key=KEY, offset=0, chunks=[]),
            messages.Reset(text="x"),
        ]
        for message in others:
            stranger = Peer(world).connect(world.dispatch.endpoints.enroll)
            await stranger.socket.send(bytes(memoryview(codec.encode_message(message))))
            answer = codec.decode_enroll_answer(await stranger.socket.recv())
            assert answer.state == "refused"

        assert world.enrollments.requests == []
        assert world.desk.calls == []


async def test_requests_to_enroll_are_rate_limited_per_key(tmp_path: Path) -> None:
    """After a few requests a key is asked to wait, while another key is still served."""
    async with started(tmp_path) as world:
        request = bytes(memoryview(codec.encode_message(messages.EnrollRequest(1, "", "n", [], "h", "m", "v"))))
        eager = Peer(world).connect(world.dispatch.endpoints.enroll)
        texts = []
        for _ in range(enrollment.PER_KEY_BURST + 5):
            await eager.socket.send(request)
            texts.append(codec.decode_enroll_answer(await eager.socket.recv()).text)

        assert any("too many requests" in text for text in texts)
        assert len(world.enrollments.requests) < len(texts)
        calm = Peer(world).connect(world.dispatch.endpoints.enroll)
        await calm.socket.send(request)
        assert codec.decode_enroll_answer(await calm.socket.recv()).text == "wait for approval"


async def test_what_is_refused_fills_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flood is counted in full and logged in a limited number of lines."""
    async with started(tmp_path) as world:
        agent = world.peer()
        with caplog.at_level(logging.WARNING, logger="waterflow.dispatch"):
            for _ in range(500):
                await agent.socket.send(b"\xc1")
            await until(lambda: world.dispatch.counters["frames_refused"] == 500)

        assert len(caplog.records) < 100


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """The daemon does not start if a port is in use: the error names the port, and nothing stays open."""
    async with started(tmp_path) as world:
        taken = world.dispatch.endpoints.work
        other = World(tmp_path, silence_ms=1_000)
        with pytest.raises(Exception, match="WF221"):
            await other.dispatch.start(taken, "tcp://127.0.0.1:*")
        other.context.destroy(linger=0)
