"""The agent's connection to the daemon: a CURVE socket, its monitor, and one session after the other.

    wait ──▶ connect ──handshake──▶ Hello ──Welcome──▶ open ──┐
      ▲                                └──────Reset◀──────────┤
      └── refused key, unreachable, rejected, cut, silent ◀───┘

Rules of this file:

- One connection per socket: ZeroMQ's own reconnecting is off, so each connection gets its `Hello` and a refused key is seen.
- A session is silent when nothing came for the time that `Welcome` named. The boot clock counts, so after a suspended or
  stopped machine the session is found dead before a message of it is looked at, and no stale offer is ever started.
- Everything queued in one turn of the loop leaves in one flush, in the next one.
- What the messages mean is the desk's; this module knows sessions.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec
import zmq
import zmq.asyncio

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.keys import KeyPair
from waterflow_agent.session.dealer import Dealer
from waterflow_agent.wire import messages
from waterflow_agent.wire.codec import Side
from waterflow_agent.wire.session import Received, Session

logger = logging.getLogger(__name__)

#: After a connection that failed: short, so that a restarted daemon is found again quickly.
BACKOFF = Backoff(first_s=0.1, max_s=5.0)
#: After a refused key: only a person can change that.
REFUSED_BACKOFF = Backoff(first_s=1.0, max_s=30.0)
#: From the first byte of a connection to `Welcome`.
OPEN_S_MAX = 10.0
#: At the end of the agent, for frames that ZeroMQ still holds.
LINGER_MS = 500


class EndReason(Enum):
    """Why a connection is over."""

    #: Nobody answers, or the connection was cut.
    UNREACHABLE = "unreachable"
    #: The server knows this key not, or no more.
    REFUSED = "refused"
    #: The daemon answered and wants no session.
    REJECTED = "rejected"
    #: A fault of the protocol, on either side.
    FAULT = "fault"
    #: This side is ending.
    CLOSED = "closed"


class ConnectionEnd(msgspec.Struct, frozen=True):
    """The end of a connection, in one sentence for a person; `after_ms` is the daemon's wish, 0 for "never again"."""

    ending: EndReason
    text: str
    after_ms: int | None = None


class Desk(Protocol):
    """Who gives the messages a meaning. All calls come on the loop's thread; none may wait."""

    def hello(self, session: str) -> messages.Hello:
        """The opening of a new session."""
        ...

    def opened(self, welcome: messages.Welcome) -> None:
        """The session is open; what is owed may be sent."""
        ...

    def received(self, received: Received) -> None:
        """One frame of an open session, `Welcome` and the like taken out."""
        ...

    def fill(self, now: int) -> int | None:
        """About to flush: `Link.send` what may go now, such as output; gives when to ask again at the latest."""
        ...

    def closed(self, text: str) -> None:
        """The session is over; what was not acknowledged is owed again."""
        ...


def boot_ms() -> int:
    """Milliseconds since boot, suspended time included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Link:
    """Keeps one session with the daemon open. `run` is its life."""

    def __init__(
        self, *, endpoint: str, server_key: str, keys: KeyPair, desk: Desk, new_token: Callable[[], str]
    ) -> None:
        self.endpoint = endpoint
        #: One line for people: what the connection is doing.
        self.state = "not connected yet"
        self._server_key = server_key
        self._keys = keys
        self._desk = desk
        self._new_token = new_token
        self._context: zmq.asyncio.Context | None = None
        self._connection: _Connection | None = None
        self._random = random.Random()

    @property
    def is_open(self) -> bool:
        """Whether a session is open."""
        return self._connection is not None and self._connection.is_open

    async def run(self) -> None:
        """Connects for ever; returns when the daemon said that trying again is useless."""
        failures = 0
        context = self._context = zmq.asyncio.Context()
        try:
            while True:
                connection = self._connection = _Connection(self)
                ended = await connection.run()
                failures = 0 if connection.was_open else failures + 1
                self._say(ended)
                if ended.ending is EndReason.REJECTED and ended.after_ms == 0:
                    return
                await asyncio.sleep(self._delay_s(ended, failures))
        finally:
            self._connection = None
            context.destroy(linger=LINGER_MS)

    def send(self, message: messages.AgentMessage) -> None:
        """Queues a message of the open session for the end of this turn; without a session it is owed, not queued."""
        if self._connection is not None:
            self._connection.send(message)

    def acknowledge(self, number: int) -> None:
        """The daemon's messages up to `number` are in the journal."""
        if self._connection is not None:
            self._connection.acknowledge(number)

    def greet_again(self) -> None:
        """What `Hello` says is not true any more: a new session on the same connection."""
        if self._connection is not None:
            self._connection.greet_again()

    def wake(self) -> None:
        """Has the desk asked (`fill`) at the end of this turn."""
        if self._connection is not None:
            self._connection.wake()

    def _delay_s(self, ended: ConnectionEnd, failures: int) -> float:
        if ended.after_ms is not None:
            return ended.after_ms / 1_000 * self._random.uniform(1.0, 1.2)
        backoff = REFUSED_BACKOFF if ended.ending is EndReason.REFUSED else BACKOFF
        # Full jitter: a thousand agents must not come back at the same moment.
        return backoff.delay_s(failures + 1, jitter=self._random.random())

    def _say(self, ended: ConnectionEnd) -> None:
        if ended.text != self.state:
            logger.warning("%s: %s", self.endpoint, ended.text)
        self.state = ended.text

    # What a connection needs of its link.

    def open_socket(self) -> Dealer:
        """A socket with this agent's keys, not connected yet."""
        assert self._context is not None, "a connection is made by `run` alone"
        return Dealer(self._context, server_key=self._server_key, keys=self._keys)

    @property
    def desk(self) -> Desk:
        """Who gives the messages a meaning."""
        return self._desk

    def new_token(self) -> str:
        """A name for a session that nobody can guess."""
        return self._new_token()


class _Connection:
    """One socket from its making to its end, with its sessions: more than one after a `Reset`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._desk = link.desk
        self._session: Session | None = None
        self._backlog: deque[messages.AgentMessage] = deque()
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[ConnectionEnd] = asyncio.get_running_loop().create_future()
        self._socket = link.open_socket()
        self.is_open = False
        self.was_open = False

    async def run(self) -> ConnectionEnd:
        tasks = [
            asyncio.create_task(self._watch(), name="link-monitor"),
            asyncio.create_task(self._socket.read(self._take), name="link-reader"),
        ]
        for task in tasks:
            task.add_done_callback(self._on_task_done)
        self._arm_opening()
        try:
            self._socket.connect(self._link.endpoint)
            ended = await self._ended
        finally:
            for handle in (self._timer, self._opening, self._flushing):
                if handle is not None:
                    handle.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._socket.close(LINGER_MS if self.is_open else 0)
            self._close_session("the connection is over")
        return ended

    def send(self, message: messages.AgentMessage) -> None:
        if not self.is_open:
            return
        self._backlog.append(message)
        self.wake()

    def acknowledge(self, number: int) -> None:
        if self._session is not None:
            self._session.acknowledge(number, boot_ms())
            self.wake()

    def greet_again(self) -> None:
        # While a Hello is on its way, the one that follows would be refused: its session is not known yet.
        if self.is_open and not self._ended.done():
            self._close_session("what this agent offers has changed")
            self._say_hello()

    def wake(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    # Tasks.

    async def _watch(self) -> None:
        while True:
            kind = await self._socket.next_event()
            if kind is zmq.Event.HANDSHAKE_SUCCEEDED:
                self._say_hello()
            elif kind is zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._end(
                    EndReason.REFUSED, "the server refused this key: it is not enrolled there, or was revoked [WF212]"
                )
            elif kind is zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._end(
                    EndReason.FAULT, "the other end is no Waterflow server, or has another key than the one pinned here"
                )
            elif kind is zmq.Event.CLOSED:
                self._end(EndReason.UNREACHABLE, "the server does not answer")
            else:
                self._end(EndReason.UNREACHABLE, "the connection was cut")

    def _flush(self) -> None:
        self._flushing = None
        if self._session is None or self._ended.done():
            return
        try:
            self._say_all(self._session)
        except LocalProtocolError as error:
            self._end(EndReason.FAULT, str(error))
        except zmq.Again:
            self._end(EndReason.UNREACHABLE, "the connection was cut")
        except Exception as error:  # noqa: BLE001  told to whoever runs this
            self._ended.set_exception(error)

    def _say_all(self, session: Session) -> None:
        now = boot_ms()
        ask_at = self._desk.fill(now) if self.is_open else None
        while self._backlog and session.room:
            session.queue(self._backlog.popleft())
        for frame in session.frames(now):
            self._socket.send(frame)
        if session.is_silent(now):
            self._end(EndReason.UNREACHABLE, f"nothing came from the server for {session.silence_ms} ms")
            return
        wake_at = session.next_wake_at(now)
        self._arm(now, wake_at if ask_at is None else min(wake_at, ask_at))

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not self._ended.done():
            self._ended.set_exception(task.exception() or RuntimeError(task.get_name()))

    # The session.

    def _say_hello(self) -> None:
        token = self._link.new_token()
        session = self._session = Session(token, Side.DAEMON, boot_ms())
        self._arm_opening()
        session.queue(self._desk.hello(token))
        self.wake()

    def _take(self, frame: memoryview) -> None:
        session, now = self._session, boot_ms()
        if session is None or self._ended.done():
            return
        if session.is_silent(now):
            # This process or machine stood still: whatever waited in the socket is older than the daemon's patience.
            self._end(EndReason.UNREACHABLE, "this agent was stopped for longer than the session lives")
            return
        try:
            received = session.receive(frame, now)
        except RemoteProtocolError as error:
            self._end(EndReason.FAULT, f"the server broke the protocol: {error}")
            return
        if received.loose and not self._settle(received):
            return
        if self.is_open and not self._ended.done():
            self._desk.received(received)
        self.wake()

    def _settle(self, received: Received) -> bool:
        """Handles what opens and ends sessions; False when the rest of the frame is of no use."""
        for message in received.loose:
            if isinstance(message, messages.Welcome):
                self._open(message)
            elif isinstance(message, messages.Reject):
                self._end(EndReason.REJECTED, f"{message.text} [{message.code}]", message.after_ms)
                return False
            elif isinstance(message, messages.Reset) and self.is_open:
                # While a Hello is on its way, a Reset is about an older session.
                self._close_session(message.text)
                self._say_hello()
                return False
        return True

    def _open(self, welcome: messages.Welcome) -> None:
        session = self._session
        if session is None or self.is_open or welcome.session != session.token:
            return
        if not messages.PROTOCOL_VERSION_MIN <= welcome.protocol <= messages.PROTOCOL_VERSION:
            self._end(EndReason.FAULT, f"the server speaks protocol {welcome.protocol}, which this agent does not")
            return
        session.silence_ms = welcome.silence_ms
        self.is_open = self.was_open = True
        if self._opening is not None:
            self._opening.cancel()
        self._link.state = f"connected as {welcome.name} in {', '.join(welcome.groups) or 'no group'}"
        logger.info("%s: %s", self._link.endpoint, self._link.state)
        self._desk.opened(welcome)

    def _close_session(self, text: str) -> None:
        was_open, self.is_open, self._session = self.is_open, False, None
        self._backlog.clear()
        if was_open:
            self._desk.closed(text)

    def _end(self, ending: EndReason, text: str, after_ms: int | None = None) -> None:
        if not self._ended.done():
            self._ended.set_result(ConnectionEnd(ending, text, after_ms))

    def _arm(self, now: int, wake_at: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0, wake_at - now) / 1_000, self.wake)

    def _arm_opening(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        text = f"the server did not answer within {OPEN_S_MAX:.0f} s"
        self._opening = asyncio.get_running_loop().call_later(OPEN_S_MAX, self._end, EndReason.UNREACHABLE, text)
