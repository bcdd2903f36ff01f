"""The desks: what the API asks, answered from the host's own objects. Part of the composition; no logic of its own.

The API defines the rows that it shows (`api.services`), the host does not know the API; here one becomes the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import waterflowd
from waterflow_agent import keys
from waterflow_agent.errors import Rejected
from waterflowd.api.metric_samples import Sample
from waterflowd.api.services import AgentRow, PendingRow, ServerRow
from waterflowd.engine import Run
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Enrolled, Registry
from waterflowd.host.driver import Driver
from waterflowd.host.enrollment import Enrollment
from waterflowd.host.queries import Queries
from waterflowd.model.ids import RunId


class AgentsDesk:
    """Implements `api.services.AgentsDesk`."""

    def __init__(self, registry: Registry, placement: Placement, enrollment: Enrollment) -> None:
        self._registry = registry
        self._placement = placement
        self._enrollment = enrollment

    def rows(self) -> Sequence[AgentRow]:
        """See the protocol."""
        return [self._row(entry) for entry in sorted(self._registry.agents.values(), key=lambda entry: entry.name)]

    def _row(self, entry: Enrolled) -> AgentRow:
        server = self._placement.servers.get(entry.agent)
        if server is None:
            text = "not seen since the daemon started"
            return AgentRow(
                fingerprint=entry.agent,
                name=entry.name,
                groups=entry.groups,
                is_connected=False,
                text=text,
                hostname=entry.hostname,
            )
        return AgentRow(
            fingerprint=entry.agent,
            name=entry.name,
            groups=entry.groups,
            is_connected=server.is_connected,
            text="connected" if server.is_connected else server.text,
            seen_at=server.changed_at or None,
            hostname=server.facts.get("hostname", entry.hostname),
            version=server.version,
            os=server.facts.get("os", ""),
            arch=server.facts.get("arch", ""),
            slots=server.slots,
            slots_busy=len(server.taken),
            labels=server.facts.get("labels", {}),
            nodes=tuple(sorted(server.nodes)),
            own_nodes=server.own_nodes,
        )

    def pending(self) -> Sequence[PendingRow]:
        """See the protocol."""
        return [
            PendingRow(
                fingerprint=item.agent,
                name=item.name,
                groups=item.groups,
                hostname=item.hostname,
                requested_at=item.asked_at,
            )
            for item in self._enrollment.pending()
        ]

    def server(self) -> ServerRow:
        """See the protocol."""
        endpoints = self._enrollment.endpoints
        return ServerRow(
            key=endpoints.server_key,
            fingerprint=keys.fingerprint(endpoints.server_key),
            work=endpoints.work,
            enroll=endpoints.enroll,
        )

    async def create_token(self, groups: Sequence[str], ttl_ms: int, uses: int | None, by: str) -> str:
        """See the protocol."""
        return await self._enrollment.create_token(tuple(groups), ttl_ms, uses, by)

    async def approve(self, fingerprint: str, groups: Sequence[str], by: str) -> AgentRow:
        """See the protocol."""
        agent = await self._enrollment.approve(fingerprint, tuple(groups), by)
        return self._row(self._registry.agents[agent])

    async def revoke(self, fingerprint: str, by: str) -> None:
        """See the protocol."""
        await self._enrollment.revoke(fingerprint, by)


class MetricsDesk:
    """Implements `api.samples.MetricsDesk`."""

    def __init__(self, driver: Driver, link_counters: Callable[[], Mapping[str, int]]) -> None:
        self._driver = driver
        self._link_counters = link_counters

    def samples(self) -> Iterator[Sample]:
        """See the protocol."""
        world, counts = self._driver.world, self._driver.counts
        yield Sample("waterflow_build", 1, waterflowd.__version__)
        yield Sample("waterflow_runs_open", len(world.runs))
        yield Sample("waterflow_runs_stalled", len(world.stalled))
        yield from (Sample("waterflow_runs_started", count, kind) for kind, count in counts.started.items())
        yield from (Sample("waterflow_runs_completed", count, how) for how, count in counts.completed.items())
        yield Sample("waterflow_attempts_waiting", world.placement.waiting)
        connected = [server for server in world.placement.servers.values() if server.is_connected]
        yield Sample("waterflow_slots", sum(len(server.taken) for server in connected), "taken")
        yield Sample("waterflow_slots", sum(max(0, server.free) for server in connected), "free")
        yield Sample("waterflow_agents", len(connected), "connected")
        yield Sample("waterflow_agents", max(0, len(world.registry.agents) - len(connected)), "away")
        yield Sample("waterflow_timers", len(world.timers))
        yield Sample("waterflow_log_events", counts.events)
        yield Sample("waterflow_log_commits", counts.commits)
        yield Sample("waterflow_log_commit_seconds", counts.commit_s)
        yield Sample("waterflow_log_read_only", 1 if self._driver.refusal else 0)
        yield from (Sample("waterflow_link", count, name) for name, count in self._link_counters().items())


class RunReader:
    """Implements `api.services.RunReader`."""

    def __init__(self, queries: Queries, driver: Driver) -> None:
        self._queries = queries
        self._driver = driver

    def run(self, run: RunId) -> Run | None:
        """See the protocol."""
        try:
            return self._queries.run(run)
        except Rejected:
            return None

    def run_at(self, run: RunId, position: int) -> Run | None:
        """See the protocol."""
        try:
            return self._queries.run(run, position)
        except Rejected:
            return None

    def stalled(self) -> Mapping[RunId, str]:
        """See the protocol."""
        return self._driver.world.stalled

    def read_only_text(self) -> str | None:
        """See the protocol."""
        return self._driver.refusal or None
