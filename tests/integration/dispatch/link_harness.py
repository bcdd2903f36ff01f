"""A daemon's link on loopback for tests, with a recording listener and a scripted peer over a real DEALER socket."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from tests.patience import PATIENCE_S
from waterflow_agent.keys import fingerprint
from waterflow_agent.testing import task_id
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import Session
from waterflowd.dispatch import keys
from waterflowd.dispatch.link import Dispatch
from waterflowd.model.ids import AgentId
from waterflowd.model.statuses import Outcome

KEY = task_id("01J00000000000000000000000", "build", "1", 1, 3)
TASK = messages.Task(
    KEY, "run", {"script": "true"}, {}, "build", None, 60_000, "TERM", 5_000, 1 << 20, "boot", "instance"
)
STARTED = messages.Started(key=KEY, at=1)
FINISHED = messages.Finished(KEY, Outcome.SUCCESS, 0, "", "", {}, {}, 1, 2, 0, 0)
#: Short, so that tests with a silent peer are fast; an agent under test sends whatever the test tells it to.
SILENCE_MS = 900


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the awaited condition has no event
            await asyncio.sleep(0.005)


class RecordingListener:
    """Records the link's calls, in order; behaves like a host that makes everything durable at once."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, AgentId]] = []
        self.texts: list[str] = []
        self.reports: list[messages.Started | messages.Finished] = []
        self.outputs: list[messages.Output] = []
        self.questions: list[messages.FileRequest] = []
        self.clones: list[AgentId] = []
        self.forget: list[messages.TaskId] = []
        self.on_output: Callable[[AgentId, messages.Output], None] = lambda agent, output: None
        self.on_connected: Callable[[AgentId], None] = lambda agent: None
        self.on_received: Callable[[Callable[[], None]], None] = lambda durable: durable()

    def settle(self, agent: AgentId, hello: messages.Hello) -> list[messages.TaskId]:
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
        self.on_output(agent, output)

    def file_requested(self, agent: AgentId, request: messages.FileRequest) -> None:
        self.questions.append(request)

    def artifact_requested(self, agent: AgentId, request: messages.ArtifactRequest) -> None:
        raise AssertionError("no test of the link asks for artifacts")


class FakeEnroller:
    """Approves the keys in `approved`, and every request with the right token."""

    def __init__(self) -> None:
        self.approved: set[str] = set()
        self.requests: list[messages.EnrollRequest] = []

    async def request(self, public_key: str, request: messages.EnrollRequest) -> messages.EnrollAnswer:
        self.requests.append(request)
        if request.token != "join":
            return messages.EnrollAnswer("pending", "wait for approval", "", "", [], "", 5_000)
        self.approved.add(public_key)
        return messages.EnrollAnswer("approved", "welcome", "", request.name, ["web"], "", 0)

    def is_approved(self, public_key: str) -> bool:
        return public_key in self.approved


class Peer:
    """A DEALER socket with its own key that sends what the test says."""

    _tokens = itertools.count()

    def __init__(self, link: LinkHarness, pair: tuple[bytes, bytes] | None = None) -> None:
        self._link = link
        self.public, self.secret = pair or zmq.curve_keypair()
        self.agent = AgentId(fingerprint(self.public.decode()))
        self.session = Session("not-open-yet", codec.Side.DAEMON, 0)
        self.socket: zmq.asyncio.Socket = link.socket()

    def connect(self, endpoint: str, *, identity: bytes = b"") -> Peer:
        self.socket.curve_publickey, self.socket.curve_secretkey = self.public, self.secret
        self.socket.curve_serverkey = self._link.keys.public.encode()
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        self.socket.connect(endpoint)
        return self

    async def say(self, *outgoing: messages.AgentMessage) -> None:
        for message in outgoing:
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
        """The messages of the first frame that contains one of this kind."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                received = self.session.receive(await self.socket.recv(), 0)
                received_messages = [
                    *received.loose,
                    *(message for _, message in received.numbered),
                    *received.acknowledged,
                ]
                if any(isinstance(message, kind) for message in received_messages):
                    return received_messages

    async def open(self, *, instance: str = "instance") -> messages.Welcome:
        await self.hello(instance=instance)
        welcome = (await self.hear(messages.Welcome))[0]
        assert isinstance(welcome, messages.Welcome)
        return welcome

    async def beat(self) -> None:
        """Sends an empty frame: a keep-alive."""
        await self.socket.send(codec.encode_frame(self.session.token, 0, 1, [], []))


class LinkHarness:
    """A started link, its listener and enroller, and the sockets that a test opens."""

    def __init__(self, data_dir: Path, *, silence_ms: int) -> None:
        self.keys = keys.load_server_keys(data_dir)
        self.listener = RecordingListener()
        self.enroller = FakeEnroller()
        self.context = zmq.asyncio.Context()
        self._sockets: list[zmq.asyncio.Socket] = []
        self.dispatch = Dispatch(
            self.listener,
            self.enroller,
            self.keys,
            7,
            lambda agent: ("web-1", ["web"]),
            on_clone=lambda agent, hello: self.listener.clones.append(agent),
            silence_ms=silence_ms,
        )

    def socket(self) -> zmq.asyncio.Socket:
        made: zmq.asyncio.Socket = self.context.socket(zmq.DEALER)
        made.linger = 0
        self._sockets.append(made)
        return made

    def peer(self, *, pair: tuple[bytes, bytes] | None = None) -> Peer:
        """Returns an agent with an approved key, connected to the work port."""
        peer = Peer(self, pair)
        self.enroller.approved.add(peer.public.decode())
        return peer.connect(self.dispatch.endpoints.work)

    def names(self, agent: AgentId) -> list[str]:
        return [name for name, whose in self.listener.calls if whose == agent]

    async def proves_alive(self, peer: Peer) -> None:
        """Checks that a result of a well-behaved agent still arrives."""
        await peer.say(FINISHED)
        assert FINISHED in await peer.hear(messages.Finished)


@asynccontextmanager
async def started(data_dir: Path, *, silence_ms: int = 60_000) -> AsyncIterator[LinkHarness]:
    link = LinkHarness(data_dir, silence_ms=silence_ms)
    await link.dispatch.start("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    try:
        yield link
        assert not any(task.done() for task in link.dispatch.tasks)
    finally:
        await link.dispatch.close()
        link.context.destroy(linger=0)
