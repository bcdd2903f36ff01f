"""One namespace of the real server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.temporal.server import Namespace, Server, delete_namespace, new_namespace


@pytest.fixture
async def namespace(temporal_server: Server) -> AsyncIterator[Namespace]:
    """A namespace of this test alone."""
    made = await new_namespace(temporal_server)
    yield made
    await delete_namespace(made)
