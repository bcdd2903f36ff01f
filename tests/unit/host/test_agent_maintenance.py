"""Draining, groups and removal of agents: what they start and what they do not, in a daemon that may crash at any time."""

from __future__ import annotations

import pytest

from waterflow_agent import join_token
from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages
from waterflowd.engine import events
from waterflowd.fleet.events import AgentApproved
from waterflowd.host.agents.enrollment import DaemonEndpoints
from waterflowd.host.agents.maintenance import AgentMaintenance
from waterflowd.model.ids import AgentId, RunId
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import Conclusion, Outcome, Status
from waterflowd.testing.host import ONE_STEP, TWO_STEPS, HostHarness, agent_id

SLEEPS = "jobs: {a: {runs-on: web, steps: [{run: one}, {uses: sleep, with: {duration: 1h}}, {run: two}]}}"
EACH = "jobs: {a: {runs-on: {group: web, target: each, offline: %s}, steps: [{run: work}]}}"
RETRIED = "jobs: {a: {runs-on: web, retry: {max-attempts: 2, initial-interval: 1m}, steps: [{run: work}]}}"


def maintenance(host: HostHarness) -> AgentMaintenance:
    return AgentMaintenance(host.registry, host.state.placement, host.state.started_jobs, host.fleet, host.clock)


async def connected(host: HostHarness, name: str, group: str) -> AgentId:
    """An agent whose approval is in the log."""
    agent = agent_id(name)
    fact = AgentApproved(at=1, by="test", agent=agent, public_key=name, name=name, groups=(group,))
    await host.fleet.append(lambda: [fact])
    host.hello(agent)
    return agent


def jobs_of(host: HostHarness, agent: AgentId) -> list[tuple[RunId, str]]:
    return [(run, str(job)) for run, job in host.state.started_jobs.of(agent)]


async def finish(host: HostHarness, agent: AgentId) -> messages.TaskId:
    """Ends the attempt that was offered last."""
    (key,) = host.link.offers()
    host.link.take()
    host.finished(agent, key)
    await host.settle()
    return key


def row(host: HostHarness, summary: RunSummary) -> RunSummary:
    found = host.log.run(summary.id)
    assert found is not None
    return found


def reasons(host: HostHarness, run: RunId) -> list[str]:
    return [event.reason.code.value for event in host.events(run) if isinstance(event, events.AttemptWaiting)]


async def test_a_drained_agent_starts_nothing_also_after_a_crash() -> None:
    """The decision is in the log before it is answered; undraining starts what has waited."""
    async with HostHarness() as host:
        agent = await connected(host, "web-1", "web")
        await maintenance(host).drain(agent, "alice")
        await maintenance(host).drain(agent, "bob")
        again = host.crashed()
    async with again:
        assert again.registry.agents[agent].drained_by == "alice"
        again.hello(agent)
        summary = await again.start()
        await again.settle()
        assert again.link.offers() == []
        assert reasons(again, summary.id) == ["server-draining"]
        await maintenance(again).undrain(agent, "alice")
        await again.settle()
        assert len(again.link.offers()) == 1
        assert not again.registry.agents[agent].is_draining


async def test_the_steps_of_a_started_job_continue_on_a_draining_agent() -> None:
    """Its job ends there, and only then the agent has nothing left."""
    async with HostHarness() as host:
        agent = await connected(host, "web-1", "web")
        summary = await host.start(TWO_STEPS)
        await maintenance(host).drain(agent, "alice")
        await finish(host, agent)
        assert jobs_of(host, agent) == [(summary.id, "a")]
        await finish(host, agent)
        assert row(host, summary).conclusion is Conclusion.SUCCESS
        assert jobs_of(host, agent) == []


async def test_a_job_between_two_steps_belongs_to_its_agent_also_after_a_crash() -> None:
    """While it sleeps it holds no slot, but its files are there, so the agent is not removed."""
    async with HostHarness() as host:
        agent = await connected(host, "web-1", "web")
        summary = await host.start(SLEEPS)
        await finish(host, agent)
        again = host.crashed()
    async with again:
        again.hello(agent)
        await maintenance(again).drain(agent, "alice")
        assert again.state.placement.server(agent).taken == {}
        assert jobs_of(again, agent) == [(summary.id, "a")]
        with pytest.raises(Rejected, match=rf"job a of run {summary.id}; wait: waterflowctl agents drain web-1 --wait"):
            await maintenance(again).remove(agent, "alice")
        await again.driver.cancel(summary.id, "alice", is_forced=True)
        await again.settle()
        assert jobs_of(again, agent) == []


async def test_a_job_that_waits_for_its_next_try_has_no_agent() -> None:
    """The next try may start anywhere else, so a draining agent does not wait for it."""
    async with HostHarness() as host:
        agent = await connected(host, "web-1", "web")
        summary = await host.start(RETRIED)
        (key,) = host.link.offers()
        host.link.take()
        host.finished(agent, key, outcome=Outcome.FAILURE, exit_code=1, reason_code="exit-code", reason_text="exit 1")
        await host.settle()
        assert row(host, summary).status is not Status.COMPLETED
        assert jobs_of(host, agent) == []
        again = host.crashed()
    async with again:
        assert jobs_of(again, agent) == []


@pytest.mark.parametrize(("offline", "conclusion"), [("fail", Conclusion.FAILURE), ("skip", Conclusion.SUCCESS)])
async def test_a_draining_server_counts_as_offline_for_jobs_on_each_server(
    offline: str, conclusion: Conclusion
) -> None:
    """What happens is what the workflow says about servers that are not connected."""
    async with HostHarness() as host:
        one, two = await connected(host, "web-1", "web"), await connected(host, "web-2", "web")
        await maintenance(host).drain(two, "alice")
        summary = await host.start(EACH % offline)
        await host.settle()
        await finish(host, one)
        assert row(host, summary).conclusion is conclusion


async def test_a_connected_agent_is_removed_only_while_it_is_draining() -> None:
    """Otherwise a job could start in between; the text has the next step."""
    async with HostHarness() as host:
        agent = await connected(host, "web-1", "web")
        with pytest.raises(
            Rejected, match=r"web-1 is connected; next: waterflowctl agents drain web-1 --wait"
        ) as error:
            await maintenance(host).remove(agent, "alice")
        assert (error.value.code, error.value.status) == ("WF228", 409)
        await maintenance(host).drain(agent, "alice")
        await maintenance(host).remove(agent, "alice")
        assert host.link.revoked == [agent]
        assert agent not in host.crashed().registry.agents


async def test_an_agent_that_is_away_with_work_is_not_removed() -> None:
    """Its results may still come; giving them up is a decision of its own."""
    async with HostHarness() as host:
        agent = await connected(host, "web-1", "web")
        await host.start(ONE_STEP)
        host.agents.disconnected(agent, "cut")
        with pytest.raises(Rejected, match=r"or give its work up: waterflowctl agents revoke web-1"):
            await maintenance(host).remove(agent, "alice")
        await host.enrollment.revoke(agent, "alice")
        await maintenance(host).remove(agent, "alice")
        assert host.registry.revoked == {}


async def test_a_removed_key_may_enroll_again_and_a_revoked_one_may_not() -> None:
    """A revoked key waits for a person even with a valid token; a removed one is as unknown as a new one."""
    async with HostHarness() as host:
        host.enrollment.endpoints = DaemonEndpoints(
            work="tcp://127.0.0.1:7233", enroll="tcp://127.0.0.1:7234", server_key="x" * 40
        )
        token = join_token.decode(await host.enrollment.create_token(("web",), 60_000, 3, "alice")).credential

        async def ask() -> str:
            request = messages.EnrollRequest(
                protocol=1, token=token, name="n", groups=[], hostname="h", machine_id="m", agent_version="0"
            )
            return (await host.enrollment.request("one", request)).state

        assert await ask() == "approved"
        (agent,) = host.registry.agents
        await host.enrollment.revoke(agent, "alice")
        assert host.registry.revoked[agent].name == "n"
        assert await ask() == "pending"
        await maintenance(host).remove(agent, "alice")
        assert await ask() == "approved"


async def test_groups_are_set_once_and_survive_a_crash() -> None:
    """An agent without changes gets no fact; invalid groups and unknown agents are refused."""
    async with HostHarness() as host:
        agent = await connected(host, "web-1", "web")
        summary = await host.start("jobs: {a: {runs-on: db, steps: [{run: work}]}}")
        assert host.link.offers() == []
        for _ in range(2):
            await maintenance(host).set_groups(agent, ["db", "db"], "alice")
        await host.settle()
        assert len(host.link.offers()) == 1
        assert row(host, summary).status is Status.RUNNING
        with pytest.raises(Rejected, match="WF225"):
            await maintenance(host).set_groups(agent, ["all-servers"], "alice")
        with pytest.raises(Rejected, match="WF227"):
            await maintenance(host).set_groups(AgentId("SHA256:unknown"), ["db"], "alice")
        again = host.crashed()
        assert again.registry.agents[agent].groups == ("db",)
        assert list(again.registry.groups) == ["db"]
