"""The processes of the ports: strangers and agents cannot harm the daemon through them, and their death costs a reconnect."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import zmq

from tests.attack.port_attacks import Aim, attack
from tests.integration.dispatch.link_harness import LinkHarness, Peer, started, until
from tests.patience import PATIENCE_S
from waterflow_agent.errors import Stalled
from waterflow_agent.keys import fingerprint
from waterflow_agent.wire import codec, messages
from waterflowd.dispatch import keys
from waterflowd.dispatch.port import client, process
from waterflowd.dispatch.port.client import IncomingMessage, Port, PortSettings
from waterflowd.dispatch.port.limits import PortLimits
from waterflowd.dispatch.port.records import AcceptedPair, Kind, Refused, Setup, Verdict, record

LIMITS = PortLimits(
    waiting_max=20,
    waiting_per_address_max=10,
    active_max=20,
    active_per_address_max=20,
    per_key_max=2,
    arrivals_burst=1_000,
    arrivals_per_s=1_000.0,
    # On a loaded machine a handshake takes seconds.
    handshake_s=60.0,
)
IMPATIENT = msgspec.structs.replace(LIMITS, handshake_s=0.5, idle_s=0.5)
REQUEST = messages.EnrollRequest(1, "", "n", [], "h", "m", "v")


class Recorder:
    """Records what a port reports, and answers each message with itself."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.verdict = Verdict.ACCEPT
        self.taken: list[bytes] = []
        self.connections: list[int] = []
        self.ends: list[str] = []
        self.reasons: list[str] = []

    def admit(self, public_key: str, address: str) -> Verdict:
        return self.verdict

    def take(self, incoming: IncomingMessage) -> None:
        self.taken.append(bytes(incoming.payload))
        self.connections.append(incoming.connection)
        self.port.send(incoming.connection, bytes(incoming.payload))

    def closed(self, connection: int, text: str) -> None:
        self.ends.append(text)

    def refused(self, report: Refused) -> None:
        self.reasons.append(report.text)


@contextlib.asynccontextmanager
async def port(tmp_path: Path, settings: PortSettings) -> AsyncIterator[tuple[Port, Recorder, keys.ServerKeys]]:
    pair = keys.load_server_keys(tmp_path)
    made = Port(pair, settings)
    made.bind("tcp://127.0.0.1:*")
    recorder = Recorder(made)
    task = asyncio.create_task(made.run(recorder))
    try:
        yield made, recorder, pair
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.close()


class Dealers:
    """The peers of a test, which keep their sockets until its end."""

    def __init__(self) -> None:
        self._context = zmq.asyncio.Context()
        self._sockets: list[zmq.asyncio.Socket] = []

    def connect(self, made: Port, pair: keys.ServerKeys, **options: int) -> zmq.asyncio.Socket:
        """A peer with a new key; `options` are further options of its socket."""
        sock: zmq.asyncio.Socket = self._context.socket(zmq.DEALER)
        self._sockets.append(sock)
        for name, value in {"LINGER": 0, **options}.items():
            sock.setsockopt(getattr(zmq, name), value)
        sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
        sock.curve_serverkey = pair.public.encode()
        sock.connect(made.endpoint)
        return sock

    def close(self) -> None:
        """Closes all sockets."""
        self._context.destroy(linger=0)


@pytest.fixture
async def dealers() -> AsyncIterator[Dealers]:
    """Peers of a port."""
    made = Dealers()
    yield made
    made.close()


async def test_libzmq_exchanges_messages_of_every_size(tmp_path: Path, dealers: Dealers) -> None:
    """The protocol is our own implementation, and the agents' is libzmq's."""
    async with port(tmp_path, PortSettings("work", LIMITS)) as (made, _, pair):
        sock = dealers.connect(made, pair)
        for size in (0, 1, 222, 223, 224, 255, 256, 65_536, 1 << 20, messages.MESSAGE_BYTES_MAX):
            content = os.urandom(size)
            await sock.send(content)
            assert await asyncio.wait_for(sock.recv(), PATIENCE_S) == content
        for number in range(2_000):
            await sock.send(str(number).encode())
        assert [int(await sock.recv()) for _ in range(2_000)] == list(range(2_000))


async def test_a_process_that_dies_is_replaced_on_the_same_port(tmp_path: Path) -> None:
    """Sessions end with the reason; agents reach the port again, and what they sent meanwhile is not lost."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        pid = link.dispatch.pids[0]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: link.names(agent.agent)[-1] == "disconnected")
        assert "the process of the port has ended" in link.listener.texts

        again = link.peer(pair=(agent.public, agent.secret))
        await again.open()

        await link.proves_alive(again)
        assert link.dispatch.pids[0] != pid
        assert link.dispatch.counters["port_restarts"] == 1


async def test_the_death_of_the_enrollment_port_is_not_noticed_by_agents(tmp_path: Path) -> None:
    """It is another process, and holds nothing."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        os.kill(link.dispatch.pids[1], signal.SIGKILL)
        await until(lambda: link.dispatch.counters["port_restarts"] == 1)
        await link.proves_alive(agent)

        newcomer = Peer(link).connect(link.dispatch.endpoints.enroll)
        await newcomer.socket.send(bytes(memoryview(codec.encode_message(REQUEST))))
        answer = codec.decode_enroll_answer(await asyncio.wait_for(newcomer.socket.recv(), PATIENCE_S))
        assert answer.state == "pending"
        assert "disconnected" not in link.names(agent.agent)


async def test_the_processes_end_with_the_link(tmp_path: Path) -> None:
    """None is left when the link is closed."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        pids = link.dispatch.pids
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


_SERVER = """
import asyncio, sys
from pathlib import Path
from tests.integration.dispatch.link_harness import started
async def main():
    async with started(Path(sys.argv[1])) as link:
        while len(link.dispatch.pids) < 2:
            await asyncio.sleep(0.01)
        print(*link.dispatch.pids, flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


async def test_the_processes_end_when_the_daemon_is_killed(tmp_path: Path) -> None:
    """The end of the socket pair ends them; SIGTERM and Ctrl-C alone do not, because they are for the daemon."""
    process = subprocess.Popen(  # noqa: ASYNC220  it starts at once
        [sys.executable, "-c", _SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in (await asyncio.to_thread(process.stdout.readline)).split()]
    process.kill()
    process.wait()
    process.stdout.close()

    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


async def test_a_frozen_process_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that shows no sign of life cannot keep its port."""
    monkeypatch.setattr("waterflowd.dispatch.port.client.SILENCE_S", 1.0)
    monkeypatch.setattr("waterflowd.dispatch.port.client._PING_S", 0.1)
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        pid = link.dispatch.pids[0]
        # A second sign of life, from which on the short limit counts.
        await asyncio.sleep(0.3)
        # On a very busy machine it may have been silent for too long already.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)

        await until(lambda: link.dispatch.counters["port_restarts"] >= 1)
        again = link.peer(pair=(agent.public, agent.secret))
        await again.open()


async def test_a_connection_without_a_key_is_closed_after_a_while(tmp_path: Path) -> None:
    """Also one that sends a byte now and then."""
    async with port(tmp_path, PortSettings("work", IMPATIENT)) as (made, recorder, _):
        reader, writer = await asyncio.open_connection(*_address(made))
        writer.write(b"\xff")
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
        await until(lambda: "no key proven within 0.5 s" in recorder.reasons)


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path, dealers: Dealers) -> None:
    """It has proven a key, and sends no message; the daemon is told."""
    async with port(tmp_path, PortSettings("work", IMPATIENT)) as (made, recorder, pair):
        dealers.connect(made, pair)
        await until(lambda: recorder.ends[:1] == ["no message for 0.5 s"])


async def test_a_connection_for_one_message_ignores_further_ones(tmp_path: Path, dealers: Dealers) -> None:
    """And it is closed when it stays."""
    settings = PortSettings("enrollment", IMPATIENT, part_bytes_max=1_000, messages_max=1)
    async with port(tmp_path, settings) as (made, recorder, pair):
        sock = dealers.connect(made, pair)
        for _ in range(100):
            await sock.send(b"request")
        assert await asyncio.wait_for(sock.recv(), PATIENCE_S) == b"request"
        await until(lambda: bool(recorder.ends))

        first = recorder.connections[0]
        assert recorder.connections.count(first) == 1


async def test_silent_connections_do_not_keep_a_peer_out(tmp_path: Path, dealers: Dealers) -> None:
    """At the limit, newcomers displace the silent ones."""
    limits = msgspec.structs.replace(LIMITS, handshake_s=60.0)
    async with port(tmp_path, PortSettings("work", limits)) as (made, recorder, pair):
        silent = [socket.create_connection(_address(made)) for _ in range(200)]
        sock = dealers.connect(made, pair)
        await sock.send(b"here")
        assert await asyncio.wait_for(sock.recv(), PATIENCE_S) == b"here"
        await until(lambda: "too many connections without a message" in recorder.reasons)
        for connection in silent:
            connection.close()


async def test_a_peer_that_does_not_read_loses_its_connection(tmp_path: Path, dealers: Dealers) -> None:
    """What waits for it is bounded, and another peer gets its answers meanwhile."""
    settings = PortSettings("work", LIMITS, outbound_bytes_max=1 << 20)
    async with port(tmp_path, settings) as (made, recorder, pair):
        deaf = dealers.connect(made, pair, RCVHWM=1, RCVBUF=4_096)
        await deaf.send(b"first")
        await until(lambda: bool(recorder.connections))
        sock = dealers.connect(made, pair)
        number = recorder.connections[0]
        for _ in range(200):
            made.send(number, bytes(1 << 20))
        await sock.send(b"here")

        assert await asyncio.wait_for(sock.recv(), PATIENCE_S) == b"here"
        await until(lambda: "it does not receive: frozen or far behind" in recorder.ends)


async def test_a_flood_of_one_peer_does_not_delay_another(tmp_path: Path, dealers: Dealers) -> None:
    """Each peer has a window of its own; the other's message does not wait behind the flood."""
    async with port(tmp_path, PortSettings("work", LIMITS)) as (made, recorder, pair):
        flooding, calm = dealers.connect(made, pair), dealers.connect(made, pair)
        await calm.send(b"warm")
        await calm.recv()
        for _ in range(20_000):
            await flooding.send(b"flood")
        before = len(recorder.taken)
        await calm.send(b"calm")
        assert await asyncio.wait_for(calm.recv(), PATIENCE_S) == b"calm"
        position = recorder.taken.index(b"calm") - before

        assert position < 3_000


async def test_the_loop_continues_between_messages_that_take_long(
    tmp_path: Path, dealers: Dealers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a message that has used up the turn, other callbacks are called before the next message is handled."""
    monkeypatch.setattr(client, "SLICE_S", 0.0)
    async with port(tmp_path, PortSettings("work", LIMITS)) as (made, recorder, pair):
        iterations = 0
        handled: list[int] = []
        take = recorder.take

        def counted(incoming: IncomingMessage) -> None:
            handled.append(iterations)
            take(incoming)

        async def count() -> None:
            nonlocal iterations
            while True:
                iterations += 1
                await asyncio.sleep(0)

        monkeypatch.setattr(recorder, "take", counted)
        counting = asyncio.create_task(count())
        sock = dealers.connect(made, pair)
        for number in range(50):
            await sock.send(str(number).encode())
        assert [int(await asyncio.wait_for(sock.recv(), PATIENCE_S)) for _ in range(50)] == list(range(50))
        counting.cancel()
        assert len(set(handled)) == 50


async def test_keys_are_refused_or_put_off_by_the_daemon(tmp_path: Path, dealers: Dealers) -> None:
    """Neither gets a connection; the daemon's answer is asked for each time."""
    async with port(tmp_path, PortSettings("work", LIMITS)) as (made, recorder, pair):
        for verdict in (Verdict.REFUSE, Verdict.CLOSE):
            recorder.verdict = verdict
            sock = dealers.connect(made, pair)
            await sock.send(b"let me in")
            await asyncio.sleep(0.3)
            sock.close(linger=0)
        assert recorder.taken == []
        recorder.verdict = Verdict.ACCEPT
        sock = dealers.connect(made, pair)
        await sock.send(b"now")
        assert await asyncio.wait_for(sock.recv(), PATIENCE_S) == b"now"


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "tcp://[::1]:*", "tcp://*:*", "tcp://localhost:*"])
async def test_every_kind_of_address_can_be_bound(tmp_path: Path, endpoint: str) -> None:
    """And reached by the endpoint that is reported."""
    made = Port(keys.load_server_keys(tmp_path), PortSettings("work", LIMITS))
    try:
        bound = made.bind(endpoint)
    except Stalled:
        pytest.skip("this machine has no such address")
    host, _, number = bound.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host.strip("[]").replace("::1", "::1"), int(number))):
        pass
    made.close()


async def test_an_old_key_expires_while_the_port_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection gets the keys that are accepted when it begins; the current one has no end."""
    monkeypatch.setattr(process, "_descriptors", lambda: 1_024)
    loop, now = asyncio.get_running_loop(), 50_000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port_process = process.PortProcess(listener, loop, lambda: now)
        pairs = [AcceptedPair(b"new", b"n", None), AcceptedPair(b"old", b"o", 1_000), AcceptedPair(b"older", b"p", 10)]
        setup = Setup(
            pairs=pairs,
            limits=LIMITS,
            part_bytes_max=1,
            outbound_bytes_max=1,
            outbound_total_max=1,
            messages_max=0,
            first_connection=0,
        )
        port_process.data_received(record(Kind.SETUP, 0, msgspec.msgpack.encode(setup)))
        loop.remove_reader(listener.fileno())

        accepted = {}
        for now in (50_009, 50_010, 50_999, 51_000):
            accepted[now] = [pair.public for pair in port_process.pairs()]

    assert accepted == {
        50_009: [b"new", b"old", b"older"],
        50_010: [b"new", b"old"],
        50_999: [b"new", b"old"],
        51_000: [b"new"],
    }


# Attacks ------------------------------------------------------------------------------------------------------------------


def _aim(link: LinkHarness, **more: object) -> Aim:
    found = {
        "enroll": link.dispatch.endpoints.enroll,
        "work": link.dispatch.endpoints.work,
        "server_key": link.keys.public,
    }
    return msgspec.convert({**found, **more}, Aim)


async def _is_sent(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE_S) == b"sent\n"


async def test_strangers_that_never_read_and_are_killed_harm_nobody(tmp_path: Path) -> None:
    """800 connections with unknown keys send 200 requests each, read nothing, and are killed.

    ZeroMQ's heartbeats aborted the daemon then: an assertion failed for a connection whose input was stopped.
    """
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        with attack("unread_requests", _aim(link)) as process:
            await _is_sent(process)
            for _ in range(20):
                await link.proves_alive(agent)
        await link.proves_alive(agent)

        assert link.dispatch.counters["port_restarts"] == 0
        assert link.names(agent.agent).count("disconnected") == 0


async def test_thousands_of_idle_connections_harm_nobody(tmp_path: Path) -> None:
    """3,000 silent ones on the enrollment port; a newcomer is let in and an agent works meanwhile."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        with attack("silence", _aim(link, work="", count=3_000)) as process:
            await _is_sent(process)
            await link.proves_alive(agent)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    newcomer = Peer(link).connect(link.dispatch.endpoints.enroll)
                    await newcomer.socket.send(bytes(memoryview(codec.encode_message(REQUEST))))
                    with contextlib.suppress(TimeoutError):
                        # Its address has a rate, which this flood has used up: it asks again, as agents do.
                        await asyncio.wait_for(newcomer.socket.recv(), 2)
                        break
            await link.proves_alive(agent)


async def test_an_agent_that_never_reads_and_is_killed_harms_nobody(tmp_path: Path) -> None:
    """One approved agent with one connection, which aborted the daemon as well."""
    async with started(tmp_path) as link:
        agent = link.peer()
        await agent.open()
        hostile = Peer(link)
        link.enroller.approved.add(hostile.public.decode())
        aim = _aim(link, public=hostile.public.decode(), secret=hostile.secret.decode())
        with attack("unread_reports", aim) as process:
            # Not the state: a daemon without much time connects the agent and ends its session in one turn.
            await until(lambda: "connected" in link.names(hostile.agent))
            for _ in range(20):
                await link.proves_alive(agent)
            process.kill()
        await until(lambda: hostile.agent not in link.dispatch.connected)
        await link.proves_alive(agent)
        assert link.dispatch.counters["port_restarts"] == 0
        assert fingerprint(agent.public.decode()) in link.dispatch.connected


def _address(made: Port) -> tuple[str, int]:
    host, _, number = made.endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(number)
