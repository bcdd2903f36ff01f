"""The Temporal cluster of the configuration: how to connect to it, and what it lacks (`check-config --connect`).

Temporal's client is an extra, so it is imported only when it is needed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflowd.admin.ports import PayloadDecoder
from waterflowd.app.config import ClusterTable, Config
from waterflowd.fleet.registry import Registry
from waterflowd.objects.opening import open_objects
from waterflowd.ports import Objects
from waterflowd.secrets import key_file

if TYPE_CHECKING:
    from waterflowd.temporal.cluster import ClusterSettings
    from waterflowd.temporal.sealing.payload_keys import PayloadKeys


class Connection(NamedTuple):
    """What is needed to connect to the configured cluster."""

    settings: ClusterSettings
    keys: PayloadKeys
    #: Identifies this process in Temporal: `DAEMON/PROCESS`. Process ids are used again, in containers by every process.
    identity: str


def connection(config: Config) -> Connection:
    """How to connect to the cluster of the configuration.

    Raises `Rejected` WF620 without an address, WF622 for a key file, WF803 for a certificate, and
    `Stalled` WF801 without the extra.
    """
    if not config.temporal.address:
        raise Rejected("WF620", "temporal.address is not set, so there is no cluster to connect to; next: set it")
    with _extra():
        keys = _payload_keys(config)
    settings = cluster_settings(config.temporal, Path(config.data_dir))
    name = config.temporal.name or socket.gethostname()
    return Connection(settings, keys, f"{name}/{os.getpid()}-{uuid.uuid4().hex[:6]}")


def cluster_settings(table: ClusterTable, data_dir: Path) -> ClusterSettings:
    """How to reach a cluster, without the keys of payloads. Raises the errors of `connection` about other files."""
    with _extra():
        from waterflowd.temporal import cluster
    return cluster.ClusterSettings(
        address=table.address,
        namespace=table.namespace,
        ca=_text(table.ca, "ca"),
        ca_file=table.ca,
        cert=_text(table.cert, "cert"),
        cert_file=table.cert,
        key=key_file.read(Path(table.key), "temporal.key", data_dir) if table.key else "",
        key_file=table.key,
        api_key=_api_key(table.api_key_file, data_dir),
    )


def check_cluster(config: Config) -> tuple[bool, list[str]]:
    """Connects to the configured cluster. Returns whether nothing is missing, and lines for people.

    Raises what `connection` and `open_objects` raise.
    """
    settings, keys, identity = connection(config)
    from waterflowd.temporal import check
    from waterflowd.temporal.sealing import converter

    table = config.temporal
    objects = open_objects(table.objects, os.environ) if table.objects else None
    report = asyncio.run(check.check(settings, converter.data_converter(keys), identity))
    lines = [f"{finding.text} [{finding.code}]" for finding in report.findings]
    if report.server_version:
        lines.insert(
            0, f"connected to Temporal {report.server_version} at {table.address}, namespace {table.namespace}"
        )
    is_ready = not report.findings
    if objects is not None:
        failure = asyncio.run(_failure_of(objects))
        is_ready = is_ready and failure is None
        lines.append(f"connected to {table.objects}" if failure is None else f"{failure.text} [{failure.code}]")
    if is_ready:
        lines.append("nothing is missing")
    return is_ready, lines


def agents_on(config: Config) -> Registry:
    """The agents of all daemons on the configured cluster.

    Raises what `connection` raises, and `WaterflowError` when the cluster cannot be asked.
    """
    settings, keys, identity = connection(config)
    from waterflowd.temporal import cluster
    from waterflowd.temporal.sealing import converter
    from waterflowd.temporal.shared_streams import fleet

    async def read() -> Registry:
        client = await cluster.connect(settings, converter.data_converter(keys), identity)
        return await fleet.read_registry(client)

    return asyncio.run(read())


async def _failure_of(objects: Objects) -> Retryable | None:
    """Why the object store cannot be read; None if it can. Its content is not changed."""
    try:
        await objects.names("output")
    except Retryable as error:
        return error
    return None


def payload_decoder(config: Config) -> PayloadDecoder | None:
    """Opens what the configured cluster stores; None without a cluster. Raises the errors of `check_cluster` about keys."""
    if not config.temporal.address:
        return None
    try:
        with _extra():
            from waterflowd.temporal.sealing.payload_decoder import PayloadDecoder as Decoder
    except Stalled:
        if config.engine == "log":
            # The log engine runs without the extra, also while a cluster is being prepared.
            return None
        raise
    return Decoder(_payload_keys(config))


def _payload_keys(config: Config) -> PayloadKeys:
    from waterflowd.temporal.sealing import payload_keys

    file = Path(config.temporal.payload_keys)
    return payload_keys.parse(key_file.read(file, "temporal.payload-keys", Path(config.data_dir)), str(file))


@contextmanager
def _extra() -> Iterator[None]:
    """Raises `Stalled` WF801 for an import inside that needs Temporal's client, where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "temporalio":
            raise
        # Only where Waterflow is installed does pip take its extra: the public index has another project of the same name.
        text = f"Temporal's client is not installed; next: {sys.executable} -m pip install 'waterflow[temporal]'"
        raise Stalled("WF801", text) from error


def _text(path: str, key: str) -> str:
    try:
        return Path(path).read_text("ascii") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not PEM text"
        raise Rejected("WF803", f"temporal.{key}: {path} cannot be read: {reason}; next: correct the path") from error


def _api_key(path: str, data_dir: Path) -> str:
    if not path:
        return ""
    text = key_file.read(Path(path), "temporal.api-key-file", data_dir).strip()
    if not text or len(text.split()) != 1:
        raise Rejected("WF622", f"temporal.api-key-file: expected one API key in {path}")
    return text
