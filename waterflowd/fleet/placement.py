"""Placement: which agents are connected, how many slots are free, and which attempt gets the next one.

Rules of this file:

- An attempt holds its slot from `SlotGranted` until `FreeSlot`, whether or not its agent is connected. An agent never gets
  more attempts than it has slots (credits).
- A job keeps its server. Steps of started jobs (requests that name their agent) go before new jobs; within each kind the
  oldest request that the server can take goes first, whichever of its groups it asks for.
- A new job goes to the connected server of its group with the most free slots.
- An agent that is no longer enrolled gets nothing, even while its session is still open.
- An agent that is draining starts no new jobs. The steps of the jobs that have started on it get its slots as before.
- A request that cannot be granted is kept with a reason. `assign` tries again when slots become free or servers connect, and
  `changed_reasons` returns the requests whose reason has changed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple

import msgspec

from waterflow_agent.wire.messages import DockerEngine, OwnNode
from waterflowd.fleet.registry import ALL_SERVERS, Enrolled, Registry
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId
from waterflowd.model.reasons import Reason, ReasonCode, reason

#: Whether a server may be chosen at all.
Accept = Callable[[Enrolled], bool]


class SlotRequest(msgspec.Struct, frozen=True):
    """An attempt's request for a slot: on `agent` if its job has a server, else on any of `group` that has the node."""

    attempt: AttemptId
    group: str
    node: str
    agent: AgentId | None
    #: Labels that the server must have.
    labels: tuple[tuple[str, str], ...] = ()
    #: Servers to use only if no other is available.
    avoid: tuple[AgentId, ...] = ()
    #: Nodes that later steps of the job need; the job keeps its server.
    later: frozenset[str] = frozenset()
    #: The job has not started on `agent`, which is the only server that may start it.
    is_first: bool = False
    #: The job has containers.
    needs_docker: bool = False

    @property
    def starts_job(self) -> bool:
        """Whether the job has not started on any server."""
        return self.agent is None or self.is_first

    def missing_node(self, nodes: frozenset[str]) -> str | None:
        """A node that the job needs and that is not among `nodes`."""
        if self.node not in nodes:
            return self.node
        return None if self.later <= nodes else min(self.later - nodes)


class ServerListRequest(NamedTuple):
    """A job's request for the list of the servers of its group."""

    run: RunId
    job: JobId


class Server(msgspec.Struct, kw_only=True):
    """The current state of one agent. `taken` holds the attempts that occupy its slots, by the log."""

    agent: AgentId
    is_connected: bool = False
    instance: str = ""
    boot_id: str = ""
    slots: int = 0
    nodes: frozenset[str] = frozenset()
    own_nodes: tuple[OwnNode, ...] = ()
    #: None if the agent does not say whether it has one.
    docker: DockerEngine | None = None
    #: The `agent` context of expressions.
    facts: dict[str, Any] = {}
    version: str = ""
    #: Why it cannot start anything although it is connected, as the agent says, or "".
    problem: str = ""
    #: When the agent last connected or disconnected (ms, the log's clock).
    changed_at: int = 0
    #: Why it is not connected, one sentence.
    text: str = "has not connected since the daemon started"
    taken: dict[AttemptId, None] = {}

    def has(self, labels: tuple[tuple[str, str], ...]) -> bool:
        """Whether the agent reported all of these labels."""
        own = self.facts.get("labels") or {}
        return all(own.get(name) == value for name, value in labels)

    @property
    def may_run_containers(self) -> bool:
        """Whether jobs with containers may start there. An older agent does not say; it finds out when the job starts."""
        return self.docker is None or not self.docker.problem

    def version_of(self, node: str) -> str:
        """The version of one of the server's own nodes; "" for any other node."""
        return next((own.version for own in self.own_nodes if own.name == node), "")

    @property
    def free(self) -> int:
        """How many attempts it could take now."""
        return self.slots - len(self.taken) if self.is_connected else 0


class Placement:
    """Connected servers, their slots, and the queue of slot requests."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.servers: dict[AgentId, Server] = {}
        self._requests: dict[AttemptId, SlotRequest] = {}
        #: Numbers that record the order of arrival.
        self._numbers = count()
        self._arrived: dict[AttemptId, int] = {}
        #: The attempts of each run that hold a slot (and on which agent) or wait for one (None).
        self._of_runs: dict[RunId, dict[AttemptId, AgentId | None]] = {}
        #: The queue of each agent, of steps of started jobs, and of each group, of new jobs.
        self._by_agent: dict[AgentId, OrderedDict[AttemptId, SlotRequest]] = {}
        self._by_group: dict[str, OrderedDict[AttemptId, SlotRequest]] = {}
        self._reported: dict[AttemptId, Reason] = {}
        #: Requests for server lists that found no server, with their criteria and the reported reason.
        self._list_requests: dict[
            RunId, dict[ServerListRequest, tuple[str, tuple[tuple[str, str], ...], Accept, Reason]]
        ] = {}
        self._have_servers_changed = False
        #: The name of this daemon if others may have servers that are not connected here: reasons say whose servers they mean.
        self.daemon = ""
        #: Called when an agent was approved, revoked or moved between groups.
        self.on_enrollment: Callable[[], object] = lambda: None
        #: The daemon has just started: an agent that has not connected yet is not known to be unreachable.
        self.is_gathering = False
        #: Agents that may have a free slot, and the groups and agents whose requests may have another reason now.
        self._maybe_free: dict[AgentId, None] = {}
        #: Agents with a free slot that a request avoids as long as a better server has one.
        self._avoided: dict[AgentId, None] = {}
        self._to_recheck: dict[str, None] = {}

    def server(self, agent: AgentId) -> Server:
        """The server of this agent, created at its first use."""
        found = self.servers.get(agent)
        if found is None:
            found = self.servers[agent] = Server(agent=agent, taken={})
        return found

    def connect(self, server: Server) -> None:
        """The agent has opened a session with these facts. The slots that it holds by the log stay taken."""
        known = self.servers.get(server.agent)
        server.taken = known.taken if known is not None else {}
        server.is_connected = True
        server.text = ""
        self.servers[server.agent] = server
        self._maybe_free[server.agent] = None
        self._recheck(server.agent)

    def disconnect(self, agent: AgentId, now: int, text: str) -> None:
        """The agent's session has ended. Its slots stay taken: its steps continue."""
        server = self.server(agent)
        server.is_connected = False
        server.changed_at = now
        server.text = text
        self._recheck(agent)

    def gathered(self) -> None:
        """The time for agents to connect after the daemon's start has passed."""
        self.is_gathering = False
        self._to_recheck.update(dict.fromkeys(self._by_agent))

    def enrollment_changed(self, agent: AgentId, groups: tuple[str, ...]) -> None:
        """The agent was approved, revoked or moved between groups: requests for these groups may have a new answer."""
        self._maybe_free[agent] = None
        self._to_recheck.update(dict.fromkeys(groups))
        self._recheck(agent)
        self.on_enrollment()

    def _recheck(self, agent: AgentId) -> None:
        self._have_servers_changed = True
        self._to_recheck[agent] = None
        self._to_recheck[ALL_SERVERS] = None
        entry = self._registry.agents.get(agent)
        if entry is not None:
            self._to_recheck.update(dict.fromkeys(entry.groups))

    def request(self, request: SlotRequest) -> Server | Reason:
        """The server on which the attempt now holds a slot, or why it must wait; then the request is queued."""
        attempt = request.attempt
        holder = self._of_runs.get(attempt.run, {}).get(attempt)
        if holder is not None:
            # It was granted already, and its job may have got another server since.
            if request.agent in (None, holder):
                return self.server(holder)
            self.free(holder, attempt)
        found = self._best(request) if request.agent is None else self._own(request, request.agent)
        if found is not None:
            # Behind a queue the request waits for `assign`, which keeps the queue's order.
            if request.agent is not None or request.group not in self._by_group:
                self._take(found, attempt)
                return found
            self._maybe_free[found.agent] = None
        self._enqueue(request)
        cause = self._reported[attempt] = self._reason(request)
        return cause

    def obstacle(self, request: SlotRequest) -> Reason | None:
        """Why a request, which is not queued, has to wait for people or servers; None if it could be granted soon.

        The slot of a job's own server is usually taken by the job's last step, which has just ended.
        """
        if request.agent is not None:
            entry = self._registry.agents.get(request.agent)
            is_possible = entry is not None and self.server(request.agent).is_connected and _accepts(entry, request)
        else:
            group = self._registry.group(request.group)
            servers = [self.server(agent) for agent, entry in group.items() if not entry.is_draining]
            is_possible = any(server.free > 0 and _fits(request, server) for server in servers)
        return None if is_possible else self._reason(request)

    def _own(self, request: SlotRequest, agent: AgentId) -> Server | None:
        server, entry = self.server(agent), self._registry.agents.get(agent)
        if entry is None or server.free <= 0 or not _accepts(entry, request):
            return None
        # Jobs that a draining server must not start do not hold up those that it has started.
        is_next = all(not _accepts(entry, queued) for queued in self._by_agent.get(agent, {}).values())
        return server if is_next else None

    def _free_slots(self, server: Server) -> int:
        return server.free if server.agent in self._registry.agents else 0

    def _take(self, server: Server, attempt: AttemptId) -> None:
        server.taken[attempt] = None
        self._of_runs.setdefault(attempt.run, {})[attempt] = server.agent
        if self._avoided and not server.free:
            # A server that was passed over for this one may now be the best.
            self._maybe_free |= self._avoided
            self._avoided.clear()

    def _remove(self, attempt: AttemptId) -> None:
        of_run = self._of_runs.get(attempt.run)
        if of_run is not None and of_run.pop(attempt, self) is not self and not of_run:
            del self._of_runs[attempt.run]

    def _best(self, request: SlotRequest) -> Server | None:
        best: Server | None = None
        best_free = 0.0
        for agent, entry in self._registry.group(request.group).items():
            server = self.servers.get(agent)
            # The free slots of an agent with its own queue belong to the steps of started jobs.
            if server is None or entry.is_draining or not _fits(request, server) or agent in self._by_agent:
                continue
            free: float = server.free
            if free and agent in request.avoid:
                # Better than no server, worse than any other.
                free = 0.5
            if free > best_free:
                best, best_free = server, free
        return best

    def _enqueue(self, request: SlotRequest) -> None:
        attempt = request.attempt
        self._requests[attempt] = request
        self._arrived[attempt] = next(self._numbers)
        self._of_runs.setdefault(attempt.run, {})[attempt] = None
        if request.agent is not None:
            self._by_agent.setdefault(request.agent, OrderedDict())[attempt] = request
        else:
            self._by_group.setdefault(request.group, OrderedDict())[attempt] = request

    def cancel(self, attempt: AttemptId) -> None:
        """Removes the attempt's request from the queue, if it is queued."""
        request = self._requests.pop(attempt, None)
        if request is None:
            return
        self._reported.pop(attempt, None)
        del self._arrived[attempt]
        self._remove(attempt)
        queues: dict[Any, OrderedDict[AttemptId, SlotRequest]] = (
            self._by_group if request.agent is None else self._by_agent
        )
        name = request.agent or request.group
        queue = queues[name]
        del queue[attempt]
        if not queue:
            del queues[name]

    def hold(self, agent: AgentId, attempt: AttemptId) -> None:
        """The attempt holds a slot of the agent already, as recovery found in the log."""
        self._take(self.server(agent), attempt)

    def free(self, agent: AgentId, attempt: AttemptId) -> None:
        """The attempt has ended: its slot is free."""
        server = self.server(agent)
        if server.taken.pop(attempt, self) is None:
            self._remove(attempt)
            self._maybe_free[agent] = None

    def knows(self, attempt: AttemptId) -> bool:
        """Whether the attempt waits for a slot or holds one."""
        return attempt in self._of_runs.get(attempt.run, ())

    def forget(self, run: RunId) -> None:
        """Drops the requests of all the run's attempts and frees their slots."""
        self._list_requests.pop(run, None)
        for attempt, holder in list(self._of_runs.get(run, {}).items()):
            if holder is None:
                self.cancel(attempt)
            else:
                self.free(holder, attempt)

    def assign(self) -> Iterator[tuple[SlotRequest, Server]]:
        """Grants free slots to queued requests; yields each request with its server."""
        while self._maybe_free:
            agent = next(iter(self._maybe_free))
            server = self.servers.get(agent)
            request = self._next_for(server) if server is not None and self._free_slots(server) > 0 else None
            if request is None or server is None:
                del self._maybe_free[agent]
                continue
            self.cancel(request.attempt)
            self._take(server, request.attempt)
            yield request, server
        self._avoided.clear()

    def _next_for(self, server: Server) -> SlotRequest | None:
        own, entry = self._by_agent.get(server.agent), self._registry.agents[server.agent]
        if own or entry.is_draining:
            return next((request for request in (own or {}).values() if _accepts(entry, request)), None)
        oldest: SlotRequest | None = None
        for group in (*entry.groups, ALL_SERVERS):
            fitting = (request for request in self._by_group.get(group, {}).values() if self._is_for(request, server))
            first = next(fitting, None)
            if first is not None and (oldest is None or self._arrived[first.attempt] < self._arrived[oldest.attempt]):
                oldest = first
        return oldest

    def _is_for(self, request: SlotRequest, server: Server) -> bool:
        """Whether the server can take the request, and no server that it prefers is free."""
        if not _fits(request, server):
            return False
        if server.agent not in request.avoid or self._best(request) is server:
            return True
        self._avoided[server.agent] = None
        return False

    def list_servers(
        self,
        request: ServerListRequest,
        group: str,
        labels: tuple[tuple[str, str], ...],
        accept: Accept = lambda entry: True,
    ) -> list[Enrolled] | Reason:
        """The servers of the group that have the labels and that `accept` takes, sorted by name.

        Without such servers it returns the reason and keeps the request for `changed_lists`.
        """
        found = self._list_servers(group, labels, accept)
        if isinstance(found, Reason):
            self._list_requests.setdefault(request.run, {})[request] = (group, labels, accept, found)
        else:
            self.drop_list_request(request)
        return found

    def _list_servers(self, group: str, labels: tuple[tuple[str, str], ...], accept: Accept) -> list[Enrolled] | Reason:
        members = {agent: entry for agent, entry in self._registry.group(group).items() if accept(entry)}
        if not members:
            return _no_server(group)
        fitting = [entry for entry in members.values() if not labels or self._has(entry, labels)]
        if not fitting:
            return _no_server_with_labels(f'server in group "{group}"', group, labels)
        return sorted(fitting, key=lambda entry: natural(entry.name))

    def _has(self, entry: Enrolled, labels: tuple[tuple[str, str], ...]) -> bool:
        """Whether the server has the labels. One that is not connected here may be connected to another daemon."""
        server = self.servers.get(entry.agent)
        if server is None or (entry.labels and not server.is_connected):
            return entry.has(labels)
        return server.has(labels)

    def drop_list_request(self, request: ServerListRequest) -> None:
        """Drops the job's request for a server list."""
        of_run = self._list_requests.get(request.run)
        if of_run is not None and of_run.pop(request, None) is not None and not of_run:
            del self._list_requests[request.run]

    def changed_lists(self) -> list[tuple[ServerListRequest, list[Enrolled] | Reason]]:
        """New answers to kept requests for server lists, once servers or their groups have changed."""
        changed: list[tuple[ServerListRequest, list[Enrolled] | Reason]] = []
        if not self._have_servers_changed:
            return changed
        self._have_servers_changed = False
        kept = [item for of_run in self._list_requests.values() for item in of_run.items()]
        for request, (group, labels, accept, reported) in kept:
            found = self.list_servers(request, group, labels, accept)
            if not isinstance(found, Reason) or found != reported:
                changed.append((request, found))
        return changed

    def changed_reasons(self) -> list[tuple[SlotRequest, Reason]]:
        """The queued requests whose reason has changed since it was last reported."""
        if not self._to_recheck:
            return []
        names, self._to_recheck = self._to_recheck, {}
        changed: list[tuple[SlotRequest, Reason]] = []
        for name in names:
            of_agent, of_group = self._by_agent.get(AgentId(name)), self._by_group.get(name)
            for request in [*(of_agent or {}).values(), *(of_group or {}).values()]:
                cause = self._reason(request)
                if cause != self._reported[request.attempt]:
                    self._reported[request.attempt] = cause
                    changed.append((request, cause))
        return changed

    def waiting_reason(self, attempt: AttemptId) -> Reason | None:
        """Why the attempt's request is queued; None if it is not."""
        request = self._requests.get(attempt)
        return None if request is None else self._reason(request)

    def _reason(self, request: SlotRequest) -> Reason:
        if request.agent is not None:
            return self._reason_of_server(request, request.agent)
        group = request.group
        members = self._registry.group(group)
        if not members:
            return _no_server(group)
        connected = [server for agent in members if (server := self.servers.get(agent)) and server.is_connected]
        if not connected:
            text = f'no server in group "{group}" is {self._connected}{self._elsewhere}'
            return reason(ReasonCode.NO_SERVER_CONNECTED, text, group=group)
        if request.labels:
            connected = [server for server in connected if server.has(request.labels)]
            if not connected:
                found = _no_server_with_labels(self._server_in(group), group, request.labels)
                return msgspec.structs.replace(found, text=found.text + self._elsewhere)
        if request.needs_docker:
            without = [server for server in connected if not server.may_run_containers]
            if len(without) == len(connected):
                return self._no_server_with_docker(group, without[0], members)
            connected = [server for server in connected if server.may_run_containers]
        missing = [request.missing_node(server.nodes) for server in connected]
        if all(missing):
            # If no server has one of the nodes, that is the one to install.
            node = next((node for node in missing if all(node not in server.nodes for server in connected)), missing[0])
            is_partial = any(node in server.nodes for server in connected)
            text = f'no {self._server_in(group)} has the node "{node}"'
            if is_partial:
                text += " and all the other nodes that the job uses"
            return reason(ReasonCode.NO_SERVER_WITH_NODE, text + self._elsewhere, group=group, node=node)
        draining = [entry.name for server in connected if (entry := members[server.agent]).is_draining]
        if len(draining) == len(connected):
            return self._all_draining(group, draining)
        if all(server.problem for server in connected):
            text = f"no {self._server_in(group)} starts anything now: {connected[0].problem}{self._elsewhere}"
            return reason(ReasonCode.NO_FREE_SLOT, text, group=group)
        whose = f" that are {self._connected}" if self.daemon else ""
        more = f", {len(draining)} of them draining" if draining else ""
        text = f'all slots of the servers in group "{group}"{whose} are in use{more}{self._elsewhere}'
        return reason(ReasonCode.NO_FREE_SLOT, text, group=group)

    def _no_server_with_docker(self, group: str, example: Server, members: dict[AgentId, Enrolled]) -> Reason:
        """The reason names the problem of one of the servers, which often is that of all."""
        problem = example.docker.problem if example.docker is not None else ""
        text = (
            f"no {self._server_in(group)} can run the job's containers ({members[example.agent].name}: {problem}); install "
            f"Docker on one of them and let its steps use it, or choose other servers with runs-on{self._elsewhere}"
        )
        return reason(ReasonCode.NO_SERVER_WITH_DOCKER, text, group=group, agent=members[example.agent].name)

    def _all_draining(self, group: str, names: list[str]) -> Reason:
        text = f'every server in group "{group}" that is {self._connected} is draining{self._elsewhere}'
        return reason(ReasonCode.SERVER_DRAINING, text, group=group, agents=names)

    @property
    def _connected(self) -> str:
        return f"connected to daemon {self.daemon}" if self.daemon else "connected"

    @property
    def _elsewhere(self) -> str:
        return "; another daemon may have one" if self.daemon else ""

    def _server_in(self, group: str) -> str:
        if self.daemon:
            return f'server in group "{group}" that is {self._connected}'
        return f'connected server in group "{group}"'

    def _reason_of_server(self, request: SlotRequest, agent: AgentId) -> Reason:
        entry = self._registry.agents.get(agent)
        if entry is None:
            text = f"the job's server {agent} is no longer enrolled; cancel the run, or enroll the server again"
            return reason(ReasonCode.SERVER_LOST, text, agent=agent)
        name = entry.name
        server = self.server(agent)
        if not server.is_connected and self.is_gathering and not server.changed_at:
            text = f'the job\'s server "{name}" has not connected since the daemon started'
            return reason(ReasonCode.NO_SERVER_CONNECTED, text, agent=name)
        if not server.is_connected:
            text = f'the job\'s server "{name}" is not {self._connected}'
            if self.daemon:
                text += ", but may be to another one"
            return reason(ReasonCode.SERVER_UNREACHABLE, text, agent=name)
        if not _accepts(entry, request):
            return reason(ReasonCode.SERVER_DRAINING, f'the job\'s server "{name}" is draining', agent=name)
        if server.problem:
            text = f'the job\'s server "{name}" starts nothing now: {server.problem}'
            return reason(ReasonCode.NO_FREE_SLOT, text, agent=name)
        return reason(ReasonCode.NO_FREE_SLOT, f'all slots of the job\'s server "{name}" are in use', agent=name)

    @property
    def waiting(self) -> int:
        """How many attempts wait for a slot."""
        return len(self._requests)


def _accepts(entry: Enrolled, request: SlotRequest) -> bool:
    """Whether the agent may start what is requested."""
    return not (entry.is_draining and request.starts_job)


def _fits(request: SlotRequest, server: Server) -> bool:
    if request.needs_docker and not server.may_run_containers:
        return False
    return request.missing_node(server.nodes) is None and (not request.labels or server.has(request.labels))


def _no_server(group: str) -> Reason:
    text = f'no server is enrolled in group "{group}"; next: waterflowctl agents tokens create --group {group}'
    if group == ALL_SERVERS:
        text = "no server is enrolled; next: waterflowctl agents tokens create --group GROUP"
    return reason(ReasonCode.NO_SERVER_IN_GROUP, text, group=group)


def _no_server_with_labels(server: str, group: str, labels: tuple[tuple[str, str], ...]) -> Reason:
    label_text = ", ".join(f"{name}={value}" for name, value in labels)
    text = f"no {server} has the labels {label_text}"
    return reason(ReasonCode.NO_SERVER_WITH_LABELS, text, group=group, labels=label_text)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts web-2 before web-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
