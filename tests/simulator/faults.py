"""The fault injector: causes faults at random moments until it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulator.chance import MOMENTS
from tests.simulator.environment import Environment
from tests.simulator.outside.repository import Repository
from tests.simulator.outside.server import Server
from waterflow_agent.attempts import AttemptId, Outcome
from waterflow_agent.wire import messages

#: What a forged report claims; it must never appear anywhere.
FORGED = "forged"


class FaultInjector:
    """Causes the faults of one simulation that do not depend on an operation."""

    def __init__(
        self,
        environment: Environment,
        servers: Sequence[Server],
        repositories: Sequence[Repository],
        revoke: Callable[[Server], None],
    ) -> None:
        self._environment = environment
        self._servers = servers
        self._repositories = repositories
        self._revoke_agent = revoke
        self._dice = environment.chance.dice
        self._has_ended = False
        self._deeds: dict[str, Callable[[], bool]] = {
            "daemon killed": self._kill_daemon,
            "daemon frozen": self._freeze_daemon,
            "daemon disk full": self._fill_daemon_disk,
            "agent killed": self._kill_agent,
            "agent frozen": self._freeze_agent,
            "agent disk full": self._fill_agent_disk,
            "runner killed": self._kill_runner,
            "server rebooted": self._reboot,
            "link cut": lambda: self._cut(0.1, 6.0),
            "link cut for long": lambda: self._cut(9.0, 25.0),
            "link cut for very long": lambda: self._cut(15.0, 70.0),
            "link cut one way": self._cut_one_way,
            "connection closed": self._close_connection,
            "stale report": self._forge,
            "wall clock jumped": self._jump,
            "repository away": self._take_repository_away,
            "agent revoked": self._revoke,
        }

    def begin(self) -> None:
        """Starts causing faults."""
        for name in MOMENTS:
            if name in self._environment.chance.active:
                self._arm(name)

    def stop(self) -> None:
        """Stops causing faults."""
        self._has_ended = True

    def _arm(self, name: str) -> None:
        self._environment.loop.outside(self._dice.expovariate(1 / MOMENTS[name]), self._strike, name)

    def _strike(self, name: str) -> None:
        if self._has_ended:
            return
        if self._deeds[name]():
            self._environment.chance.counts[name] += 1
        self._arm(name)

    def _server(self) -> Server:
        return self._dice.choice(self._servers)

    def _kill_daemon(self) -> bool:
        daemon = self._environment.daemon
        if daemon is None:
            return False
        self._environment.kill_daemon(daemon.process, "at a random moment")
        return True

    def _kill_agent(self) -> bool:
        server = self._server()
        if server.agent is None:
            return False
        server.kill_agent("at a random moment")
        return True

    def _freeze_daemon(self) -> bool:
        daemon = self._environment.daemon
        if daemon is None or daemon.process.is_paused:
            return False
        self._environment.freeze(daemon.process, self._dice.uniform(0.05, 9.0))
        return True

    def _freeze_agent(self) -> bool:
        agent = self._server().agent
        if agent is None or agent.process.is_paused:
            return False
        self._environment.freeze(
            agent.process, self._dice.choice((self._dice.uniform(0.05, 5.0), self._dice.uniform(5, 25)))
        )
        return True

    def _fill_daemon_disk(self) -> bool:
        environment = self._environment
        if environment.is_daemon_disk_full:
            return False
        environment.note("daemon: its disk is full")
        environment.is_daemon_disk_full = True
        environment.loop.outside(self._dice.uniform(0.1, 6.0), environment.empty_daemon_disk)
        return True

    def _fill_agent_disk(self) -> bool:
        server = self._server()
        if server.disk.is_full:
            return False
        self._environment.note(f"{server.name}: its disk is full")
        server.disk.is_full = True
        server.disk_full_at = self._environment.now_ms
        self._environment.loop.outside(self._dice.uniform(0.1, 6.0), server.make_room)
        return True

    def _kill_runner(self) -> bool:
        server = self._server()
        if server.runner is None or server.runner.is_dead:
            return False
        self._environment.note(f"{server.name}: runner killed")
        server.runner.die()
        return True

    def _reboot(self) -> bool:
        self._server().reboot()
        return True

    def _cut(self, least_s: float, most_s: float) -> bool:
        server, duration_s = self._server(), self._dice.uniform(least_s, most_s)
        self._environment.note(f"{server.name}: link cut for {duration_s:.1f} s")
        self._environment.network.cut(server.name, duration_s)
        return True

    def _cut_one_way(self) -> bool:
        server, duration_s = self._server(), self._dice.uniform(0.1, 20.0)
        is_up = self._dice.random() < 0.5
        self._environment.note(f"{server.name}: link cut {'to' if is_up else 'from'} the daemon for {duration_s:.1f} s")
        self._environment.network.cut(server.name, duration_s, is_up=is_up, is_down=not is_up)
        return True

    def _close_connection(self) -> bool:
        server = self._server()
        self._environment.note(f"{server.name}: connection closed")
        self._environment.network.close_connection(server.name)
        return True

    def _jump(self) -> bool:
        self._environment.set_wall(self._dice.choice((-3_600_000, -5_000, 5_000, 3_600_000)))
        return True

    def _take_repository_away(self) -> bool:
        readable = [repository for repository in self._repositories if not repository.is_away]
        if not readable:
            return False
        repository = readable[0] if len(readable) == 1 else self._dice.choice(readable)
        self._environment.note("repository: unavailable")
        repository.is_away = True
        self._environment.loop.outside(self._dice.uniform(0.1, 5.0), repository.come_back)
        return True

    def _revoke(self) -> bool:
        server = self._server()
        if server.is_revoked:
            return False
        self._revoke_agent(server)
        return True

    def _forge(self) -> bool:
        """Sends a report about an open attempt that does not match its lease: another epoch, or another agent."""
        daemon = self._environment.daemon
        if daemon is None or daemon.process.is_paused:
            return False
        open_ones = [
            (run, job, step, step.last)
            for run in self._environment.shadows.values()
            for job in run.jobs
            for step in job.steps
            if step.last is not None and step.last.is_open
        ]
        if not open_ones:
            return False
        run, job, step, attempt = self._dice.choice(open_ones)
        epoch, agent = attempt.epoch, attempt.agent
        others = [live for name, live in daemon.sessions._by_agent.items() if name != agent]
        if others and self._dice.random() < 0.5:
            live = self._dice.choice(others)
        elif agent in daemon.sessions._by_agent:
            epoch -= 1
            live = daemon.sessions._by_agent[agent]
        else:
            return False
        key = messages.TaskId(AttemptId(run.id, job.id, step.id, attempt.number), epoch)
        self._environment.note(f"stale report of {step.id} from {live.instance} under epoch {epoch}")
        report = messages.Finished(key, Outcome.SUCCESS, 0, "", "", {FORGED: 1}, {}, 1, 2, 0, 0)
        daemon.process.run(daemon.agents.received, live.agent, [report], lambda: None)
        return True
