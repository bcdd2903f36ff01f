"""How ports of a job's containers are published."""

from __future__ import annotations

import pytest

from waterflow_agent.nodes.containers.start import published


@pytest.mark.parametrize(
    ("written", "argument"),
    [
        ("5432", "127.0.0.1::5432"),
        ("53/udp", "127.0.0.1::53/udp"),
        ("8080:80", "127.0.0.1:8080:80"),
        ("5353:53/udp", "127.0.0.1:5353:53/udp"),
        ("9/SCTP", "127.0.0.1::9/SCTP"),
        ("3000-3002", "127.0.0.1::3000-3002"),
        ("8000-8010:80", "127.0.0.1:8000-8010:80"),
        ("3000-3002:4000-4002/tcp", "127.0.0.1:3000-3002:4000-4002/tcp"),
        (":8080:80", "127.0.0.1:8080:80"),
        (":80", "127.0.0.1::80"),
        ("http", "127.0.0.1::http"),
    ],
)
def test_a_port_is_published_on_the_server_itself_only(written: str, argument: str) -> None:
    """A database of a test must not be reachable from the network because its port is named."""
    assert published(written) == argument


@pytest.mark.parametrize(
    "written", ["0.0.0.0:8080:80", "10.0.0.7::5432", "[::1]:8080:80", "[::]::80", "127.0.0.1:8080:80/tcp"]
)
def test_a_port_with_an_address_is_passed_on_as_written(written: str) -> None:
    """The file decides then; what is wrong, the engine refuses."""
    assert published(written) == written
