"""One simulation: servers, a daemon, people and random faults, from one seed.

A simulation has two phases. In the first one things go wrong, as the seed decides. Then everything is healed: cuts are
mended, disks have room, frozen processes continue, and no more faults occur. People do not intervene either: from then
on every run must complete within its time, and when all runs have completed, nothing may be left anywhere.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from tests.simulator import child_runs, language
from tests.simulator import plans as workflows
from tests.simulator.backups import Backups
from tests.simulator.calendar import BEGAN_AT
from tests.simulator.checks.promises import Checks
from tests.simulator.checks.webhooks import DeliveryChecker
from tests.simulator.environment import Environment
from tests.simulator.faults import FaultInjector
from tests.simulator.loop import Process
from tests.simulator.outside.daemon import LOST_AFTER_MS, Daemon
from tests.simulator.outside.repository import Repository
from tests.simulator.outside.server import Server
from tests.simulator.patches import installed
from tests.simulator.people import Approvers, Repeaters, Revocation, Start
from tests.simulator.senders import Senders
from tests.simulator.triggered import Triggered
from waterflow_agent.keys import fingerprint
from waterflowd.fleet import events as fleet_events
from waterflowd.model import plan as plans
from waterflowd.model.ids import FLEET, AgentId
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.model.statuses import Conclusion

#: Time between the daemon's exit and its next start by the service manager, in seconds.
RESTART_S = (0.1, 3.0)
#: How much longer than its run's time an attempt may take to end once everything is healed: time to detect silence, to
#: reconnect, `lost-after`, to be refused and offered again, the grace period, and to send the results again.
GRACE_MS = 60_000 + LOST_AFTER_MS


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one simulation."""

    seed: int
    #: The broken promise; None if all were kept.
    violation: str | None
    trace: list[str]
    #: Changes with every line of the trace.
    digest: int
    faults: dict[str, int]
    conclusions: dict[str, int]
    events: dict[str, int]
    #: The simulation's time when it ended, in ms.
    ended_at: int
    frames: int
    processes: int


class Simulation(Environment):
    """See the file's docstring."""

    def __init__(self, seed: int, *, has_whole_trace: bool = False) -> None:
        super().__init__(seed, has_whole_trace=has_whole_trace)
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
        if self.chance.has_leases:
            # At least two servers to choose from.
            groups = groups[:1]
            for number in range(len(self.servers), 2):
                self.servers.append(Server(self, f"s{number}", groups, 1))
            for server in self.servers:
                server.groups = groups
        made = [workflows.make(shape, number, groups) for number in range(shape.choice((1, 2, 3)))]
        if self.chance.has_language:
            made = [language.make(self.chance.language, number, groups) for number in range(len(made))]
        if self.chance.has_leases:
            made = [workflows.make_exclusive(self.chance.leases, number, groups) for number in range(len(made))]
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
        self.repositories: list[Repository] = [Repository(self, more, pushed)] if self.chance.has_repository else []
        self.senders: Senders | None = None
        deliveries: DeliveryChecker | None = None
        if self.chance.has_triggers:
            triggered = Triggered(self, self.chance.triggers, groups)
            self.repositories.append(triggered)
            deliveries = DeliveryChecker(self, triggered)
            self.senders = Senders(self, self.chance.triggers, triggered, deliveries)
        self.revocations: list[Revocation] = []
        self.backups = Backups(self, self.repositories)
        self.observer = self.checks = Checks(self, self.servers, self.repositories, deliveries)
        self._fault_injector = FaultInjector(self, self.servers, self.repositories, self.revoke)

    def tree(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """Returns the files of a revision, by path."""
        if repository == child_runs.REPOSITORY:
            return {}
        known = next((one for one in self.repositories if one.settings.name == repository), None)
        commit = known.commits.get(revision) if known is not None else None
        return commit.files if commit is not None else None

    # Faults -----------------------------------------------------------------------------------------------------------

    def kill_daemon(self, process: Process, reason: str) -> None:
        """Kills the daemon with SIGKILL; it is started again some time later."""
        if process.is_dead or self.daemon is None or self.daemon.process is not process:
            return
        self.note(f"daemon killed {reason}")
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
        self.daemon = Daemon(self, self.memory, self.repositories, self.files)
        for shadow in self.shadows.values():
            if not shadow.is_completed:
                self.checks.check_run(shadow)

    def _travelled(self) -> None:
        """Reacts to a restored older log: people notice what is no longer true, and repeat their requests."""
        self.checks.restored(self.memory)
        for start in self.starts:
            start.is_gone = start.run is not None and start.run not in self.shadows
        for revocation in self.revocations:
            if revocation.is_done and self.checks.is_undone(revocation.agent):
                revocation.is_done = False
                revocation.ask()
        for repository in self.repositories:
            repository.restored()

    def kill_agent(self, process: Process, reason: str) -> None:
        """Kills one process of an agent with SIGKILL."""
        for server in self.servers:
            if server.agent is not None and server.agent.process is process:
                server.kill_agent(reason)

    def revoke(self, server: Server) -> None:
        """Revokes the agent."""
        server.is_revoked = True
        self.revocations.append(Revocation(self, AgentId(fingerprint(server.public_key))))
        self.revocations[-1].ask()

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
            Repeaters(self, self.chance.language, self.starts).look()
        self._fault_injector.begin()
        ends_s = shape.uniform(8.0, 25.0)
        self.loop.advance(
            self.chance.leases.uniform(30.0, 90.0) if self.chance.has_leases else ends_s, self._stops_early
        )
        self._heal()
        healed_at = self.now_ms
        deadline = self._deadline(healed_at)
        while self.violation is None and not self._is_quiet():
            if self.now_ms >= deadline:
                self.fail(f"G7: {self._what_is_open()}")
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
                by="the simulation",
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
        self._fault_injector.stop()
        self.chance.is_healed = True
        self.network.heal()
        self.empty_daemon_disk()
        for repository in self.repositories:
            repository.come_back()
        if self.chance.shape.random() < 0.15:
            self.chance.shape.choice(self.servers).scrap()
        for server in self.servers:
            server.make_room()
        for process in self._processes():
            self.thaw(process)

    def _deadline(self, healed_at: int) -> int:
        """Returns when all runs must have completed: the latest of the healing, their ends and deadlines, plus grace."""
        ends = [(shadow.completed_at or shadow.deadline_at) - BEGAN_AT for shadow in self.shadows.values()]
        return max([healed_at + GRACE_MS, *(end + GRACE_MS for end in ends)])

    def _is_broken(self) -> bool:
        return self.violation is not None or bool(self.loop.failures)

    def _stops_early(self) -> bool:
        if self.loop.failures:
            self._check_failures()
        return self.violation is not None

    def _check_failures(self) -> None:
        for text, error in self.loop.failures:
            self.fail(f"uncaught: {text}: {error!r}", error)
        self.loop.failures.clear()
        if self.daemon is not None and self.daemon.live_state.stalled:
            self.fail(f"a run is stalled: {self.daemon.live_state.stalled}")

    def _is_quiet(self) -> bool:
        """Returns whether all starts became runs, all runs have completed, and no agent has anything left to report."""
        if self.daemon is None or any(start.run is None for start in self.starts):
            return False
        if not all(shadow.is_completed for shadow in self.shadows.values()):
            return False
        if any(repository.wish for repository in self.repositories) or self._open_triggers():
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
                or any(run in self.shadows for run, _ in server.workspaces)
            ):
                return False
        return not self.daemon.live_state.runs

    def _open_triggers(self) -> str:
        return self.checks.open_triggers() or (self.senders.what_is_open() if self.senders is not None else "")

    def _what_is_open(self) -> str:
        if any(start.run is None for start in self.starts):
            return "a start was never acknowledged"
        for shadow in self.shadows.values():
            for job in shadow.jobs:
                if not shadow.is_completed and job.conclusion is None:
                    step = job.current
                    where = "" if step is None else f", step {step.id} {step.status.value}: {step.reason.text}"
                    return f"{shadow.id} is open: job {job.id} {job.status.value}: {job.reason.text}{where}"
        is_open = self._open_triggers()
        if is_open:
            return is_open
        left = []
        for server in self.servers:
            core = server.agent.core if server.agent is not None else None
            held = [(entry.key, entry.state.value) for entry in core.ledger] if core is not None else "no agent"
            left.append(f"{server.name} holds {held}, its runner {list(server.results)}, {list(server.workspaces)}")
        return f"all runs have completed, but: {'; '.join(left)}"

    def _check_left_overs(self) -> None:
        assert self.daemon is not None
        placement, timers = self.daemon.live_state.placement, self.daemon.live_state.timers
        self.expect(placement.waiting == 0, f"{placement.waiting} slot requests of no attempt are left")
        self.expect(len(timers) == 0, f"{len(timers)} timers are left")
        self.expect(
            not self.daemon.live_state.child_runs._of_run, "child run requests are left after all runs have completed"
        )
        for server in placement.servers.values():
            self.expect(not server.taken, f"slots are left: {list(server.taken)}")

    def _report(self) -> Report:
        shadows = self.shadows.values()
        conclusions: Counter[str] = Counter((shadow.conclusion or Conclusion.LOST).value for shadow in shadows)
        return Report(
            seed=self.chance.seed,
            violation=None if self.violation is None else str(self.violation),
            trace=self.trace.lines(),
            digest=self.trace.digest,
            faults=dict(self.chance.counts),
            conclusions=dict(conclusions),
            events=dict(self.events),
            ended_at=self.now_ms,
            frames=self.network.frames,
            processes=sum(len(executions) for executions in self.truth.by_attempt.values()),
        )


def simulate(seed: int, *, has_whole_trace: bool = False) -> Report:
    """Creates the simulation of this seed and runs it."""
    return Simulation(seed, has_whole_trace=has_whole_trace).live()


__all__ = ["Report", "Simulation", "simulate"]
