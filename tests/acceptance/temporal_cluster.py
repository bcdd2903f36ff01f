"""A cluster of real processes whose runs are on Temporal's development server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from temporalio.worker import Replayer

from tests.acceptance.cluster import Cluster
from tests.integration.temporal.server import Namespace, Server, new_namespace
from tests.patience import PATIENCE_S, wait_until
from waterflowd.temporal.workflow import shell


class TemporalCluster(Cluster):
    """A daemon with the engine on Temporal, agents, and the server of Temporal."""

    def __init__(self, folder: Path, server: Server, first: TemporalCluster | None = None) -> None:
        """`first` is the cluster of another daemon, whose namespace, objects and repository this one shares."""
        super().__init__(folder)
        self.server = server
        self.namespace: Namespace = first.namespace if first is not None else asyncio.run(new_namespace(server))
        self.objects: Path = first.objects if first is not None else folder / "objects"
        self.objects.mkdir(exist_ok=True)
        if first is not None:
            self.repository, self.clone = first.repository, first.clone
        keys = folder / "payload.keys"
        keys.touch(0o600)
        keys.write_text(bytes(range(32)).hex() + "\n")
        self.engine = (
            'engine = "temporal"',
            f"""[temporal]
address = "{server.address}"
namespace = "{self.namespace.name}"
payload-keys = "{keys}"
objects = "dir:{self.objects}"
name = "{folder.name}"
""",
        )
        self.write_config()

    def start_daemon(self) -> None:
        """Starts the daemon and waits until it has read its repositories, and their leader has applied them."""
        super().start_daemon()
        wait_until(self._are_repositories_applied, "the repositories to be applied")

    def _are_repositories_applied(self) -> bool:
        # Over the unix socket, which needs no token.
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=PATIENCE_S) as client:
            answer = client.get("/v1/repositories")
        if not answer.is_success:
            return False
        rows = answer.json()["repositories"]
        return all(row["fetched_at"] and row["revision_fetched"] == row["revision_applied"] for row in rows)

    def api(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request, and again while Temporal does not answer in time, as clients do; a start has a key for that."""
        if (method, path) == ("POST", "/v1/workflows"):
            options["headers"] = {"idempotency-key": uuid4().hex, **options.get("headers", {})}

        def answered() -> httpx.Response | None:
            answer = super(TemporalCluster, self).api(method, path, **options)
            return None if answer.status_code == 503 and '"WF802"' in answer.text else answer

        # The truth of a response is not whether it arrived.
        return wait_until(lambda: (answer,) if (answer := answered()) is not None else None, "Temporal to answer")[0]

    def replay(self, runs: Iterable[str]) -> None:
        """Replays the newest event history of each run with the current workflow code. Raises when one differs."""

        async def replay() -> None:
            client = await self.namespace.client()
            replayer = Replayer(workflows=[shell.Stream], data_converter=client.data_converter)
            for run in runs:
                await replayer.replay_workflow(await client.get_workflow_handle(f"run/{run}").fetch_history())

        asyncio.run(replay())
