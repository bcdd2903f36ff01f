"""What all parts of a simulation share: dice, time, trace, network, disks, the truth, and the observer.

Rules of this file: it knows no part of the simulation. `Simulation` creates the parts, sets `daemon` and `observer`, and
implements the abstract methods.
"""

from __future__ import annotations

import abc
import asyncio
from collections import Counter
from typing import Protocol

import waterflow_agent
from tests.simulator.calendar import BEGAN_AT
from tests.simulator.chance import Chance
from tests.simulator.loop import Process, VirtualLoop
from tests.simulator.observer import Observer
from tests.simulator.outside.network import Network
from tests.simulator.trace import Trace
from tests.simulator.truth import Truth
from waterflow_agent.clock import Clock
from waterflowd.admin.webhooks import SignedWebhookService
from waterflowd.dispatch.sessions import Sessions
from waterflowd.engine import Run
from waterflowd.host.agents.enrollment import EnrollmentService
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.driver import Driver
from waterflowd.host.live_state import LiveState
from waterflowd.model.ids import RunId
from waterflowd.reconcile.loop import RepositoryLoop
from waterflowd.testing.host import codec
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs


class Violation(AssertionError):
    """A broken promise."""


class RunningDaemon(Protocol):
    """The daemon's current process, as clients and checkers see it."""

    process: Process
    live_state: LiveState
    driver: Driver
    agents: AgentHandler
    enrollment: EnrollmentService
    sessions: Sessions
    webhooks: SignedWebhookService | None
    #: The loop of each repository, by name.
    loops: dict[str, RepositoryLoop]


class SimulatedClock(Clock):
    """The clocks of all machines."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def boot_ms(self) -> int:
        """Returns the simulation's time."""
        return self._environment.now_ms

    def wall_ms(self) -> int:
        """Returns what the servers' wall clocks show."""
        return self._environment.wall_ms()


class Environment(abc.ABC):
    """See the file's docstring."""

    #: Is told what happens; compares it with the promises.
    observer: Observer

    def __init__(self, seed: int, *, has_whole_trace: bool = False) -> None:
        self.chance = Chance(seed)
        self.loop = VirtualLoop()
        self.clock = SimulatedClock(self)
        self.trace = Trace(is_whole=has_whole_trace)
        self.truth = Truth()
        self.network = Network(self.loop, self.chance)
        # Passing events through bytes costs much and shows little more, so only some simulations do it.
        self.memory = MemoryLog(codec() if self.chance.shape.random() < 0.2 else None)
        self.outputs = MemoryOutputLogs()
        self.release = waterflow_agent.__version__
        #: The daemon's process; None while it is down.
        self.daemon: RunningDaemon | None = None
        #: Each run as the fold of its durable events.
        self.shadows: dict[RunId, Run] = {}
        #: How many durable events there are of each kind.
        self.events: Counter[str] = Counter()
        #: The first broken promise; it ends the simulation.
        self.violation: Violation | None = None
        self.agents_started = 0
        self.is_daemon_disk_full = False
        self.wall_offset_ms = 0
        #: How wrong the wall clocks have been, and since when, in ms.
        self.wall_offsets = [(-1, 0)]
        #: When everything was healed, by the log's clock; None before that.
        self.healed_at: int | None = None
        #: Leases granted before a backup was restored have epochs below this one; 0 until a backup was restored.
        self.restored_epoch = 0
        #: When a backup was restored, in ms of the simulation.
        self.restored_at = -1
        self._tokens = 0

    # Promises ---------------------------------------------------------------------------------------------------------

    def fail(self, text: str, error: BaseException | None = None) -> None:
        """Reports a broken promise: the simulation ends with this sentence."""
        if self.violation is None:
            self.note(f"VIOLATION: {text}")
            self.violation = Violation(text)
            self.violation.__cause__ = error

    def expect(self, is_kept: object, text: str) -> None:
        """Fails unless the promise is kept."""
        if not is_kept:
            self.fail(text)

    # Time -------------------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Returns the simulation's time."""
        return self.loop.now_ms

    def log_ms(self) -> int:
        """Returns the time of the log's clock."""
        return BEGAN_AT + self.loop.now_ms

    def seconds(self, at: int) -> float:
        """Converts a time of the log to the loop's time, at the end of its millisecond."""
        return (at - BEGAN_AT + 1) / 1000

    def wall_ms(self) -> int:
        """Returns what the servers' wall clocks show."""
        return BEGAN_AT + self.loop.now_ms + self.wall_offset_ms

    def set_wall(self, by_ms: int) -> None:
        """Sets the wall clocks forward or back."""
        self.wall_offset_ms += by_ms
        self.wall_offsets.append((self.loop.now_ms, self.wall_offset_ms))
        self.note(f"wall clocks jump by {by_ms} ms")

    def note(self, text: str) -> None:
        """Adds a line to the trace."""
        self.trace.note(self.loop.now_ms, text)

    def new_token(self) -> str:
        """Returns a session name that was never used before."""
        self._tokens += 1
        return f"session-{self._tokens:08}"

    async def sleep(self, delay_s: float) -> None:
        """Waits as long as a disk operation takes."""
        await asyncio.sleep(delay_s)

    async def never(self) -> None:
        """Never returns, because the process has been killed."""
        await self.loop.create_future()

    # Faults -----------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def kill_daemon(self, process: Process, reason: str) -> None:
        """Kills the daemon with SIGKILL; it is started again some time later."""

    @abc.abstractmethod
    def kill_agent(self, process: Process, reason: str) -> None:
        """Kills one process of an agent with SIGKILL; it is started again some time later."""

    def freeze(self, process: Process, duration_s: float) -> None:
        """Stops a process with SIGSTOP, and continues it later with SIGCONT."""
        self.note(f"{process.name} frozen for {duration_s:.1f} s")
        self.loop.pause(process)
        self.loop.outside(duration_s, self.thaw, process)

    def thaw(self, process: Process) -> None:
        """Continues a process with SIGCONT."""
        if process.is_paused:
            self.note(f"{process.name} continues")
            self.loop.resume(process)

    def empty_daemon_disk(self) -> None:
        """Makes room on the daemon's disk."""
        self.is_daemon_disk_full = False

    # Repositories -----------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def tree(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """Returns the files of a revision, by path."""
