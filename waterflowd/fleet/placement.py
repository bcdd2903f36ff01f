"""Placement: who is connected, how many slots are free, and which attempt gets the next one.

Rules of this file:

- A slot is held per attempt, from the moment it is placed until the engine says it is over (`FreeSlot`), whether or not the
  agent is connected: an agent never gets more than it granted (credits).
- A job keeps its server. The steps of started jobs (wants that name their agent) go before new jobs; within each kind the
  oldest that the server can take goes first, whichever of its groups it is of.
- A new job goes to the connected server of its group with the most free slots.
- An agent that is enrolled no more gets nothing, even while its session is still open.
- A want that cannot be placed stays here with a reason; `assign` looks again after slots came free or servers came back, and
  `news` gives the wants whose reason has changed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import msgspec

from waterflow_agent.wire.messages import OwnNode
from waterflowd.fleet.registry import ALL_SERVERS, Enrolled, Registry
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId
from waterflowd.model.reasons import Reason, ReasonCode, reason

#: Whether a server may be taken at all.
Accept = Callable[[Enrolled], bool]


class Want(msgspec.Struct, frozen=True):
    """An attempt that wants a slot: on `agent` if its job has a server, else on any of `group` that has the node."""

    key: AttemptId
    group: str
    node: str
    agent: AgentId | None
    #: Labels that the server must have.
    labels: tuple[tuple[str, str], ...] = ()
    #: Servers that are taken when there is no other.
    avoid: tuple[AgentId, ...] = ()
    #: What later steps of the job, which keeps its server, need beside `node`.
    later: frozenset[str] = frozenset()

    def lacks(self, nodes: frozenset[str]) -> str | None:
        """A node that the want needs and that is not among these."""
        if self.node not in nodes:
            return self.node
        return None if self.later <= nodes else min(self.later - nodes)


class Survey(NamedTuple):
    """A job that wants to know which servers there are."""

    run: RunId
    job: JobId


class Server(msgspec.Struct, kw_only=True):
    """One agent as it is now. `taken` is what it holds or is owed, by the log."""

    agent: AgentId
    is_connected: bool = False
    instance: str = ""
    boot_id: str = ""
    slots: int = 0
    nodes: frozenset[str] = frozenset()
    own_nodes: tuple[OwnNode, ...] = ()
    #: What the `agent` context shows.
    facts: dict[str, Any] = {}
    version: str = ""
    #: When the connection came or went (ms, the log's clock).
    changed_at: int = 0
    #: Why it is not connected, one sentence.
    text: str = "not seen since the daemon started"
    taken: dict[AttemptId, None] = {}

    def has(self, labels: tuple[tuple[str, str], ...]) -> bool:
        """Whether the agent said that it has all of these labels."""
        own = self.facts.get("labels") or {}
        return all(own.get(name) == value for name, value in labels)

    def version_of(self, node: str) -> str:
        """Of a node of its own; "" for every other."""
        return next((own.version for own in self.own_nodes if own.name == node), "")

    @property
    def free(self) -> int:
        """Slots that an attempt could get now."""
        return self.slots - len(self.taken) if self.is_connected else 0


class Placement:
    """Live servers, slots and the queue of wants."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.servers: dict[AgentId, Server] = {}
        self._wants: dict[AttemptId, Want] = {}
        #: Who came when, and whose attempts want or hold slots (the holder, or None).
        self._numbers = count()
        self._came: dict[AttemptId, int] = {}
        self._of_runs: dict[RunId, dict[AttemptId, AgentId | None]] = {}
        self._sticky: dict[AgentId, OrderedDict[AttemptId, Want]] = {}
        self._by_group: dict[str, OrderedDict[AttemptId, Want]] = {}
        self._told: dict[AttemptId, Reason] = {}
        #: Jobs that found no server, with what they ask for and what they were told.
        self._surveys: dict[RunId, dict[Survey, tuple[str, tuple[tuple[str, str], ...], Accept, Reason]]] = {}
        self._is_survey_due = False
        #: The daemon has just started: who was not seen yet is not known to be away.
        self.is_gathering = False
        #: Agents that may have room for a want, and groups and agents whose wants may have another reason now.
        self._roomy: dict[AgentId, None] = {}
        self._doubted: dict[str, None] = {}

    def server(self, agent: AgentId) -> Server:
        """The server of this agent, made at its first use."""
        found = self.servers.get(agent)
        if found is None:
            found = self.servers[agent] = Server(agent=agent, taken={})
        return found

    def connect(self, server: Server) -> None:
        """The agent has opened a session, with these facts; what it holds by the log stays."""
        known = self.servers.get(server.agent)
        server.taken = known.taken if known is not None else {}
        server.is_connected = True
        server.text = ""
        self.servers[server.agent] = server
        self._roomy[server.agent] = None
        self._doubt(server.agent)

    def disconnect(self, agent: AgentId, now: int, text: str) -> None:
        """The agent's session is over. Its slots stay taken: what runs goes on."""
        server = self.server(agent)
        server.is_connected = False
        server.changed_at = now
        server.text = text
        self._doubt(agent)

    def gathered(self) -> None:
        """Servers have had their time to connect since the daemon's start."""
        self.is_gathering = False
        self._doubted.update(dict.fromkeys(self._sticky))

    def enrollment_changed(self, agent: AgentId, groups: tuple[str, ...]) -> None:
        """The agent was approved, revoked or moved: wants of these groups may have another answer."""
        self._roomy[agent] = None
        self._doubted.update(dict.fromkeys(groups))
        self._doubt(agent)

    def _doubt(self, agent: AgentId) -> None:
        self._is_survey_due = True
        self._doubted[agent] = None
        self._doubted[ALL_SERVERS] = None
        entry = self._registry.agents.get(agent)
        if entry is not None:
            self._doubted.update(dict.fromkeys(entry.groups))

    def place(self, want: Want) -> Server | Reason:
        """A slot for the want, taken from now on; or why there is none yet, and the want is kept."""
        holder = self._of_runs.get(want.key.run, {}).get(want.key)
        if holder is not None:
            # It was answered already, and its job has got its server since.
            if want.agent in (None, holder):
                return self.server(holder)
            self.free(holder, want.key)
        found = self._best(want) if want.agent is None else self._own(want.agent)
        if found is not None:
            # Nobody is overtaken: behind a queue the want waits for `assign`, which asks the queue in its order.
            if want.agent is not None or want.group not in self._by_group:
                self._take(found, want.key)
                return found
            self._roomy[found.agent] = None
        self._keep(want)
        why = self._told[want.key] = self._reason(want)
        return why

    def _own(self, agent: AgentId) -> Server | None:
        server = self.server(agent)
        return server if self._room(server) > 0 and agent not in self._sticky else None

    def _room(self, server: Server) -> int:
        return server.free if server.agent in self._registry.agents else 0

    def _take(self, server: Server, key: AttemptId) -> None:
        server.taken[key] = None
        self._of_runs.setdefault(key.run, {})[key] = server.agent

    def _leave(self, key: AttemptId) -> None:
        of_run = self._of_runs.get(key.run)
        if of_run is not None and of_run.pop(key, self) is not self and not of_run:
            del self._of_runs[key.run]

    def _best(self, want: Want) -> Server | None:
        best: Server | None = None
        best_free = 0.0
        for agent in self._registry.group(want.group):
            server = self.servers.get(agent)
            # An agent with steps of started jobs in the queue has no room for a new job.
            if server is None or not _fits(want, server) or agent in self._sticky:
                continue
            free: float = server.free
            if free and agent in want.avoid:
                # Better than nobody, worse than anybody else.
                free = 0.5
            if free > best_free:
                best, best_free = server, free
        return best

    def _keep(self, want: Want) -> None:
        self._wants[want.key] = want
        self._came[want.key] = next(self._numbers)
        self._of_runs.setdefault(want.key.run, {})[want.key] = None
        if want.agent is not None:
            self._sticky.setdefault(want.agent, OrderedDict())[want.key] = want
        else:
            self._by_group.setdefault(want.group, OrderedDict())[want.key] = want

    def withdraw(self, key: AttemptId) -> None:
        """The attempt wants no slot any more. Nothing happens when it has none to want."""
        want = self._wants.pop(key, None)
        if want is None:
            return
        self._told.pop(key, None)
        del self._came[key]
        self._leave(key)
        queues: dict[Any, OrderedDict[AttemptId, Want]] = self._sticky if want.agent is not None else self._by_group
        name = want.agent if want.agent is not None else want.group
        queue = queues[name]
        del queue[key]
        if not queue:
            del queues[name]

    def hold(self, agent: AgentId, key: AttemptId) -> None:
        """The attempt has the agent's slot already: what recovery finds in the log."""
        self._take(self.server(agent), key)

    def free(self, agent: AgentId, key: AttemptId) -> None:
        """The attempt is over."""
        server = self.server(agent)
        if server.taken.pop(key, self) is None:
            self._leave(key)
            self._roomy[agent] = None

    def knows(self, key: AttemptId) -> bool:
        """Whether the attempt waits for a slot or has one."""
        return key in self._of_runs.get(key.run, ())

    def forget(self, run: RunId) -> None:
        """None of the run's attempts wants or holds a slot any more."""
        self._surveys.pop(run, None)
        for key, holder in list(self._of_runs.get(run, {}).items()):
            if holder is None:
                self.withdraw(key)
            else:
                self.free(holder, key)

    def assign(self) -> Iterator[tuple[Want, Server]]:
        """Gives the slots that came free to the wants in the queue; each one that comes out has its slot."""
        while self._roomy:
            agent = next(iter(self._roomy))
            server = self.servers.get(agent)
            want = self._next_for(server) if server is not None and self._room(server) > 0 else None
            if want is None or server is None:
                del self._roomy[agent]
                continue
            self.withdraw(want.key)
            self._take(server, want.key)
            yield want, server

    def _next_for(self, server: Server) -> Want | None:
        sticky = self._sticky.get(server.agent)
        if sticky:
            return next(iter(sticky.values()))
        oldest: Want | None = None
        for group in (*self._registry.agents[server.agent].groups, ALL_SERVERS):
            fitting = (want for want in self._by_group.get(group, {}).values() if self._is_for(want, server))
            first = next(fitting, None)
            if first is not None and (oldest is None or self._came[first.key] < self._came[oldest.key]):
                oldest = first
        return oldest

    def _is_for(self, want: Want, server: Server) -> bool:
        """Whether the want fits the server, and need not go there only because it avoids none that has room."""
        if not _fits(want, server):
            return False
        return server.agent not in want.avoid or self._best(want) is server

    def survey(
        self, survey: Survey, group: str, labels: tuple[tuple[str, str], ...], accept: Accept = lambda entry: True
    ) -> list[Enrolled] | Reason:
        """The servers of the group that have the labels, by name; or why there is none, and the question is kept.

        Those that `accept` does not take are none of the group for this question.
        """
        found = self._survey(group, labels, accept)
        if isinstance(found, Reason):
            self._surveys.setdefault(survey.run, {})[survey] = (group, labels, accept, found)
        else:
            self.drop_survey(survey)
        return found

    def _survey(self, group: str, labels: tuple[tuple[str, str], ...], accept: Accept) -> list[Enrolled] | Reason:
        members = {agent: entry for agent, entry in self._registry.group(group).items() if accept(entry)}
        if not members:
            return _nobody(group)
        fitting = [entry for agent, entry in members.items() if not labels or self.server(agent).has(labels)]
        if not fitting:
            return _nobody_labelled(group, labels)
        return sorted(fitting, key=lambda entry: natural(entry.name))

    def drop_survey(self, survey: Survey) -> None:
        """The job does not ask any more."""
        of_run = self._surveys.get(survey.run)
        if of_run is not None and of_run.pop(survey, None) is not None and not of_run:
            del self._surveys[survey.run]

    def surveyed(self) -> list[tuple[Survey, list[Enrolled] | Reason]]:
        """New answers to kept questions, when servers or their groups have changed."""
        changed: list[tuple[Survey, list[Enrolled] | Reason]] = []
        if not self._is_survey_due:
            return changed
        self._is_survey_due = False
        kept = [item for of_run in self._surveys.values() for item in of_run.items()]
        for survey, (group, labels, accept, told) in kept:
            found = self.survey(survey, group, labels, accept)
            if not isinstance(found, Reason) or found != told:
                changed.append((survey, found))
        return changed

    def news(self) -> list[tuple[Want, Reason]]:
        """The wants whose reason has changed since it was last told."""
        if not self._doubted:
            return []
        doubted, self._doubted = self._doubted, {}
        changed: list[tuple[Want, Reason]] = []
        for name in doubted:
            sticky, others = self._sticky.get(AgentId(name)), self._by_group.get(name)
            for want in [*(sticky or {}).values(), *(others or {}).values()]:
                why = self._reason(want)
                if why != self._told[want.key]:
                    self._told[want.key] = why
                    changed.append((want, why))
        return changed

    def _reason(self, want: Want) -> Reason:
        if want.agent is not None:
            return self._sticky_reason(want.agent)
        group = want.group
        members = self._registry.group(group)
        if not members:
            return _nobody(group)
        connected = [server for agent in members if (server := self.servers.get(agent)) and server.is_connected]
        if not connected:
            return reason(ReasonCode.NO_SERVER_CONNECTED, f'no server in group "{group}" is connected', group=group)
        if want.labels:
            connected = [server for server in connected if server.has(want.labels)]
            if not connected:
                return _nobody_labelled(group, want.labels)
        lacking = [want.lacks(server.nodes) for server in connected]
        if all(lacking):
            # Of several the one that nobody has is the one to install.
            node = next((node for node in lacking if all(node not in server.nodes for server in connected)), lacking[0])
            is_rare = any(node in server.nodes for server in connected)
            text = (
                f'no connected server in group "{group}" has the node "{node}"' + is_rare * " and all others of the job"
            )
            return reason(ReasonCode.NO_SERVER_WITH_NODE, text, group=group, node=node)
        return reason(ReasonCode.NO_FREE_SLOT, f'all slots of the servers in group "{group}" are taken', group=group)

    def _sticky_reason(self, agent: AgentId) -> Reason:
        entry = self._registry.agents.get(agent)
        if entry is None:
            text = f"the job's server {agent} is enrolled no more; cancel the run, or let the server in again"
            return reason(ReasonCode.SERVER_LOST, text, agent=agent)
        name = entry.name
        server = self.server(agent)
        if not server.is_connected and self.is_gathering and not server.changed_at:
            text = f'the job\'s server "{name}" has not connected since the daemon started'
            return reason(ReasonCode.NO_SERVER_CONNECTED, text, agent=name)
        if not server.is_connected:
            return reason(ReasonCode.SERVER_UNREACHABLE, f'the job\'s server "{name}" is not connected', agent=name)
        return reason(ReasonCode.NO_FREE_SLOT, f'all slots of the job\'s server "{name}" are taken', agent=name)

    @property
    def waiting(self) -> int:
        """How many attempts want a slot."""
        return len(self._wants)


def _fits(want: Want, server: Server) -> bool:
    return want.lacks(server.nodes) is None and (not want.labels or server.has(want.labels))


def _nobody(group: str) -> Reason:
    text = f'no server of group "{group}" is enrolled; next: waterflowctl agents token --group {group}'
    if group == ALL_SERVERS:
        text = "no server is enrolled; next: waterflowctl agents token --group GROUP"
    return reason(ReasonCode.NO_SERVER_IN_GROUP, text, group=group)


def _nobody_labelled(group: str, labels: tuple[tuple[str, str], ...]) -> Reason:
    wanted = ", ".join(f"{name}={value}" for name, value in labels)
    text = f'no connected server in group "{group}" has the labels {wanted}'
    return reason(ReasonCode.NO_SERVER_WITH_LABELS, text, group=group, labels=wanted)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts web-2 before web-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
