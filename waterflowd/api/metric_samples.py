"""What the metrics are made of: every metric's name and meaning, and who knows the values.

Rules of this file: labels are bounded (states, kinds, conclusions), never a run, an agent or a path. A test keeps
docs/metrics.md equal to `SAMPLES`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec


class Kind(NamedTuple):
    """One metric: what it counts, and by which label."""

    text: str
    is_counter: bool
    label: str = ""


#: Every metric by its name, without the ending `_total` that counters have.
SAMPLES: dict[str, Kind] = {
    "waterflow_build": Kind("1, with the version", False, "version"),
    "waterflow_runs_open": Kind("Runs that are not completed", False),
    "waterflow_runs_stalled": Kind("Runs that cannot go on until a person looks at them", False),
    "waterflow_runs_started": Kind("Runs started since the daemon is up", True, "trigger"),
    "waterflow_runs_completed": Kind("Runs completed since the daemon is up", True, "conclusion"),
    "waterflow_attempts_waiting": Kind("Attempts that wait for a slot", False),
    "waterflow_slots": Kind("Slots of connected agents", False, "state"),
    "waterflow_agents": Kind("Approved agents", False, "state"),
    "waterflow_timers": Kind("Timers that are armed", False),
    "waterflow_log_events": Kind("Events made durable since the daemon is up", True),
    "waterflow_log_commits": Kind("Batches made durable since the daemon is up", True),
    "waterflow_log_commit_seconds": Kind("Time that batches waited for the disk, added up", True),
    "waterflow_log_read_only": Kind("1 while nothing new may begin because the disk is full or almost", False),
    "waterflow_link": Kind("What the ports for agents have counted since the daemon is up", True, "what"),
}


class Sample(msgspec.Struct, frozen=True):
    """One value of a metric; `label` is the value of its label, where it has one."""

    name: str
    value: float
    label: str = ""


class MetricsDesk(Protocol):
    """Who knows the values."""

    def samples(self) -> Iterable[Sample]:
        """All values now, of metrics in `SAMPLES` alone. Does not block."""
        ...
