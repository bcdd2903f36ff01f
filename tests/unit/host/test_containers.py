"""Jobs with containers: which of them wait for a server with a Docker engine."""

from __future__ import annotations

import msgspec
import pytest

from waterflow_agent.wire.messages import DockerEngine
from waterflowd.model.ids import RunId
from waterflowd.model.plan import CONTAINERS_NODE
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import StartRequest
from waterflowd.testing.host import NODES, HostHarness, agent_id, request

ENGINE = DockerEngine("28.5.1")
NO_ENGINE = DockerEngine("", "no Docker engine at unix:///var/run/docker.sock")
INPUTS = "on: {workflow_dispatch: {inputs: {image: {default: 'node:22'}, none: {default: ''}}}}\n"


def workflow(keys: str) -> str:
    return f"{INPUTS}jobs: {{a: {{runs-on: web, {keys}, steps: [{{run: work}}]}}}}"


def of(text: str) -> StartRequest:
    return msgspec.structs.replace(request(text), inputs={"image": "node:22", "none": ""})


async def connect(host: HostHarness, name: str, engine: DockerEngine) -> None:
    """Opens a session of the agent, and waits until the host has acted on it."""
    host.hello(agent_id(name), docker=engine, nodes=[*NODES, CONTAINERS_NODE])
    await host.settle()


def newest_reason(host: HostHarness, run: RunId) -> ReasonCode:
    """Returns the code of the last reason in the run's log."""
    reasons: list[Reason] = [event.reason for event in host.events(run) if getattr(event, "reason", None) is not None]
    return reasons[-1].code


@pytest.mark.parametrize(
    "keys",
    [
        "container: 'node:22'",
        "services: {db: {image: 'postgres:16'}}",
        "container: \"${{ inputs.none }}\", services: {db: {image: 'postgres:16'}}",
    ],
)
async def test_a_job_with_containers_waits_for_an_engine_and_goes_to_it(keys: str) -> None:
    """A server without an engine gets nothing of it; the run says what it waits for."""
    async with HostHarness() as host:
        host.enroll("web-1", "web")
        host.enroll("web-2", "web")
        await connect(host, "web-1", NO_ENGINE)
        row = await host.driver.start(of(workflow(keys)))

        assert newest_reason(host, row.id) is ReasonCode.NO_SERVER_WITH_DOCKER
        assert host.link.offers() == []

        await connect(host, "web-2", ENGINE)
        assert [agent for agent, _ in host.link.sent] == [agent_id("web-2")]


async def test_a_job_whose_image_is_an_empty_text_needs_no_engine() -> None:
    """An empty image means that there is no container, so any server of the group can run the job."""
    async with HostHarness() as host:
        host.enroll("web-1", "web")
        await connect(host, "web-1", NO_ENGINE)
        await host.driver.start(of(workflow("container: '${{ inputs.none }}'")))

        assert len(host.link.offers()) == 1


async def test_an_image_that_is_an_expression_counts_with_its_value() -> None:
    """The value is known before the job has a server."""
    async with HostHarness() as host:
        host.enroll("web-1", "web")
        await connect(host, "web-1", NO_ENGINE)
        row = await host.driver.start(of(workflow("container: {image: '${{ inputs.image }}'}")))

        assert newest_reason(host, row.id) is ReasonCode.NO_SERVER_WITH_DOCKER
        assert host.link.offers() == []


async def test_an_instance_for_each_server_does_not_leave_out_servers_without_an_engine() -> None:
    """`target: each` means every server: one without an engine gets the job, which fails there with the reason."""
    async with HostHarness() as host:
        for name, engine in (("web-1", NO_ENGINE), ("web-2", ENGINE)):
            host.enroll(name, "web")
            await connect(host, name, engine)
        text = workflow("container: 'node:22'").replace("runs-on: web", "runs-on: {group: web, target: each}")
        await host.driver.start(of(text))

        assert {agent for agent, _ in host.link.sent} == {agent_id("web-1"), agent_id("web-2")}
