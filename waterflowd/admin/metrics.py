"""The current values of the metrics, read from the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import waterflowd
from waterflowd.admin.metric_samples import Sample
from waterflowd.admin.ports import AuditAdmin, NoticeAdmin
from waterflowd.artifacts.limits import ArtifactUsage
from waterflowd.artifacts.metrics import ArtifactMetrics, CacheMetrics, StorageFigures
from waterflowd.fleet.server_keys import ServerKey, agents_behind
from waterflowd.host.driver import Driver


class RunFigures(NamedTuple):
    """Runs: how many are open and stalled, those that were started, by kind of trigger, and completed, by conclusion."""

    open: int
    stalled: int
    started: Mapping[str, int]
    completed: Mapping[str, int]


class DriverMetrics:
    """Implements `admin.ports.MetricsReader`."""

    def __init__(
        self,
        driver: Driver,
        link_counters: Callable[[], Mapping[str, int]],
        audit: AuditAdmin | None = None,
        server_keys: Sequence[ServerKey] = (),
        runs: Callable[[], RunFigures] | None = None,
        notices: NoticeAdmin | None = None,
        storage: StorageFigures | None = None,
    ) -> None:
        """`server_keys` are the keys of the server, the current one first; `runs` are those that the driver does not host."""
        self._driver = driver
        self._link_counters = link_counters
        self._audit = audit
        self._server_keys = server_keys
        self._runs = runs or self._hosted
        self._notices = notices
        self._storage = storage

    def _hosted(self) -> RunFigures:
        state, metrics = self._driver.state, self._driver.metrics
        return RunFigures(len(state.runs), len(state.stalled), metrics.started, metrics.completed)

    def samples(self) -> Iterator[Sample]:
        """See the protocol."""
        state, metrics, runs = self._driver.state, self._driver.metrics, self._runs()
        yield Sample("waterflow_build", 1, waterflowd.__version__)
        yield Sample("waterflow_runs_open", runs.open)
        yield Sample("waterflow_runs_stalled", runs.stalled)
        yield from (Sample("waterflow_runs_started", count, kind) for kind, count in runs.started.items())
        yield from (Sample("waterflow_runs_completed", count, how) for how, count in runs.completed.items())
        yield Sample("waterflow_starts_refused", state.quotas.starts_refused)
        yield Sample("waterflow_output_dropped_bytes", state.quotas.output_bytes_dropped)
        yield Sample("waterflow_attempts_waiting", state.placement.waiting)
        connected = [server for server in state.placement.servers.values() if server.is_connected]
        yield Sample("waterflow_slots", sum(len(server.taken) for server in connected), "taken")
        yield Sample("waterflow_slots", sum(max(0, server.free) for server in connected), "free")
        yield Sample("waterflow_agents", len(connected), "connected")
        yield Sample("waterflow_agents", max(0, len(state.registry.agents) - len(connected)), "away")
        behind = agents_behind(state.registry, self._server_keys[0]) if self._server_keys else []
        yield Sample("waterflow_agents_on_old_key", len(behind))
        yield Sample("waterflow_timers", len(state.timers))
        yield Sample("waterflow_log_events", metrics.events)
        yield Sample("waterflow_log_commits", metrics.commits)
        yield Sample("waterflow_log_commit_seconds", metrics.commit_s)
        yield Sample("waterflow_log_read_only", 1 if self._driver.refusal else 0)
        if self._storage is not None:
            yield from _usage_samples(self._storage.usage())
            yield from _artifact_samples(self._storage.artifacts)
            yield from _cache_samples(self._storage.caches)
        if self._audit is not None:
            yield Sample("waterflow_audit_sealed", 1 if self._audit.is_sealed else 0)
            for export in self._audit.exports():
                yield Sample("waterflow_audit_export_waiting", export.waiting, export.name)
                yield Sample("waterflow_audit_export_failing", 1 if export.failure else 0, export.name)
        if self._notices is not None:
            channels = self._notices.own_rows()
            yield Sample("waterflow_notices_waiting", sum(row.waiting for row in channels))
            yield Sample("waterflow_notices_failing", sum(row.keeps_failing for row in channels))
        yield from (Sample("waterflow_link", count, name) for name, count in self._link_counters().items())


def _usage_samples(usage: ArtifactUsage) -> Iterator[Sample]:
    if usage.stored_bytes is not None:
        yield Sample("waterflow_artifact_stored_bytes", usage.stored_bytes)
    if usage.bucket_bytes is not None:
        yield Sample("waterflow_artifact_bucket_bytes", usage.bucket_bytes)
    yield Sample("waterflow_artifact_limit_bytes", usage.limits.total_bytes)


def _artifact_samples(metrics: ArtifactMetrics) -> Iterator[Sample]:
    for direction in ("received", "sent", "downloaded"):
        yield Sample("waterflow_artifact_transferred_bytes", metrics.transferred[direction], direction)
    yield from (Sample("waterflow_artifact_rejections", count, code) for code, count in metrics.rejected.items())
    for reason in ("expired", "deleted", "run"):
        yield Sample("waterflow_artifacts_removed", metrics.removed[reason], reason)
    yield Sample("waterflow_artifact_freed_bytes", metrics.freed)


def _cache_samples(metrics: CacheMetrics) -> Iterator[Sample]:
    yield Sample("waterflow_cache_entries", metrics.entries)
    yield Sample("waterflow_cache_stored_bytes", metrics.stored_bytes)
    for result in ("key", "prefix", "nothing"):
        yield Sample("waterflow_cache_lookups", metrics.lookups[result], result)
    for reason in ("limit", "expired", "damaged", "deleted"):
        yield Sample("waterflow_cache_entries_removed", metrics.removed[reason], reason)
