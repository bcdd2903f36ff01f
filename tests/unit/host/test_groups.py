"""Groups that are known only at run time: the repository's permissions are checked when an attempt gets its server."""

from __future__ import annotations

import msgspec
import pytest

from waterflowd.access.policy import AccessPolicy
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.testing.host import HostHarness, agent_id, request

ALLOWED = RepositorySettings(name="ops", url="/srv/ops.git", groups=("web*",))
CHOSEN = (
    "on: {workflow_dispatch: {inputs: {where: {default: web}}}}\n"
    "jobs: {a: {runs-on: '${{ inputs.where }}', steps: [{run: work}]}}"
)
EACH = CHOSEN.replace("'${{ inputs.where }}'", "{group: '${{ inputs.where }}', target: each}")
EVERY = "jobs: {a: {runs-on: all-servers, steps: [{run: work}]}}"


def guarded() -> HostHarness:
    """Returns a host where runs of the repository may only use `web*`; runs without a repository are not restricted."""
    host = HostHarness()
    guarded = msgspec.structs.replace(host.state, access=AccessPolicy([ALLOWED]))
    host.state = host.driver.state = guarded
    for name, *groups in (("w", "web"), ("d", "db"), ("both", "web-2", "db")):
        host.enroll(name, *groups)
    return host


def of_ops(workflow: str, **values: str) -> StartRequest:
    return msgspec.structs.replace(request(workflow), repository="ops", inputs=values)


@pytest.mark.parametrize("workflow", [CHOSEN, EACH])
async def test_a_group_that_a_run_chooses_is_refused_at_once(workflow: str) -> None:
    """The job fails with the reason, and no server gets it."""
    async with guarded() as host:
        for name in ("w", "d", "both"):
            host.hello(agent_id(name))
        row = await host.driver.start(of_ops(workflow, where="db"))
        assert (row.status, row.conclusion) == (Status.COMPLETED, Conclusion.FAILURE)
        reported = [event.reason for event in host.events(row.id) if getattr(event, "reason", None) is not None]
        assert ReasonCode.GROUP_NOT_ALLOWED in {cause.code for cause in reported}
        assert host.link.offers() == []
        allowed = await host.driver.start(of_ops(workflow, where="web"))
        assert allowed.status is Status.RUNNING
        assert len(host.link.offers()) == 1
        unbound = await host.driver.start(msgspec.structs.replace(request(workflow), inputs={"where": "db"}))
        assert unbound.status is Status.RUNNING


async def test_the_group_of_all_servers_is_limited_to_permitted_groups() -> None:
    """This includes servers that are enrolled later."""
    async with guarded() as host:
        for name in ("w", "d", "both"):
            host.hello(agent_id(name))
        await host.driver.start(of_ops(EVERY))
        assert {agent for agent, _ in host.link.sent} == {agent_id("w"), agent_id("both")}
        host.link.sent.clear()
        await host.driver.start(request(EVERY))
        assert {agent for agent, _ in host.link.sent} == {agent_id("w"), agent_id("d"), agent_id("both")}


async def test_every_server_chosen_by_an_expression_grants_nothing() -> None:
    """Without `target: each` the expression would otherwise select any server."""
    async with guarded() as host:
        host.hello(agent_id("d"))
        row = await host.driver.start(of_ops(CHOSEN, where="all-servers"))
        assert row.conclusion is Conclusion.FAILURE


async def test_a_repository_without_a_server_waits_for_one_that_it_may_use() -> None:
    """A server of another group does not count."""
    host = HostHarness()
    guarded = msgspec.structs.replace(host.state, access=AccessPolicy([ALLOWED]))
    host.state = host.driver.state = guarded
    host.enroll("d", "db")
    async with host:
        host.hello(agent_id("d"))
        row = await host.driver.start(of_ops(EVERY))
        assert host.link.offers() == []
        agent = host.enroll("w", "web")
        host.state.placement.enrollment_changed(agent, ("web",))
        host.hello(agent)
        await host.settle()
        assert [agent for agent, _ in host.link.sent] == [agent_id("w")]
        assert row.status is not Status.COMPLETED


@pytest.mark.parametrize("workflow", [CHOSEN, EACH])
async def test_a_run_reaches_no_group_outside_the_token_that_started_it(workflow: str) -> None:
    """Whether it comes from a repository or not, and also if the token was for no group that the run still may use."""
    for repository, scope in (("ops", ("web",)), (None, ("web",)), (None, ())):
        async with guarded() as host:
            for name in ("w", "d", "both"):
                host.hello(agent_id(name))
            trigger = Trigger(kind=TriggerKind.MANUAL, by="bound", principal="bound", scope=scope)
            started = msgspec.structs.replace(request(workflow), repository=repository, trigger=trigger)
            # With `target: each`, all servers means those that the token may use.
            for group in ("web-2", "db", *(["all-servers"] if workflow is CHOSEN else [])):
                row = await host.driver.start(msgspec.structs.replace(started, inputs={"where": group}))
                assert row.conclusion is Conclusion.FAILURE
                assert "may only use" in row.reason.text or "may not use" in row.reason.text
            assert host.link.offers() == []
            row = await host.driver.start(msgspec.structs.replace(started, inputs={"where": "web"}))
            assert (row.status is Status.RUNNING) == bool(scope)


async def test_every_server_means_those_of_the_groups_of_the_token() -> None:
    """A server that is in one of them counts."""
    async with guarded() as host:
        for name in ("w", "d", "both"):
            host.hello(agent_id(name))
        trigger = Trigger(kind=TriggerKind.MANUAL, by="bound", scope=("db",))
        await host.driver.start(msgspec.structs.replace(request(EVERY), trigger=trigger))
        assert {agent for agent, _ in host.link.sent} == {agent_id("d"), agent_id("both")}
        host.link.sent.clear()
        # Neither group of the server is permitted by both: the repository may use web-2 there, the token db.
        await host.driver.start(msgspec.structs.replace(request(EVERY), repository="ops", trigger=trigger))
        assert host.link.sent == []
