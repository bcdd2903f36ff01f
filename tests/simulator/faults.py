"""The nemesis: causes faults at random moments until it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulator.chance import MOMENTS
from tests.simulator.checks.promises import FORGED
from waterflow_agent.attempts import AttemptId, Outcome
from waterflow_agent.wire import messages

if TYPE_CHECKING:
    from tests.simulator.outside.server import Server
    from tests.simulator.world import World


class Nemesis:
    """Causes the faults of one world that do not depend on an operation."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = world.chance.dice
        self._is_over = False
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
            if name in self._world.chance.active:
                self._arm(name)

    def stop(self) -> None:
        """Stops causing faults."""
        self._is_over = True

    def _arm(self, name: str) -> None:
        self._world.loop.outside(self._dice.expovariate(1 / MOMENTS[name]), self._strike, name)

    def _strike(self, name: str) -> None:
        if self._is_over:
            return
        if self._deeds[name]():
            self._world.chance.counts[name] += 1
        self._arm(name)

    def _server(self) -> Server:
        return self._dice.choice(self._world.servers)

    def _kill_daemon(self) -> bool:
        daemon = self._world.daemon
        if daemon is None:
            return False
        self._world.kill_daemon(daemon.process, "at a random moment")
        return True

    def _kill_agent(self) -> bool:
        server = self._server()
        if server.agent is None:
            return False
        server.kill_agent("at a random moment")
        return True

    def _freeze_daemon(self) -> bool:
        daemon = self._world.daemon
        if daemon is None or daemon.process.is_paused:
            return False
        self._world.freeze(daemon.process, self._dice.uniform(0.05, 9.0))
        return True

    def _freeze_agent(self) -> bool:
        agent = self._server().agent
        if agent is None or agent.process.is_paused:
            return False
        self._world.freeze(agent.process, self._dice.choice((self._dice.uniform(0.05, 5.0), self._dice.uniform(5, 25))))
        return True

    def _fill_daemon_disk(self) -> bool:
        world = self._world
        if world.is_daemon_disk_full:
            return False
        world.note("daemon: its disk is full")
        world.is_daemon_disk_full = True
        world.loop.outside(self._dice.uniform(0.1, 6.0), world.empty_daemon_disk)
        return True

    def _fill_agent_disk(self) -> bool:
        server = self._server()
        if server.disk.is_full:
            return False
        self._world.note(f"{server.name}: its disk is full")
        server.disk.is_full = True
        server.disk_full_at = self._world.now_ms
        self._world.loop.outside(self._dice.uniform(0.1, 6.0), self._world.empty_disk, server)
        return True

    def _kill_runner(self) -> bool:
        server = self._server()
        if server.runner is None or server.runner.is_dead:
            return False
        self._world.note(f"{server.name}: runner killed")
        server.runner.die()
        return True

    def _reboot(self) -> bool:
        self._server().reboot()
        return True

    def _cut(self, least_s: float, most_s: float) -> bool:
        server, duration_s = self._server(), self._dice.uniform(least_s, most_s)
        self._world.note(f"{server.name}: link cut for {duration_s:.1f} s")
        self._world.network.cut(server.name, duration_s)
        return True

    def _cut_one_way(self) -> bool:
        server, duration_s = self._server(), self._dice.uniform(0.1, 20.0)
        is_up = self._dice.random() < 0.5
        self._world.note(f"{server.name}: link cut {'to' if is_up else 'from'} the daemon for {duration_s:.1f} s")
        self._world.network.cut(server.name, duration_s, is_up=is_up, is_down=not is_up)
        return True

    def _close_connection(self) -> bool:
        server = self._server()
        self._world.note(f"{server.name}: connection closed")
        self._world.network.close_connection(server.name)
        return True

    def _jump(self) -> bool:
        self._world.set_wall(self._dice.choice((-3_600_000, -5_000, 5_000, 3_600_000)))
        return True

    def _take_repository_away(self) -> bool:
        there = [repository for repository in self._world.repositories if not repository.is_away]
        if not there:
            return False
        repository = there[0] if len(there) == 1 else self._dice.choice(there)
        self._world.note("repository: it is away")
        repository.is_away = True
        self._world.loop.outside(self._dice.uniform(0.1, 5.0), repository.come_back)
        return True

    def _revoke(self) -> bool:
        server = self._server()
        if server.is_revoked:
            return False
        self._world.revoke(server)
        return True

    def _forge(self) -> bool:
        """Sends a report about an open attempt that does not match its lease: another epoch, or another agent."""
        daemon = self._world.daemon
        if daemon is None or daemon.process.is_paused:
            return False
        open_ones = [
            (run, job, step, step.last)
            for run in self._world.checks.shadows.values()
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
        self._world.note(f"stale report of {step.id} from {live.instance} under epoch {epoch}")
        report = messages.Finished(key, Outcome.SUCCESS, 0, "", "", {FORGED: 1}, {}, 1, 2, 0, 0)
        daemon.process.run(daemon.agents.received, live.agent, [report], lambda: None)
        return True
