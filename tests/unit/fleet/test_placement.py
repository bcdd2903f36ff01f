"""Placement: jobs keep their server, the oldest request is served first, and no server exceeds the slots it granted."""

from __future__ import annotations

import msgspec

from waterflow_agent.wire.messages import DockerEngine
from waterflowd.fleet import events
from waterflowd.fleet.placement import Placement, Server, ServerListRequest, SlotRequest
from waterflowd.fleet.registry import Registry
from waterflowd.model.ids import AgentId, AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.reasons import Reason, ReasonCode

NODES = frozenset({"shell", "log"})


class Fleet:
    """A registry and a placement, with short names."""

    def __init__(self) -> None:
        self.registry = Registry()
        self.placement = Placement(self.registry)

    def enroll(self, name: str, *groups: str) -> AgentId:
        agent = AgentId(name)
        self.registry.apply(
            events.AgentApproved(at=1, by="test", agent=agent, public_key=name, name=name, groups=groups)
        )
        self.placement.enrollment_changed(agent, groups)
        return agent

    def connect(
        self,
        name: str,
        *groups: str,
        slots: int = 1,
        nodes: frozenset[str] = NODES,
        docker: DockerEngine | None = None,
    ) -> AgentId:
        agent = self.enroll(name, *groups) if groups else AgentId(name)
        self.placement.connect(Server(agent=agent, slots=slots, nodes=nodes, docker=docker))
        return agent

    def drain(self, agent: AgentId) -> None:
        self._apply(events.AgentDrained(at=2, by="test", agent=agent))

    def undrain(self, agent: AgentId) -> None:
        self._apply(events.AgentUndrained(at=3, by="test", agent=agent))

    def _apply(self, fact: events.AgentDrained | events.AgentUndrained) -> None:
        self.registry.apply(fact)
        self.placement.enrollment_changed(fact.agent, self.registry.agents[fact.agent].groups)

    def reason(self, run: str) -> str:
        """Returns what a queued request waits for."""
        cause = self.placement.waiting_reason(attempt(run))
        assert cause is not None
        return cause.text

    def place(self, request: SlotRequest) -> str:
        """Returns the name of the server, or the code of the reason."""
        answer = self.placement.request(request)
        return answer.code.value if isinstance(answer, Reason) else answer.agent

    def assigned(self) -> list[tuple[str, str]]:
        """Returns which runs got a slot, and on which server."""
        return [(request.attempt.run, server.agent) for request, server in self.placement.assign()]


def request(
    run: str,
    group: str = "web",
    *,
    agent: str | None = None,
    node: str = "shell",
    step: str = "1",
    later: str = "",
    is_first: bool = False,
    needs_docker: bool = False,
) -> SlotRequest:
    owner = None if agent is None else AgentId(agent)
    return SlotRequest(
        attempt(run, step),
        group,
        node,
        owner,
        later=frozenset(later.split()),
        is_first=is_first,
        needs_docker=needs_docker,
    )


def attempt(run: str, step: str = "1") -> AttemptId:
    return AttemptId(RunId(run), JobId("a"), StepId(step), AttemptNo(1))


def test_a_new_job_gets_the_server_with_the_most_free_slots() -> None:
    """It goes to the least loaded of the connected servers of the group."""
    fleet = Fleet()
    fleet.connect("small", "web", slots=2)
    fleet.connect("large", "web", slots=3)
    fleet.connect("other", "db", slots=9)
    assert [fleet.place(request(run)) for run in "abcde"] == ["large", "small", "large", "small", "large"]
    assert fleet.place(request("f")) == "no-free-slot"


def test_a_step_of_a_started_job_uses_only_its_server() -> None:
    """The job keeps its server even if another server has more free slots."""
    fleet = Fleet()
    fleet.connect("mine", "web", slots=1)
    fleet.connect("roomy", "web", slots=9)
    assert fleet.place(request("a", agent="mine")) == "mine"
    assert fleet.place(request("b", agent="mine")) == "no-free-slot"


def test_steps_of_started_jobs_precede_new_jobs() -> None:
    """A free slot goes to a job that waits for this server, even if a new job has waited longer."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web")
    assert fleet.place(request("running")) == mine
    fleet.place(request("new"))
    fleet.place(request("running", agent="mine", step="2"))
    fleet.placement.free(mine, attempt("running"))
    assert fleet.assigned() == [("running", mine)]


def test_a_new_job_does_not_overtake_a_started_one() -> None:
    """While a step of a started job waits for a server, that server has no room for a new job."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web")
    fleet.place(request("a"))
    fleet.place(request("a", agent="mine", step="2"))
    fleet.placement.free(mine, attempt("a"))
    assert fleet.place(request("new")) == "no-free-slot"
    assert fleet.assigned() == [("a", mine)]


def test_the_oldest_request_of_a_group_is_served_first() -> None:
    """Requests of one group get their slots in the order in which they arrived."""
    fleet = Fleet()
    for run in ("first", "second", "third"):
        fleet.place(request(run))
    mine = fleet.connect("mine", "web", slots=2)
    assert fleet.assigned() == [("first", mine), ("second", mine)]
    assert fleet.placement.waiting == 1


def test_the_oldest_request_is_served_first_across_groups_of_a_server() -> None:
    """A server in two groups serves the request that has waited longest, whichever group it names, so neither starves."""
    fleet = Fleet()
    fleet.enroll("mine", "web", "db")
    fleet.place(request("older", "db"))
    fleet.place(request("newer", "web"))
    mine = fleet.connect("mine")
    assert fleet.assigned() == [("older", mine)]


def test_an_unserviceable_request_does_not_block_the_others() -> None:
    """A request for a node that no server has waits with that reason, while later requests get their slots."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=1, nodes=frozenset({"shell"}))
    assert fleet.place(request("docker", node="docker")) == "no-server-with-node"
    fleet.place(request("behind"))
    assert fleet.assigned() == [("behind", mine)]
    assert fleet.placement.waiting == 1


def test_a_job_needs_a_server_with_the_nodes_of_all_its_steps() -> None:
    """A job keeps its server, so the nodes of all its steps count from the first step on; the reason names missing ones."""
    fleet = Fleet()
    fleet.connect("many-slots", "web", slots=9, nodes=frozenset({"shell", "shop/a"}))
    fleet.connect("both", "web", nodes=frozenset({"shell", "shop/a", "shop/b"}))
    assert fleet.place(request("a", later="shop/a shop/b")) == "both"

    refused = fleet.placement.request(request("b", later="shop/a shop/c"))
    assert isinstance(refused, Reason)
    assert refused.code is ReasonCode.NO_SERVER_WITH_NODE
    assert refused.facts["node"] == "shop/c"
    assert refused.text == 'no connected server in group "web" has the node "shop/c"'


ENGINE = DockerEngine("28.5.1")
NO_ENGINE = DockerEngine("", "no Docker engine at unix:///var/run/docker.sock")


def test_a_job_with_containers_gets_a_server_with_a_docker_engine() -> None:
    """The free slots of the others do not count; other jobs still use them."""
    fleet = Fleet()
    fleet.connect("roomy", "web", slots=9, docker=NO_ENGINE)
    fleet.connect("engine", "web", slots=2, docker=ENGINE)

    assert fleet.place(request("a", needs_docker=True)) == "engine"
    assert fleet.place(request("b", needs_docker=True)) == "engine"
    assert fleet.place(request("c", needs_docker=True)) == "no-free-slot"
    fleet.place(request("d"))
    assert fleet.assigned() == [("d", "roomy")]


def test_a_job_with_containers_waits_until_a_server_of_its_group_has_an_engine() -> None:
    """The reason says what is wrong on one of the servers, and changes as soon as an agent reports an engine."""
    fleet = Fleet()
    fleet.connect("web-1", "web", docker=NO_ENGINE)
    fleet.connect("elsewhere", "db", docker=ENGINE)
    refused = fleet.placement.request(request("a", needs_docker=True))
    assert isinstance(refused, Reason)
    assert refused.code is ReasonCode.NO_SERVER_WITH_DOCKER
    assert refused.text == (
        'no connected server in group "web" can run the job\'s containers (web-1: no Docker engine at '
        "unix:///var/run/docker.sock); install Docker on one of them and let its steps use it, or choose other servers with "
        "runs-on"
    )

    fleet.connect("web-1", docker=DockerEngine("", "the Docker engine does not answer"))
    (changed,) = fleet.placement.changed_reasons()
    assert "does not answer" in changed[1].text
    assert fleet.assigned() == []

    web = fleet.connect("web-1", docker=ENGINE)
    assert fleet.assigned() == [("a", web)]


def test_an_agent_that_does_not_say_whether_it_has_an_engine_may_get_jobs_with_containers() -> None:
    """An agent of an older release finds out when the job starts, as before."""
    fleet = Fleet()
    fleet.connect("older", "web", docker=None)
    assert fleet.place(request("a", needs_docker=True)) == "older"


def test_a_started_job_with_containers_keeps_its_server_without_an_engine() -> None:
    """Its steps run there and report what is wrong, instead of waiting for an engine that may never be back."""
    fleet = Fleet()
    fleet.connect("mine", "web", docker=NO_ENGINE)
    assert fleet.place(request("a", agent="mine", needs_docker=True)) == "mine"


def test_a_reason_names_the_daemon_whose_servers_it_means_if_there_are_several() -> None:
    """What is not connected here may be connected to another daemon, so nothing is said of all servers of a group."""
    fleet = Fleet()
    fleet.placement.daemon = "d1"
    fleet.enroll("away", "web")
    asked = [request("a"), request("b", "db"), request("c", agent="away"), request("d", "db", node="docker")]

    def texts() -> list[str]:
        answers = [fleet.placement.request(each) for each in asked]
        return [answer.text for answer in answers if isinstance(answer, Reason)]

    fleet.connect("busy", "db", slots=0)
    assert texts() == [
        'no server in group "web" is connected to daemon d1; another daemon may have one',
        'all slots of the servers in group "db" that are connected to daemon d1 are in use; another daemon may have one',
        'the job\'s server "away" is not connected to daemon d1, but may be to another one',
        'no server in group "db" that is connected to daemon d1 has the node "docker"; another daemon may have one',
    ]
    labelled = fleet.placement.request(msgspec.structs.replace(request("e", "db"), labels=(("gpu", "a100"),)))
    assert isinstance(labelled, Reason)
    assert labelled.text == (
        'no server in group "db" that is connected to daemon d1 has the labels gpu=a100; another daemon may have one'
    )


def test_a_server_that_is_connected_to_another_daemon_is_listed_by_its_labels() -> None:
    """They are recorded with its newest session; those of a session here count as long as it lasts."""
    fleet = Fleet()
    labels = (("gpu", "a100"),)
    agent = fleet.enroll("elsewhere", "web")

    def listed() -> list[str] | str:
        found = fleet.placement.list_servers(ServerListRequest(RunId("a"), JobId("a")), "web", labels)
        return found.text if isinstance(found, Reason) else [entry.name for entry in found]

    assert listed() == 'no server in group "web" has the labels gpu=a100'
    identified = events.AgentIdentified(
        at=2, by="test", agent=agent, machine_id="m", installation="i", boot_id="b", labels={"gpu": "a100", "zone": "b"}
    )
    fleet.registry.apply(identified)
    assert listed() == ["elsewhere"]
    fleet.placement.connect(Server(agent=agent, slots=1, facts={"labels": {"gpu": "h100"}}))
    assert listed() == 'no server in group "web" has the labels gpu=a100'
    fleet.placement.disconnect(agent, 3, "gone")
    fleet.registry.apply(msgspec.structs.replace(identified, labels=None))
    assert listed() == ["elsewhere"]


def test_nodes_spread_over_several_servers_are_a_reason_to_wait() -> None:
    """The reason also covers the case where each node exists somewhere but no single server has all of them."""
    fleet = Fleet()
    fleet.connect("one", "web", nodes=frozenset({"shell", "shop/a"}))
    fleet.connect("two", "web", nodes=frozenset({"shell", "shop/b"}))

    refused = fleet.placement.request(request("a", later="shop/a shop/b"))

    assert isinstance(refused, Reason)
    assert refused.text.endswith("and all the other nodes that the job uses")


def test_a_node_added_later_serves_waiting_requests() -> None:
    """A server that reconnects with the node gets the waiting job."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web")
    assert fleet.place(request("a", later="shop/a")) == "no-server-with-node"
    assert fleet.assigned() == []

    fleet.connect("mine", nodes=NODES | {"shop/a"})

    assert fleet.assigned() == [("a", mine)]


def test_the_reason_names_what_is_missing() -> None:
    """There are four reasons: no server enrolled, none connected, none with the node, none with a free slot."""
    fleet = Fleet()
    assert fleet.place(request("a")) == "no-server-in-group"
    fleet.enroll("mine", "web")
    assert fleet.place(request("b")) == "no-server-connected"
    fleet.connect("mine", nodes=frozenset({"log"}))
    assert fleet.place(request("c")) == "no-server-with-node"
    fleet.connect("mine", slots=0)
    assert fleet.place(request("d")) == "no-free-slot"


def test_each_changed_reason_is_reported_once() -> None:
    """A waiting request is notified only when its reason changes."""
    fleet = Fleet()
    fleet.place(request("a"))
    assert fleet.placement.changed_reasons() == []
    fleet.enroll("mine", "web")
    reported = fleet.placement.changed_reasons()
    assert [(item.attempt.run, reason.code) for item, reason in reported] == [("a", ReasonCode.NO_SERVER_CONNECTED)]
    assert fleet.placement.changed_reasons() == []


def test_slots_are_held_across_a_disconnection() -> None:
    """Running attempts keep their slots, so a server that reconnects has no more free slots than before."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=1)
    fleet.place(request("a"))
    fleet.placement.disconnect(mine, 5, "cut")
    assert fleet.place(request("b")) == "no-server-connected"
    fleet.connect("mine", slots=1)
    assert fleet.assigned() == []
    fleet.placement.free(mine, attempt("a"))
    assert fleet.assigned() == [("b", mine)]


def test_a_server_that_reconnects_with_fewer_slots_waits_for_a_free_one() -> None:
    """Only the number of slots that the server grants now counts."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=2)
    fleet.place(request("a"))
    fleet.place(request("b"))
    fleet.connect("mine", slots=1)
    fleet.placement.free(mine, attempt("a"))
    assert fleet.place(request("c")) == "no-free-slot"
    fleet.placement.free(mine, attempt("b"))
    assert fleet.assigned() == [("c", mine)]


def test_a_cancelled_request_gets_nothing() -> None:
    """A cancelled request leaves every queue, and cancelling it twice does no harm."""
    fleet = Fleet()
    fleet.place(request("a"))
    fleet.placement.cancel(attempt("a"))
    fleet.placement.cancel(attempt("a"))
    fleet.connect("mine", "web")
    assert fleet.assigned() == []
    assert fleet.placement.waiting == 0


def test_forgetting_a_run_drops_its_requests_and_slots() -> None:
    """All requests and slots of the run are dropped, and those of other runs stay."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=1)
    fleet.place(request("a"))
    fleet.place(request("a", agent="mine", step="2"))
    fleet.place(request("b"))
    fleet.placement.forget(RunId("a"))
    assert fleet.assigned() == [("b", mine)]
    assert list(fleet.placement.server(mine).taken) == [attempt("b")]


def test_recovered_attempts_hold_their_slots() -> None:
    """An attempt that is on a server according to the log holds its slot before the server reconnects."""
    fleet = Fleet()
    fleet.placement.hold(AgentId("mine"), attempt("a"))
    mine = fleet.connect("mine", "web", slots=1)
    assert fleet.place(request("b")) == "no-free-slot"
    fleet.placement.free(mine, attempt("a"))
    assert fleet.assigned() == [("b", mine)]


def test_a_revoked_server_gets_nothing_although_its_session_is_still_open() -> None:
    """It gets neither new jobs nor further steps of its jobs, although its session is closed a moment later."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=2)
    fleet.place(request("a"))
    fleet.registry.apply(events.AgentRevoked(at=2, by="test", agent=mine))
    fleet.placement.enrollment_changed(mine, ("web",))
    assert fleet.place(request("a", agent="mine", step="2")) == "server-lost"
    assert fleet.place(request("b")) == "no-server-in-group"
    fleet.placement.free(mine, attempt("a"))
    assert fleet.assigned() == []


def test_a_draining_server_starts_no_new_jobs_and_finishes_the_started_ones() -> None:
    """A new job goes to another server; the steps of a started job get slots as before."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=9)
    fleet.connect("other", "web", slots=1)
    assert fleet.place(request("started")) == mine
    fleet.drain(mine)
    assert fleet.place(request("new")) == "other"
    assert fleet.place(request("started", agent=mine, step="2")) == mine
    assert fleet.place(request("newer")) == "no-free-slot"
    assert fleet.reason("newer") == 'all slots of the servers in group "web" are in use, 1 of them draining'


def test_a_job_for_draining_servers_waits_until_one_is_undrained() -> None:
    """The reason names them, and changes as soon as they are back in service; nobody has to ask again."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=1)
    assert fleet.place(request("a", "db")) == "no-server-in-group"
    fleet.drain(mine)
    assert fleet.place(request("b")) == "server-draining"
    assert fleet.reason("b") == 'every server in group "web" that is connected is draining'
    assert fleet.assigned() == []
    fleet.undrain(mine)
    assert fleet.assigned() == [("b", mine)]


def test_the_reason_of_a_waiting_job_says_that_its_servers_are_draining_now() -> None:
    """A job that waits for a slot learns it when the server begins to drain."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=1)
    fleet.place(request("a"))
    fleet.place(request("b"))
    fleet.drain(mine)
    changed = [(waiting.attempt.run, cause.code.value) for waiting, cause in fleet.placement.changed_reasons()]
    assert changed == [("b", "server-draining")]


def test_a_job_that_must_start_on_a_draining_server_does_not_hold_up_started_ones() -> None:
    """It waits, first in the queue of that server, while later steps of started jobs get slots."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=2)
    fleet.place(request("started"))
    fleet.drain(mine)
    assert fleet.place(request("pinned", agent=mine, is_first=True)) == "server-draining"
    assert fleet.reason("pinned") == 'the job\'s server "mine" is draining'
    assert fleet.place(request("started", agent=mine, step="2")) == mine
    assert fleet.place(request("started", agent=mine, step="3")) == "no-free-slot"
    fleet.placement.free(mine, attempt("started"))
    assert fleet.assigned() == [("started", mine)]
    fleet.placement.free(mine, attempt("started", "2"))
    assert fleet.assigned() == []
    fleet.undrain(mine)
    assert fleet.assigned() == [("pinned", mine)]


def test_the_reason_has_what_a_server_without_slots_says() -> None:
    """A full disk or an upgrade is not a lack of slots; with another server in the group it is."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web")
    fleet.placement.connect(Server(agent=mine, slots=0, nodes=NODES, problem="the disk is full"))
    fleet.place(request("a"))
    fleet.place(request("b", agent=mine))
    assert fleet.reason("a") == 'no connected server in group "web" starts anything now: the disk is full'
    assert fleet.reason("b") == 'the job\'s server "mine" starts nothing now: the disk is full'
    other = fleet.connect("other", "web")
    assert fleet.assigned() == [("a", other)]
    fleet.place(request("c"))
    assert fleet.reason("c") == 'all slots of the servers in group "web" are in use'


def test_new_groups_of_a_server_count_at_once() -> None:
    """It takes the waiting jobs of its new group, and no more jobs of the old one."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=2)
    fleet.place(request("a", "db"))
    fleet.registry.apply(events.AgentGroupsSet(at=2, by="test", agent=mine, groups=("db",)))
    fleet.placement.enrollment_changed(mine, ("web", "db"))
    assert fleet.assigned() == [("a", mine)]
    assert fleet.place(request("b")) == "no-server-in-group"


def test_freeing_an_unheld_slot_changes_nothing() -> None:
    """A second `free` for an attempt changes nothing."""
    fleet = Fleet()
    mine = fleet.connect("mine", "web", slots=1)
    fleet.place(request("a"))
    fleet.placement.free(mine, attempt("b"))
    assert fleet.place(request("c")) == "no-free-slot"
    assert fleet.assigned() == []


def test_a_repeated_request_that_was_granted_has_one_slot() -> None:
    """If the job got its server meanwhile, a slot of another branch on that server is kept, and one elsewhere is returned."""
    fleet = Fleet()
    fleet.connect("one", "web", slots=2)
    fleet.connect("two", "web", slots=2)
    assert fleet.place(request("a", step="x")) == "one"
    assert fleet.place(request("a", step="x", agent="one")) == "one"
    assert fleet.placement.server(AgentId("one")).free == 1
    assert fleet.place(request("a", step="x", agent="two")) == "two"
    assert [fleet.placement.server(AgentId(name)).free for name in ("one", "two")] == [2, 1]


def test_an_avoided_server_is_used_only_without_an_alternative() -> None:
    """If two servers become free at the same time, the one that is not avoided is used."""
    fleet = Fleet()
    for name in ("bad", "good"):
        fleet.connect(name, "web")
        fleet.place(request(f"holds-{name}"))
    avoiding = SlotRequest(attempt("a"), "web", "shell", None, (), (AgentId("bad"),))
    assert fleet.place(avoiding) == "no-free-slot"
    for name in ("bad", "good"):
        fleet.placement.free(AgentId(name), attempt(f"holds-{name}"))
    assert fleet.assigned() == [("a", "good")]
    assert fleet.place(SlotRequest(attempt("b"), "web", "shell", None, (), (AgentId("bad"),))) == "bad"


def test_an_avoided_server_is_used_once_the_better_one_is_full() -> None:
    """Both became free at the same time, and the better one has a slot for only one of the requests."""
    fleet = Fleet()
    for name in ("bad", "good"):
        fleet.connect(name, "web")
        fleet.place(request(f"holds-{name}"))
    for run in ("a", "b"):
        assert fleet.place(SlotRequest(attempt(run), "web", "shell", None, (), (AgentId("bad"),))) == "no-free-slot"
    for name in ("bad", "good"):
        fleet.placement.free(AgentId(name), attempt(f"holds-{name}"))
    assert fleet.assigned() == [("a", "good"), ("b", "bad")]


def test_server_list_requests_are_evaluated_only_when_servers_change() -> None:
    """An answer that cannot have changed is not computed again."""
    fleet = Fleet()
    request_for_servers = ServerListRequest(RunId("a"), JobId("each"))
    assert isinstance(fleet.placement.list_servers(request_for_servers, "web", ()), Reason)
    assert fleet.placement.changed_lists() == []
    fleet.connect("one", "web")
    [(requested, found)] = fleet.placement.changed_lists()
    assert requested == request_for_servers
    assert not isinstance(found, Reason)
    assert [entry.name for entry in found] == ["one"]
    assert fleet.placement.changed_lists() == []


def test_a_server_has_time_to_connect_before_it_counts_as_offline() -> None:
    """After the daemon starts, servers have some time to connect before they count as offline."""
    fleet = Fleet()
    fleet.placement.is_gathering = True
    fleet.enroll("one", "web")
    assert fleet.place(request("a", agent="one")) == "no-server-connected"
    fleet.placement.gathered()
    assert [reason.code.value for _, reason in fleet.placement.changed_reasons()] == ["server-unreachable"]
