"""A cluster of real processes whose runs are on Temporal's development server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.acceptance.cluster import Cluster
from tests.integration.temporal.server import Server, new_namespace


class TemporalCluster(Cluster):
    """A daemon with the engine on Temporal, agents, and the server of Temporal."""

    def __init__(self, folder: Path, server: Server) -> None:
        super().__init__(folder)
        self.server = server
        self.namespace = asyncio.run(new_namespace(server))
        keys = folder / "payload.keys"
        keys.touch(0o600)
        keys.write_text(bytes(range(32)).hex() + "\n")
        self.engine = (
            'engine = "temporal"',
            f'[temporal]\naddress = "{server.address}"\nnamespace = "{self.namespace.name}"\npayload-keys = "{keys}"\n',
        )
        self.write_config()
