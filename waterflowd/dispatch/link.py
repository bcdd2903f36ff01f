"""The daemon's side of the link: two ports and all sessions. Implements `ports.Link`.

`start` binds both ports and starts their processes. The caller then supervises `tasks`: if one of them ends, the daemon must
stop, because nothing replaces the process of that port. `close` ends everything without calling the listener, because the
agents are still there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from waterflow_agent.errors import Stalled
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.session import SILENCE_MS
from waterflowd.dispatch import enrollment, sessions
from waterflowd.dispatch.enrollment import EnrollmentPort, Introduction
from waterflowd.dispatch.keys import ServerKeys
from waterflowd.dispatch.port.client import WALL_MS, Port, PortSettings
from waterflowd.dispatch.rejections import Rejections
from waterflowd.dispatch.sessions import Sessions, SessionSettings
from waterflowd.model.ids import AgentId
from waterflowd.ports import AgentListener, Enroller

_logger = logging.getLogger("waterflow.dispatch")


class BoundEndpoints(NamedTuple):
    """The bound endpoints, with actual port numbers."""

    work: str
    enroll: str


class Dispatch:
    """`ports.Link` over ZeroMQ. Everything is called on the event loop's thread."""

    def __init__(
        self,
        listener: AgentListener,
        enroller: Enroller,
        keys: ServerKeys,
        generation: int,
        describe: Callable[[AgentId], tuple[str, list[str]]],
        *,
        on_clone: Callable[[AgentId, messages.Hello], None] = lambda agent, hello: None,
        identify: Callable[[AgentId, messages.Hello], str] = lambda agent, hello: "",
        blind: Callable[[], str] = lambda: "",
        confirms: Callable[[AgentId], bool] = lambda agent: True,
        absence: Callable[[], str] = lambda: "",
        silence_ms: int = SILENCE_MS,
        wall_ms: Callable[[], int] = WALL_MS,
    ) -> None:
        """`wall_ms` is the clock by which old keys of the server expire."""
        self._listener = listener
        self._enroller = enroller
        self._keys = keys
        self._wall_ms = wall_ms
        self._settings = SessionSettings(
            generation=generation,
            describe=describe,
            on_clone=on_clone,
            identify=identify,
            blind=blind,
            confirms=confirms,
            absence=absence,
            silence_ms=silence_ms,
            server_key=keys.public,
            old_server_keys=self._old_keys,
        )
        #: Called with code, text and peer of logged rejections, for the audit trail. Set it before `start`.
        self.on_rejection: Callable[[str, str, str], None] = lambda code, text, peer: None
        self._ports: list[Port] = []
        self._sessions: Sessions | None = None
        self._enrollment_port: EnrollmentPort | None = None
        self._rejections: Rejections | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._endpoints = BoundEndpoints("", "")

    async def start(self, endpoint: str, enroll_endpoint: str) -> None:
        """Binds the ports (such as `tcp://127.0.0.1:*`) and starts reading. Raises `Stalled` WF221 when one is in use."""
        loop = asyncio.get_running_loop()

        def clock() -> int:
            return int(loop.time() * 1000)

        rejections = self._rejections = Rejections(_logger, clock, self.on_rejection)
        work = Port(self._keys, PortSettings("work", sessions.LIMITS), self._wall_ms)
        enroll = Port(
            self._keys,
            PortSettings(
                "enrollment",
                enrollment.LIMITS,
                part_bytes_max=codec.ENROLL_BYTES_MAX,
                outbound_bytes_max=enrollment.OUTBOUND_BYTES_MAX,
                messages_max=1,
                niceness=enrollment.NICENESS,
            ),
            self._wall_ms,
        )
        self._ports = [work, enroll]
        agents = self._sessions = Sessions(self._listener, self._enroller, work, self._settings, rejections)
        newcomers = self._enrollment_port = EnrollmentPort(
            self._enroller, enroll, rejections, clock, self._introduction
        )
        try:
            self._endpoints = BoundEndpoints(work.bind(endpoint), enroll.bind(enroll_endpoint))
        except Stalled:
            await self.close()
            raise
        self._tasks = (
            loop.create_task(work.run(agents), name="dispatch work port"),
            loop.create_task(enroll.run(newcomers), name="dispatch enrollment port"),
        )

    @property
    def endpoints(self) -> BoundEndpoints:
        """The bound endpoints; empty before `start`."""
        return self._endpoints

    @property
    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """The tasks that keep the ports' processes running. If one of them ends, it has failed and the daemon must stop."""
        return self._tasks

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes of the ports, work port first; one that is being replaced is missing."""
        return tuple(port.pid for port in self._ports if port.pid is not None)

    @property
    def connected(self) -> frozenset[AgentId]:
        """The agents with an open session."""
        return self._sessions.connected if self._sessions else frozenset()

    @property
    def counters(self) -> dict[str, int]:
        """Running totals since `start`, by name, for the metrics."""
        if self._sessions is None or self._enrollment_port is None or self._rejections is None:
            return {}
        return {
            "frames_received": sum(port.messages_received for port in self._ports),
            "port_restarts": sum(port.restarts for port in self._ports),
            "frames_refused": self._rejections.total,
            "frames_foreign": self._sessions.frames_foreign,
            "sessions_opened": self._sessions.sessions_opened,
            "sessions_closed": self._sessions.sessions_closed,
            "messages_dropped": self._sessions.messages_dropped,
            "resets_sent": self._sessions.resets_sent,
            "key_rotations_sent": self._sessions.key_rotations_sent,
            "enrollments_answered": self._enrollment_port.requests_answered,
        }

    def send(self, agent: AgentId, outgoing: Sequence[messages.DaemonMessage]) -> None:
        """See `ports.Link.send`."""
        if self._sessions is not None:
            self._sessions.send(agent, outgoing)

    def revoke(self, agent: AgentId) -> None:
        """See `ports.Link.revoke`. The enroller must no longer approve the key."""
        if self._sessions is not None:
            self._sessions.revoke(agent)

    def disconnect(self, agent: AgentId, text: str) -> None:
        """Ends the session of an agent whose key belongs to another server (WF211)."""
        if self._sessions is not None:
            self._sessions.disconnect(agent, "WF211", text)

    def reject(self, agent: AgentId, code: str, text: str) -> None:
        """See `ports.Link.reject`."""
        if self._sessions is not None:
            self._sessions.reject(agent, code, text)

    def _old_keys(self) -> list[messages.OldServerKey]:
        return self._keys.announced(self._wall_ms())

    def _introduction(self) -> Introduction:
        return Introduction(_port_only(self._endpoints.work), self._keys.public, self._old_keys())

    async def close(self) -> None:
        """Stops reading, closes the ports and frees all resources. May be called repeatedly, and without `start`."""
        # Before the processes end, because the end of a connection must not end its session here.
        if self._sessions is not None:
            self._sessions.close()
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        # The supervisor of `tasks` handles their errors.
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._enrollment_port is not None:
            await self._enrollment_port.close()
        for port in self._ports:
            port.close()


def _port_only(endpoint: str) -> str:
    """`tcp://:7600`: only the port; the agent uses the host that it has already reached."""
    return f"tcp://:{endpoint.rpartition(':')[2]}"
