"""The metrics: their names, descriptions and labels.

Rules of this file: labels have few values (states, kinds, conclusions), never a run, an agent or a path. A test compares
`METRICS` with docs/metrics.md.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class MetricSpec(NamedTuple):
    """The description of a metric and the name of its label."""

    text: str
    is_counter: bool
    label: str = ""


#: By name, without the suffix `_total` that counters have.
METRICS: dict[str, MetricSpec] = {
    "waterflow_build": MetricSpec("Always 1; the label is the version", False, "version"),
    "waterflow_runs_open": MetricSpec("Open runs", False),
    "waterflow_runs_stalled": MetricSpec("Runs that cannot continue until an operator intervenes", False),
    "waterflow_runs_started": MetricSpec("Runs started since the start of the daemon", True, "trigger"),
    "waterflow_starts_refused": MetricSpec(
        "Starts refused by the quota of a repository since the start of the daemon", True
    ),
    "waterflow_runs_completed": MetricSpec("Runs completed since the start of the daemon", True, "conclusion"),
    "waterflow_attempts_waiting": MetricSpec("Attempts waiting for a slot", False),
    "waterflow_slots": MetricSpec("Slots of connected agents", False, "state"),
    "waterflow_agents": MetricSpec("Approved agents", False, "state"),
    "waterflow_agents_on_old_key": MetricSpec("Agents that have not connected with the server's current key", False),
    "waterflow_timers": MetricSpec("Armed timers", False),
    "waterflow_log_events": MetricSpec("Events committed since the start of the daemon", True),
    "waterflow_log_commits": MetricSpec("Batches committed since the start of the daemon", True),
    "waterflow_log_commit_seconds": MetricSpec("Total time that batches waited for the disk", True),
    "waterflow_log_read_only": MetricSpec("1 while new work is refused because the disk is almost full", False),
    "waterflow_output_dropped_bytes": MetricSpec("Output dropped by quotas since the start of the daemon", True),
    "waterflow_artifact_stored_bytes": MetricSpec("Space that the blocks of all artifacts take", False),
    "waterflow_artifact_bucket_bytes": MetricSpec("Space that the blocks of all artifacts take in the bucket", False),
    "waterflow_artifact_limit_bytes": MetricSpec("Space that the blocks of all artifacts may take", False),
    "waterflow_artifact_transferred_bytes": MetricSpec(
        "Content of artifacts received from agents, sent to agents and downloaded since the start of the daemon",
        True,
        "direction",
    ),
    "waterflow_artifact_rejections": MetricSpec(
        "Requests of agents for artifacts that ended with an error since the start of the daemon", True, "code"
    ),
    "waterflow_artifacts_removed": MetricSpec("Artifacts removed since the start of the daemon", True, "reason"),
    "waterflow_artifact_freed_bytes": MetricSpec("Blocks of artifacts removed since the start of the daemon", True),
    "waterflow_cache_entries": MetricSpec("Entries of shared caches", False),
    "waterflow_cache_stored_bytes": MetricSpec("Content of all entries of shared caches", False),
    "waterflow_cache_lookups": MetricSpec("Lookups in shared caches since the start of the daemon", True, "found"),
    "waterflow_cache_entries_removed": MetricSpec(
        "Entries of shared caches removed since the start of the daemon", True, "reason"
    ),
    "waterflow_audit_sealed": MetricSpec("1 if a key seals the audit trail", False),
    "waterflow_audit_export_failing": MetricSpec("1 while the audit trail cannot be exported", False, "to"),
    "waterflow_audit_export_waiting": MetricSpec("Records of the audit trail that are not exported yet", False, "to"),
    "waterflow_notices_waiting": MetricSpec("Notices that wait for a channel of the configuration", False),
    "waterflow_notices_failing": MetricSpec("Channels for notices that keep failing", False),
    "waterflow_link": MetricSpec("Messages and connections of agents since the start of the daemon", True, "what"),
}


class Sample(msgspec.Struct, frozen=True):
    """One value of a metric; `label` is the value of its label, if it has one."""

    name: str
    value: float
    label: str = ""
