"""Sends every record of the audit trail to a file, to syslog, or to both, as one JSON object per record.

Rules of this file:

- At least once and in order: the position in a destination is stored after a record was delivered, so a crash repeats records
  and skips none. A destination without a stored position gets the whole trail. The log is the queue; nothing grows in memory.
- A destination that fails or hangs delays only itself. It is tried again, less and less often, until it works; meanwhile one
  line in the daemon's log says why, and a metric says how many records wait.
- Syslog has no acknowledgement: delivered means that the kernel took the record (a local socket), or sent it (UDP, TCP).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected
from waterflowd import ports
from waterflowd.admin.ports import AuditExportRow
from waterflowd.app.config import AuditTable
from waterflowd.model.ids import AUDIT
from waterflowd.model.records import Record

logger = logging.getLogger("waterflow.daemon")

_RETRY = Backoff(first_s=1.0, max_s=60.0)
#: For one record; a network file system may hang for longer.
_TIMEOUT_S = 30.0
_CONNECT_S = 10.0
#: A datagram has at most 65,507 bytes; the local socket of syslog often takes less than 200 KiB.
_DATAGRAM_BYTES_MAX = 60_000
#: Facility authpriv, severity informational.
_PRIORITY = 10 * 8 + 6

_encode = msgspec.json.Encoder().encode


class Destination(Protocol):
    """Where records are sent. Called on a thread of its own, by one caller at a time."""

    #: `file` or `syslog`.
    name: str
    #: As configured, for messages.
    address: str

    def deliver(self, at: int, line: bytes) -> None:
        """Delivers one record of that time (ms), a JSON object without a newline. Raises `OSError`."""

    def close(self) -> None:
        """Closes the connection, if there is one."""


class FileDestination:
    """Appends lines to a file, which may be renamed at any time (logrotate)."""

    name = "file"

    def __init__(self, path: str) -> None:
        self.address = path

    def deliver(self, at: int, line: bytes) -> None:
        """See `Destination`. The line is on disk afterwards."""
        descriptor = os.open(self.address, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            # After a crash in the middle of a line, the next record begins a new one.
            start = b"" if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n" else b"\n"
            rest = start + line + b"\n"
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """See `Destination`. The file is open only during a delivery."""


class SyslogDestination:
    """Sends records to a syslog server: a local socket, UDP (RFC 5424), or TCP (RFC 6587, counted)."""

    name = "syslog"

    def __init__(self, address: str) -> None:
        """Raises `ValueError` for an invalid address."""
        self.address = address
        self._socket: socket.socket | None = None
        parts = urlsplit(address)
        if address.startswith("/"):
            self._kind, self._target = "local", (address, 0)
            return
        if parts.scheme not in ("udp", "tcp") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError("expected /dev/log, udp://host:port or tcp://host:port")
        self._kind, self._target = parts.scheme, (parts.hostname, parts.port or 514)

    def deliver(self, at: int, line: bytes) -> None:
        """See `Destination`."""
        if self._kind != "tcp" and len(line) > _DATAGRAM_BYTES_MAX:
            position = json.loads(line)["position"]
            line = _encode({"position": position, "truncated": True})
        try:
            if self._socket is None:
                self._socket = self._connect()
            self._socket.sendall(self._message(at, line))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """See `Destination`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        if self._kind == "tcp":
            return socket.create_connection(self._target, timeout=_CONNECT_S)
        if self._kind == "local":
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            target: Any = self._target[0]
        else:
            family, kind, protocol, _, target = socket.getaddrinfo(*self._target, type=socket.SOCK_DGRAM)[0]
            connection = socket.socket(family, kind, protocol)
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect(target)
        except OSError:
            connection.close()
            raise
        return connection

    def _message(self, at: int, line: bytes) -> bytes:
        if self._kind == "local":
            return b"<%d>waterflowd[%d]: " % (_PRIORITY, os.getpid()) + line
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at / 1000)) + f".{at % 1000:03d}Z"
        text = f"<{_PRIORITY}>1 {when} {socket.gethostname()} waterflowd {os.getpid()} audit - ".encode() + line
        return b"%d " % len(text) + text if self._kind == "tcp" else text


def destinations(table: AuditTable) -> list[Destination]:
    """The configured destinations. Raises `Rejected` WF620 for an invalid one."""
    found: list[Destination] = []
    if table.export_file:
        if not table.export_file.startswith("/"):
            raise Rejected("WF620", f"audit.export-file: expected an absolute path, found {table.export_file!r}")
        found.append(FileDestination(table.export_file))
    if table.export_syslog:
        try:
            found.append(SyslogDestination(table.export_syslog))
        except ValueError as error:
            raise Rejected("WF620", f"audit.export-syslog: {error}, found {table.export_syslog!r}") from None
    return found


class AuditExport:
    """Exports the trail to all destinations. Implements `admin.ports.AuditAdmin`."""

    def __init__(
        self,
        log: ports.Journal,
        history: ports.History,
        found: list[Destination],
        data_dir: Path,
        *,
        is_sealed: bool = False,
    ) -> None:
        self._log = log
        self._history = history
        self._destinations = found
        self._data_dir = data_dir
        self._positions = {each.name: self._stored_position(each) for each in found}
        #: Why the last record could not be delivered, by destination.
        self._failing: dict[str, str] = {}
        self.is_sealed = is_sealed

    def exports(self) -> list[AuditExportRow]:
        """See the protocol."""
        head = self._log.head(AUDIT) if self._positions else 0
        return [
            AuditExportRow(name=name, waiting=head - position, failure=self._failing.get(name, ""))
            for name, position in self._positions.items()
        ]

    async def run(self) -> None:
        """Exports until it is cancelled."""
        try:
            await asyncio.gather(*(self._export(each) for each in self._destinations))
            await asyncio.Event().wait()
        finally:
            for destination in self._destinations:
                destination.close()

    async def _export(self, destination: Destination) -> None:
        call = _InThread()
        failures = 0
        async for record in self._history.follow(AUDIT, self._positions[destination.name]):
            line = _line(record)
            while True:
                try:
                    await call(partial(destination.deliver, record.at, line))
                except OSError as error:
                    failures += 1
                    self._failing[destination.name] = str(error.strerror or error)
                    if failures == 1:
                        text = "the audit trail cannot be exported to %s: %s; its records are kept and sent later"
                        logger.warning(text, destination.address, error.strerror or error)
                    await asyncio.sleep(_RETRY.delay_s(failures))
                else:
                    break
            if failures:
                logger.info("the audit trail is exported to %s again", destination.address)
                failures = 0
                del self._failing[destination.name]
            self._positions[destination.name] = record.position
            self._store_position(destination)

    def _position_file(self, destination: Destination) -> Path:
        return self._data_dir / f"audit-export-{destination.name}.json"

    def _stored_position(self, destination: Destination) -> int:
        """The stored position; 0 for another address, and after a restore of a log that is shorter."""
        try:
            stored = json.loads(self._position_file(destination).read_text())
            position = int(stored["position"])
            is_valid = stored["address"] == destination.address and 0 <= position <= self._log.head(AUDIT)
            return position if is_valid else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _store_position(self, destination: Destination) -> None:
        path = self._position_file(destination)
        temporary = path.with_suffix(".new")
        content = {"address": destination.address, "position": self._positions[destination.name]}
        try:
            temporary.write_text(json.dumps(content))
            temporary.replace(path)
        except OSError:
            # On a full disk, records are sent again after the next start.
            return


class _InThread:
    """Runs one blocking call at a time on a thread that the process does not wait for."""

    def __init__(self) -> None:
        self._is_busy = False

    async def __call__(self, function: Callable[[], None]) -> None:
        """Returns when the call does. Raises its `OSError`, or one if it takes too long or an earlier call still hangs."""
        if self._is_busy:
            raise OSError("an earlier write still hangs")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            self._is_busy = False
            if future.done():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        def call() -> None:
            error: BaseException | None = None
            try:
                function()
            except BaseException as problem:  # noqa: BLE001  raised again where the call is awaited
                error = problem
            try:
                loop.call_soon_threadsafe(settle, error)
            except RuntimeError:
                # The event loop was closed meanwhile.
                return

        self._is_busy = True
        threading.Thread(target=call, name="audit export", daemon=True).start()
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await future
        except TimeoutError:
            raise OSError(f"no success within {_TIMEOUT_S:.0f} s") from None


def _line(record: Record) -> bytes:
    return _encode({"position": record.position, **msgspec.to_builtins(record.event)})
