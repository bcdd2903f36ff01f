"""A host: what survives its agent (disk, steps, the runner's records), as data."""

from __future__ import annotations

from typing import Any

from tests.simulator.outside.disk import Disk
from waterflow_agent.clock import Clock
from waterflow_agent.wire.messages import TaskId


class ServerClock(Clock):
    """The clocks of one server. Its boot clock runs a little too fast or too slow."""

    def __init__(self, time: Clock, rate: float) -> None:
        self._time = time
        self._rate = rate

    def boot_ms(self) -> int:
        """Returns the simulation's time, as this server measures it."""
        return int(self._time.boot_ms() * self._rate)

    def wall_ms(self) -> int:
        """Returns what the servers' wall clocks show."""
        return self._time.wall_ms()

    def real_s(self, milliseconds: int) -> float:
        """Converts a duration that the server measures to seconds of the simulation."""
        return milliseconds / self._rate / 1000


class Host:
    """One server's hardware, disk and records."""

    def __init__(self, name: str, groups: tuple[str, ...], slots: int, clock: ServerClock) -> None:
        self.name = name
        self.clock = clock
        self.groups = groups
        self.slots = slots
        #: Z85 text: any forty of its characters whose groups of five are small enough.
        self.public_key = (name * 40)[:4].rjust(40, "0")
        self.disk = Disk()
        self.boots = 0
        #: When the power was last lost, in ms of the simulation.
        self.power_lost_at = -1
        #: When its disk was last full.
        self.disk_full_at = -1
        #: Whether it never comes back.
        self.is_scrapped = False
        #: Whether its agent was revoked; what runs there continues to its end.
        self.is_revoked = False
        #: The runner's state: running steps, and the results of all claimed names (None while open).
        self.steps: dict[str, Any] = {}
        self.results: dict[str, dict[str, object] | None] = {}
        #: The attempt of each name at the runner; the directory of its files; the content of the directories.
        self.names: dict[str, TaskId] = {}
        self.directories: dict[str, int] = {}
        self.files: dict[int, dict[str, Any]] = {}
        #: Jobs that have a working directory here, and the files that it initially had.
        self.workspaces: dict[tuple[str, str], dict[str, bytes]] = {}
        #: Reused files of repositories, by Git id.
        self.blobs: dict[bytes, bytes] = {}

    @property
    def boot_id(self) -> str:
        """The id of the current boot."""
        return f"{self.name}-boot-{self.boots}"

    def spool_path(self, name: str) -> str:
        """Returns the path of the output that an attempt printed."""
        return f"/simulated/{self.name}/attempts/{name}/output"
