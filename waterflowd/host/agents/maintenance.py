"""Maintenance of approved agents: draining, groups, and removal. Facts go to the `fleet` stream; the registry is their fold.

Rules of this file:

- A draining agent starts no new jobs. Jobs that have started on it continue, whatever they wait for.
- Only an agent without work is removed, and a connected one only while it is draining, so that nothing can start in between.
- What is removed is forgotten. The key is as unknown as before its approval, so a join token may enroll it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflowd import ports
from waterflowd.fleet import events
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Enrolled, Registry, check_groups
from waterflowd.fleet.started_jobs import StartedJobs
from waterflowd.model.ids import AgentId


class AgentMaintenance:
    """See the file's docstring."""

    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        jobs: StartedJobs,
        fleet: ports.StreamWriter,
        clock: ports.Clock,
    ) -> None:
        self._registry = registry
        self._placement = placement
        self.jobs = jobs
        self._fleet = fleet
        self._clock = clock

    async def drain(self, agent: AgentId, by: str) -> None:
        """The agent starts no new jobs. Idempotent. `Rejected` WF227 (404) for an unknown agent."""
        self.known(agent)
        fact = events.AgentDrained(at=self._clock.now(), by=by, agent=agent)
        await self._fleet.append(lambda: [] if self._is_draining(agent) is not False else [fact])

    async def undrain(self, agent: AgentId, by: str) -> None:
        """The agent starts new jobs again. Idempotent. `Rejected` WF227 (404) for an unknown agent."""
        self.known(agent)
        fact = events.AgentUndrained(at=self._clock.now(), by=by, agent=agent)
        await self._fleet.append(lambda: [fact] if self._is_draining(agent) else [])

    async def set_groups(self, agent: AgentId, groups: Sequence[str], by: str) -> None:
        """The agent is in these groups and in no others. Idempotent. Raises `Rejected` WF225 for invalid names, WF227 (404)."""
        wanted = check_groups(tuple(groups))
        self.known(agent)
        fact = events.AgentGroupsSet(at=self._clock.now(), by=by, agent=agent, groups=wanted)

        def change() -> list[events.Fact]:
            entry = self._registry.agents.get(agent)
            return [] if entry is None or set(entry.groups) == set(wanted) else [fact]

        await self._fleet.append(change)

    async def remove(self, agent: AgentId, by: str) -> None:
        """Forgets an agent or a revoked key. `Rejected` WF228 (409) while it may still work, WF227 (404) if it is unknown."""
        if agent not in self._registry.revoked:
            self._check_idle(self.known(agent))
        fact = events.AgentRemoved(at=self._clock.now(), by=by, agent=agent)

        def removal() -> list[events.Fact]:
            entry = self._registry.agents.get(agent)
            if entry is not None:
                self._check_idle(entry)
            return [fact] if entry is not None or agent in self._registry.revoked else []

        await self._fleet.append(removal)

    def _check_idle(self, entry: Enrolled) -> None:
        name, agent = entry.name, entry.agent
        server, jobs = self._placement.servers.get(agent), self.jobs.of(agent)
        is_connected = server is not None and server.is_connected
        # Another daemon may have its session.
        may_work = is_connected or self._placement.daemon
        if may_work and not entry.is_draining:
            problem = "is connected" if is_connected else "may be connected to another daemon"
            raise _busy(f"{name} {problem}; next: waterflowctl agents drain {name} --wait")
        if jobs or (server is not None and server.taken):
            what = f"job {jobs[0][1]} of run {jobs[0][0]}" if jobs else "a step"
            more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
            step = f"wait: waterflowctl agents drain {name} --wait" if is_connected else "wait until it is back"
            text = (
                f"{name} has not finished {what}{more}; {step}; or give its work up: waterflowctl agents revoke {name}"
            )
            raise _busy(text)

    def known(self, agent: AgentId) -> Enrolled:
        """The approved agent. `Rejected` WF227 (404) if there is none."""
        entry = self._registry.agents.get(agent)
        if entry is None:
            text = f"no approved agent has the fingerprint {quote(agent, 64)}; waterflowctl agents lists them"
            raise Rejected("WF227", text, status=404)
        return entry

    def _is_draining(self, agent: AgentId) -> bool | None:
        """None for an agent that is no longer approved."""
        entry = self._registry.agents.get(agent)
        return None if entry is None else entry.is_draining


def _busy(text: str) -> Rejected:
    return Rejected("WF228", text, status=409)
