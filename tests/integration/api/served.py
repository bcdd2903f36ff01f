"""Serves an in-memory API behind real listeners: TCP and a unix socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.patience import PATIENCE_S
from waterflowd.api.server import ApiServer
from waterflowd.testing.api import ApiHarness


class Served:
    """An in-memory API behind real listeners."""

    def __init__(self, harness: ApiHarness, server: ApiServer, path: Path) -> None:
        self.harness = harness
        self.server = server
        self.path = path
        self.address = f"http://127.0.0.1:{server.port}"

    def tcp(self, token: str | None = None) -> httpx.AsyncClient:
        """A client over TCP."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.address, headers=headers, timeout=PATIENCE_S)

    def unix(self) -> httpx.AsyncClient:
        """A client of the unix socket."""
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.path)), base_url="http://x", timeout=PATIENCE_S
        )


@contextlib.asynccontextmanager
async def serve(tmp_path: Path, *, is_open: bool = False, requests_per_s: int = 0) -> AsyncIterator[Served]:
    """Serves an in-memory API; `requests_per_s` of each principal, 0 for no bound."""
    async with ApiHarness(is_open=is_open, listen="127.0.0.1:0", requests_per_s=requests_per_s) as harness:
        harness.connect("web-1", "web")
        server = ApiServer(harness.api, "127.0.0.1:0", tmp_path / "s.sock")
        await server.start()
        try:
            yield Served(harness, server, tmp_path / "s.sock")
        finally:
            await server.stop()
