"""The daemon's side of the link over real sockets, against a scripted agent and against whoever else reaches a port."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import Session
from waterflowd.dispatch import enrol, keys
from waterflowd.dispatch.link import Dispatch
from waterflowd.model.ids import AgentId

KEY = messages.TaskKey(run="01J00000000000000000000000", job="build", step="1", attempt=1, epoch=3)
TASK = messages.Task(
    KEY, "run", {"script": "true"}, {}, "build", None, 60_000, "TERM", 5_000, 1 << 20, "boot", "instance"
)
STARTED = messages.Started(key=KEY, at=1)
FINISHED = messages.Finished(KEY, messages.Outcome.SUCCESS, 0, "", "", {}, {}, 1, 2, 0, 0)
#: A deadline for conditions, far beyond what any of them takes.
PATIENCE_S = 20
#: Short, so that a silent peer costs a test little time; an agent under test speaks when it is told to.
SILENCE_MS = 900


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


class Desk:
    """Records what the link tells, in order; answers as a host that makes everything durable at once."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, AgentId]] = []
        self.texts: list[str] = []
        self.reports: list[messages.Started | messages.Finished] = []
        self.outputs: list[messages.Output] = []
        self.clones: list[AgentId] = []
        self.forget: list[messages.TaskKey] = []
        self.on_connected: Callable[[AgentId], None] = lambda agent: None
        self.on_received: Callable[[Callable[[], None]], None] = lambda durable: durable()

    def settle(self, agent: AgentId, hello: messages.Hello) -> list[messages.TaskKey]:
        self.calls.append(("settle", agent))
        return self.forget

    def connected(self, agent: AgentId) -> None:
        self.calls.append(("connected", agent))
        self.on_connected(agent)

    def disconnected(self, agent: AgentId, text: str) -> None:
        self.calls.append(("disconnected", agent))
        self.texts.append(text)

    def received(
        self, agent: AgentId, reports: Sequence[messages.Started | messages.Finished], durable: Callable[[], None]
    ) -> None:
        self.calls.append(("received", agent))
        self.reports += reports
        self.on_received(durable)

    def output(self, agent: AgentId, output: messages.Output) -> None:
        self.outputs.append(output)


class Enrolments:
    """Approves what it is told to approve; a token makes an agent at once."""

    def __init__(self) -> None:
        self.approved: set[str] = set()
        self.requests: list[messages.EnrollRequest] = []

    async def request(self, public_key: str, wanted: messages.EnrollRequest) -> messages.EnrollAnswer:
        self.requests.append(wanted)
        if wanted.token != "join":
            return messages.EnrollAnswer("pending", "wait for approval", "", "", [], "", 5_000)
        self.approved.add(public_key)
        return messages.EnrollAnswer("approved", "welcome", "", wanted.name, ["web"], "", 0)

    def is_approved(self, public_key: str) -> bool:
        return public_key in self.approved


class Peer:
    """A DEALER with a key of its own that says what the test tells it to."""

    _tokens = itertools.count()

    def __init__(self, world: World, pair: tuple[bytes, bytes] | None = None) -> None:
        self._world = world
        self.public, self.secret = pair or zmq.curve_keypair()
        self.agent = keys.fingerprint(self.public.decode())
        self.session = Session("not-open-yet", codec.Side.DAEMON, 0)
        self.socket: zmq.asyncio.Socket = world.socket()

    def connect(self, endpoint: str, *, identity: bytes = b"") -> Peer:
        self.socket.curve_publickey, self.socket.curve_secretkey = self.public, self.secret
        self.socket.curve_serverkey = self._world.keys.public.encode()
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(endpoint)
        return self

    async def say(self, *said: messages.AgentMessage) -> None:
        for message in said:
            self.session.queue(message)
        for frame in self.session.frames(0):
            await self.socket.send(frame)

    async def hello(self, *, instance: str = "instance", slots: int = 4, protocol: int = 1) -> None:
        token = f"a-fresh-token-{next(self._tokens)}"
        self.session = Session(token, codec.Side.DAEMON, 0)
        await self.say(
            messages.Hello(
                token,
                protocol,
                protocol,
                "0.1.0",
                instance,
                "machine",
                "boot",
                slots,
                "host",
                "linux",
                "arm",
                {},
                ["run"],
                [],
            )
        )

    async def hear(self, kind: type[msgspec.Struct]) -> list[messages.Message]:
        """The messages of the first frame that has one of this kind."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                received = self.session.receive(await self.socket.recv(), 0)
                heard = [*received.loose, *(message for _, message in received.numbered), *received.acknowledged]
                if any(isinstance(message, kind) for message in heard):
                    return heard

    async def open(self, *, instance: str = "instance") -> messages.Welcome:
        await self.hello(instance=instance)
        welcome = (await self.hear(messages.Welcome))[0]
        assert isinstance(welcome, messages.Welcome)
        return welcome

    async def beat(self) -> None:
        """A frame that says nothing but that this peer lives."""
        await self.socket.send(codec.encode_frame(self.session.token, 0, 1, [], []))


class World:
    """A started link, its desks, and the sockets that a test opens."""

    def __init__(self, data_dir: Path, *, silence_ms: int) -> None:
        self.keys = keys.load_server_keys(data_dir)
        self.desk = Desk()
        self.enrolments = Enrolments()
        self.context = zmq.asyncio.Context()
        self._sockets: list[zmq.asyncio.Socket] = []
        self.dispatch = Dispatch(
            self.desk,
            self.enrolments,
            self.keys,
            7,
            lambda agent: ("web-1", ["web"]),
            cloned=lambda agent, hello: self.desk.clones.append(agent),
            silence_ms=silence_ms,
        )

    def socket(self) -> zmq.asyncio.Socket:
        made: zmq.asyncio.Socket = self.context.socket(zmq.DEALER)
        made.linger = 0
        self._sockets.append(made)
        return made

    def peer(self, *, pair: tuple[bytes, bytes] | None = None) -> Peer:
        """An agent with an approved key, connected to the work port."""
        peer = Peer(self, pair)
        self.enrolments.approved.add(peer.public.decode())
        return peer.connect(self.dispatch.endpoints.work)

    def names(self, agent: AgentId) -> list[str]:
        return [name for name, whose in self.desk.calls if whose == agent]

    async def proves_alive(self, peer: Peer) -> None:
        """A good agent's result still gets through."""
        await peer.say(FINISHED)
        assert FINISHED in await peer.hear(messages.Finished)


@asynccontextmanager
async def started(data_dir: Path, *, silence_ms: int = 60_000) -> AsyncIterator[World]:
    world = World(data_dir, silence_ms=silence_ms)
    await world.dispatch.start("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    try:
        yield world
        assert not any(task.done() for task in world.dispatch.tasks)
    finally:
        await world.dispatch.close()
        world.context.destroy(linger=0)


async def test_an_agent_enrolls_by_a_token_and_works_on_the_other_port(tmp_path: Path) -> None:
    """The answer carries fingerprint and work port; the key is let in there afterwards."""
    async with started(tmp_path) as world:
        stranger = Peer(world).connect(world.dispatch.endpoints.enroll)
        await stranger.socket.send(
            bytes(memoryview(codec.encode_message(messages.EnrollRequest(1, "join", "web-1", [], "h", "m", "0.1.0"))))
        )
        answer = codec.decode_enroll_answer(await stranger.socket.recv())

        assert answer.state == "approved"
        assert answer.fingerprint == stranger.agent
        assert answer.work_endpoint == f"tcp://:{world.dispatch.endpoints.work.rpartition(':')[2]}"
        agent = world.peer(pair=(stranger.public, stranger.secret))
        welcome = await agent.open()
        assert (welcome.name, welcome.groups, welcome.generation) == ("web-1", ["web"], 7)


async def test_the_desk_settles_before_it_is_told_of_the_connection(tmp_path: Path) -> None:
    """Settle, connected, then what the host owes; welcome and offer arrive in one frame."""
    async with started(tmp_path) as world:
        world.desk.forget = [KEY]
        world.desk.on_connected = lambda agent: world.dispatch.send(agent, [messages.Offer(task=TASK)])
        agent = world.peer()
        await agent.hello()

        heard = await agent.hear(messages.Offer)

        assert isinstance(heard[0], messages.Welcome)
        assert heard[0].forget == [KEY]
        assert heard[1] == messages.Offer(task=TASK)
        assert world.names(agent.agent) == ["settle", "connected"]


async def test_messages_of_one_turn_leave_in_one_frame(tmp_path: Path) -> None:
    """Several sends of a batch share a frame."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        for _ in range(10):
            world.dispatch.send(agent.agent, [messages.Offer(task=TASK)])

        received = agent.session.receive(await agent.socket.recv(), 0)

        assert len(received.numbered) == 10


async def test_a_report_is_acknowledged_once_it_is_durable_and_not_before(tmp_path: Path) -> None:
    """The acknowledgement follows the host's word, not the arrival."""
    async with started(tmp_path) as world:
        waiting: list[Callable[[], None]] = []
        world.desk.on_received = waiting.append
        agent = world.peer()
        await agent.open()
        await agent.say(STARTED, FINISHED)
        await until(lambda: bool(waiting))
        world.dispatch.send(agent.agent, [messages.OutputAck(key=KEY, offset=1)])

        assert await agent.hear(messages.OutputAck) == [messages.OutputAck(key=KEY, offset=1)]
        waiting[0]()
        assert await agent.hear(messages.Finished) == [STARTED, FINISHED]
        assert world.desk.reports == [STARTED, FINISHED]


async def test_durability_that_comes_after_the_session_is_nobodys_business(tmp_path: Path) -> None:
    """A late word about a closed session changes nothing, not even in the session that replaced it."""
    async with started(tmp_path) as world:
        waiting: list[Callable[[], None]] = []
        world.desk.on_received = waiting.append
        agent = world.peer()
        await agent.open()
        await agent.say(FINISHED)
        await until(lambda: bool(waiting))
        await agent.open()

        waiting[0]()

        await agent.say(FINISHED)
        await until(lambda: len(waiting) == 2)
        waiting[1]()
        assert await agent.hear(messages.Finished) == [FINISHED]


async def test_output_reaches_the_desk_and_its_acknowledgement_the_agent(tmp_path: Path) -> None:
    """Output is loose: it comes with its offset and is answered by the host."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        output = messages.Output(key=KEY, offset=0, chunks=[messages.Chunk(at=1, stream=1, data=b"hello")])
        await agent.say(output)
        await until(lambda: world.desk.outputs == [output])


async def test_a_new_hello_of_the_same_process_replaces_the_session(tmp_path: Path) -> None:
    """From the same or a new connection: the older session ends first, the newer one settles after it."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        again = world.peer(pair=(agent.public, agent.secret))
        await again.open()

        assert world.names(agent.agent) == ["settle", "connected", "disconnected", "settle", "connected"]
        await world.proves_alive(again)
        await agent.say(STARTED)
        assert await agent.hear(messages.Reset)


async def test_a_result_of_another_session_is_ignored(tmp_path: Path) -> None:
    """A frame under another session's token reaches nobody and disturbs nothing."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        forged = codec.encode_frame("another-session", 0, 1, [codec.encode_message(FINISHED)], [])
        await agent.socket.send(forged)
        await world.proves_alive(agent)

        assert world.desk.reports == [FINISHED]
        assert world.dispatch.counters["frames_foreign"] == 1


async def test_an_unknown_connection_is_told_to_say_hello_again(tmp_path: Path) -> None:
    """After the daemon's restart an agent's frame finds no session: it is answered by a reset, never applied."""
    async with started(tmp_path) as world:
        agent = world.peer()
        agent.session.queue(FINISHED)
        await agent.say()

        assert await agent.hear(messages.Reset)
        assert world.desk.reports == []


async def test_a_silent_agent_is_disconnected(tmp_path: Path) -> None:
    """Without any frame for the agreed time the session is over, and the text says so."""
    async with started(tmp_path, silence_ms=SILENCE_MS) as world:
        agent = world.peer()
        await agent.open()

        await until(lambda: world.names(agent.agent)[-1] == "disconnected")

        assert world.desk.texts == ["no frame for 0.9 s"]


async def test_an_agent_that_is_gone_is_noticed_at_the_next_send(tmp_path: Path) -> None:
    """A closed connection takes nothing: the session ends at once, not after its silence."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        agent.socket.close(linger=0)

        def is_noticed() -> bool:
            world.dispatch.send(agent.agent, [messages.OutputAck(key=KEY, offset=1)])
            return world.names(agent.agent)[-1] == "disconnected"

        await until(is_noticed)
        assert world.desk.texts == ["its connection is closed"]


async def test_a_revoked_agent_is_cut_at_once_and_stays_out(tmp_path: Path) -> None:
    """Its session ends with the reason, its further frames reach nobody, and it cannot come back."""
    async with started(tmp_path) as world:
        good = world.peer()
        await good.open()
        agent = world.peer()
        await agent.open()
        world.enrolments.approved.remove(agent.public.decode())
        world.dispatch.revoke(agent.agent)

        (rejected,) = await agent.hear(messages.Reject)
        assert isinstance(rejected, messages.Reject)
        assert rejected.code == "WF212"
        await until(lambda: world.names(agent.agent)[-1] == "disconnected")
        refused = world.dispatch.counters["frames_refused"]
        await agent.say(FINISHED)
        await agent.hello()
        Peer(world, (agent.public, agent.secret)).connect(world.dispatch.endpoints.work)
        await until(lambda: world.dispatch.counters["frames_refused"] == refused + 3)
        await world.proves_alive(good)
        assert world.desk.reports == [FINISHED]
        assert world.names(agent.agent).count("settle") == 1


async def test_a_key_that_lost_its_approval_is_cut_at_its_next_frame(tmp_path: Path) -> None:
    """Even if nobody called revoke: the key is checked for each frame."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        world.enrolments.approved.clear()
        await agent.say(FINISHED)

        assert await agent.hear(messages.Reject)
        assert world.desk.reports == []


async def test_a_clone_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    """Two live processes under one key: the newer is refused for good and the host is told; the older works on."""
    async with started(tmp_path, silence_ms=3_000) as world:
        first = world.peer()
        await first.open(instance="first")
        second = world.peer(pair=(first.public, first.secret))

        async def talk() -> None:
            while True:
                await first.beat()
                await asyncio.sleep(0.1)

        talking = asyncio.create_task(talk())
        await second.hello(instance="second")
        (rejected,) = await second.hear(messages.Reject)
        await until(lambda: world.desk.clones == [first.agent])
        await second.hello(instance="second")
        (final,) = await second.hear(messages.Reject)
        talking.cancel()

        assert isinstance(rejected, messages.Reject)
        assert isinstance(final, messages.Reject)
        assert rejected.code == final.code == "WF211"
        assert 0 < rejected.after_ms < final.after_ms
        await world.proves_alive(first)
        assert world.names(first.agent).count("settle") == 1


async def test_a_restarted_agent_is_no_clone(tmp_path: Path) -> None:
    """When the older process's connection is closed, a new process is let in as soon as it asks."""
    async with started(tmp_path) as world:
        first = world.peer()
        await first.open(instance="first")
        first.socket.close(linger=0)
        second = world.peer(pair=(first.public, first.secret))

        async with asyncio.timeout(PATIENCE_S):
            while True:
                await second.hello(instance="second")
                heard = await second.hear(msgspec.Struct)
                if isinstance(heard[0], messages.Welcome):
                    break

        assert world.desk.clones == []


async def test_a_claimed_identity_is_worth_nothing(tmp_path: Path) -> None:
    """A peer that claims another's routing id stays what its key says, and gets nothing of the other's."""
    async with started(tmp_path) as world:
        good = world.peer()
        await good.open()
        thief = Peer(world)
        world.enrolments.approved.add(thief.public.decode())
        thief.connect(world.dispatch.endpoints.work, identity=good.agent.encode())
        await thief.open(instance="thief")
        world.dispatch.send(good.agent, [messages.Offer(task=TASK)])

        assert await good.hear(messages.Offer)
        assert {name for name, whose in world.desk.calls if whose == thief.agent} == {"settle", "connected"}
        assert thief.agent != good.agent
        await world.proves_alive(good)


async def test_a_bad_frame_ends_that_session_only(tmp_path: Path) -> None:
    """Garbage from an approved agent is answered by a reject; another agent does not notice, and it may come back."""
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
    """ZeroMQ drops the connection of a peer that sends too large a part; others go on."""
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
    """A message of several parts is counted and reaches nobody."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.open()
        await agent.socket.send_multipart([b"one", b"two"])

        await world.proves_alive(agent)
        assert world.dispatch.counters["frames_misshapen"] == 1


@pytest.mark.parametrize(("protocol", "slots", "code"), [(2, 4, "WF210"), (0, 4, "WF210"), (1, 1_000_000, "WF214")])
async def test_a_hello_that_makes_no_session_says_why(tmp_path: Path, protocol: int, slots: int, code: str) -> None:
    """Another protocol version and senseless figures are refused with a text."""
    async with started(tmp_path) as world:
        agent = world.peer()
        await agent.hello(protocol=protocol, slots=slots)

        (rejected,) = await agent.hear(messages.Reject)

        assert isinstance(rejected, messages.Reject)
        assert rejected.code == code
        assert rejected.text
        assert world.desk.calls == []


async def test_a_hello_comes_alone(tmp_path: Path) -> None:
    """Before the welcome nothing but a hello is permitted."""
    async with started(tmp_path) as world:
        agent = world.peer()
        agent.session.queue(STARTED)
        hello = messages.Hello("not-open-yet", 1, 1, "0", "i", "m", "b", 1, "h", "l", "a", {}, [], [])
        await agent.say(hello)
        await until(lambda: world.dispatch.counters["frames_refused"] == 1)
        assert world.desk.calls == []


async def test_a_flood_of_hellos_is_turned_away(tmp_path: Path) -> None:
    """Settling costs the host work; past a burst it is refused for a while."""
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
    """A bug that one agent's report brings out ends that session and is in the log; the readers go on."""
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
    """They are owed again at its next settlement."""
    async with started(tmp_path) as world:
        world.dispatch.send(AgentId("SHA256:nobody"), [messages.Offer(task=TASK)])

        assert world.dispatch.counters["messages_dropped"] == 1


# Strangers ----------------------------------------------------------------------------------------------------------------


async def test_a_foreign_key_never_reaches_the_work_port(tmp_path: Path) -> None:
    """An unknown CURVE key is refused at the handshake, with a line for the administrator."""
    async with started(tmp_path) as world:
        stranger = Peer(world).connect(world.dispatch.endpoints.work)
        await stranger.hello()

        await until(lambda: world.dispatch.counters["frames_refused"] == 1)

        assert world.dispatch.counters["frames_received"] == 0


async def test_other_mechanisms_and_garbage_are_refused_while_a_good_agent_goes_on(tmp_path: Path) -> None:
    """NULL, PLAIN, a wrong server key, HTTP, an old greeting and noise on both ports: nothing gets in."""
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
    """A TCP proxy in front of a port, for one connection, that keeps what its client sent."""

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
    """The bytes of a whole good session, sent again by somebody who listened, open no session and repeat no result."""
    async with started(tmp_path) as world:
        port = int(world.dispatch.endpoints.work.rpartition(":")[2])
        tap = Wiretap(port)
        async with await asyncio.start_server(tap, "127.0.0.1", 0) as proxy:
            agent = Peer(world)
            world.enrolments.approved.add(agent.public.decode())
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
    """Ten thousand frames of one agent are all handled, and another agent's result comes through meanwhile."""
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


async def test_only_a_request_to_enroll_is_answered_on_the_enrolment_port(tmp_path: Path) -> None:
    """Every other kind of message, sent by a stranger, is refused by name and reaches no desk."""
    async with started(tmp_path) as world:
        others = [STARTED, FINISHED, messages.Output(key=KEY, offset=0, chunks=[]), messages.Reset(text="x")]
        for message in others:
            stranger = Peer(world).connect(world.dispatch.endpoints.enroll)
            await stranger.socket.send(bytes(memoryview(codec.encode_message(message))))
            answer = codec.decode_enroll_answer(await stranger.socket.recv())
            assert answer.state == "refused"

        assert world.enrolments.requests == []
        assert world.desk.calls == []


async def test_requests_to_enroll_are_rate_limited_per_key(tmp_path: Path) -> None:
    """One key may ask a few times; then it is told to wait, and another key is still heard."""
    async with started(tmp_path) as world:
        request = bytes(memoryview(codec.encode_message(messages.EnrollRequest(1, "", "n", [], "h", "m", "v"))))
        eager = Peer(world).connect(world.dispatch.endpoints.enroll)
        texts = []
        for _ in range(enrol.PER_KEY_BURST + 5):
            await eager.socket.send(request)
            texts.append(codec.decode_enroll_answer(await eager.socket.recv()).text)

        assert any("too many requests" in text for text in texts)
        assert len(world.enrolments.requests) < len(texts)
        calm = Peer(world).connect(world.dispatch.endpoints.enroll)
        await calm.socket.send(request)
        assert codec.decode_enroll_answer(await calm.socket.recv()).text == "wait for approval"


async def test_what_is_refused_fills_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flood is counted in full and told in a bounded number of lines."""
    async with started(tmp_path) as world:
        agent = world.peer()
        with caplog.at_level(logging.WARNING, logger="waterflow.dispatch"):
            for _ in range(500):
                await agent.socket.send(b"\xc1")
            await until(lambda: world.dispatch.counters["frames_refused"] == 500)

        assert len(caplog.records) < 100


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """The daemon cannot start on a port that is in use, and leaves nothing open."""
    async with started(tmp_path) as world:
        taken = world.dispatch.endpoints.work
        other = World(tmp_path, silence_ms=1_000)
        with pytest.raises(Exception, match="WF221"):
            await other.dispatch.start(taken, "tcp://127.0.0.1:*")
        other.context.destroy(linger=0)
