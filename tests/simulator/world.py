"""One world: servers, a daemon, people and a nemesis, from one seed.

A world has two phases. In the first one things go wrong, as the seed decides. Then everything is healed: cuts are
mended, disks have room, frozen processes continue, and no more faults occur. People do not intervene either: from then
on every run must complete within its time, and when all runs have completed, nothing may be left anywhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

import waterflow_agent
from tests.simulator import child_runs, language
from tests.simulator import plans as workflows
from tests.simulator.backups import Backups
from tests.simulator.calendar import BEGAN_AT
from tests.simulator.chance import Chance
from tests.simulator.checks.promises import Checks, Violation
from tests.simulator.checks.webhooks import Senders
from tests.simulator.faults import Nemesis
from tests.simulator.loop import Process, VirtualLoop
from tests.simulator.outside.daemon import LOST_AFTER_MS, Daemon
from tests.simulator.outside.network import Network
from tests.simulator.outside.repository import Repository
from tests.simulator.outside.server import Server
from tests.simulator.patches import installed
from tests.simulator.people import Approvers, Repeaters, Revocation, Start
from tests.simulator.trace import Trace
from tests.simulator.triggered import Triggered
from tests.simulator.truth import Truth
from waterflow_agent.clock import Clock
from waterflow_agent.keys import fingerprint
from waterflowd.engine import Run
from waterflowd.fleet import events as fleet_events
from waterflowd.model import plan as plans
from waterflowd.model.ids import FLEET, AgentId, AttemptId
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.host import codec
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs

#: Time between the daemon's exit and its next start by the service manager, in seconds.
RESTART_S = (0.1, 3.0)
#: How much longer than its run's time an attempt may take to end once everything is healed: time to detect silence, to
#: reconnect, `lost-after`, to be refused and offered again, the grace period, and to send the results again.
GRACE_MS = 60_000 + LOST_AFTER_MS


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one world."""

    seed: int
    #: The broken promise; None if all were kept.
    violation: str | None
    trace: list[str]
    #: Changes with every line of the trace.
    digest: int
    faults: dict[str, int]
    conclusions: dict[str, int]
    events: dict[str, int]
    #: The world's time when it ended, in ms.
    ended_at: int
    frames: int
    processes: int


class SimulatedClock(Clock):
    """The clocks of all machines of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def boot_ms(self) -> int:
        """Returns the world's time."""
        return self._world.now_ms

    def wall_ms(self) -> int:
        """Returns what the servers' wall clocks show."""
        return self._world.wall_ms()


class World:
    """See the file's docstring."""

    def __init__(self, seed: int, *, has_whole_trace: bool = False) -> None:
        self.chance = Chance(seed)
        self.loop = VirtualLoop()
        self.clock = SimulatedClock(self)
        self.trace = Trace(is_whole=has_whole_trace)
        self.violation: Violation | None = None
        self.truth = Truth()
        self.network = Network(self.loop, self.chance)
        # Passing events through bytes costs much and shows little more, so only some worlds do it.
        self.memory = MemoryLog(codec() if self.chance.shape.random() < 0.2 else None)
        self.outputs = MemoryOutputLogs()
        self.daemon: Daemon | None = None
        self.agents_started = 0
        self.is_daemon_disk_full = False
        self.wall_offset_ms = 0
        #: How wrong the wall clocks have been, and since when, in ms.
        self.wall_offsets = [(-1, 0)]
        #: When everything was healed, by the log's clock; None before that.
        self.healed_at: int | None = None
        self.release = waterflow_agent.__version__
        self._tokens = 0
        shape = self.chance.shape
        groups = ("web", "db")[: shape.choice((1, 2))]
        self.servers = [
            Server(
                self,
                f"s{number}",
                (groups[number % len(groups)],),
                shape.choice((2, 4) if self.chance.is_long else (1, 1, 2, 4)),
            )
            for number in range(max(len(groups), shape.choice((1, 2, 3))))
        ]
        made = [workflows.make(shape, number, groups) for number in range(shape.choice((1, 2, 3)))]
        if self.chance.has_language:
            made = [language.make(self.chance.language, number, groups) for number in range(len(made))]
        self.files = child_runs.files(self.chance.child_runs, groups) if self.chance.has_child_runs else {}
        if self.chance.has_child_runs:
            made = [child_runs.mix(self.chance.child_runs, plan) for plan in made]
        compiled = [
            plans.encode(plan) for plan in (made if not self.chance.is_long else [workflows.make_long(shape, groups)])
        ]
        self.starts = [
            Start(self, number, shape.choice(compiled), shape) for number in range(shape.choice((1, 2, 3, 4, 6)))
        ]
        more = self.chance.more
        pushed = workflows.make_pushed(more, groups)
        self.repositories = [Repository(self, more, pushed)] if self.chance.has_repository else []
        self.triggered = Triggered(self, self.chance.triggers, groups) if self.chance.has_triggers else None
        if self.triggered is not None:
            self.repositories.append(self.triggered)
        self.senders = Senders(self, self.chance.triggers, self.triggered) if self.triggered is not None else None
        self.revocations: list[Revocation] = []
        self.backups = Backups(self)
        self.checks = Checks(self)
        self._nemesis = Nemesis(self)

    # Time -------------------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Returns the world's time."""
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

    def tree(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """Returns the files of a revision, by path."""
        if repository == child_runs.REPOSITORY:
            return {}
        known = next((one for one in self.repositories if one.settings.name == repository), None)
        commit = known.commits.get(revision) if known is not None else None
        return commit.files if commit is not None else None

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

    def kill_daemon(self, process: Process, why: str) -> None:
        """Kills the daemon with SIGKILL; it is started again some time later."""
        if process.is_dead or self.daemon is None or self.daemon.process is not process:
            return
        self.note(f"daemon killed {why}")
        self.loop.kill(process)
        self.network.close()
        self.daemon = None
        self.loop.outside(self.chance.delay_s(*RESTART_S), self._start_daemon)

    def _start_daemon(self) -> None:
        if self.daemon is not None:
            return
        self.checks.daemon_crashed()
        if self.backups.is_due:
            self.memory = self.backups.restore()
            self._travelled()
        else:
            self.memory = self.memory.reopened()
        self.checks.daemon_crashed()
        self.note(f"daemon starts, generation {self.memory.generation}")
        self.daemon = Daemon(self, self.memory)
        for shadow in self.checks.shadows.values():
            if not shadow.is_completed:
                self.checks.check_run(self.daemon.world.runs.get(shadow.id), shadow)

    def _travelled(self) -> None:
        """Reacts to a restored older log: people notice what is no longer true, and repeat their requests."""
        self.checks.restored(self.memory)
        for start in self.starts:
            start.is_gone = start.run is not None and start.run not in self.checks.shadows
        for revocation in self.revocations:
            if revocation.is_done and self.checks.is_undone(revocation):
                revocation.is_done = False
                revocation.ask()
        for repository in self.repositories:
            repository.restored()

    def kill_agent(self, process: Process, why: str) -> None:
        """Kills one process of an agent with SIGKILL."""
        for server in self.servers:
            if server.agent is not None and server.agent.process is process:
                server.kill_agent(why)

    def freeze(self, process: Process, duration_s: float) -> None:
        """Stops a process with SIGSTOP, and continues it later with SIGCONT."""
        self.note(f"{process.name} frozen for {duration_s:.1f} s")
        self.loop.pause(process)
        self.loop.outside(duration_s, self.thaw, process)

    def revoke(self, server: Server) -> None:
        """Revokes the agent."""
        server.is_revoked = True
        self.revocations.append(Revocation(self, AgentId(fingerprint(server.public_key))))
        self.revocations[-1].ask()

    def thaw(self, process: Process) -> None:
        """Continues a process with SIGCONT."""
        if process.is_paused:
            self.note(f"{process.name} goes on")
            self.loop.resume(process)

    def empty_daemon_disk(self) -> None:
        """Makes room on the daemon's disk."""
        self.is_daemon_disk_full = False

    def empty_disk(self, server: Server) -> None:
        """Makes room on the server's disk."""
        if server.disk.is_full:
            server.disk_full_at = self.now_ms
        server.disk.is_full = False

    # Phases -----------------------------------------------------------------------------------------------------------

    def live(self) -> Report:
        """Runs both phases and returns the report."""
        with installed(self):
            try:
                self._live()
            finally:
                for process in self._processes():
                    self.loop.kill(process)
                self.loop._bury()
                self.loop.close()
        return self._report()

    def _processes(self) -> list[Process]:
        agents = [server.agent.process for server in self.servers if server.agent is not None]
        return agents if self.daemon is None else [*agents, self.daemon.process]

    def _live(self) -> None:
        shape = self.chance.shape
        self._enroll()
        self.loop.outside(0.0, self._start_daemon)
        for server in self.servers:
            self.loop.outside(shape.uniform(0.0, 1.0), server.start_agent)
        for start in self.starts:
            self.loop.outside(shape.uniform(0.0, 8.0), start.ask)
        for repository in self.repositories:
            repository.begin()
        if self.senders is not None:
            self.senders.begin()
        if self.chance.has_backup:
            self.backups.begin()
        if self.chance.has_language:
            Approvers(self, self.chance.language).look()
            Repeaters(self, self.chance.language).look()
        self._nemesis.begin()
        self.loop.advance(shape.uniform(8.0, 25.0), self._is_over_early)
        self._heal()
        healed_at = self.now_ms
        deadline = self._deadline(healed_at)
        while self.violation is None and not self._is_quiet():
            if self.now_ms >= deadline:
                self.checks.fail(f"G7: {self._what_is_open()}")
                return
            self.loop.advance(self.loop.time() + 0.5, self._is_broken)
            deadline = self._deadline(healed_at)
            self._check_failures()
        self._check_failures()
        if self.violation is None:
            self._check_left_overs()
            self.checks.at_the_end()

    def _enroll(self) -> None:
        facts = [
            fleet_events.AgentApproved(
                at=BEGAN_AT,
                by="the world",
                agent=AgentId(fingerprint(server.public_key)),
                public_key=server.public_key,
                name=server.name,
                groups=server.groups,
            )
            for server in self.servers
        ]
        self.memory.append_blocking(
            Batch(appends=[StreamAppend(stream=FLEET, expected=0, at=BEGAN_AT, events=list(facts))])
        )

    def _heal(self) -> None:
        self.note("healed")
        self.healed_at = self.log_ms()
        self._nemesis.stop()
        self.chance.is_healed = True
        self.network.heal()
        self.empty_daemon_disk()
        for repository in self.repositories:
            repository.come_back()
        if self.chance.shape.random() < 0.15:
            self.chance.shape.choice(self.servers).scrap()
        for server in self.servers:
            self.empty_disk(server)
        for process in self._processes():
            self.thaw(process)

    def _deadline(self, healed_at: int) -> int:
        """Returns when all runs must have completed: the latest of the healing, their ends and deadlines, plus grace."""
        ends = [(shadow.completed_at or shadow.deadline_at) - BEGAN_AT for shadow in self.checks.shadows.values()]
        return max([healed_at + GRACE_MS, *(end + GRACE_MS for end in ends)])

    def _is_broken(self) -> bool:
        return self.violation is not None or bool(self.loop.failures)

    def _is_over_early(self) -> bool:
        if self.loop.failures:
            self._check_failures()
        return self.violation is not None

    def _check_failures(self) -> None:
        for text, error in self.loop.failures:
            self.checks.fail(f"nobody caught: {text}: {error!r}", error)
        self.loop.failures.clear()
        if self.daemon is not None and self.daemon.world.stalled:
            self.checks.fail(f"a run is stalled: {self.daemon.world.stalled}")

    def _is_quiet(self) -> bool:
        """Returns whether all starts became runs, all runs have completed, and no agent has anything left to report."""
        if self.daemon is None or any(start.run is None for start in self.starts):
            return False
        if not all(shadow.is_completed for shadow in self.checks.shadows.values()):
            return False
        if any(repository.wish for repository in self.repositories) or self.checks.open_triggers():
            return False
        if not all(one.is_done for one in self.revocations):
            return False
        for server in self.servers:
            if server.is_scrapped or server.is_revoked:
                continue
            core = server.agent.core if server.agent is not None else None
            if (
                core is None
                or not core.executor.is_settled.is_set()
                or len(core.ledger)
                or server.steps
                or server.results
                or any(run in self.checks.shadows for run, _ in server.workspaces)
            ):
                return False
        return not self.daemon.world.runs

    def _what_is_open(self) -> str:
        if any(start.run is None for start in self.starts):
            return "a start was never acknowledged"
        for shadow in self.checks.shadows.values():
            for job in shadow.jobs:
                if not shadow.is_completed and job.conclusion is None:
                    step = job.current
                    where = "" if step is None else f", step {step.id} {step.status.value}: {step.reason.text}"
                    return f"{shadow.id} is open: job {job.id} {job.status.value}: {job.reason.text}{where}"
        is_open = self.checks.open_triggers()
        if is_open:
            return is_open
        left = []
        for server in self.servers:
            core = server.agent.core if server.agent is not None else None
            held = [(entry.key, entry.state.value) for entry in core.ledger] if core is not None else "no agent"
            left.append(f"{server.name} holds {held}, its runner {list(server.results)}, {list(server.workspaces)}")
        return f"all runs are over, and still: {'; '.join(left)}"

    def _check_left_overs(self) -> None:
        assert self.daemon is not None
        placement, timers = self.daemon.world.placement, self.daemon.world.timers
        self.checks.expect(placement.waiting == 0, f"{placement.waiting} attempts want a slot and nobody has them")
        self.checks.expect(len(timers) == 0, f"{len(timers)} timers are left")
        self.checks.expect(not self.daemon.world.child_runs._of_run, "somebody waits for a run, and all are over")
        for server in placement.servers.values():
            self.checks.expect(not server.taken, f"slots are left: {list(server.taken)}")

    def check_driver(self, touched: list[Run]) -> None:
        """Compares the driver with the shadow runs, right after a commit."""
        if self.daemon is None:
            return
        world = self.daemon.world
        for server in world.placement.servers.values():
            if server.slots and len(server.taken) > server.slots:
                self.checks.fail(f"{server.agent} has {len(server.taken)} attempts in {server.slots} slots")
        taken: dict[str, set[AttemptId]] = {}
        for server in world.placement.servers.values():
            for key in server.taken:
                taken.setdefault(key.run, set()).add(key)
        wants: dict[str, set[AttemptId]] = {}
        for key in world.placement._requests:
            wants.setdefault(key.run, set()).add(key)
        for shadow in touched:
            live = world.runs.get(shadow.id)
            if shadow.is_completed and live is None:
                continue
            self.checks.check_run(live, shadow)
            armed = set(world.timers._armed.get(shadow.id, {}))
            self.checks.check_owed(shadow, armed, wants.get(shadow.id, set()), taken.get(shadow.id, set()))
            places = world.child_runs._of_run.get(shadow.id, {})
            watched = {
                place: world.child_runs._watched[place] for place in places if place in world.child_runs._watched
            }
            self.checks.child_runs.check_host(shadow, set(places) - set(watched), watched)
            self.checks.gates.check_host(shadow, world.locks, set(world.placement._list_requests.get(shadow.id, {})))
        self.checks.gates.check_groups()

    def check_queue(self) -> None:
        """Checks right before a commit that no attempt waits for a slot that is free."""
        if self.daemon is None:
            return
        placement, registry = self.daemon.world.placement, self.daemon.world.registry
        for request in placement._requests.values():
            agents = registry.group(request.group) if request.agent is None else (request.agent,)
            for agent in agents:
                server = placement.servers.get(agent)
                is_free = server is not None and request.node in server.nodes and server.free > 0
                if server is not None and is_free and agent in registry.agents:
                    self.checks.fail(f"{request.attempt} waits, and {agent} has {server.free} free slots")

    def _report(self) -> Report:
        shadows = self.checks.shadows.values()
        conclusions: Counter[str] = Counter((shadow.conclusion or Conclusion.LOST).value for shadow in shadows)
        return Report(
            seed=self.chance.seed,
            violation=None if self.violation is None else str(self.violation),
            trace=self.trace.lines(),
            digest=self.trace.digest,
            faults=dict(self.chance.counts),
            conclusions=dict(conclusions),
            events=dict(self.checks.events),
            ended_at=self.now_ms,
            frames=self.network.frames,
            processes=sum(len(executions) for executions in self.truth.by_attempt.values()),
        )


def simulate(seed: int, *, has_whole_trace: bool = False) -> Report:
    """Creates the world of this seed and runs it."""
    return World(seed, has_whole_trace=has_whole_trace).live()


__all__ = ["Report", "World", "simulate"]
