"""Checks a log before it is opened, in a child process first: a damaged LMDB file can kill the process that maps it.

LMDB maps its file into memory. If the file is too short, the first access is a SIGBUS, and a damaged page can make LMDB
follow any pointer. So a child process reads the file first: the two meta pages and the size with plain reads, then every
page with LMDB's own offline verifier (if that is quick or a thorough check was requested), and finally it opens the
environment and reads both ends of each database.

A healthy file may be a little shorter than its meta page says: pages that were allocated and freed within one transaction
at the very end are never written. So a short file is not refused; it is verified page by page.

`verify` is the thorough check of the content, for `fsck` and tests: every record, every chain, every head, and the
checksum of every row.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import lmdb
import lmdb.verify as lmdb_verify

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import StreamName
from waterflowd.store import layout, record, removal
from waterflowd.store.environment import Environment
from waterflowd.store.sealing import SealChecker, SealFindings, SealKey

#: Verifying 100 GB at 250 MB/s takes half of this.
CHECK_TIMEOUT_S = 900.0
#: Up to this size every page is verified at each start (a quarter of a second); larger files only if they are too short.
VERIFIED_BYTES = 64 << 20

#: Signals that a damaged file causes in its reader: too short, wild address, failed assertion. Others come from outside.
_DAMAGE_SIGNALS = frozenset({signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE})
#: The child's exit code when it ran out of memory.
_NO_MEMORY = 3

_META_MAGIC = 0xBEEFC0DE
_META_VERSION = 1
#: In a meta page after its 16-byte header: magic, version, address, map size, page size in the first database's row.
_META_START = struct.Struct("=IIQQI")
#: After the rows of the two databases: last page, transaction.
_META_END = struct.Struct("=QQ")
_META_HEADER_BYTES = 16
_META_END_AT = _META_HEADER_BYTES + 24 + 2 * 48
#: The second meta page begins at the page size, which is 64 KiB at most.
_META_READ_BYTES = (64 << 10) + 4096


class Findings(NamedTuple):
    """What a thorough check counted."""

    records: int
    streams: int
    #: Of the streams whose keys were given.
    seals: dict[str, SealFindings] = {}
    artifacts: int = 0


def check_in_child(directory: Path, *, is_thorough: bool = False) -> None:
    """Raises `Stalled` WF304 when the daemon must not map the log in `directory`, WF306 when the check could not finish.

    Only effects of the file itself count as damage. A child killed from outside, for example by the kernel when memory runs
    out, says nothing about the file.
    """
    path = directory / layout.ENVIRONMENT_DIRECTORY
    file = path / layout.LOG_FILE
    if not file.exists():
        return
    mode = "all" if is_thorough else "quick"
    command = [sys.executable, "-P", "-m", "waterflowd.store.check", os.fspath(path), mode]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise _unfinished(file, f"it takes more than {CHECK_TIMEOUT_S:.0f} s") from None
    judge(file, child)


def judge(file: Path, child: subprocess.CompletedProcess[bytes]) -> None:
    """Judges a log by how the child that read it ended. Raises `Stalled` WF304 or WF306 unless it succeeded."""
    if child.returncode < 0:
        name = _signal_name(-child.returncode)
        if -child.returncode not in _DAMAGE_SIGNALS:
            raise _unfinished(file, f"it was killed by {name}, perhaps because memory ran out")
        raise _refused(file, f"it is truncated or damaged (reading it failed with {name})")
    if child.returncode == _NO_MEMORY:
        raise _unfinished(file, "not enough memory")
    if child.returncode:
        lines = (child.stdout or child.stderr).decode(errors="replace").strip().splitlines()
        raise _refused(file, lines[-1] if lines else f"the check exited with status {child.returncode}")


def verify(environment: Environment, seals: Mapping[StreamName, Sequence[SealKey]] = MappingProxyType({})) -> Findings:
    """Reads and checks the whole log. Raises `Stalled` WF304, which names the first bad record and its run.

    `seals` has the known keys of each stream whose seals are to be checked; `Stalled` WF321 for a seal that is not valid.
    """
    chains: dict[bytes, tuple[int, int, bytes]] = {}
    checkers = {layout.stream_key(stream): SealChecker(keys) for stream, keys in seals.items()}
    seq = count = 0
    with environment.reading() as transaction:
        gaps = removal.gaps(environment, transaction)
        for key, value in transaction.cursor(environment.database("records")):
            seq, count = gaps.pop(seq + 1, seq) + 1, count + 1
            if layout.unpack_u64(key) != seq:
                raise record.broken(seq, "it is missing", _owner(environment, transaction, seq, b""))
            try:
                stored = record.unpack(seq, value)
            except Stalled as error:
                if error.code != "WF304":
                    raise
                owner = _owner(environment, transaction, seq, value)
                raise record.broken(seq, "its checksum does not match", owner) from None
            stream = layout.stream_key(record.stream_name(stored.stream))
            before, position, chain_before = chains.get(stream) or (0, 0, record.chain_start(stream))
            chain = record.next_chain(chain_before, stored.schema, position + 1, stored.at, stored.body)
            if (stored.previous, stored.position, stored.chain) != (before, position + 1, chain):
                owner = _named(stored.stream)
                raise record.broken(seq, f"it does not continue the events of {owner}", owner)
            if checker := checkers.get(stream):
                arguments = (stored.seal, chain_before, stored.schema, position + 1, stored.at, stored.body)
                if problem := checker.check(*arguments):
                    raise _forged(stored, problem)
            chains[stream] = (seq, position + 1, chain)
        heads = {
            key: layout.unpack_head(_unsealed("heads", key, sealed))
            for key, sealed in transaction.cursor(environment.database("heads"))
        }
        for name in layout.DATABASES:
            if name not in ("records", "heads"):
                for key, sealed in transaction.cursor(environment.database(name)):
                    _unsealed(name, key, sealed)
        _check_removals(environment, transaction, gaps, heads)
    if heads != chains:
        differing = sorted(key for key in heads.keys() | chains.keys() if heads.get(key) != chains.get(key))
        owner = _named(record.stream_ref(differing[0]))
        raise Stalled(
            "WF304",
            f"the index of stream heads does not match the records of {owner}; restore a backup of the data directory",
        )
    return Findings(
        records=count,
        streams=len(chains),
        seals={record.stream_name(record.stream_ref(key)): checker.findings for key, checker in checkers.items()},
    )


def _check_removals(
    environment: Environment,
    transaction: lmdb.Transaction[bytes],
    gaps: Mapping[int, int],
    heads: Mapping[bytes, tuple[int, int, bytes]],
) -> None:
    """Raises `Stalled` WF304 for a gap where there are records, and for a removed run that is still in an index of runs.

    `gaps` are those that no missing records belong to.
    """
    if gaps:
        first, last = min(gaps.items())
        raise Stalled("WF304", f"records {first} to {last} count as removed, but exist; restore a backup")
    for key, _ in transaction.cursor(environment.database("removed")):
        is_unfinished = transaction.get(key, db=environment.database("removing")) is not None
        has_row = any(transaction.get(key, db=environment.database(name)) is not None for name in ("runs", "open"))
        if has_row or (b"r" + key in heads and not is_unfinished):
            raise Stalled("WF304", f"run {layout.run_of_key(key)} is removed only in part; restore a backup")


def _named(stream: record.StreamRef) -> str:
    """`run 01...` for the stream of a run, else `stream NAME`."""
    name = record.stream_name(stream)
    return name.replace("/", " ", 1) if layout.run_of_stream(name) else f"stream {name}"


def _owner(environment: Environment, transaction: lmdb.Transaction[bytes], seq: int, value: bytes) -> str:
    """The run or stream that a damaged or missing record belongs to; empty if nothing tells.

    The next record of its stream refers to it, and so does the stream's head if it was the newest. Its own header is the last
    resort, because it may be what is damaged.
    """
    cursor = transaction.cursor(environment.database("records"))
    found = cursor.set_range(layout.pack_u64(seq + 1))
    while found:
        key, later = cursor.item()
        with contextlib.suppress(Stalled):
            stored = record.unpack(layout.unpack_u64(key), later)
            if stored.previous == seq:
                return _named(stored.stream)
        found = cursor.next()
    claimed = record.claimed_stream(value)
    for key, sealed in transaction.cursor(environment.database("heads")):
        with contextlib.suppress(Stalled):
            if layout.unpack_head(layout.unseal("heads", key, sealed))[0] == seq:
                return _named(record.stream_ref(key))
            if claimed is not None and record.stream_ref(key) == claimed:
                return _named(claimed)
    return ""


def _unsealed(database: str, key: bytes, sealed: bytes) -> bytes:
    """The value of a row; the error names the run, if the row is about one."""
    try:
        return layout.unseal(database, key, sealed)
    except Stalled as error:
        run = key[1:17] if database in ("heads", "marks") and key[:1] == b"r" else key[:16]
        if database not in ("heads", "marks", "runs", "open", "output", "removed", "outputless") or len(run) < 16:
            raise
        text = f'the row of run {layout.run_of_key(run)} in the index "{database}" is damaged'
        raise Stalled(error.code, f"{text}; restore a backup of the data directory") from None


def _forged(stored: record.StoredRecord, problem: str) -> Stalled:
    name = record.stream_name(stored.stream)
    return Stalled(
        "WF321",
        f"event {stored.position} of the stream {name} (record {stored.seq}): {problem};"
        " compare the trail with its export, and with a backup",
    )


def _refused(file: Path, what: str) -> Stalled:
    return Stalled("WF304", f"the log {file} was not opened: {what}; restore a backup of the data directory")


def _unfinished(file: Path, what: str) -> Stalled:
    return Stalled("WF306", f"the check of the log {file} did not finish: {what}; nothing was changed, try again")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _meta_pages(file: Path) -> list[tuple[int, int, int]]:
    """Transaction, last page and page size of each valid meta page, read without LMDB."""
    with file.open("rb") as stream:
        start = stream.read(_META_READ_BYTES)
    pages = []
    offset = 0
    for _ in range(2):
        if len(start) < offset + _META_END_AT + _META_END.size:
            break
        magic, version, _, _, page_bytes = _META_START.unpack_from(start, offset + _META_HEADER_BYTES)
        if magic != _META_MAGIC or version != _META_VERSION or page_bytes not in (4096, 8192, 16384, 32768, 65536):
            break
        last_page, transaction = _META_END.unpack_from(start, offset + _META_END_AT)
        pages.append((transaction, last_page, page_bytes))
        offset += page_bytes
    return pages


def _find_problem(path: Path, mode: str) -> str | None:
    """What is wrong with the environment, in one clause. The process may die of a signal instead."""
    file = path / layout.LOG_FILE
    size = file.stat().st_size
    pages = _meta_pages(file)
    if len(pages) < 2:
        return f"its first {size} bytes do not begin with LMDB's two meta pages"
    _, last_page, page_bytes = max(pages)
    is_short = size < (last_page + 1) * page_bytes
    try:
        if is_short or mode == "all" or size <= VERIFIED_BYTES:
            problems: list[str] = lmdb_verify.verify(os.fspath(path))  # type: ignore[no-untyped-call]
            if problems:
                return f"{problems[0]}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
        _touch(path)
    except (lmdb.Error, lmdb_verify.VerifyError) as error:
        return f"LMDB says {error}"
    return None


def _touch(path: Path) -> None:
    """Opens the environment as the daemon will, and reads both ends of each database."""
    with (
        lmdb.open(
            os.fspath(path),
            map_size=1 << 20,
            readonly=True,
            lock=False,
            create=False,
            max_dbs=len(layout.DATABASES),
            lib_version=layout.LMDB_ENGINE,
        ) as environment,
        environment.begin() as transaction,
    ):
        for name, _ in transaction.cursor():
            cursor = transaction.cursor(environment.open_db(name, txn=transaction, create=False))
            if cursor.first():
                cursor.item()
                cursor.last()
                cursor.item()


def main() -> int:
    """The child: `python -m waterflowd.store.check ENVIRONMENT MODE`; prints what is wrong."""
    try:
        problem = _find_problem(Path(sys.argv[1]), sys.argv[2])
    except MemoryError:
        return _NO_MEMORY
    if problem is None:
        return 0
    print(problem)
    return 1


if __name__ == "__main__":
    sys.exit(main())
