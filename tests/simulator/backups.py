"""A restored backup: the daemon's log goes back in time, and the agents do not.

Rules of this file: the log and the output logs are cut to what they were when the backup was taken, and the product's
own code closes the work that the backup holds open (operations.py). Time, agents, people and the repository stay as
they are. What people were told after the backup is no longer true, and is forgotten here; what has really run is not
forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from waterflowd.model.ids import repository_stream
from waterflowd.rescue import operations
from waterflowd.testing.memory_log import MemoryLog

if TYPE_CHECKING:
    from tests.simulator.world import World


class Backups:
    """Takes one backup, and restores it later."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._commits = 0
        self._outputs: dict[Any, list[Any]] = {}
        #: The next daemon starts with the backup.
        self.is_due = False
        #: Earlier leases have epochs below this one; 0 until a backup was restored.
        self.epoch = 0
        self.restored_at = -1

    def begin(self) -> None:
        """Takes and restores a backup at random moments; nothing is restored after the healing."""
        dice = self._world.chance.more
        taken_s = dice.uniform(0.5, 12.0)
        self._world.loop.outside(taken_s, self._take)
        self._world.loop.outside(taken_s + dice.uniform(0.1, 9.0), self._strike)

    def _take(self) -> None:
        world = self._world
        self._commits = len(world.memory.commits)
        self._outputs = {name: list(pieces) for name, pieces in world.outputs._logs.items()}
        world.note("a backup is taken")

    def _strike(self) -> None:
        world = self._world
        if world.healed_at is not None:
            return
        self.is_due = True
        world.chance.counts["backup restored"] += 1
        if world.daemon is not None:
            world.kill_daemon(world.daemon.process, "for a restore")

    def restore(self) -> MemoryLog:
        """Returns the log of the backup, as `waterflowd restore` leaves it."""
        world = self._world
        self.is_due = False
        memory = world.memory.reopened(self._commits)
        self.epoch = memory.generation
        self.restored_at = world.now_ms
        world.outputs._logs.clear()
        world.outputs._logs.update(self._outputs)
        world.note(f"the backup is restored: {len(memory.commits)} transactions of {len(world.memory.commits)}")
        closer = operations.WorkCloser(memory, "waterflowd restore", operations.ClosedWork())  # type: ignore[arg-type]
        closer._now = world.log_ms()
        closer.end_runs(list(memory.open_runs()))
        for repository in world.repositories:
            closer.suspend([repository.settings.name])
            assert memory.head(repository_stream(repository.settings.name)), "its suspension is in the log"
        world.checks.expect(not closer._ended.stalled, f"a restore cannot end {closer._ended.stalled}")
        return memory
