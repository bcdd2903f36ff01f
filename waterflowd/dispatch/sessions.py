"""Which agent has an open session, and everything that may happen to it.

Rules:

- An agent is the key of its connection. A routing id finds a session, the key says whose it is, and both must agree.
- The key is checked for each frame, not at the handshake alone: a revoked agent is cut at its next frame at the latest.
- What a peer may send is `messages.PERMITTED`, by its state; nothing else is looked at (default deny).
- One agent has one session. A newer `Hello` of the same process replaces it; a `Hello` of another process under the same key
  waits until the older one has proven to be gone, and is refused for good when the older one goes on talking: a clone.
- Reading an agent's frames has a budget of processor time, since what is costly to read need not be malformed.
- A peer's fault ends its session, nothing else. The agent opens another and what was in flight is settled there.
- A session ends with exactly one `desk.disconnected`, whatever the cause; nothing reaches the desk from it afterwards.
  The desk never hears of it from inside its own call of `send` or `revoke`.
- Nothing is said to an agent but by `_flush`, once per turn of the loop, so that all messages of a turn share frames.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.keys import fingerprint
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import SILENCE_MS, Session
from waterflowd.dispatch import handshake
from waterflowd.dispatch.clone_detection import CloneDetector
from waterflowd.dispatch.rejections import Rejections
from waterflowd.dispatch.router import IncomingFrame, SendResult
from waterflowd.model.ids import AgentId
from waterflowd.ports import AgentListener, Enroller
from waterflowd.rates import BucketPerName

#: A timer this late says that the daemon itself stood still, so silence proves nothing.
PAUSE_MS = 1_000
#: Hellos of one agent: each one settles everything it holds. A restart loop under systemd makes one in 100 ms at worst.
HELLOS_BURST = 20
HELLOS_PER_S = 1.0
HELLO_RETRY_MS = 5_000
#: When an agent may try again after its session ended by its own fault.
FAULT_RETRY_MS = 5_000
#: Processor time that reading one agent's frames may take: at once, and per second. A busy agent (20,000 results a second)
#: needs 10 ms a second; a frame of millions of empty lists costs 400 ms, and nothing in it is malformed.
READING_MS_BURST = 2_000
READING_MS_PER_S = 200.0
_AGENTS_MAX = 4_096

_logger = logging.getLogger("waterflow.dispatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What the daemon states to every agent, and whom it tells about a clone."""

    generation: int
    #: Name and groups of an agent, for its `Welcome`.
    describe: Callable[[AgentId], tuple[str, list[str]]]
    #: Called with the newcomer's `Hello` when two live processes use one key.
    cloned: Callable[[AgentId, messages.Hello], None]
    silence_ms: int = SILENCE_MS


class _OpenSession:
    """One open session of one agent."""

    __slots__ = ("agent", "detector", "instance", "is_over", "public_key", "routing_id", "session", "wake", "wake_at")

    def __init__(self, agent: AgentId, incoming: IncomingFrame, instance: str, session: Session) -> None:
        self.agent = agent
        self.public_key = incoming.public_key
        self.routing_id = incoming.routing_id
        self.instance = instance
        self.session = session
        self.detector: CloneDetector | None = None
        self.is_over = False
        self.wake: asyncio.TimerHandle | None = None
        self.wake_at = 0


class Sessions:
    """All open sessions. Every method is called on the loop's thread."""

    def __init__(
        self,
        desk: AgentListener,
        enrollment: Enroller,
        send: Callable[[bytes, bytes], SendResult],
        settings: SessionSettings,
        rejections: Rejections,
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self.sessions_opened = 0
        self.sessions_closed = 0
        #: Frames of a session that is not open any more, and messages of the host for an agent that has none.
        self.frames_foreign = 0
        self.messages_dropped = 0
        self.resets_sent = 0
        self._desk = desk
        self._enrollment = enrollment
        self._send_frame = send
        self._settings = settings
        self._rejections = rejections
        self._cpu_s = cpu_s
        self._loop = asyncio.get_running_loop()
        self._by_agent: dict[AgentId, _OpenSession] = {}
        self._by_route: dict[bytes, _OpenSession] = {}
        self._hellos = BucketPerName(HELLOS_PER_S, HELLOS_BURST, _AGENTS_MAX)
        self._reading = BucketPerName(READING_MS_PER_S, READING_MS_BURST, _AGENTS_MAX)
        self._dirty: dict[_OpenSession, None] = {}
        self._flush_handle: asyncio.Handle | None = None

    @property
    def connected(self) -> frozenset[AgentId]:
        """The agents that have an open session."""
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
            # Whatever was not queued is owed again at the next settlement. A task that is too large never comes this far:
            # lowering refuses it.
            _logger.error("ending the session of %s: %s", agent, error, extra={"agent": agent})
            # Not now: the host is in the middle of its own work and should not hear of a disconnection from inside a call.
            self._loop.call_soon(self.end, live, f"what it was sent could not be queued: {error.text}")
            return
        self._touch(live)

    def revoke(self, agent: AgentId) -> None:
        """Cuts the agent now; its key is refused because the enrollment desk says so."""
        live = self._by_agent.get(agent)
        if live is not None:
            text = "the agent's key was revoked"
            self._dismiss(live, "WF212", text, after_ms=0)
            # The desk hears of it in the next turn, for the reason above; until then no frame can come.
            self._loop.call_soon(self.end, live, text)

    def take(self, incoming: IncomingFrame) -> None:
        """Handles one frame of the work port. Raises nothing for what is in it."""
        live = self._by_route.get(incoming.routing_id)
        if not self._enrollment.is_approved(incoming.public_key):
            self._rejections.note("WF212", "a frame under a key that is not approved", incoming.address)
            if live is not None:
                self._cut(live, "WF212", "the agent's key is not approved", after_ms=0)
            return
        agent = _agent_of(incoming.public_key)
        try:
            self._take(agent, incoming, live)
        except RemoteProtocolError as error:
            self._rejections.note(error.code, error.text, agent)
            if live is not None:
                self._cut(live, error.code, error.text, after_ms=FAULT_RETRY_MS)
            elif self._hellos.take(agent, self._now()):
                # Perhaps a hello of a version that this one cannot read: the agent should learn why nothing opens.
                fault = messages.Reject(session="", code=error.code, text=error.text, after_ms=FAULT_RETRY_MS)
                self._say(incoming.routing_id, "", fault)
        except Exception:
            # The supervision point per peer: a bug that one agent's frame brings out ends that agent's session only.
            _logger.exception("a frame of %s could not be handled", agent, extra={"agent": agent})
            broken = self._by_agent.get(agent)
            if broken is not None:
                self.end(broken, "the daemon failed on one of its frames; see the daemon's log")

    def end(self, live: _OpenSession, text: str) -> None:
        """Closes a session and tells the desk, once."""
        if live.is_over:
            return
        live.is_over = True
        if live.wake is not None:
            live.wake.cancel()
        self._dirty.pop(live, None)
        self._by_route.pop(live.routing_id, None)
        self._by_agent.pop(live.agent, None)
        self.sessions_closed += 1
        _logger.info("agent %s disconnected: %s", live.agent, escape_for_display(text), extra={"agent": live.agent})
        self._desk.disconnected(live.agent, text)

    def close(self) -> None:
        """Stops all timers at the daemon's end. The desk hears nothing: its agents are not gone, it is."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        for live in self._by_agent.values():
            live.is_over = True
            if live.wake is not None:
                live.wake.cancel()
        self._by_agent.clear()
        self._by_route.clear()
        self._dirty.clear()

    def _now(self) -> int:
        return int(self._loop.time() * 1000)

    def _take(self, agent: AgentId, incoming: IncomingFrame, live: _OpenSession | None) -> None:
        frame = self._read(agent, incoming.payload)
        hello = next((message for message in frame.loose if isinstance(message, messages.Hello)), None)
        state = messages.PeerState.CONNECTED if live is None or hello is not None else messages.PeerState.SETTLED
        allowed = messages.PERMITTED[state]
        if hello is None and live is None:
            self._reset(incoming, frame.session)
            return
        if not all(type(message) in allowed for message in (*frame.numbered, *frame.loose)):
            raise RemoteProtocolError("WF213", f"a message that a peer may not send while it is {state.value}")
        if hello is not None:
            self._greet(agent, incoming, frame, hello)
        elif live is not None:
            self._take_settled(live, frame)

    def _read(self, agent: AgentId, payload: memoryview) -> codec.Frame:
        budget = self._reading.bucket(agent, self._now())
        if budget.is_spent(self._now()):
            raise RemoteProtocolError("WF218", "its frames take too much of the daemon's processor to read")
        began = self._cpu_s()
        try:
            return codec.decode_frame(payload, codec.Side.AGENT)
        finally:
            budget.spend((self._cpu_s() - began) * 1000)

    def _take_settled(self, live: _OpenSession, frame: codec.Frame) -> None:
        now = self._now()
        received = live.session.take(frame, now)
        if received.is_foreign:
            self.frames_foreign += 1
            return
        self._listen_for_clone(live, now)
        for message in received.loose:
            if isinstance(message, messages.Output):
                self._desk.output(live.agent, message)
            elif isinstance(message, messages.FileRequest):
                self._desk.file_requested(live.agent, message)
        if received.numbered and not live.is_over:
            number = received.numbered[-1][0]
            reports = [m for _, m in received.numbered if isinstance(m, messages.Started | messages.Finished)]
            self._desk.received(live.agent, reports, lambda: self._durable(live, number))
        if not live.is_over:
            self._arm(live, now)

    def _durable(self, live: _OpenSession, number: int) -> None:
        if not live.is_over:
            now = self._now()
            live.session.acknowledge(number, now)
            self._arm(live, now)

    # Opening a session ------------------------------------------------------------------------------------------------

    def _greet(self, agent: AgentId, incoming: IncomingFrame, frame: codec.Frame, hello: messages.Hello) -> None:
        refusal = handshake.refusal(frame, hello)
        if refusal is None and not self._hellos.take(agent, self._now()):
            refusal = handshake.reject(hello, "WF216", "too many hellos; wait a little", after_ms=HELLO_RETRY_MS)
        older = self._by_agent.get(agent)
        if refusal is None and older is not None:
            refusal = self._make_way(older, incoming, hello)
        if refusal is not None:
            self._rejections.note(refusal.code, refusal.text, agent)
            self._say(incoming.routing_id, hello.session, refusal)
            return
        self._open(agent, incoming, hello)

    def _make_way(self, older: _OpenSession, incoming: IncomingFrame, hello: messages.Hello) -> messages.Reject | None:
        """Ends the older session if the newcomer may replace it, or gives the reason why it may not."""
        if hello.session == older.session.token:
            return handshake.reject(hello, "WF214", "this session's token was used before", after_ms=1)
        if hello.instance == older.instance or incoming.routing_id == older.routing_id:
            self.end(older, "the agent connected again")
            return None
        now = self._now()
        probe = codec.encode_frame(older.session.token, 0, 1, [], [])
        if self._send_frame(older.routing_id, probe) is SendResult.GONE:
            self.end(older, "its connection is closed and a new process of it connected")
            return None
        detector = older.detector
        if detector is None or detector.hello.instance != hello.instance:
            detector = CloneDetector(hello, now, self._settings.silence_ms)
        detector.hello = hello
        older.detector = detector
        refusal = detector.refusal(now)
        if refusal is None:
            self.end(older, "it did not speak while a new process of it connected")
        return refusal

    def _listen_for_clone(self, live: _OpenSession, now: int) -> None:
        detector = live.detector
        if detector is None or not detector.is_exposed(now):
            return
        host = escape_for_display(detector.hello.hostname)
        _logger.error(
            "agent %s: two live processes use its key; the newer one, on %s, is refused [WF211]",
            live.agent,
            host,
            extra={"agent": live.agent, "code": "WF211"},
        )
        self._settings.cloned(live.agent, detector.hello)

    def _open(self, agent: AgentId, incoming: IncomingFrame, hello: messages.Hello) -> None:
        forget = self._desk.settle(agent, hello)
        name, groups = self._settings.describe(agent)
        session = Session(hello.session, codec.Side.AGENT, self._now(), self._settings.silence_ms)
        session.queue(
            messages.Welcome(
                session=hello.session,
                protocol=min(hello.protocol, messages.PROTOCOL_VERSION),
                generation=self._settings.generation,
                name=name,
                groups=groups,
                silence_ms=self._settings.silence_ms,
                forget=forget,
            )
        )
        live = _OpenSession(agent, incoming, hello.instance, session)
        self._by_agent[agent] = self._by_route[incoming.routing_id] = live
        self.sessions_opened += 1
        _logger.info(
            "agent %s (%s) connected from %s",
            agent,
            escape_for_display(name),
            escape_for_display(incoming.address),
            extra={"agent": agent},
        )
        self._touch(live)
        self._desk.connected(agent)

    # Saying things ----------------------------------------------------------------------------------------------------

    def _reset(self, incoming: IncomingFrame, token: str) -> None:
        self.resets_sent += 1
        self._say(
            incoming.routing_id, token, messages.Reset(text="this connection has no open session: say hello again")
        )

    def _cut(self, live: _OpenSession, code: str, text: str, *, after_ms: int) -> None:
        self._dismiss(live, code, text, after_ms=after_ms)
        self.end(live, text)

    def _dismiss(self, live: _OpenSession, code: str, text: str, *, after_ms: int) -> None:
        token = live.session.token
        self._say(live.routing_id, token, messages.Reject(session=token, code=code, text=text, after_ms=after_ms))

    def _say(self, routing_id: bytes, token: str, message: messages.Reject | messages.Reset) -> None:
        """One message outside of any session's machine; lost when it cannot leave at once."""
        self._send_frame(routing_id, codec.encode_frame(token, 0, 1, [], [codec.encode_message(message)]))

    def _touch(self, live: _OpenSession) -> None:
        self._dirty[live] = None
        if self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        dirty, self._dirty = self._dirty, {}
        now = self._now()
        for live in dirty:
            if not live.is_over:
                self._emit(live, now)

    def _emit(self, live: _OpenSession, now: int) -> None:
        for frame in live.session.frames(now):
            sent = self._send_frame(live.routing_id, frame)
            if sent is SendResult.QUEUED:
                continue
            self.end(
                live,
                "its connection is closed" if sent is SendResult.GONE else "it takes nothing: frozen, or far behind",
            )
            return
        self._arm(live, now)

    def _arm(self, live: _OpenSession, now: int) -> None:
        """Makes sure that the session is looked at when it asked for; a timer that is early enough stays."""
        wake_at = live.session.next_wake_at(now)
        if live.wake is not None:
            if live.wake_at <= wake_at:
                return
            live.wake.cancel()
        live.wake_at = wake_at
        # One more than asked, so that rounding to whole milliseconds never wakes it too early.
        live.wake = self._loop.call_at((wake_at + 1) / 1000, self._wake, live)

    def _wake(self, live: _OpenSession) -> None:
        live.wake = None
        now = self._now()
        if now > live.wake_at + PAUSE_MS:
            live.session.forgive(now)
        if live.session.is_silent(now):
            self.end(live, f"no frame for {self._settings.silence_ms / 1000:g} s")
            return
        self._emit(live, now)


@functools.lru_cache(maxsize=_AGENTS_MAX)
def _agent_of(public_key: str) -> AgentId:
    return AgentId(fingerprint(public_key))
