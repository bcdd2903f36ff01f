"""An API with one connected agent, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.api.clients import client_of
from waterflowd.testing.api import ApiHarness


@pytest.fixture
async def harness() -> AsyncIterator[ApiHarness]:
    async with ApiHarness() as made:
        made.connect("web-1", "web")
        yield made


@pytest.fixture
async def client(harness: ApiHarness) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(harness) as made:
        yield made
