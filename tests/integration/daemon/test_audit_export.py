"""The export of the audit trail: every record arrives, in order, whatever fails, and nothing else waits for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S
from waterflowd.access.events import ActionTaken
from waterflowd.app.audit_export import AuditExport, Destination, FileDestination, SyslogDestination
from waterflowd.app.bootstrap import UNIONS
from waterflowd.host.feed import Feed
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import AUDIT
from waterflowd.model.records import Batch, StreamAppend
from waterflowd.store.opening import Store, open_store
from waterflowd.testing.awaiting import until
from waterflowd.time_slices import TimeSlices

AT = 1_700_000_000_123


class Trail:
    """A trail in a real log, and its export while the block runs."""

    def __init__(self, tmp_path: Path, destinations: list[Destination]) -> None:
        self._path = tmp_path / "data"
        self._destinations = destinations
        self._store: Store | None = None
        self.export: AuditExport | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Trail:
        self._store = open_store(self._path, UNIONS)
        self._feed = Feed(self._store.log)
        self.export = AuditExport(
            self._store.log, LogHistory(self._store.log, self._feed, TimeSlices()), self._destinations, self._path
        )
        self._task = asyncio.create_task(self.export.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        assert self._store is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._store.close()

    async def act(self, *targets: str) -> None:
        """Records actions; returns when they are durable."""
        assert self._store is not None
        for target in targets:
            event = ActionTaken(at=AT, by="alice", what="cancel-run", target=target)
            append = StreamAppend(stream=AUDIT, expected=self._store.log.head(AUDIT), at=AT, events=[event])
            await self._store.log.append(Batch(appends=[append], plans={}, summaries=[], keys={}, counters={}))
            self._feed.published([AUDIT])

    async def exported(self, name: str) -> None:
        """Returns when a destination has everything."""
        assert self.export is not None
        export = self.export
        await until(lambda: all(row.waiting == 0 for row in export.exports() if row.name == name))


def targets(path: Path) -> list[str]:
    return [json.loads(line)["target"] for line in path.read_text().splitlines()]


async def test_a_file_gets_every_record_once_across_restarts(tmp_path: Path) -> None:
    """The position is stored. A lost position repeats records, and skips none."""
    path = tmp_path / "audit.jsonl"
    for round_number in range(2):
        async with Trail(tmp_path, [FileDestination(str(path))]) as trail:
            await trail.act(f"a{round_number}", f"b{round_number}")
            await trail.exported("file")
    assert targets(path) == ["a0", "b0", "a1", "b1"]
    assert path.stat().st_mode & 0o777 == 0o600
    first = json.loads(path.read_text().splitlines()[0])
    assert (first["position"], first["type"], first["by"]) == (1, "action-taken", "alice")

    (tmp_path / "data" / "audit-export-file.json").unlink()
    async with Trail(tmp_path, [FileDestination(str(path))]) as trail:
        await trail.exported("file")
    assert targets(path) == ["a0", "b0", "a1", "b1"] * 2


async def test_a_line_that_a_crash_cut_off_does_not_damage_the_next_one(tmp_path: Path) -> None:
    """The record is written again on a line of its own."""
    path = tmp_path / "audit.jsonl"
    path.write_text('{"position": 1, "tar')
    async with Trail(tmp_path, [FileDestination(str(path))]) as trail:
        await trail.act("a")
        await trail.exported("file")
    assert json.loads(path.read_text().splitlines()[1])["target"] == "a"


async def test_records_wait_for_a_syslog_server_that_is_down(tmp_path: Path) -> None:
    """Actions are durable without it, and all records follow in order when it is back."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    received: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while length := await reader.readuntil(b" "):
                message = (await reader.readexactly(int(length))).decode()
                assert message.startswith("<86>1 2023-11-14T22:13:20.123Z ")
                received.append(json.loads(message.split(" audit - ", 1)[1]))
        except asyncio.IncompleteReadError:
            writer.close()

    async with Trail(tmp_path, [SyslogDestination(f"tcp://127.0.0.1:{port}")]) as trail:
        await trail.act("a", "b", "c")
        assert trail.export is not None
        assert [row.waiting for row in trail.export.exports()] == [3]
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        await trail.exported("syslog")
        await until(lambda: len(received) >= 3)
        server.close()
    assert [record["target"] for record in received] == ["a", "b", "c"]


async def test_syslog_by_datagram_marks_records_that_are_too_long(tmp_path: Path) -> None:
    """The datagram says which record it was, and the trail still has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE_S)
        async with Trail(tmp_path, [SyslogDestination(f"udp://127.0.0.1:{server.getsockname()[1]}")]) as trail:
            await trail.act("short", "x" * 100_000)
            await trail.exported("syslog")
        messages = [json.loads(server.recv(1 << 17).split(b" audit - ", 1)[1]) for _ in range(2)]
    assert messages[0]["target"] == "short"
    assert messages[1] == {"position": 2, "truncated": True}


async def test_a_local_syslog_socket_gets_records(tmp_path: Path) -> None:
    """As `/dev/log` of the machine."""
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(PATIENCE_S)
        async with Trail(tmp_path, [SyslogDestination(str(path))]) as trail:
            await trail.act("a")
            await trail.exported("syslog")
        message = server.recv(1 << 16)
    assert message.startswith(b"<86>waterflowd[")
    assert json.loads(message.split(b": ", 1)[1])["target"] == "a"


async def test_a_destination_that_hangs_delays_only_itself(tmp_path: Path) -> None:
    """Actions are recorded, the other destination gets them, and the daemon can stop."""
    release = threading.Event()

    class Hanging:
        name, address = "syslog", "a server that does not answer"

        def deliver(self, at: int, line: bytes) -> None:
            release.wait()

        def close(self) -> None:
            """Nothing to close."""

    path = tmp_path / "audit.jsonl"
    try:
        async with Trail(tmp_path, [Hanging(), FileDestination(str(path))]) as trail:
            await trail.act("a", "b")
            await trail.exported("file")
            assert trail.export is not None
            assert {row.name: row.waiting for row in trail.export.exports()} == {"syslog": 2, "file": 0}
        assert targets(path) == ["a", "b"]
    finally:
        release.set()
