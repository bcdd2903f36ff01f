"""The commands that prepare a cluster, in the documentation and in the compose file, leave nothing for the check to find."""

from __future__ import annotations

import asyncio
import os
import re
from asyncio.subprocess import PIPE, STDOUT
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.integration.temporal.server import KEYS, Namespace, Server, delete_namespace, program
from tests.patience import PATIENCE_S
from tests.tidy import sources
from waterflowd.temporal import check, converter, messages
from waterflowd.temporal.cluster import ClusterSettings

COMPOSE: dict[str, Any] = yaml.safe_load(
    (sources.ROOT / "packaging" / "docker" / "compose.temporal.yaml").read_text("utf-8")
)


def _documented() -> list[str]:
    page = (sources.ROOT / "docs" / "temporal.md").read_text("utf-8")
    [block] = re.findall(r"```\n(temporal operator namespace create .*?)```", page, re.DOTALL)
    create, attributes = str(block).split("\ntemporal ")
    return [create, f"temporal {attributes}"]


def _composed() -> str:
    [script] = COMPOSE["services"]["namespace"]["command"]
    return str(script)


async def _carried_out(script: str, server: Server) -> None:
    """Repeats a script until it succeeds, as Compose and people do: a new namespace is not known everywhere at once."""
    path = f"{program().parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TEMPORAL_ADDRESS": server.address}
    output = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                process = await asyncio.create_subprocess_exec(
                    *("sh", "-euc", script), env=environment, stdout=PIPE, stderr=STDOUT
                )
                output, _ = await process.communicate()
                if process.returncode == 0:
                    return
    except TimeoutError:
        pytest.fail(output.decode())


@pytest.mark.parametrize("source", ["documentation", "compose file"])
async def test_a_cluster_that_is_prepared_so_lacks_nothing(temporal_server: Server, source: str) -> None:
    """The compose file's commands are repeated at each start."""
    name = f"test-{uuid4().hex}"
    scripts = _documented() if source == "documentation" else [_composed(), _composed()]
    for script in scripts:
        await _carried_out(script.replace("--namespace waterflow", f"--namespace {name}"), temporal_server)
    settings = ClusterSettings(address=temporal_server.address, namespace=name)
    report = await check.check(settings, converter.data_converter(KEYS), "test")
    assert not report.findings
    await delete_namespace(Namespace(temporal_server, name))


def test_the_compose_file_names_exact_versions_and_keeps_temporal_to_the_daemon() -> None:
    """The agent shares no network with the database, and none in which Temporal listens on more than the loopback interface."""
    services = COMPOSE["services"]
    images = {service["image"] for service in services.values()} - {"waterflow-temporal"}
    assert images
    for image in images:
        assert re.fullmatch(r"[a-z/-]+:[0-9]+(\.[0-9]+)+", image), image
    assert services["agent"]["networks"] == ["agents"]
    assert services["temporal"]["environment"]["BIND_ON_IP"] == "127.0.0.1"
    assert "agents" not in services["postgresql"]["networks"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))
    script = _composed()
    assert all(f"--name {name} --type {kind}" in script for name, kind in messages.SEARCH_ATTRIBUTES.items())
