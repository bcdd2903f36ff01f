"""Placement against a naive model: sets of requests and slots, searched from scratch each time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from waterflowd.fleet import events
from waterflowd.fleet.placement import Placement, Server, SlotRequest
from waterflowd.fleet.registry import Registry
from waterflowd.model.ids import AgentId, AttemptId, AttemptNo, JobId, RunId, StepId

AGENTS = [AgentId(name) for name in ("one", "two", "three")]
GROUPS = ["web", "db"]
NODES = ["shell", "docker"]


class PlacementMachine(RuleBasedStateMachine):
    """The rules are the host's actions; the model is `connected`, `enrolled`, `requests` and `held`."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.placement = Placement(self.registry)
        self.enrolled: dict[AgentId, tuple[str, ...]] = {}
        self.connected: dict[AgentId, tuple[int, frozenset[str]]] = {}
        self.draining: set[AgentId] = set()
        #: Waiting attempts, in the order of their requests; and attempts that have a slot.
        self.requests: dict[AttemptId, SlotRequest] = {}
        self.held: dict[AttemptId, AgentId] = {}
        self.count = 0

    # The model's queries ----------------------------------------------------------------------------------------------

    def room(self, agent: AgentId) -> int:
        slots, _ = self.connected.get(agent, (0, frozenset()))
        taken = sum(holder == agent for holder in self.held.values())
        return slots - taken if agent in self.enrolled else 0

    def may_have(self, request: SlotRequest, agent: AgentId) -> bool:
        if self.room(agent) <= 0 or (agent in self.draining and request.starts_job):
            return False
        if request.agent is not None:
            return request.agent == agent
        return request.group in self.enrolled[agent] and request.node in self.connected[agent][1]

    # The host's actions -----------------------------------------------------------------------------------------------

    @rule(agent=st.sampled_from(AGENTS), groups=st.lists(st.sampled_from(GROUPS), min_size=1, max_size=2, unique=True))
    def approve(self, agent: AgentId, groups: list[str]) -> None:
        fact = events.AgentApproved(
            at=1, by="test", agent=agent, public_key=agent, name=agent, groups=tuple(groups)
        )  # fmt: skip
        self.registry.apply(fact)
        self.placement.enrollment_changed(agent, tuple(groups))
        self.enrolled[agent] = tuple(groups)

    @rule(agent=st.sampled_from(AGENTS))
    def revoke(self, agent: AgentId) -> None:
        groups = self.enrolled.pop(agent, ())
        self.draining.discard(agent)
        self.registry.apply(events.AgentRevoked(at=1, by="test", agent=agent))
        self.placement.enrollment_changed(agent, groups)

    @rule(agent=st.sampled_from(AGENTS))
    def drain(self, agent: AgentId) -> None:
        if agent in self.enrolled:
            self.draining.add(agent)
            self.registry.apply(events.AgentDrained(at=1, by="test", agent=agent))
            self.placement.enrollment_changed(agent, self.enrolled[agent])

    @rule(agent=st.sampled_from(AGENTS))
    def undrain(self, agent: AgentId) -> None:
        if agent in self.enrolled:
            self.draining.discard(agent)
            self.registry.apply(events.AgentUndrained(at=1, by="test", agent=agent))
            self.placement.enrollment_changed(agent, self.enrolled[agent])

    @rule(
        agent=st.sampled_from(AGENTS),
        slots=st.integers(0, 3),
        nodes=st.frozensets(st.sampled_from(NODES)),
    )
    def connect(self, agent: AgentId, slots: int, nodes: frozenset[str]) -> None:
        if agent in self.enrolled:
            self.placement.connect(Server(agent=agent, slots=slots, nodes=nodes))
            self.connected[agent] = (slots, nodes)

    @rule(agent=st.sampled_from(AGENTS))
    def disconnect(self, agent: AgentId) -> None:
        self.placement.disconnect(agent, 1, "cut")
        self.connected.pop(agent, None)

    @rule(
        run=st.integers(0, 3),
        group=st.sampled_from(GROUPS),
        node=st.sampled_from(NODES),
        agent=st.none() | st.sampled_from(AGENTS),
        is_first=st.booleans(),
    )
    def place(self, run: int, group: str, node: str, agent: AgentId | None, is_first: bool) -> None:
        self.count += 1
        key = AttemptId(RunId(f"run-{run}"), JobId("a"), StepId(str(self.count)), AttemptNo(1))
        request = SlotRequest(key, group, node, agent, is_first=is_first)
        answer = self.placement.request(request)
        if isinstance(answer, Server):
            assert self.may_have(request, answer.agent)
            self.held[key] = answer.agent
        else:
            self.requests[key] = request

    @precondition(lambda self: self.held)
    @rule(draw=st.data())
    def free(self, draw: st.DataObject) -> None:
        key = draw.draw(st.sampled_from(sorted(self.held)))
        self.placement.free(self.held.pop(key), key)

    @precondition(lambda self: self.requests)
    @rule(draw=st.data())
    def withdraw(self, draw: st.DataObject) -> None:
        key = draw.draw(st.sampled_from(sorted(self.requests)))
        self.placement.cancel(key)
        del self.requests[key]

    @rule(run=st.integers(0, 3))
    def forget(self, run: int) -> None:
        name = RunId(f"run-{run}")
        self.placement.forget(name)
        self.requests = {key: request for key, request in self.requests.items() if key.run != name}
        self.held = {key: agent for key, agent in self.held.items() if key.run != name}

    @rule()
    def assign(self) -> None:
        for request, server in self.placement.assign():
            assert self.requests[request.attempt] == request
            assert self.may_have(request, server.agent)
            older = [
                other
                for other in list(self.requests.values())[: list(self.requests).index(request.attempt)]
                if (other.agent is None) == (request.agent is None) and self.may_have(other, server.agent)
            ]
            assert not older, "an older want of the same kind could have had the slot"
            if request.agent is None:
                assert not any(other.agent == server.agent for other in self.requests.values()), "started jobs go first"
            del self.requests[request.attempt]
            self.held[request.attempt] = server.agent
        for request in self.requests.values():
            for agent in self.connected:
                assert not self.may_have(request, agent), "whatever can be placed is placed"
        self.placement.changed_reasons()

    # Invariants -------------------------------------------------------------------------------------------------------

    @invariant()
    def slots_are_what_the_model_says(self) -> None:
        taken = {key: server.agent for server in self.placement.servers.values() for key in server.taken}
        assert taken == self.held
        assert self.placement.waiting == len(self.requests)
        assert not self.held.keys() & self.requests.keys()

    @invariant()
    def nothing_is_given_beyond_what_was_granted(self) -> None:
        for server in self.placement.servers.values():
            assert server.free >= 0 or len(server.taken) > server.slots
            if server.is_connected and server.agent in self.enrolled:
                assert server.free == self.room(server.agent)


TestPlacement = PlacementMachine.TestCase
TestPlacement.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
