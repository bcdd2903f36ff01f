"""The network between agents and daemon, below the real link on one side and the real sessions on the other.

A connection keeps the order of its frames, as TCP does; two connections are not ordered relative to each other. The
faults are those that were measured: a frame that `send` had accepted is lost, arrives late, or (with a
hostile or broken middlebox) arrives twice. A cut holds frames back, in one direction or both. A short cut only delays;
one that lasts longer closes the connection on both sides, each at its own moment, and the frames in flight are lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from tests.simulator.chance import Chance
from tests.simulator.loop import Process, VirtualLoop
from waterflowd.dispatch.port.client import IncomingMessage

#: A connection that is cut for longer is closed.
CUT_S_MAX = 8.0
#: How long a connect to a host that does not answer takes.
CONNECT_TIMEOUT_S = 5.0
#: Maximum number of frames that wait for a peer that reads nothing.
FRAMES_OUTBOUND_MAX = 1_000


class _Inbox:
    """The frames that have arrived, and who waits for them."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.items: deque[Any] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: Any) -> None:
        self.items.append(item)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def take(self) -> Any:
        while not self.items:
            self._waiting = self._loop.create_future()
            await self._waiting
        return self.items.popleft()


class Dealer:
    """Replaces an agent's `waterflow_agent.session.dealer.Dealer`."""

    def __init__(self, network: Network, host: str, public_key: str, process: Process) -> None:
        self.network = network
        self.host = host
        self.public_key = public_key
        self.process = process
        self.wire: Wire | None = None
        self.is_closed = False
        self._frames = _Inbox(network.loop)
        self._events = _Inbox(network.loop)

    # What the link calls.

    async def next_event(self) -> zmq.Event:
        """Returns the next event of the connection."""
        event: zmq.Event = await self._events.take()
        return event

    async def resolution_problem(self, endpoint: str) -> str:
        """Every name has an address."""
        del endpoint
        return ""

    async def connection_problem(self, endpoint: str) -> str:
        """The reason is for people only."""
        del endpoint
        return "the server does not answer"

    def connect(self, endpoint: str) -> None:
        """Starts to connect."""
        del endpoint
        self.network.connect(self)

    async def read(self, take: Callable[[memoryview], None]) -> None:
        """Passes on each frame."""
        while True:
            take(await self._frames.take())

    def send(self, frame: bytes) -> None:
        """Accepts a frame, which does not mean that it is delivered."""
        if self.wire is not None:
            self.network.carry_up(self.wire, frame)

    def close(self, linger_ms: int = 0) -> None:
        """Closes the connection; what was sent before still arrives."""
        del linger_ms
        self.is_closed = True
        if self.wire is not None:
            self.network.agent_closes(self.wire)

    # What the network calls.

    def event(self, event: zmq.Event) -> None:
        """Delivers an event of the socket monitor."""
        if not self.is_closed:
            self._events.put(event)

    def arrived(self, frame: bytes) -> None:
        """Delivers a frame."""
        if not self.is_closed:
            self._frames.put(memoryview(frame))


class Wire:
    """One TCP connection with its two directions."""

    def __init__(self, dealer: Dealer, door: Door, connection: int) -> None:
        self.dealer = dealer
        self.door = door
        self.connection = connection
        self.is_agent_gone = False
        self.is_daemon_gone = False
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.up_at = 0.0
        self.down_at = 0.0


class Door:
    """The daemon's work port while one of its processes runs."""

    def __init__(
        self,
        process: Process,
        take: Callable[[IncomingMessage], None],
        closed: Callable[[int, str], None],
        is_approved: Callable[[str], bool] = lambda key: True,
    ) -> None:
        self.process = process
        self.take = take
        self.closed = closed
        #: Called with the key of each handshake.
        self.is_approved = is_approved


class Cut:
    """Keeps the frames of one server from getting through."""

    def __init__(self, *, is_up: bool, is_down: bool) -> None:
        self.is_up = is_up
        self.is_down = is_down


class Network:
    """All connections of a simulation."""

    def __init__(self, loop: VirtualLoop, chance: Chance) -> None:
        self.loop = loop
        self.frames = 0
        self._chance = chance
        self._door: Door | None = None
        self._wires: dict[int, Wire] = {}
        self._cuts: dict[str, Cut] = {}
        self._numbers = 0

    # The daemon's side.

    def open(self, door: Door) -> None:
        """Makes the daemon listen."""
        self._door = door

    def close(self) -> None:
        """Closes all connections, as the kernel does when the daemon's process has ended."""
        self._door = None
        for wire in self._wires.values():
            self._agent_hears(wire, 0.002)
            wire.is_daemon_gone = True
        self._wires.clear()

    def send(self, connection: int, payload: bytes) -> bool:
        """Works as `Port.send`."""
        wire = self._wires.get(connection)
        if wire is None:
            return False
        if len(wire.down) >= FRAMES_OUTBOUND_MAX:
            self._break(wire, 0.002)
            return True
        self.frames += 1
        for _ in range(self._copies()):
            wire.down.append(payload)
            wire.down_at = self._deliver_at(wire.down_at)
            self.loop.outside(wire.down_at - self.loop.time(), self._down, wire)
        return True

    def disconnect(self, connection: int) -> None:
        """Works as `Port.disconnect`: what was sent before still arrives."""
        wire = self._wires.pop(connection, None)
        if wire is not None:
            wire.is_daemon_gone = True
            self._agent_hears(wire, max(0.0, wire.down_at - self.loop.time()) + 0.002)

    def _down(self, wire: Wire) -> None:
        if not wire.down or self._cut(wire).is_down:
            return
        wire.dealer.arrived(wire.down.popleft())

    # The agent's side.

    def connect(self, dealer: Dealer) -> None:
        """Completes or fails a handshake some time later."""
        cut = self._cuts.get(dealer.host)
        if self._door is None:
            self.loop.outside(0.002, dealer.event, zmq.Event.CLOSED)
        elif cut is not None:
            self.loop.outside(CONNECT_TIMEOUT_S, dealer.event, zmq.Event.CLOSED)
        else:
            self.loop.outside(self._chance.delay_s(0.002, 0.03), self._connected, dealer)

    def _connected(self, dealer: Dealer) -> None:
        if self._door is None or dealer.host in self._cuts or dealer.process.is_dead:
            dealer.event(zmq.Event.CLOSED)
            return
        if not self._door.is_approved(dealer.public_key):
            dealer.event(zmq.Event.HANDSHAKE_FAILED_AUTH)
            return
        self._numbers += 1
        wire = Wire(dealer, self._door, self._numbers)
        if not dealer.is_closed:
            dealer.wire = wire
            self._wires[wire.connection] = wire
            dealer.event(zmq.Event.HANDSHAKE_SUCCEEDED)

    def carry_up(self, wire: Wire, frame: bytes) -> None:
        """Carries a frame of an agent to the daemon."""
        if wire.is_daemon_gone or wire.is_agent_gone:
            return
        self.frames += 1
        for _ in range(self._copies()):
            wire.up.append(frame)
            wire.up_at = self._deliver_at(wire.up_at)
            self.loop.outside(wire.up_at - self.loop.time(), self._up, wire)

    def _up(self, wire: Wire) -> None:
        if not wire.up or self._cut(wire).is_up or wire.is_daemon_gone:
            return
        incoming = IncomingMessage(
            wire.connection, wire.dealer.public_key, wire.dealer.host, memoryview(wire.up.popleft())
        )
        # It runs in the daemon's process: a frozen daemon gets the frames when it resumes.
        self.loop.call_soon(wire.door.take, incoming, context=wire.door.process.context)

    def agent_closes(self, wire: Wire) -> None:
        """The agent closes its end: the daemon notices that after the frames that were sent before."""
        if not wire.is_agent_gone:
            wire.is_agent_gone = True
            self.loop.outside(max(0.0, wire.up_at - self.loop.time()) + 0.001, self._daemon_notices, wire)

    def _daemon_notices(self, wire: Wire) -> None:
        # A cut holds this back, too.
        if self._wires.get(wire.connection) is wire and not self._cut(wire).is_up:
            del self._wires[wire.connection]
            self._daemon_hears(wire)

    def _daemon_hears(self, wire: Wire) -> None:
        door = wire.door
        self.loop.call_soon(door.closed, wire.connection, "its connection is closed", context=door.process.context)

    def _copies(self) -> int:
        if self._chance.happens("frame lost"):
            return 0
        return 2 if self._chance.happens("frame repeated") else 1

    def _deliver_at(self, earliest: float) -> float:
        late_s = self._chance.dice.uniform(0.2, 3.0) if self._chance.happens("frame late") else 0.0
        return max(earliest, self.loop.time() + self._chance.delay_s(0.0002, 0.02) + late_s)

    # Faults.

    def _cut(self, wire: Wire) -> Cut:
        return self._cuts.get(wire.dealer.host, _NO_CUT)

    def cut(self, host: str, duration_s: float, *, is_up: bool = True, is_down: bool = True) -> None:
        """Holds back the frames of a server for a while."""
        if host in self._cuts:
            return
        cut = self._cuts[host] = Cut(is_up=is_up, is_down=is_down)
        self.loop.outside(duration_s, self._mend, host, cut)
        self.loop.outside(CUT_S_MAX, self._outlasted, host, cut)

    def _mend(self, host: str, cut: Cut) -> None:
        if self._cuts.get(host) is not cut:
            return
        del self._cuts[host]
        for wire in list(self._wires.values()):
            if wire.dealer.host == host:
                self._flush(wire)

    def _flush(self, wire: Wire) -> None:
        # Frames that are scheduled for later are delivered now as well; their own timer then finds nothing.
        for _ in range(len(wire.up)):
            self._up(wire)
        for _ in range(len(wire.down)):
            self._down(wire)
        if wire.is_agent_gone:
            self._daemon_notices(wire)

    def _outlasted(self, host: str, cut: Cut) -> None:
        if self._cuts.get(host) is cut:
            for wire in [wire for wire in self._wires.values() if wire.dealer.host == host]:
                self._break(wire, self._chance.dice.uniform(0.0, 2.0))

    def close_connection(self, host: str) -> None:
        """Closes the connections of a server at once, as a firewall that resets them does."""
        for wire in [wire for wire in self._wires.values() if wire.dealer.host == host]:
            self._break(wire, 0.001)

    def _break(self, wire: Wire, within_s: float) -> None:
        wire.up.clear()
        wire.down.clear()
        wire.is_daemon_gone = True
        if self._wires.pop(wire.connection, None) is not None:
            self._daemon_hears(wire)
        self._agent_hears(wire, within_s)

    def _agent_hears(self, wire: Wire, after_s: float) -> None:
        self.loop.outside(after_s, wire.dealer.event, zmq.Event.DISCONNECTED)

    def heal(self) -> None:
        """Removes all cuts."""
        for host, cut in list(self._cuts.items()):
            self._mend(host, cut)

    def agent_died(self, process: Process) -> None:
        """Closes the sockets of the process, as the kernel does."""
        for wire in list(self._wires.values()):
            if wire.dealer.process is process:
                wire.dealer.close()


_NO_CUT = Cut(is_up=False, is_down=False)
