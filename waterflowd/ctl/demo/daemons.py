"""A daemon of the demo: its files, its ports, its configuration, and the connection to it."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from waterflowd.ctl.client import Client
from waterflowd.ctl.demo.temporal import NAMESPACE, DevelopmentServer
from waterflowd.ctl.settings import Settings

#: How a daemon says in its log that it is up.
READY = "waterflow.daemon: ready in "


class AgentPorts(NamedTuple):
    """The ports for agents, which are the same at each daemon's address."""

    work: int
    enroll: int


@dataclass(kw_only=True)
class DemoDaemon:
    """One daemon. All daemons have the same repository, and all but the first the first one's key."""

    #: The name of its process.
    name: str
    folder: Path
    #: Its address for agents. All of 127.0.0.0/8 is this machine.
    host: str
    socket: Path
    client: Client = field(init=False)
    api_port: int = 0

    def __post_init__(self) -> None:
        self.client = Client(Settings(server=f"unix:{self.socket}", token=None))

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / f"{self.name}-data"

    @property
    def api(self) -> str:
        """The address of its API."""
        return f"http://127.0.0.1:{self.api_port}"

    def sign_in_link(self) -> str:
        """An address that signs a browser in as the user of the demo."""
        return str(self.client.post("/v1/session-links")["url"])

    def connected(self) -> set[str]:
        """The names of the agents that are connected to it."""
        rows = self.client.get("/v1/agents")["agents"]
        return {str(row["name"]) for row in rows if row["status"] == "connected"}

    def copy_key(self, first: DemoDaemon) -> None:
        """Agents know one key of the server, so all daemons need it."""
        keys = self.data / "keys"
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy(first.data / "keys" / "server.key", keys / "server.key")

    def configuration(
        self, repository: Path, ports: AgentPorts, hosts: list[str], temporal: DevelopmentServer | None
    ) -> str:
        """The configuration; `hosts` are the addresses of all daemons for agents."""
        audit_key = self.folder / f"{self.name}-audit.key"
        if not audit_key.exists():
            audit_key.touch(0o600)
            audit_key.write_text(secrets.token_hex(32) + "\n", "utf-8")
        return f"""\
data-dir = {toml_string(self.data)}
{self._engine(temporal)}[audit]
key-file = {toml_string(audit_key)}
[api]
listen = "127.0.0.1:{self.api_port}"
socket = {toml_string(self.socket)}
[agents]
listen = "tcp://{self.host}:{ports.work}"
enroll-listen = "tcp://{self.host}:{ports.enroll}"
address = "{", ".join(hosts)}"
[[repositories]]
name = "ops"
url = {toml_string(repository)}
refs = ["main"]
interval = "1s"
"""

    def _engine(self, temporal: DevelopmentServer | None) -> str:
        if temporal is None:
            return ""
        return f"""\
engine = "temporal"
[temporal]
address = "{temporal.address}"
namespace = "{NAMESPACE}"
payload-keys = {toml_string(temporal.payload_keys)}
objects = {toml_string(f"dir:{temporal.objects}")}
name = "{self.name}"
"""


def toml_string(text: object) -> str:
    """Return a TOML string."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
