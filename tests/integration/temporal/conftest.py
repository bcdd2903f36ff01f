"""One real server of Temporal for each test process, one namespace for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.temporal.server import Namespace, Server, delete_namespace, new_namespace


@pytest.fixture(scope="session")
def temporal_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server, which is running at the beginning of each test."""
    server = Server(tmp_path_factory.mktemp("temporal"))
    yield server
    server.close()


@pytest.fixture
async def namespace(temporal_server: Server) -> AsyncIterator[Namespace]:
    """A namespace of this test alone."""
    made = await new_namespace(temporal_server)
    yield made
    await delete_namespace(made)
