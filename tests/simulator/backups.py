"""A restored backup: the daemon's log goes back in time, and the agents do not.

Rules of this file: the log and the output logs are cut to what they were when the backup was taken, and the product's
own code closes the work that the backup holds open (operations.py). Time, agents, people and the repository stay as
they are. What was confirmed after the backup is no longer true, and is forgotten here; what has really run is not
forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.simulator.environment import Environment
from tests.simulator.outside.repository import Repository
from waterflowd.model.ids import repository_stream
from waterflowd.rescue import operations
from waterflowd.testing.memory_log import MemoryLog


class Backups:
    """Takes one backup, and restores it later."""

    def __init__(self, environment: Environment, repositories: Sequence[Repository]) -> None:
        self._environment = environment
        self._repositories = repositories
        self._commits = 0
        self._outputs: dict[Any, list[Any]] = {}
        #: The next daemon starts with the backup.
        self.is_due = False

    def begin(self) -> None:
        """Takes and restores a backup at random moments; nothing is restored after the healing."""
        dice = self._environment.chance.more
        taken_s = dice.uniform(0.5, 12.0)
        self._environment.loop.outside(taken_s, self._take)
        self._environment.loop.outside(taken_s + dice.uniform(0.1, 9.0), self._strike)

    def _take(self) -> None:
        environment = self._environment
        self._commits = len(environment.memory.commits)
        self._outputs = {name: list(pieces) for name, pieces in environment.outputs._logs.items()}
        environment.note("a backup is taken")

    def _strike(self) -> None:
        environment = self._environment
        if environment.healed_at is not None:
            return
        self.is_due = True
        environment.chance.counts["backup restored"] += 1
        if environment.daemon is not None:
            environment.kill_daemon(environment.daemon.process, "for a restore")

    def restore(self) -> MemoryLog:
        """Returns the log of the backup, as `waterflowd restore` leaves it."""
        environment = self._environment
        self.is_due = False
        memory = environment.memory.reopened(self._commits)
        environment.restored_epoch = memory.generation
        environment.restored_at = environment.now_ms
        environment.outputs._logs.clear()
        environment.outputs._logs.update(self._outputs)
        environment.note(
            f"the backup is restored: {len(memory.commits)} transactions of {len(environment.memory.commits)}"
        )
        closer = operations.WorkCloser(memory, "waterflowd restore", operations.ClosedWork())  # type: ignore[arg-type]
        closer._now = environment.log_ms()
        closer.end_runs(list(memory.open_runs()))
        for repository in self._repositories:
            closer.suspend([repository.settings.name])
            assert memory.head(repository_stream(repository.settings.name)), "its suspension is in the log"
        environment.expect(not closer._ended.stalled, f"a restore cannot end {closer._ended.stalled}")
        return memory
