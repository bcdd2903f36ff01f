"""Folds the facts of the fleet into the registry, and lets this daemon act on them, whichever daemon has recorded them.

Rules of this file: what follows from a fact is done here and nowhere else: servers of a group are assigned again, the session
of a revoked agent ends, and its attempts are lost.
"""

from __future__ import annotations

from waterflowd import ports
from waterflowd.fleet import events
from waterflowd.fleet.registry import Registry
from waterflowd.host.agents.handler import AgentHandler
from waterflowd.host.driver import Driver
from waterflowd.model.ids import AgentId
from waterflowd.model.reasons import ReasonCode


class FleetChanges:
    """See the file's docstring."""

    def __init__(self, registry: Registry, driver: Driver, agents: AgentHandler, link: ports.Link) -> None:
        self._registry = registry
        self._driver = driver
        self._agents = agents
        self._link = link

    def apply(self, fact: events.Fact) -> None:
        """Folds one durable fact."""
        match fact:
            case (
                events.AgentApproved(agent=agent)
                | events.AgentDrained(agent=agent)
                | events.AgentUndrained(agent=agent)
                | events.AgentGroupsSet(agent=agent)
            ):
                self._apply_to(agent, fact)
            case events.AgentRevoked(agent=agent, by=by) | events.AgentRemoved(agent=agent, by=by):
                self._apply_to(agent, fact)
                self._link.revoke(agent)
                what = "revoked" if isinstance(fact, events.AgentRevoked) else "removed"
                self._agents.lose(agent, f"{what} by {by}", ReasonCode.SERVER_LOST)
            case _:
                self._registry.apply(fact)

    def clear(self) -> None:
        """Forgets everything: all facts will be folded again."""
        before = list(self._registry.agents.values())
        self._registry.clear()
        for entry in before:
            self._driver.state.placement.enrollment_changed(entry.agent, entry.groups)

    def _apply_to(self, agent: AgentId, fact: events.Fact) -> None:
        before = self._registry.agents.get(agent)
        self._registry.apply(fact)
        after = self._registry.agents.get(agent)
        groups = {group: None for entry in (before, after) if entry is not None for group in entry.groups}
        self._driver.state.placement.enrollment_changed(agent, tuple(groups))
        self._driver.wake()
