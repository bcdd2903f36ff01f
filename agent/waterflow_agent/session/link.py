"""The agent's link to the daemon: one connection after another, and the sessions on each of them.

    wait ──▶ connect ──handshake──▶ Hello ──Welcome──▶ open ──┐
      ▲                                └──────Reset◀──────────┤
      └── key refused, unreachable, rejected, lost, silent ◀──┘
      └── the server has a new key ◀──KeyRotated── Hello

Rules of this file:

- One connection per socket: ZeroMQ's own reconnecting is off, so that each connection starts with a `Hello` and a refused key
  is noticed.
- A session ends when nothing was received for the time that `Welcome` named. This is measured with the boot clock, so an agent
  that was suspended or stopped ends the session before it reads any message, and never starts an outdated offer.
- After a connection the next address of the server follows (addresses.py), unless another of the server's keys is to be tried.
- A refused key is tried again a few times, because a server that was just restored or has just started may still be reading
  its agents. After `REFUSALS_MAX` refusals without a session, by every address, the link ends: a person has to act.
- Everything queued in one turn of the loop is sent in one flush, in the next turn.
- Which of the server's keys a connection uses, and whether a new one is accepted, is decided by `server_keys`.
- `MessageHandler` acts on the messages; this module only knows sessions.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum
from typing import Protocol

import msgspec
import zmq

from waterflow_agent.addresses import Addresses
from waterflow_agent.backoff import Backoff
from waterflow_agent.clock import Clock, utc_time
from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.session import reachability
from waterflow_agent.session.dealer import LINGER_MS, Dealer, SocketFactory
from waterflow_agent.session.server_keys import ServerKeys
from waterflow_agent.wire import messages
from waterflow_agent.wire.codec import Side
from waterflow_agent.wire.session import Received, Session

logger = logging.getLogger(__name__)

#: After a failed connection: short, so that a restarted daemon is found again quickly.
BACKOFF = Backoff(first_s=0.1, max_s=5.0)
#: After a refused key: only a person can change that.
REFUSED_BACKOFF = Backoff(first_s=1.0, max_s=30.0)
#: Refusals of the key without a session in between, after which the agent ends.
REFUSALS_MAX = 3
#: From the first byte of a connection to `Welcome`.
OPEN_S_MAX = 10.0


class EndReason(Enum):
    """Why a connection ended."""

    #: The server does not answer, or the connection was lost.
    UNREACHABLE = "unreachable"
    #: The server does not accept this agent's key, or no longer accepts it.
    REFUSED = "refused"
    #: The daemon refused to open a session.
    REJECTED = "rejected"
    #: Either side violated the protocol.
    PROTOCOL_ERROR = "protocol-error"
    #: The server has a new key, which the next connection uses.
    KEY_ROTATED = "key-rotated"


class LinkState(Enum):
    """What a link is doing, for the status file."""

    RESOLVING = "resolving"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    #: The server does not accept this agent.
    REFUSED = "refused"


class ConnectionEnd(msgspec.Struct, frozen=True):
    """How a connection ended; `text` is for people, with the error's code if there is one."""

    reason: EndReason
    text: str
    #: When the daemon wants the agent to try again; 0 for never, None when it did not say.
    after_ms: int | None = None
    code: str = ""


class MessageHandler(Protocol):
    """Handles the messages of a session. All calls come on the loop's thread; none may wait."""

    def hello(self, session: str) -> messages.Hello:
        """Returns the opening of a new session."""
        ...

    def on_opened(self, welcome: messages.Welcome) -> None:
        """The session is open: what was not acknowledged before may be sent again."""
        ...

    def on_received(self, received: Received) -> None:
        """Handles one frame of an open session. `Welcome`, `Reject` and `Reset` are handled by the link."""
        ...

    def on_confirmed(self, at: int) -> None:
        """The daemon has confirmed that it knew this agent to be alive at `at` (the boot clock)."""
        ...

    def send_output(self, now: int) -> int | None:
        """Called before each flush: sends what may go now. Returns when to call this again, at the latest."""
        ...

    def on_closed(self, reason: str) -> None:
        """The session has ended: what was not acknowledged has to be sent again in the next one."""
        ...


class MessageSender(Protocol):
    """Sends messages of the open session; implemented by `Link`."""

    def send(self, message: messages.AgentMessage) -> None:
        """Queues a message for the end of this turn. Without a session it is dropped: the next session starts with `Hello`."""
        ...

    def acknowledge(self, number: int) -> None:
        """Acknowledges the daemon's messages up to `number`, which are in the journal."""
        ...

    def wake(self) -> None:
        """Calls `MessageHandler.send_output` at the end of this turn."""
        ...


class Link:
    """Keeps one session with the daemon open; implements `MessageSender`."""

    def __init__(
        self,
        *,
        endpoint: str,
        sockets: SocketFactory,
        server_keys: ServerKeys,
        new_token: Callable[[], str],
        clock: Clock,
        dice: random.Random | None = None,
    ) -> None:
        self.state = LinkState.CONNECTING
        #: What the connection is doing, in one line for people.
        self.text = "not connected yet"
        self._sockets = sockets
        self._server_keys = server_keys
        self._new_token = new_token
        self._clock = clock
        self._dice = dice or random.Random()
        self._addresses = Addresses(endpoint, self._dice)
        #: The addresses that have refused the key since the last session, each as often as it has.
        self._refusals: list[str] = []
        self._connection: _Connection | None = None

    @property
    def endpoint(self) -> str:
        """The address of the current or the next connection."""
        return self._addresses.current

    @property
    def is_open(self) -> bool:
        """Whether a session is open."""
        return self._connection is not None and self._connection.is_open

    async def run(self, handler: MessageHandler) -> ConnectionEnd:
        """Connects again and again. Returns the last end when another attempt is useless."""
        failures = 0
        try:
            while True:
                connection = self._connect(handler)
                end = await connection.run()
                is_progress = connection.was_open or end.reason is EndReason.KEY_ROTATED
                failures = 0 if is_progress else failures + 1
                is_same_address = end.reason is EndReason.KEY_ROTATED
                if connection.is_proven:
                    self._server_keys.was_proven()
                elif connection.is_answered:
                    is_same_address = self._server_keys.was_not_proven()
                self._log_end(end)
                if self._is_final(connection, end):
                    return end
                if not is_same_address:
                    self._addresses.take_next()
                await asyncio.sleep(self._delay_s(end, failures))
        finally:
            self._connection = None
            self._sockets.close()

    def _is_final(self, connection: _Connection, end: ConnectionEnd) -> bool:
        """Whether the server does not accept this agent, and will not until a person acts."""
        if connection.was_open:
            self._refusals.clear()
        if end.reason is EndReason.REJECTED:
            return end.after_ms == 0
        if end.reason is not EndReason.REFUSED:
            return False
        self._refusals.append(self.endpoint)
        return len(self._refusals) >= REFUSALS_MAX and len(set(self._refusals)) == self._addresses.count

    def _connect(self, handler: MessageHandler) -> _Connection:
        key = self._server_keys.choose()
        self._connection = _Connection(
            self.endpoint,
            self._sockets.open(key),
            handler,
            self._new_token,
            self._clock,
            self._on_state,
            self._server_keys,
            key,
        )
        return self._connection

    def send(self, message: messages.AgentMessage) -> None:
        """See `MessageSender`."""
        if self._connection is not None:
            self._connection.send(message)

    def acknowledge(self, number: int) -> None:
        """See `MessageSender`."""
        if self._connection is not None:
            self._connection.acknowledge(number)

    def wake(self) -> None:
        """See `MessageSender`."""
        if self._connection is not None:
            self._connection.wake()

    def restart_session(self) -> None:
        """Opens a new session on the same connection, because the content of `Hello` has changed."""
        if self._connection is not None:
            self._connection.restart_session()

    def _delay_s(self, end: ConnectionEnd, failures: int) -> float:
        if end.after_ms is not None:
            return end.after_ms / 1_000 * self._dice.uniform(1.0, 1.2)
        backoff = REFUSED_BACKOFF if end.reason is EndReason.REFUSED else BACKOFF
        # Full jitter: a thousand agents must not come back at the same moment.
        return backoff.delay_s(failures + 1, jitter=self._dice.random())

    def _on_state(self, state: LinkState, text: str = "") -> None:
        self.state = state
        if text:
            self.text = text
            logger.info("%s: %s", self.endpoint, text)

    def _log_end(self, end: ConnectionEnd) -> None:
        text = f"{end.text} [{end.code}]" if end.code else end.text
        if text != self.text:
            logger.warning("%s: %s", self.endpoint, text)
        self.text = text
        if end.reason in (EndReason.REFUSED, EndReason.REJECTED):
            self.state = LinkState.REFUSED
        elif self.state is LinkState.CONNECTED:
            self.state = LinkState.CONNECTING


class _Connection:
    """One socket and its sessions: more than one after a `Reset`."""

    def __init__(
        self,
        endpoint: str,
        socket: Dealer,
        handler: MessageHandler,
        new_token: Callable[[], str],
        clock: Clock,
        on_state: Callable[[LinkState, str], None],
        server_keys: ServerKeys,
        server_key: str,
    ) -> None:
        self.is_open = False
        self.was_open = False
        #: Whether somebody answers at the endpoint, and whether it has proven the server's key.
        self.is_answered = False
        self.is_proven = False
        self._is_connected = False
        self._endpoint = endpoint
        self._socket = socket
        self._handler = handler
        self._new_token = new_token
        self._clock = clock
        self._on_state = on_state
        self._server_keys = server_keys
        self._server_key = server_key
        self._session: Session | None = None
        self._backlog: deque[messages.AgentMessage] = deque()
        self._flushing: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[ConnectionEnd] = asyncio.get_running_loop().create_future()

    async def run(self) -> ConnectionEnd:
        tasks = [
            asyncio.create_task(self._connect(), name="link-connect"),
            asyncio.create_task(self._watch(), name="link-monitor"),
            asyncio.create_task(self._socket.read(self._receive), name="link-reader"),
        ]
        for task in tasks:
            task.add_done_callback(self._on_task_done)
        self._arm_opening()
        try:
            end = await self._ended
        finally:
            for handle in (self._timer, self._opening, self._flushing):
                if handle is not None:
                    handle.cancel()
            try:
                await _end(tasks)
            finally:
                self._socket.close(LINGER_MS if self.is_open else 0)
                self._close_session("the connection has ended")
        return end

    def send(self, message: messages.AgentMessage) -> None:
        if not self.is_open:
            return
        self._backlog.append(message)
        self.wake()

    def acknowledge(self, number: int) -> None:
        if self._session is not None:
            self._session.acknowledge(number, self._clock.boot_ms())
            self.wake()

    def restart_session(self) -> None:
        # Before `Welcome` a second Hello would be refused, because its session is not known yet.
        if self.is_open and not self._ended.done():
            self._close_session("the description of this agent has changed")
            self._send_hello()

    def wake(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self._flush)

    # Tasks.

    async def _connect(self) -> None:
        self._on_state(LinkState.RESOLVING, "")
        if problem := await self._socket.resolution_problem(self._endpoint):
            self._end(EndReason.UNREACHABLE, problem)
            return
        self._on_state(LinkState.CONNECTING, "")
        self._socket.connect(self._endpoint)

    async def _watch(self) -> None:
        while True:
            kind = await self._socket.next_event()
            self.is_answered |= kind not in (zmq.Event.CLOSED, zmq.Event.CONNECTED)
            if kind is zmq.Event.CONNECTED:
                self._is_connected = True
            elif kind is zmq.Event.HANDSHAKE_SUCCEEDED:
                self.is_proven = True
                self._send_hello()
            elif kind is zmq.Event.HANDSHAKE_FAILED_AUTH:
                self.is_proven = True
                text = "the server refused this agent's key: it was revoked, or is not enrolled there"
                self._end(EndReason.REFUSED, text, code="WF212")
            elif kind is zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._end(EndReason.PROTOCOL_ERROR, reachability.NO_SERVER)
            elif kind is zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
                self._end(EndReason.UNREACHABLE, reachability.KEY_DIFFERS)
            elif kind is zmq.Event.CLOSED:
                self._end(EndReason.UNREACHABLE, await self._socket.connection_problem(self._endpoint))
            else:
                self._end(EndReason.UNREACHABLE, "connection lost" if self.is_proven else reachability.NO_SERVER)

    def _flush(self) -> None:
        self._flushing = None
        if self._session is None or self._ended.done():
            return
        try:
            self._send_frames(self._session)
        except LocalProtocolError as error:
            self._end(EndReason.PROTOCOL_ERROR, str(error))
        except zmq.Again:
            self._end(EndReason.UNREACHABLE, "connection lost")
        except Exception as error:  # noqa: BLE001  raised by `run`
            self._ended.set_exception(error)

    def _send_frames(self, session: Session) -> None:
        now = self._clock.boot_ms()
        output_at = self._handler.send_output(now) if self.is_open else None
        while self._backlog and session.room:
            session.queue(self._backlog.popleft())
        for frame in session.frames(now):
            self._socket.send(frame)
        if session.is_silent(now):
            self._end(EndReason.UNREACHABLE, f"nothing received from the server for {session.silence_ms} ms")
            return
        wake_at = session.next_wake_at(now)
        self._arm(now, wake_at if output_at is None else min(wake_at, output_at))

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not self._ended.done():
            self._ended.set_exception(task.exception() or RuntimeError(task.get_name()))

    # The session.

    def _send_hello(self) -> None:
        token = self._new_token()
        session = self._session = Session(token, Side.DAEMON, self._clock.boot_ms())
        self._arm_opening()
        session.queue(self._handler.hello(token))
        self.wake()

    def _receive(self, frame: memoryview) -> None:
        session, now = self._session, self._clock.boot_ms()
        if session is None or self._ended.done():
            return
        if session.is_silent(now):
            # This process or machine was suspended: the daemon has given up on whatever waits in the socket.
            self._end(EndReason.UNREACHABLE, "this agent was suspended for longer than the session allows")
            return
        try:
            received = session.receive(frame, now)
        except RemoteProtocolError as error:
            self._end(EndReason.PROTOCOL_ERROR, f"the server violated the protocol: {error}")
            return
        if received.loose and not self._settle(received):
            return
        if self.is_open and not received.is_foreign and session.confirmed_at:
            self._handler.on_confirmed(session.confirmed_at)
        if self.is_open and not self._ended.done():
            self._handler.on_received(received)
        self.wake()

    def _settle(self, received: Received) -> bool:
        """Handles the messages that open and end sessions. Returns False when the rest of the frame has to be ignored."""
        for message in received.loose:
            if isinstance(message, messages.Welcome):
                self._open(message)
            elif isinstance(message, messages.KeyRotated):
                self._rotate(message)
                return False
            elif isinstance(message, messages.Reject):
                self._end(EndReason.REJECTED, message.text, message.after_ms, message.code)
                return False
            elif isinstance(message, messages.Reset) and self.is_open:
                # Before `Welcome`, a Reset is about an older session.
                self._close_session(message.text)
                self._send_hello()
                return False
        return True

    def _open(self, welcome: messages.Welcome) -> None:
        session = self._session
        if session is None or self.is_open or welcome.session != session.token:
            return
        if not messages.PROTOCOL_VERSION_MIN <= welcome.protocol <= messages.PROTOCOL_VERSION:
            text = f"the server speaks protocol version {welcome.protocol}, which this agent does not support"
            self._end(EndReason.PROTOCOL_ERROR, text)
            return
        session.silence_ms = welcome.silence_ms
        self.is_open = self.was_open = True
        if self._opening is not None:
            self._opening.cancel()
        self._server_keys.confirm(self._server_key, welcome.old_server_keys)
        groups = ", ".join(welcome.groups) or "no group"
        self._on_state(LinkState.CONNECTED, f"connected as {welcome.name} in {groups}{self._warning()}")
        self._handler.on_opened(welcome)

    def _warning(self) -> str:
        if self._server_key == self._server_keys.current:
            return ""
        until = self._server_keys.accepted_until(self._server_key)
        when = utc_time(until)
        return (
            f"; the server uses an old key, as after a restore of an older backup, and this agent accepts it until {when}: "
            "restore the server's newest keys/server.key, or enroll this agent again"
        )

    def _rotate(self, rotated: messages.KeyRotated) -> None:
        if self.is_open:
            self._end(EndReason.PROTOCOL_ERROR, "the server announced a new key inside of a session")
        elif self._server_keys.rotate(self._server_key, rotated):
            self._end(EndReason.KEY_ROTATED, "the server has a new key; connecting again with it")
        else:
            self._end(
                EndReason.PROTOCOL_ERROR,
                "a server with an old key announced a key that this agent does not know, and it was not accepted: restore the "
                "server's newest keys/server.key, or enroll this agent again",
            )

    def _close_session(self, reason: str) -> None:
        was_open, self.is_open, self._session = self.is_open, False, None
        self._backlog.clear()
        if was_open:
            self._handler.on_closed(reason)

    def _end(self, reason: EndReason, text: str, after_ms: int | None = None, code: str = "") -> None:
        if not self._ended.done():
            self._ended.set_result(ConnectionEnd(reason, text, after_ms, code))

    def _arm(self, now: int, wake_at: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0, wake_at - now) / 1_000, self.wake)

    def _arm_opening(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        self._opening = asyncio.get_running_loop().call_later(OPEN_S_MAX, self._give_up_opening)

    def _give_up_opening(self) -> None:
        answered = "the server accepted the connection, but" if self._is_connected else "the server"
        self._end(EndReason.UNREACHABLE, f"{answered} did not answer within {OPEN_S_MAX:.0f} s")


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels the tasks and waits for their end, also when the caller is cancelled meanwhile: they use what is closed next."""
    for task in tasks:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
