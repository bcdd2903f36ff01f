"""Groups chosen at run time: the repository's allowed groups are enforced when an attempt gets its server."""

from __future__ import annotations

import msgspec
import pytest

from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import StartRequest
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.testing.host import HostWorld, agent_id, request

ALLOWED = RepositorySettings(name="ops", url="/srv/ops.git", groups=("web*",))
CHOSEN = (
    "on: {workflow_dispatch: {inputs: {where: {default: web}}}}\n"
    "jobs: {a: {runs-on: '${{ inputs.where }}', steps: [{run: work}]}}"
)
EACH = CHOSEN.replace("'${{ inputs.where }}'", "{group: '${{ inputs.where }}', target: each}")
EVERY = "jobs: {a: {runs-on: all-servers, steps: [{run: work}]}}"


def guarded() -> HostWorld:
    """Returns a host where runs of the repository may only use `web*`; runs without a repository are not restricted."""
    world = HostWorld()
    guarded = msgspec.structs.replace(
        world.world, may_use=lambda repository, group: repository is None or ALLOWED.may_use(group)
    )
    world.world = world.driver.state = guarded
    world.outputs._state = guarded
    for name, *groups in (("w", "web"), ("d", "db"), ("both", "web-2", "db")):
        world.enroll(name, *groups)
    return world


def of_ops(workflow: str, **given: str) -> StartRequest:
    return msgspec.structs.replace(request(workflow), repository="ops", inputs=given)


@pytest.mark.parametrize("workflow", [CHOSEN, EACH])
async def test_a_group_that_a_run_chooses_is_refused_at_once(workflow: str) -> None:
    """The job fails with the reason, and no server is contacted."""
    async with guarded() as world:
        for name in ("w", "d", "both"):
            world.hello(agent_id(name))
        row = await world.driver.start(of_ops(workflow, where="db"))
        assert (row.status, row.conclusion) == (Status.COMPLETED, Conclusion.FAILURE)
        told = [event.reason for event in world.events(row.id) if getattr(event, "reason", None) is not None]
        assert ReasonCode.GROUP_NOT_ALLOWED in {why.code for why in told}
        assert world.link.offers() == []
        allowed = await world.driver.start(of_ops(workflow, where="web"))
        assert allowed.status is Status.RUNNING
        assert len(world.link.offers()) == 1
        unbound = await world.driver.start(msgspec.structs.replace(request(workflow), inputs={"where": "db"}))
        assert unbound.status is Status.RUNNING


async def test_every_server_means_those_of_the_groups_that_the_repository_may_use() -> None:
    """This includes servers that are enrolled later."""
    async with guarded() as world:
        for name in ("w", "d", "both"):
            world.hello(agent_id(name))
        await world.driver.start(of_ops(EVERY))
        assert {agent for agent, _ in world.link.sent} == {agent_id("w"), agent_id("both")}
        world.link.sent.clear()
        await world.driver.start(request(EVERY))
        assert {agent for agent, _ in world.link.sent} == {agent_id("w"), agent_id("d"), agent_id("both")}


async def test_every_server_chosen_by_an_expression_opens_nothing() -> None:
    """Without `target: each` the expression would otherwise allow any server."""
    async with guarded() as world:
        world.hello(agent_id("d"))
        row = await world.driver.start(of_ops(CHOSEN, where="all-servers"))
        assert row.conclusion is Conclusion.FAILURE


async def test_a_repository_without_a_server_waits_for_one_that_it_may_use() -> None:
    """A server of another group does not count."""
    world = HostWorld()
    guarded = msgspec.structs.replace(world.world, may_use=lambda repository, group: ALLOWED.may_use(group))
    world.world = world.driver.state = guarded
    world.outputs._state = guarded
    world.enroll("d", "db")
    async with world:
        world.hello(agent_id("d"))
        row = await world.driver.start(of_ops(EVERY))
        assert world.link.offers() == []
        agent = world.enroll("w", "web")
        world.world.placement.enrollment_changed(agent, ("web",))
        world.hello(agent)
        await world.settle()
        assert [agent for agent, _ in world.link.sent] == [agent_id("w")]
        assert row.status is not Status.COMPLETED
