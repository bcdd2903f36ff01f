"""The store on a real disk: crashes, damage, full disks, and two daemons on one directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.integration.store import writer_process
from tests.integration.store.file_faults import files_replaced
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.engine import events
from waterflowd.fleet import events as fleet_events
from waterflowd.model import ids
from waterflowd.model.codec import Upcaster
from waterflowd.model.records import Batch, OutputAppend, OutputPiece, Record, StreamAppend
from waterflowd.store import layout
from waterflowd.store.codec import Codec
from waterflowd.store.opening import Store, examine, open_store

UNIONS = writer_process.UNIONS
CHILD = Path(writer_process.__file__)


def batch(number: int, expected: int, count: int, text: str = "started") -> Batch:
    reason = writer_process.REASON.__class__(code=writer_process.REASON.code, text=text)
    facts = [events.RunStarted(at=expected + each, reason=reason) for each in range(count)]
    stream = ids.run_stream(writer_process.run(number))
    return Batch(appends=[StreamAppend(stream=stream, expected=expected, at=expected, events=facts)])


def stream(number: int) -> ids.StreamName:
    return ids.run_stream(writer_process.run(number))


@contextlib.contextmanager
def child(mode: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, os.fspath(CHILD), mode, os.fspath(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("lines", [1, 40, 137, 600])
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, lines: int) -> None:
    """G1, G2: after SIGKILL at any moment every acknowledged batch and piece is stored, and every stream is a prefix."""
    acknowledged: dict[tuple[str, int], int] = {}
    for _ in range(2):
        with child("append", tmp_path) as process:
            assert line_of(process).startswith("open")
            for _ in range(lines):
                kind, number, position = line_of(process).split()
                acknowledged[kind, int(number)] = int(position)
            process.send_signal(signal.SIGKILL)
            assert process.stdout is not None
            # `communicate` would omit what the loop above has already read ahead.
            rest = process.stdout.read()
            process.wait()
        for message in rest.splitlines(keepends=True):
            if message.endswith("\n"):  # The last line may be incomplete.
                kind, number, position = message.split()
                acknowledged[kind, int(number)] = int(position)
        with open_store(tmp_path, UNIONS) as store:
            _check_acknowledged(store, acknowledged)


def _check_acknowledged(store: Store, acknowledged: dict[tuple[str, int], int]) -> None:
    store.verify()
    for number in range(writer_process.RUNS):
        found = store.log.read(stream(number))
        assert [record.position for record in found] == list(range(1, len(found) + 1))
        assert [record.event.at for record in found] == list(range(len(found)))
        assert len(found) >= acknowledged.get(("event", number), 0)
        assert store.log.counter(f"run-{number}") == len(found), "a transaction is whole or not at all"
    for number in range(writer_process.LOGS):
        size = store.outputs.size(writer_process.name(number))
        assert size >= acknowledged.get(("output", number), 0)
        for piece in store.outputs.read(writer_process.name(number), 0, 1 << 30):
            assert piece.data == writer_process.line(number, piece.offset // 1000)
            assert piece.offset + len(piece.data) <= size


def test_a_second_daemon_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    """By the same path and by a symlink: WF310 with the process id of the daemon that has the lock."""
    data, link = tmp_path / "data", tmp_path / "link"
    link.symlink_to(data)
    with open_store(data, UNIONS):
        for path in (data, link):
            with child("open", path) as process:
                message = line_of(process)
            assert message.startswith("stalled")
            assert message.endswith("[WF310]")
            assert f"process {os.getpid()}" in message
    with child("open", link) as process:
        assert line_of(process) == "open 2"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_second_daemon_is_refused_through_a_bind_mount(tmp_path: Path) -> None:
    """The lock is on the directory itself, not on a path to it."""
    data, other = tmp_path / "data", tmp_path / "other"
    other.mkdir()
    with open_store(data, UNIONS), mounted(other, "--bind", os.fspath(data)), child("open", other) as process:
        assert line_of(process).endswith("[WF310]")


@contextlib.contextmanager
def mounted(mount_point: Path, *arguments: str) -> Iterator[None]:
    if subprocess.run(["mount", *arguments, os.fspath(mount_point)], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        yield
    finally:
        subprocess.run(["umount", os.fspath(mount_point)], check=True)


def test_the_same_process_cannot_open_a_directory_twice(tmp_path: Path) -> None:
    """The lock belongs to the open directory, not to the process."""
    with open_store(tmp_path, UNIONS), pytest.raises(Stalled, match="WF310"):
        open_store(tmp_path, UNIONS, wait_s=0)


def test_a_killed_daemon_leaves_no_lock_behind(tmp_path: Path) -> None:
    """The kernel releases the lock with the process."""
    with child("hold", tmp_path) as process:
        assert line_of(process) == "open 1"
    with open_store(tmp_path, UNIONS, wait_s=0) as store:
        assert store.log.generation == 2


async def test_a_daemon_whose_generation_was_taken_stops_writing(tmp_path: Path) -> None:
    """If two daemons ever write to one directory, the older one stops at its next transaction."""
    reported: list[Stalled] = []
    with open_store(tmp_path, UNIONS, on_poison=reported.append) as store:
        await store.log.append(batch(1, 0, 1))
        with child("depose", tmp_path) as process:
            assert process.wait() == 0
        with pytest.raises(Stalled, match="WF301"):
            await store.log.append(batch(1, 1, 1))
        with pytest.raises(Stalled, match="WF301"):
            store.log.head(stream(1))
        assert [error.code for error in reported] == ["WF301"]
    with open_store(tmp_path, UNIONS) as store:
        assert (store.log.generation, store.log.head(stream(1))) == (1000, 1)


@pytest.mark.parametrize("text", ['{"format": 99, "lmdb": 0, "release": "9.0"}', '{"format": 1, "lmdb": 1}', "{", ""])
def test_a_directory_of_a_newer_format_is_refused_untouched(tmp_path: Path, text: str) -> None:
    """G10: WF311, and none of its files is changed, created or removed."""
    open_store(tmp_path, UNIONS).close()
    (tmp_path / "FORMAT").write_text(text)
    before = _snapshot(tmp_path)
    with pytest.raises(Stalled, match="WF311"):
        open_store(tmp_path, UNIONS)
    assert _snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/none"])
def test_a_directory_that_cannot_be_created_is_reported(tmp_path: Path, name: str) -> None:
    """WF317, with the path and what to do, instead of a system error."""
    (tmp_path / "file").touch()
    with pytest.raises(Stalled, match=r"data-dir .* cannot be used: .*ReadWritePaths.*WF317"):
        open_store(tmp_path / name, UNIONS)


def _snapshot(path: Path) -> dict[str, tuple[int, bytes]]:
    return {
        os.fspath(file): (file.stat().st_mtime_ns, file.read_bytes() if file.stat().st_size < 1 << 20 else b"")
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_a_log_without_its_format_file_is_refused(tmp_path: Path) -> None:
    """Its format is unknown and not guessed."""
    open_store(tmp_path, UNIONS).close()
    (tmp_path / "FORMAT").unlink()
    with pytest.raises(Stalled, match="WF311"):
        open_store(tmp_path, UNIONS)


def test_a_data_directory_is_private(tmp_path: Path) -> None:
    """Mode 0700 for directories and 0600 for files, whatever the umask or an older mode is."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    with open_store(data, UNIONS) as store:
        asyncio.run(_print(store, 100_000))
    assert data.stat().st_mode & 0o777 == 0o700
    for path in data.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.name in ("FORMAT", "owner")


async def _print(store: Store, size: int) -> int:
    pieces = [OutputPiece(offset=0, at=1, stream=1, data=b"x" * size)]
    return (await store.outputs.append([OutputAppend(attempt=writer_process.name(0), pieces=pieces)]))[0]


def test_a_flipped_byte_in_an_event_is_detected(tmp_path: Path) -> None:
    """The damaged record is never returned: WF304 names it; other records and streams can be read."""
    with open_store(tmp_path, UNIONS) as store:
        store.log.append_blocking(batch(1, 0, 3))
        store.log.append_blocking(batch(1, 3, 1, text="the one that is damaged"))
        store.log.append_blocking(batch(1, 4, 2))
        store.log.append_blocking(batch(2, 0, 2))
    _replace(tmp_path, b"the one that is damaged", b"the one that is dAmaged")
    with open_store(tmp_path, UNIONS) as store:
        for wrong in (
            lambda: store.log.read(stream(1)),
            lambda: store.log.read(stream(1), 4, 1),
            lambda: store.log.feed(3, 1),
            store.verify,
        ):
            with pytest.raises(Stalled, match=r"record 4 .*\[WF304\]"):
                wrong()
        assert [record.position for record in store.log.read(stream(1), 6)] == [6]
        assert len(store.log.read(stream(2))) == 2


def _replace(directory: Path, old: bytes, new: bytes) -> None:
    file = directory / layout.ENVIRONMENT_DIRECTORY / "data.mdb"
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new))


def test_a_flipped_byte_in_a_row_is_detected(tmp_path: Path) -> None:
    """Plans and other rows carry checksums too, because LMDB has none."""
    with open_store(tmp_path, UNIONS) as store:
        store.log.append_blocking(Batch(plans={"hash": b"the plan's content"}))
    _replace(tmp_path, b"the plan's content", b"the plan's c0ntent")
    with open_store(tmp_path, UNIONS) as store, pytest.raises(Stalled, match="WF304"):
        store.log.plan("hash")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_with_a_clear_message(tmp_path: Path, keep: float) -> None:
    """Opening fails with WF304 instead of a SIGBUS, wherever the file ends."""
    with open_store(tmp_path, UNIONS) as store:
        for expected in range(0, 4_000, 500):
            store.log.append_blocking(batch(1, expected, 500))
    file = tmp_path / layout.ENVIRONMENT_DIRECTORY / "data.mdb"
    os.truncate(file, int(file.stat().st_size * keep))
    with pytest.raises(Stalled, match=r"data\.mdb was not opened.*WF304"):
        open_store(tmp_path, UNIONS)


@pytest.mark.parametrize("page", range(8))
def test_a_zeroed_page_never_serves_a_false_state(tmp_path: Path, page: int) -> None:
    """The log is not opened, or reads detect the damage, or the page was unused; the process survives in any case."""
    with open_store(tmp_path, UNIONS) as store:
        for expected in range(0, 40, 10):
            store.log.append_blocking(batch(1, expected, 10))
        whole = store.log.read(stream(1))
    file = tmp_path / layout.ENVIRONMENT_DIRECTORY / "data.mdb"
    with file.open("r+b") as content:
        content.seek(page * 4096)
        content.write(bytes(4096))
    assert _read_or_code(tmp_path) in (whole, "WF304")


def _read_or_code(directory: Path) -> list[Record] | str:
    try:
        with open_store(directory, UNIONS) as store:
            return store.log.read(stream(1))
    except Stalled as error:
        return error.code


def test_unknown_kinds_and_schemas_stall_the_reader(tmp_path: Path) -> None:
    """WF401 names the kind; nothing is skipped, and other streams can be read."""
    fact = fleet_events.AgentRevoked(at=1, by="ada", agent=ids.AgentId("SHA256:x"))
    with open_store(tmp_path, {"run": events.RunEvent | fleet_events.Fact}) as store:
        store.log.append_blocking(batch(1, 0, 1))
        store.log.append_blocking(Batch(appends=[StreamAppend(stream=stream(1), expected=1, at=1, events=[fact])]))
        store.log.append_blocking(batch(2, 0, 1))
    with open_store(tmp_path, UNIONS) as store:
        with pytest.raises(Stalled, match=r'event 2 of run/.*"agent-revoked".*WF401'):
            store.log.read(stream(1))
        assert len(store.log.read(stream(2))) == 1
    with open_store(tmp_path, Codec(UNIONS, schema=0)) as store, pytest.raises(Stalled, match=r"schema 1.*WF401"):
        store.log.read(stream(2))


def test_an_older_schema_passes_through_the_upcasters(tmp_path: Path) -> None:
    """Each version's upcaster runs once, in order, and only for its kind of event."""
    with open_store(tmp_path, UNIONS) as store:
        store.log.append_blocking(batch(1, 0, 1, text="old"))

    def louder(event: dict[str, Any]) -> dict[str, Any]:
        return event | {"reason": event["reason"] | {"text": event["reason"]["text"] + "!"}}

    upcasters: dict[tuple[str, str, int], Upcaster] = {
        ("run", "run-started", 1): louder,
        ("run", "run-started", 2): louder,
        ("run", "job-ready", 1): dict,
    }
    with open_store(tmp_path, Codec(UNIONS, schema=3, upcasters=upcasters)) as store:
        assert store.log.read(stream(1))[0].event.reason.text == "old!!"
        store.log.append_blocking(batch(1, 1, 1, text="new"))
        assert [record.event.reason.text for record in store.log.read(stream(1))] == ["old!!", "new"]


def test_a_map_that_is_full_grows(tmp_path: Path) -> None:
    """A map of 1 MiB takes 10,000 events: it is doubled between transactions, without any error."""
    with open_store(tmp_path, UNIONS, map_bytes=1 << 20) as store:
        for expected in range(0, 10_000, 1_000):
            store.log.append_blocking(batch(1, expected, 1_000))
        assert len(store.log.read(stream(1))) == 10_000
        assert store.verify().records == 10_000


async def test_a_full_disk_is_temporary(tmp_path: Path) -> None:
    """WF302 with nothing written; reads work; with space the next append succeeds at the same position."""
    with open_store(tmp_path, UNIONS, ballast_bytes=1 << 20) as store:
        await store.log.append(batch(1, 0, 2))
        assert not store.log.is_disk_low
        with files_replaced("/dev/full"):
            with pytest.raises(Retryable, match="WF302"):
                await store.log.append(batch(1, 2, 1))
            with pytest.raises(Retryable, match="WF302"):
                await _print(store, 10)
            assert (store.log.head(stream(1)), store.log.last_seq) == (2, 2)
            assert store.log.is_disk_low
        assert await store.log.append(batch(1, 2, 1)) == 3
        assert await _print(store, 10) == 10
        assert store.verify().records == 3
    assert open_store(tmp_path, UNIONS).close() is None


async def test_an_input_output_error_poisons_the_store(tmp_path: Path) -> None:
    """After a failed write nothing is accepted or shown until the daemon has restarted; the callback is called once."""
    reported: list[Stalled] = []
    with open_store(tmp_path, UNIONS, on_poison=reported.append) as store:
        await store.log.append(batch(1, 0, 2))
        with files_replaced("/dev/null"):
            calls = [store.log.append(batch(1, 2, 1)), store.log.append(batch(2, 0, 1))]
            for call in calls:
                with pytest.raises(Stalled, match="WF303"):
                    await call
        for wrong in (
            lambda: store.log.append(batch(1, 2, 1)),
            lambda: store.log.read(stream(1)),
            lambda: store.log.feed(0, 1),
        ):
            with pytest.raises(Stalled, match="WF303"):
                wrong()
        with pytest.raises(Stalled, match="WF303"):
            store.outputs.size(writer_process.name(0))
        assert [error.code for error in reported] == ["WF303"]
    with open_store(tmp_path, UNIONS) as store:
        assert [record.position for record in store.log.read(stream(1))] == [1, 2]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
async def test_a_small_disk_fills_up_and_recovers(tmp_path: Path) -> None:
    """On 16 MB: appends until WF302, reads everything, and continues by itself once there is space; nothing is lost."""
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=16m", "tmpfs"):
        other = tmp_path / "other"
        other.write_bytes(bytes(6 << 20))
        with open_store(tmp_path / "data", UNIONS) as store:
            assert (tmp_path / "data" / layout.BALLAST_FILE).exists()
            durable, low_at = await _fill(store)
            assert low_at is not None, "the ballast let work that was under way through"
            assert low_at < durable
            assert store.log.head(stream(1)) == durable
            with pytest.raises(Retryable, match="WF302"):
                await _print(store, 5 << 20)
            other.unlink()
            await store.log.append(batch(1, durable, 100))
            assert await _print(store, 1 << 20) == 1 << 20
            assert len(store.log.read(stream(1))) == durable + 100
        with open_store(tmp_path / "data", UNIONS) as store:
            assert store.verify().records == durable + 100
            assert not store.log.is_disk_low


async def _fill(store: Store) -> tuple[int, int | None]:
    """Appends until the disk is full; returns how much is durable, and how much was when the ballast was released."""
    durable, low_at = 0, None
    while True:
        try:
            await store.log.append(batch(1, durable, 100))
        except Retryable as error:
            assert "WF302" in str(error)  # noqa: PT017
            return durable, low_at
        durable += 100
        low_at = low_at or (durable if store.log.is_disk_low else None)


async def test_appends_in_flight_share_commits(tmp_path: Path) -> None:
    """Group commit: a hundred concurrent calls take far fewer transactions, and all are durable."""
    with open_store(tmp_path, UNIONS) as store:
        await store.log.append(batch(0, 0, 1))
    before = last_transaction(tmp_path)
    with open_store(tmp_path, UNIONS) as store:
        calls = [store.log.append(batch(number, 0, 1)) for number in range(1, 101)]
        assert [await call for call in calls] == list(range(2, 102))
    assert last_transaction(tmp_path) - before < 60


def last_transaction(data_dir: Path) -> int:
    """The number of the last transaction in the log of a closed data directory."""
    with lmdb.open(str(data_dir / layout.ENVIRONMENT_DIRECTORY), readonly=True, lock=False) as environment:
        return int(environment.info()["last_txnid"])


async def test_closing_makes_submitted_data_durable(tmp_path: Path) -> None:
    """An orderly shutdown loses nothing, and later calls are rejected."""
    store = open_store(tmp_path, UNIONS)
    calls = [store.log.append(batch(1, expected, 1)) for expected in range(50)]
    output = store.outputs.append(
        [OutputAppend(attempt=writer_process.name(0), pieces=[OutputPiece(offset=0, at=1, stream=1, data=b"x")])]
    )
    store.close()
    store.close()
    assert [await call for call in calls] == list(range(1, 51))
    assert await output == [1]
    with pytest.raises(Stalled, match="WF303"):
        store.log.append(batch(1, 50, 1))
    with open_store(tmp_path, UNIONS) as store:
        assert store.log.head(stream(1)) == 50


def test_a_directory_is_examined_while_no_daemon_holds_it(tmp_path: Path) -> None:
    """Every record is counted, damage is reported, and a running daemon is not disturbed."""
    data = tmp_path / "data"
    with open_store(data, UNIONS) as store:
        store.log.append_blocking(batch(1, 0, 3))
        store.log.append_blocking(batch(2, 0, 1, text="the one that is damaged"))
        with pytest.raises(Stalled, match="WF310"):
            examine(data)
    found = examine(data)
    assert (found.records, found.streams) == (4, 2)
    _replace(data, b"the one that is damaged", b"the one that is damaged".swapcase())
    with pytest.raises(Stalled, match=r"record 4 .*WF304"):
        examine(data)
    with pytest.raises(Stalled, match="WF311"):
        examine(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
