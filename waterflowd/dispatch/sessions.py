"""The open sessions of agents.

Rules of this file:

- An agent is identified by the key of its connection. The connection's number finds a session.
- The key is checked for each frame, not only in the handshake: a revoked agent is disconnected at its next frame.
- A peer may send only what `messages.PERMITTED` allows in its state; everything else is rejected.
- An agent has one session. A newer `Hello` of the same process replaces it. A `Hello` of another process with the same key
  waits until the older one has proven dead, and is rejected for good if the older one keeps sending: a clone. A `Hello`
  from another machine or installation is rejected before, even if the older one is silent.
- A connection with an old key of the server opens no session: its `Hello` is answered with the current key, and the agent
  connects again with that one.
- Reading and handling an agent's frames has a budget of processor time, because a frame that is expensive can be well-formed.
  An agent that uses it up loses its connection, and has to wait, longer each time.
- A peer's fault ends only its session. The agent opens another one, and messages in flight are settled there. A peer that
  does not receive, or does not stop, loses its connection.
- A session ends with exactly one `listener.disconnected`, whatever the cause, and makes no calls afterwards. The listener is
  never called from inside its own call of `send` or `revoke`.
- Messages to an agent are sent by `_flush`, once per turn of the event loop, so that all messages of a turn share frames.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.keys import fingerprint
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import SILENCE_MS, Session
from waterflowd.dispatch import handshake
from waterflowd.dispatch.clone_detection import CLONE_RETRY_MS, CloneDetector
from waterflowd.dispatch.port.client import IncomingMessage
from waterflowd.dispatch.port.limits import PortLimits
from waterflowd.dispatch.port.records import Refused, Verdict
from waterflowd.dispatch.rejections import Rejections
from waterflowd.model.ids import AgentId
from waterflowd.ports import AgentListener, Enroller
from waterflowd.rates import BucketPerName

#: If a timer is this late, the daemon itself was suspended, and the silence of a peer proves nothing.
PAUSE_MS = 1_000
#: Rate of an agent's hellos; each one settles all its attempts. A restart loop under systemd sends one per 100 ms at worst.
HELLOS_BURST = 20
HELLOS_PER_S = 1.0
HELLO_RETRY_MS = 5_000
#: When an agent may reconnect after its own fault ended the session.
FAULT_RETRY_MS = 5_000
#: When an agent may try again at a daemon that cannot know who was revoked; with several daemons, it tries another one.
BLIND_RETRY_MS = 2_000
#: Processor time that one agent's frames may take: at once, and per second. A busy agent (20,000 results a second) needs 150 ms
#: a second; a frame of millions of empty lists costs 400 ms, and nothing in it is malformed.
EFFORT_MS_BURST = 500
EFFORT_MS_PER_S = 250.0
#: How long an agent has to wait after it used up its budget: doubled each time, until it has behaved for a while.
PENALTY_MS, PENALTY_MS_MAX = 10_000, 300_000
_FORGIVEN_AFTER_MS = 600_000
#: The code of an absence, and how long an agent waits before it tries the next address.
ABSENT, ABSENT_RETRY_MS = "WF802", 1_000
#: Charged for each message that the host rejects: it is counted, may be logged, and is answered.
REJECTION_MS = 0.2
#: Charged for a frame that brings nothing new: a busy agent sends a few in a second at most, when it sends messages again.
FUTILE_MS = 2.0
_AGENTS_MAX = 4_096
#: A whole site may connect at the same time, from behind one address, after the daemon's restart.
LIMITS = PortLimits(
    waiting_max=2_048,
    waiting_per_address_max=1_024,
    active_max=8_192,
    active_per_address_max=8_192,
    per_key_max=8,
    arrivals_burst=4_096,
    arrivals_per_s=500.0,
)
#: Why an agent has to wait.
OVERLOAD = "its frames take too much processor time; it has to wait"

_logger = logging.getLogger("waterflow.dispatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What all sessions have in common."""

    generation: int
    #: Name and groups of an agent, for its `Welcome`.
    describe: Callable[[AgentId], tuple[str, list[str]]]
    #: Called with the newer process's `Hello` when two live processes use one key.
    on_clone: Callable[[AgentId, messages.Hello], None]
    #: Why this `Hello` is not from the machine and the installation that the key belongs to; "" if it is.
    identify: Callable[[AgentId, messages.Hello], str] = lambda agent, hello: ""
    #: Why no new session may be opened at the moment; "" if it may.
    blind: Callable[[], str] = lambda: ""
    #: Whether the agent's frames may be confirmed, which extends the leases of its attempts.
    confirms: Callable[[AgentId], bool] = lambda agent: True
    #: Why agents must look for another daemon of this server now; "" if they need not.
    absence: Callable[[], str] = lambda: ""
    silence_ms: int = SILENCE_MS
    #: The server's current key (Z85), and the old ones that are still accepted.
    server_key: str = ""
    old_server_keys: Callable[[], list[messages.OldServerKey]] = list


class Connections(Protocol):
    """The connections of a port; see `port.client.Port`."""

    def send(self, connection: int, payload: bytes) -> bool:
        """Sends a message without ever waiting. False if the connection is closed."""
        ...

    def disconnect(self, connection: int) -> None:
        """Closes a connection after everything is sent."""
        ...


class _OpenSession:
    """One open session of one agent."""

    __slots__ = ("agent", "connection", "detector", "has_ended", "instance", "session", "wake", "wake_at")

    def __init__(self, agent: AgentId, incoming: IncomingMessage, instance: str, session: Session) -> None:
        self.agent = agent
        self.connection = incoming.connection
        self.instance = instance
        self.session = session
        self.detector: CloneDetector | None = None
        self.has_ended = False
        self.wake: asyncio.TimerHandle | None = None
        self.wake_at = 0


class Sessions:
    """All open sessions. Every method is called on the loop's thread."""

    def __init__(
        self,
        listener: AgentListener,
        enroller: Enroller,
        connections: Connections,
        settings: SessionSettings,
        rejections: Rejections,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self.sessions_opened = 0
        self.sessions_closed = 0
        #: Frames of a session that has ended.
        self.frames_foreign = 0
        #: Messages of the host for an agent without a session.
        self.messages_dropped = 0
        self.resets_sent = 0
        #: Agents that were told the server's new key.
        self.key_rotations_sent = 0
        self._listener = listener
        self._enroller = enroller
        self._connections = connections
        self._settings = settings
        self._rejections = rejections
        self._cpu_s = cpu_s
        self._loop = asyncio.get_running_loop()
        self._by_agent: dict[AgentId, _OpenSession] = {}
        self._by_connection: dict[int, _OpenSession] = {}
        self._hellos = BucketPerName(HELLOS_PER_S, HELLOS_BURST, _AGENTS_MAX)
        self._effort = BucketPerName(EFFORT_MS_PER_S, EFFORT_MS_BURST, _AGENTS_MAX)
        #: Agents that used up their budget: until when they have to wait, and how long that was. The oldest ones come first.
        self._penalties: OrderedDict[AgentId, tuple[int, int]] = OrderedDict()
        self._dirty: dict[_OpenSession, None] = {}
        self._flush_handle: asyncio.Handle | None = None

    @property
    def connected(self) -> frozenset[AgentId]:
        """The agents with an open session."""
        return frozenset(self._by_agent)

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """Queues messages for this turn's frame; see `ports.Link.send`."""
        live = self._by_agent.get(agent)
        if live is None:
            self.messages_dropped += len(outgoing)
            return
        try:
            for message in outgoing:
                live.session.queue(message)
        except LocalProtocolError as error:
            # The next settlement sends again what was not queued. (Lowering has already rejected tasks that are too large.)
            _logger.error("ending the session of %s: %s", agent, error, extra={"agent": agent})
            # Not now: the listener must not be called from inside its own call.
            self._loop.call_soon(self.end, live, f"a message for it could not be queued: {error.text}")
            return
        self._schedule_flush(live)

    def revoke(self, agent: AgentId) -> None:
        """Disconnects the agent; the enroller no longer approves its key."""
        self.disconnect(agent, "WF212", "the agent's key was revoked", after_ms=0)

    def disconnect(self, agent: AgentId, code: str, text: str, *, after_ms: int = CLONE_RETRY_MS) -> None:
        """Ends the session of the agent, which may come back after `after_ms`."""
        live = self._by_agent.get(agent)
        if live is not None:
            self._send_reject(live, code, text, after_ms=after_ms)
            # In the next turn, because the listener must not be called from inside its own call; no frame arrives before.
            self._loop.call_soon(self.end, live, text)
            self._connections.disconnect(live.connection)

    def reject(self, agent: AgentId, code: str, text: str) -> None:
        """Counts and logs a message that the host rejected, and charges the agent for it; see `ports.Link.reject`."""
        self._rejections.record(code, text, agent)
        self._effort.bucket(agent, self._now()).spend(REJECTION_MS)

    # The port ---------------------------------------------------------------------------------------------------------

    def admit(self, public_key: str, address: str) -> Verdict:
        """See `port.client.PortListener`."""
        if not self._enroller.is_approved(public_key):
            self._rejections.record("WF212", f"key {public_key} is not approved", address)
            return Verdict.REFUSE
        agent = _agent_of(public_key)
        if self._is_punished(agent, self._now()):
            self._rejections.record("WF218", OVERLOAD, agent)
            return Verdict.CLOSE
        return Verdict.ACCEPT

    def closed(self, connection: int, text: str) -> None:
        """See `port.client.PortListener`."""
        live = self._by_connection.get(connection)
        if live is not None:
            self.end(live, text)

    def refused(self, report: Refused) -> None:
        """See `port.client.PortListener`."""
        self._rejections.record(report.code, report.text, report.address, report.count)

    def take(self, incoming: IncomingMessage) -> None:
        """Handles one frame of the work port. Never raises because of its content."""
        live = self._by_connection.get(incoming.connection)
        if not self._enroller.is_approved(incoming.public_key):
            self._rejections.record("WF212", "a frame with a key that is not approved", incoming.address)
            if live is not None:
                self._close(live, "WF212", "the agent's key is not approved", after_ms=0)
            self._connections.disconnect(incoming.connection)
            return
        agent, now = _agent_of(incoming.public_key), self._now()
        effort = self._effort.bucket(agent, now)
        if effort.is_spent(now) or self._is_punished(agent, now):
            self._rejections.record("WF218", OVERLOAD, agent)
            penalty_ms = self._punish(agent, now)
            if live is not None:
                self._close(live, "WF218", OVERLOAD, after_ms=penalty_ms)
            self._connections.disconnect(incoming.connection)
            return
        began = self._cpu_s()
        try:
            self._take(agent, incoming, live)
        except RemoteProtocolError as error:
            self._rejections.record(error.code, error.text, agent)
            if live is not None:
                self._close(live, error.code, error.text, after_ms=FAULT_RETRY_MS)
            elif self._hellos.take(agent, now):
                # It may be a hello of a protocol version that cannot be read: tell the agent why no session opens.
                fault = messages.Reject(session="", code=error.code, text=error.text, after_ms=FAULT_RETRY_MS)
                self._send_unnumbered(incoming.connection, "", fault)
        except Exception:
            # The supervision point per peer: a bug that one agent's frame triggers ends only that agent's session.
            _logger.exception("internal error in a frame of %s", agent, extra={"agent": agent})
            broken = self._by_agent.get(agent)
            if broken is not None:
                self.end(broken, "internal error in one of its frames; see the daemon's log")
            self._connections.disconnect(incoming.connection)
        finally:
            effort.spend((self._cpu_s() - began) * 1000)

    def _is_punished(self, agent: AgentId, now: int) -> bool:
        return agent in self._penalties and now < self._penalties[agent][0]

    def _punish(self, agent: AgentId, now: int) -> int:
        """Makes an agent that used up its budget wait; returns for how long in ms."""
        until, last_ms = self._penalties.pop(agent, (0, 0))
        if now < until:
            # Another connection of the same agent.
            penalty_ms = last_ms
        else:
            is_forgiven = now > until + _FORGIVEN_AFTER_MS
            penalty_ms = PENALTY_MS if is_forgiven or not last_ms else min(2 * last_ms, PENALTY_MS_MAX)
            until = now + penalty_ms
        self._penalties[agent] = until, penalty_ms
        if len(self._penalties) > _AGENTS_MAX:
            self._penalties.popitem(last=False)
        return max(1, until - now)

    def end(self, live: _OpenSession, text: str) -> None:
        """Closes a session and calls the listener, once."""
        if live.has_ended:
            return
        live.has_ended = True
        if live.wake is not None:
            live.wake.cancel()
        self._dirty.pop(live, None)
        self._by_connection.pop(live.connection, None)
        self._by_agent.pop(live.agent, None)
        self.sessions_closed += 1
        _logger.info("agent %s disconnected: %s", live.agent, escape_for_display(text), extra={"agent": live.agent})
        self._listener.disconnected(live.agent, text)

    def close(self) -> None:
        """Stops all timers when the daemon stops. The listener is not called, because the agents are still there."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        for live in self._by_agent.values():
            live.has_ended = True
            if live.wake is not None:
                live.wake.cancel()
        self._by_agent.clear()
        self._by_connection.clear()
        self._dirty.clear()

    def _now(self) -> int:
        return int(self._loop.time() * 1000)

    def _take(self, agent: AgentId, incoming: IncomingMessage, live: _OpenSession | None) -> None:
        frame = codec.decode_frame(incoming.payload, codec.Side.AGENT)
        hello = next((message for message in frame.loose if isinstance(message, messages.Hello)), None)
        state = messages.PeerState.CONNECTED if live is None or hello is not None else messages.PeerState.SETTLED
        allowed = messages.PERMITTED[state]
        if hello is None and live is None:
            self._reset(incoming, frame.session)
            self._effort.bucket(agent, self._now()).spend(FUTILE_MS)
            return
        if not all(type(message) in allowed for message in (*frame.numbered, *frame.loose)):
            raise RemoteProtocolError("WF213", f"a message that is not allowed while the peer is {state.value}")
        if hello is not None:
            self._handle_hello(agent, incoming, frame, hello)
        elif live is not None:
            self._take_settled(live, frame)

    def _take_settled(self, live: _OpenSession, frame: codec.Frame) -> None:
        now = self._now()
        absence = self._settings.absence()
        if absence:
            # The agent sends again what is in this frame, to the daemon that it finds.
            self._close(live, ABSENT, absence, after_ms=ABSENT_RETRY_MS)
            return
        live.session.is_confirming = self._settings.confirms(live.agent)
        received = live.session.take(frame, now)
        if not (received.numbered or received.loose or received.acknowledged):
            self._effort.bucket(live.agent, now).spend(FUTILE_MS)
        if received.is_foreign:
            self.frames_foreign += 1
            return
        self._detect_clone(live, now)
        for message in received.loose:
            if isinstance(message, messages.Output):
                self._listener.output(live.agent, message)
            elif isinstance(message, messages.FileRequest):
                self._listener.file_requested(live.agent, message)
            elif isinstance(message, messages.ArtifactRequest):
                self._listener.artifact_requested(live.agent, message)
        if received.numbered and not live.has_ended:
            number = received.numbered[-1][0]
            reports = [m for _, m in received.numbered if isinstance(m, messages.Started | messages.Finished)]
            self._listener.received(live.agent, reports, lambda: self._acknowledge(live, number))
        if not live.has_ended:
            self._arm(live, now)

    def _acknowledge(self, live: _OpenSession, number: int) -> None:
        if not live.has_ended:
            now = self._now()
            live.session.acknowledge(number, now)
            self._arm(live, now)

    # Opening a session ------------------------------------------------------------------------------------------------

    def _handle_hello(
        self, agent: AgentId, incoming: IncomingMessage, frame: codec.Frame, hello: messages.Hello
    ) -> None:
        rejection = handshake.check(frame, hello)
        if rejection is None and not self._hellos.take(agent, self._now()):
            rejection = handshake.reject(hello, "WF216", "too many hellos; try again later", after_ms=HELLO_RETRY_MS)
        absence = self._settings.absence() if rejection is None else ""
        if absence:
            rejection = handshake.reject(hello, ABSENT, absence, after_ms=ABSENT_RETRY_MS)
        if rejection is None and incoming.is_on_old_key:
            self._tell_key(agent, incoming, hello)
            return
        if rejection is None and (text := self._settings.blind()):
            rejection = handshake.reject(hello, "WF814", text, after_ms=BLIND_RETRY_MS)
        problem = self._settings.identify(agent, hello) if rejection is None else ""
        if problem:
            rejection = handshake.reject(hello, "WF211", problem, after_ms=CLONE_RETRY_MS)
        older = self._by_agent.get(agent)
        if rejection is None and older is not None:
            rejection = self._replace(older, incoming, hello)
        if rejection is not None:
            self._rejections.record(rejection.code, rejection.text, agent)
            self._send_unnumbered(incoming.connection, hello.session, rejection)
            return
        self._open(agent, incoming, hello, frame.stamp)

    def _tell_key(self, agent: AgentId, incoming: IncomingMessage, hello: messages.Hello) -> None:
        """Tells an agent that knows an old key of this server the current one. Its session, if it has one, is not affected."""
        self.key_rotations_sent += 1
        settings = self._settings
        rotated = messages.KeyRotated(hello.session, settings.server_key, settings.old_server_keys())
        self._send_unnumbered(incoming.connection, hello.session, rotated)
        self._connections.disconnect(incoming.connection)
        _logger.info(
            "agent %s knows an old key of this server; it was told the current one", agent, extra={"agent": agent}
        )

    def _replace(self, older: _OpenSession, incoming: IncomingMessage, hello: messages.Hello) -> messages.Reject | None:
        """Ends the older session if the new process may replace it; otherwise returns the reason."""
        if hello.session == older.session.token:
            return handshake.reject(hello, "WF214", "this session token was used before", after_ms=1)
        if hello.instance == older.instance or incoming.connection == older.connection:
            self.end(older, "the agent reconnected")
            return None
        now = self._now()
        detector = older.detector
        if detector is None or detector.hello.instance != hello.instance:
            detector = CloneDetector(hello, now, self._settings.silence_ms)
        detector.hello = hello
        older.detector = detector
        rejection = detector.rejection(now)
        if rejection is None:
            self.end(older, "it was silent while a new process of the agent connected")
        return rejection

    def _detect_clone(self, live: _OpenSession, now: int) -> None:
        detector = live.detector
        if detector is None or not detector.frame_received(now):
            return
        host = escape_for_display(detector.hello.hostname)
        _logger.error(
            "agent %s: two live processes use its key; the newer one, on %s, is rejected [WF211]",
            live.agent,
            host,
            extra={"agent": live.agent, "code": "WF211"},
        )
        self._settings.on_clone(live.agent, detector.hello)

    def _open(self, agent: AgentId, incoming: IncomingMessage, hello: messages.Hello, stamp: int) -> None:
        forget = self._listener.settle(agent, hello)
        name, groups = self._settings.describe(agent)
        if not self._settings.confirms(agent):
            stamp = 0
        session = Session(hello.session, codec.Side.AGENT, self._now(), self._settings.silence_ms, stamp)
        session.queue(
            messages.Welcome(
                session=hello.session,
                protocol=min(hello.protocol, messages.PROTOCOL_VERSION),
                generation=self._settings.generation,
                name=name,
                groups=groups,
                silence_ms=self._settings.silence_ms,
                forget=forget,
                old_server_keys=self._settings.old_server_keys(),
            )
        )
        live = _OpenSession(agent, incoming, hello.instance, session)
        self._by_agent[agent] = self._by_connection[incoming.connection] = live
        self.sessions_opened += 1
        _logger.info(
            "agent %s (%s) connected from %s",
            agent,
            escape_for_display(name),
            escape_for_display(incoming.address),
            extra={"agent": agent},
        )
        self._schedule_flush(live)
        self._listener.connected(agent)

    # Sending ----------------------------------------------------------------------------------------------------------

    def _reset(self, incoming: IncomingMessage, token: str) -> None:
        self.resets_sent += 1
        self._send_unnumbered(
            incoming.connection, token, messages.Reset(text="no open session on this connection; send a new hello")
        )

    def _close(self, live: _OpenSession, code: str, text: str, *, after_ms: int) -> None:
        self._send_reject(live, code, text, after_ms=after_ms)
        self.end(live, text)

    def _send_reject(self, live: _OpenSession, code: str, text: str, *, after_ms: int) -> None:
        token = live.session.token
        self._send_unnumbered(
            live.connection, token, messages.Reject(session=token, code=code, text=text, after_ms=after_ms)
        )

    def _send_unnumbered(
        self, connection: int, token: str, message: messages.Reject | messages.Reset | messages.KeyRotated
    ) -> None:
        """Sends a message outside the session's state machine; it is lost if it cannot be sent at once."""
        self._connections.send(connection, codec.encode_frame(token, 0, 1, [], [codec.encode_message(message)]))

    def _schedule_flush(self, live: _OpenSession) -> None:
        self._dirty[live] = None
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        dirty, self._dirty = self._dirty, {}
        now = self._now()
        for live in dirty:
            if not live.has_ended:
                self._send_frames(live, now)

    def _send_frames(self, live: _OpenSession, now: int) -> None:
        for frame in live.session.frames(now):
            if not self._connections.send(live.connection, frame):
                self.end(live, "its connection is closed")
                return
        self._arm(live, now)

    def _arm(self, live: _OpenSession, now: int) -> None:
        """Makes sure that `_wake` runs when the session needs it; an earlier timer is kept."""
        wake_at = live.session.next_wake_at(now)
        if live.wake is not None:
            if live.wake_at <= wake_at:
                return
            live.wake.cancel()
        live.wake_at = wake_at
        # One millisecond later, so that rounding never wakes it too early.
        live.wake = self._loop.call_at((wake_at + 1) / 1000, self._wake, live)

    def _wake(self, live: _OpenSession) -> None:
        live.wake = None
        now = self._now()
        if now > live.wake_at + PAUSE_MS:
            live.session.forgive(now)
        if live.session.is_silent(now):
            self.end(live, f"no frame for {self._settings.silence_ms / 1000:g} s")
            self._connections.disconnect(live.connection)
            return
        self._send_frames(live, now)


@functools.lru_cache(maxsize=_AGENTS_MAX)
def _agent_of(public_key: str) -> AgentId:
    return AgentId(fingerprint(public_key))
