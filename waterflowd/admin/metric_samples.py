"""What the metrics are made of: every metric's name and meaning, and who knows the values.

Rules of this file: labels are bounded (states, kinds, conclusions), never a run, an agent or a path. A test keeps
docs/metrics.md equal to `METRICS`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class MetricSpec(NamedTuple):
    """One metric: what it counts, and by which label."""

    text: str
    is_counter: bool
    label: str = ""


#: Every metric by its name, without the ending `_total` that counters have.
METRICS: dict[str, MetricSpec] = {
    "waterflow_build": MetricSpec("1, with the version", False, "version"),
    "waterflow_runs_open": MetricSpec("Runs that are not completed", False),
    "waterflow_runs_stalled": MetricSpec("Runs that cannot go on until a person looks at them", False),
    "waterflow_runs_started": MetricSpec("Runs started since the daemon is up", True, "trigger"),
    "waterflow_runs_completed": MetricSpec("Runs completed since the daemon is up", True, "conclusion"),
    "waterflow_attempts_waiting": MetricSpec("Attempts that wait for a slot", False),
    "waterflow_slots": MetricSpec("Slots of connected agents", False, "state"),
    "waterflow_agents": MetricSpec("Approved agents", False, "state"),
    "waterflow_timers": MetricSpec("Timers that are armed", False),
    "waterflow_log_events": MetricSpec("Events made durable since the daemon is up", True),
    "waterflow_log_commits": MetricSpec("Batches made durable since the daemon is up", True),
    "waterflow_log_commit_seconds": MetricSpec("Time that batches waited for the disk, added up", True),
    "waterflow_log_read_only": MetricSpec("1 while nothing new may begin because the disk is full or almost", False),
    "waterflow_link": MetricSpec("What the ports for agents have counted since the daemon is up", True, "what"),
}


class Sample(msgspec.Struct, frozen=True):
    """One value of a metric; `label` is the value of its label, where it has one."""

    name: str
    value: float
    label: str = ""
