"""Builds a new data directory from the intact parts of a damaged one, and reports what was kept and what was lost.

Rules of this file:

- The source is only read, with plain reads (pages.py), and never changed. Nothing is repaired: what verifies is copied.
- A record is accepted if its CRC matches and it is the next link of its stream's chain. A stream ends before its first gap;
  later records are lost even if they are readable, because what they followed is unknown.
- Records keep their order and get new global sequences without gaps; a stream's chain does not depend on them.
- If the tree is damaged, pages outside it are searched too. They may contain uncommitted data, so a record from there is
  accepted only up to its stream's head (if that is known), and never when two records claim the same sequence.
- A stream is proven complete by an intact database of records, or by its head. Any other counts as truncated.
- Only records, plans and output are copied, and what is remembered of removed runs. Heads and marks are rebuilt here; rows,
  keys and counters by the caller.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from waterflow_agent.errors import Stalled
from waterflowd.artifacts import files as artifact_files
from waterflowd.store import copying, directory, layout, output_files, outputs, record
from waterflowd.store import environment as environment_files
from waterflowd.store.environment import Environment
from waterflowd.store.pages import PageFile, Row
from waterflowd.store.staging import Staging
from waterflowd.store.writer import GENERATION_KEY

#: Bytes per transaction: enough to make flushes cheap, small enough for memory.
GROUP_BYTES = 16 << 20

_HEAD_BYTES = 32
#: Rows of other databases have values of 8 and 16 bytes under keys like those of plans; every plan is longer.
_PLAN_BYTES_MIN = 17


class TruncatedStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is not proven complete."""

    stream: str
    #: Position of its last intact event; 0 if none is left.
    kept: int
    #: Number of lost events after it; None if unknown.
    lost: int | None
    reason: str


class SalvageReport(msgspec.Struct, kw_only=True):
    """What was kept of a damaged directory, and what was lost."""

    records: int = 0
    streams: int = 0
    #: Records of the source that are not in the copy; None if unknown.
    records_lost: int | None = 0
    cuts: list[TruncatedStream] = []
    plans: int = 0
    #: Output logs whose end is lost: a run, or a file.
    outputs_cut: list[str] = []
    #: Artifacts that are damaged: run and name, or a file.
    artifacts_lost: list[str] = []
    #: Unreadable or invalid pages of the log's trees.
    damaged_pages: int = 0
    #: Whether the server's key, which agents pin, was kept.
    has_server_key: bool = False

    @property
    def is_whole(self) -> bool:
        """True when nothing is lost, as far as that can be known."""
        is_lost = self.cuts or self.outputs_cut or self.artifacts_lost
        return self.records_lost == 0 and not is_lost and self.has_server_key


@contextlib.contextmanager
def salvage_directory(source: Path, target: Path) -> Iterator[SalvageReport]:
    """Salvages `source` into the new or empty directory `target`, which can be opened for rescue inside the block.

    The target becomes a data directory when the block succeeds; otherwise it is emptied. Raises `Stalled`: WF310 while a
    daemon uses the source, WF311 when it has no log or a newer release wrote it, WF315 when the target is not empty.
    """
    source = Path(os.path.abspath(source))
    log = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    if not log.exists():
        raise Stalled("WF311", f"{source} has no log: {log.relative_to(source)} is missing")
    _refuse_newer(source)
    with directory.held(source), copying.copy_directory(target, source) as made:
        environment_files.make(made / layout.ENVIRONMENT_DIRECTORY)
        environment = Environment(made / layout.ENVIRONMENT_DIRECTORY)
        try:
            with PageFile(log) as file:
                found = _Salvage(file, environment).run()
            _copy_outputs(source, made, environment, found)
        except lmdb.Error as error:
            raise Stalled("WF315", f"the copy to {made} failed: LMDB says {error}") from error
        finally:
            environment.close()
        _copy_artifacts(source, made, found)
        found.has_server_key = _copy_others(source, made)
        copying.sync_directories(made)
        yield found
        directory.write_format(made, directory.State.DATA)


def _refuse_newer(source: Path) -> None:
    """Refuses a newer release's log, which is not damaged but unknown. An unreadable `FORMAT` counts as damage."""
    try:
        directory.read_format(source)
    except Stalled as error:
        if error.__cause__ is None:
            raise


class _Database(NamedTuple):
    """One database, as far as its tree can be walked."""

    #: First key and number of each leaf page, in key order.
    leaves: list[tuple[bytes, int]]
    #: Every row exists and is valid.
    is_whole: bool
    #: The greatest key.
    last: bytes


class _Stream:
    """One stream while it is copied."""

    __slots__ = ("chain", "end_reason", "from_seq", "newest", "position", "to_seq")

    def __init__(self, key: bytes) -> None:
        self.chain = record.chain_start(key)
        #: The newest record's sequence in the source, and in the copy.
        self.from_seq = self.to_seq = 0
        self.position = 0
        #: The greatest position found, valid or not.
        self.newest = 0
        #: Why the stream ends here; empty while it continues.
        self.end_reason = ""


class _Salvage:
    """Copies the log from pages into a new environment."""

    def __init__(self, file: PageFile, environment: Environment) -> None:
        self._file = file
        self._writer = _CopyWriter(environment)
        self._streams: dict[bytes, _Stream] = {}
        self._heads: dict[bytes, tuple[int, int, bytes]] = {}
        #: The keys of runs that retention has removed; pages outside the tree may still have events of them.
        self._removed: set[bytes] = set()
        self._found = SalvageReport()

    def run(self) -> SalvageReport:
        """Copies everything that verifies."""
        file = self._file
        heads = _walk(file, "heads", _is_sealed)
        if file.is_rooted:
            self._heads = {
                key: layout.unpack_head(sealed[4:])
                for key, sealed in _tree_rows(file, heads, _is_sealed)
                if len(sealed) == 4 + _HEAD_BYTES
            }
        records = _walk(file, "records", _is_record)
        plans, rows = _walk(file, "plans", _is_sealed), _walk(file, "output", _is_sealed)
        meta = _walk(file, "meta", _is_sealed)
        traces = {name: _walk(file, name, _is_sealed) for name in ("removed", "outputless", "gaps")}
        leftovers = _Leftovers()
        if not (file.is_rooted and records.is_whole and plans.is_whole and rows.is_whole and heads.is_whole):
            leftovers.fill(file)
        self._found.damaged_pages = file.damaged
        for key, sealed in _tree_rows(file, meta, _is_sealed):
            if key == GENERATION_KEY:
                self._writer.put("meta", key, sealed[4:])
        for key, values, _ in _merged(file, plans, _is_sealed, leftovers.plans):
            if len(values) == 1:
                self._found.plans += 1
                self._writer.put("plans", key, values[0][4:])
        for name in ("removed", "outputless"):
            for key, sealed in _tree_rows(file, traces[name], _is_sealed):
                self._writer.put(name, key, sealed[4:])
        self._removed = {key for key, _ in _tree_rows(file, traces["removed"], _is_sealed)}
        removed = sum(
            layout.unpack_u64(sealed[4:]) - layout.unpack_u64(key[1:]) + 1
            for key, sealed in _tree_rows(file, traces["gaps"], _is_sealed)
            if key[:1] == b"f" and len(sealed) == 12
        )
        self._take_records(records, leftovers.records)
        self._take_rows(rows, leftovers.rows)
        self._writer.flush()
        last = layout.unpack_u64(records.last) if records.last else 0
        is_proven = file.is_rooted and records.is_whole and last == file.trees["records"].entries + removed
        self._report_losses(is_proven=is_proven, last=last, removed=removed)
        return self._found

    def _take_records(self, database: _Database, leftovers: dict[bytes, set[bytes]]) -> None:
        for key, values, is_leftover in _merged(self._file, database, _is_record, leftovers):
            seq = layout.unpack_u64(key)
            found = [record.unpack(seq, value) for value in values]
            found = [stored for stored in found if stored.stream.run not in self._removed]
            candidates = [stored for stored in found if not is_leftover or self._is_known(stored)]
            fitting = [stored for stored in candidates if self._fits(stored)]
            if len(fitting) == 1:
                self._take(fitting[0])
            for stored in candidates:
                stream = self._stream(stored)
                stream.newest = max(stream.newest, stored.position)
                if len(fitting) > 1 and not stream.end_reason:
                    stream.end_reason = f"two different records have sequence {seq}"
                elif stored.position > stream.position and not stream.end_reason:
                    stream.end_reason = f"event {stream.position + 1} is damaged or missing"

    def _stream(self, stored: record.StoredRecord) -> _Stream:
        key = layout.stream_key(record.stream_name(stored.stream))
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream(key)
        return stream

    def _is_known(self, stored: record.StoredRecord) -> bool:
        """Whether the record was committed, as far as the stream's head is known."""
        head = self._heads.get(layout.stream_key(record.stream_name(stored.stream)))
        return head is None or stored.position <= head[1]

    def _fits(self, stored: record.StoredRecord) -> bool:
        stream = self._stream(stored)
        if stream.end_reason or stored.position != stream.position + 1 or stored.previous != stream.from_seq:
            return False
        chain = record.next_chain(stream.chain, stored.schema, stored.position, stored.at, stored.body)
        return chain == stored.chain

    def _take(self, stored: record.StoredRecord) -> None:
        stream = self._stream(stored)
        stream.from_seq, stream.position, stream.chain = stored.seq, stored.position, stored.chain
        stream.to_seq = self._writer.add(stored, previous=stream.to_seq)

    def _take_rows(self, database: _Database, leftovers: dict[bytes, set[bytes]]) -> None:
        """Copies small output logs: of each, the pieces up to its first gap."""
        prefix, end, is_cut = b"", 0, False
        for key, values, _ in _merged(self._file, database, _is_sealed, leftovers):
            if len(key) != outputs.KEY_BYTES:
                continue
            if key[: outputs.PREFIX_BYTES] != prefix:
                prefix, end, is_cut = key[: outputs.PREFIX_BYTES], 0, False
            if is_cut:
                continue
            if len(values) != 1 or outputs.row_offset(key) != end:
                is_cut = True
                self._found.outputs_cut.append(f"{layout.run_of_key(prefix[:16])} at byte {end}")
                continue
            end = outputs.row_end(key, values[0][4:])
            self._writer.put("output", key, values[0][4:])
        if not database.is_whole and not self._found.outputs_cut:
            self._found.outputs_cut.append("perhaps the ends of small output logs: their index is damaged")

    def _report_losses(self, *, is_proven: bool, last: int, removed: int) -> None:
        """Reports which streams are complete, and what is lost of the others; `removed` records are no loss."""
        found = self._found
        found.records = self._writer.last_seq
        for key in sorted(self._streams.keys() | self._heads.keys()):
            stream = self._streams.get(key) or _Stream(key)
            head = self._heads.get(key)
            found.streams += stream.position > 0
            matches_head = is_proven if head is None else head[1:] == (stream.position, stream.chain)
            if stream.end_reason or not matches_head:
                newest = max(stream.newest, head[1] if head is not None else 0)
                unproven = "its newest events are missing" if head else "it may have had newer events"
                reason = stream.end_reason or unproven
                lost = newest - stream.position or None
                name = record.stream_name(record.stream_ref(key))
                found.cuts.append(TruncatedStream(stream=name, kept=stream.position, lost=lost, reason=reason))
        newest = max([last, *(head[0] for head in self._heads.values())])
        is_known = is_proven or (self._file.is_rooted and bool(self._heads))
        found.records_lost = max(newest - removed - found.records, 0) if is_known else None


class _Leftovers:
    """Rows of pages outside the trees, by kind."""

    def __init__(self) -> None:
        self.records: dict[bytes, set[bytes]] = {}
        self.plans: dict[bytes, set[bytes]] = {}
        self.rows: dict[bytes, set[bytes]] = {}

    def fill(self, file: PageFile) -> None:
        """Searches the pages. Every tree must have been walked before."""
        for leaf in file.leftovers():
            for key, value in file.rows(leaf):
                if len(key) == 8:
                    if _is_record(key, value):
                        self.records.setdefault(key, set()).add(value)
                elif _is_sealed(key, value):
                    if len(key) == outputs.KEY_BYTES:
                        self.rows.setdefault(key, set()).add(value)
                    elif key[:1] in (b"t", b"h") and len(value) >= 4 + _PLAN_BYTES_MIN:
                        self.plans.setdefault(key, set()).add(value)


class _CopyWriter:
    """Writes the new environment, in large transactions."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._records: list[Row] = []
        self._heads: dict[bytes, bytes] = {}
        self._rows: list[tuple[str, bytes, bytes]] = []
        self._bytes = 0
        self.last_seq = self._last_at = 0

    def add(self, stored: record.StoredRecord, *, previous: int) -> int:
        """Appends a record; returns its sequence."""
        self.last_seq += 1
        self._last_at = stored.at
        fresh = stored._replace(seq=self.last_seq, previous=previous)
        packed = record.pack(fresh)
        key = layout.stream_key(record.stream_name(stored.stream))
        self._records.append((layout.pack_u64(self.last_seq), packed))
        self._heads[key] = layout.pack_head(self.last_seq, stored.position, stored.chain)
        if stored.position % layout.MARK_EVERY == 0:
            self._rows.append(("marks", key + layout.pack_u64(stored.position), layout.pack_u64(self.last_seq)))
        self._grow(len(packed))
        return self.last_seq

    def put(self, database: str, key: bytes, value: bytes) -> None:
        """Adds a row of another database."""
        self._rows.append((database, key, value))
        self._grow(len(key) + len(value))

    def flush(self) -> None:
        """Commits what was added."""
        transaction = self._environment.begin_write()
        try:
            staging = Staging(self._environment, transaction, 0, 0)
            staging.add_records(self._records, self.last_seq, self._last_at)
            for key, head in self._heads.items():
                staging.put("heads", key, head)
            for database, key, value in self._rows:
                staging.put(database, key, value)
            staging.flush()
            transaction.commit()
        finally:
            transaction.abort()
        self._records, self._heads, self._rows, self._bytes = [], {}, [], 0

    def _grow(self, size: int) -> None:
        self._bytes += size
        if self._bytes >= GROUP_BYTES:
            self.flush()


def _is_sealed(key: bytes, value: bytes) -> bool:
    try:
        layout.unseal("", key, value)
    except Stalled:
        return False
    return True


def _is_record(key: bytes, value: bytes) -> bool:
    if len(key) != 8:
        return False
    try:
        record.unpack(layout.unpack_u64(key), value)
    except Stalled as error:
        if error.code != "WF304":
            raise
        return False
    return True


def _walk(file: PageFile, name: str, is_valid: Callable[[bytes, bytes], bool]) -> _Database:
    """Walks a database once and checks every row."""
    before = file.damaged
    leaves: list[tuple[bytes, int]] = []
    count, last, is_sound = 0, b"", name in file.trees
    for leaf in file.leaves(name):
        rows = list(file.rows(leaf))
        valid = sorted(key for key, value in rows if is_valid(key, value))
        is_sound = is_sound and len(valid) == len(rows) and bool(valid) and valid[0] > last
        if valid:
            leaves.append((valid[0], leaf))
            last = max(last, valid[-1])
        count += len(valid)
    is_whole = is_sound and file.damaged == before and count == file.trees[name].entries
    return _Database(sorted(leaves), is_whole, last)


def _tree_rows(file: PageFile, database: _Database, is_valid: Callable[[bytes, bytes], bool]) -> Iterator[Row]:
    """The valid rows of a database in key order, each key once."""
    last = b""
    for _, leaf in database.leaves:
        for key, value in sorted(file.rows(leaf)):
            if key > last and is_valid(key, value):
                yield key, value
                last = key


def _merged(
    file: PageFile, database: _Database, is_valid: Callable[[bytes, bytes], bool], leftovers: dict[bytes, set[bytes]]
) -> Iterator[tuple[bytes, list[bytes], bool]]:
    """Keys in order with their values: the tree's value, or else all leftover values (and True)."""
    tree: Iterable[tuple[bytes, int, list[bytes]]] = (
        (key, 0, [value]) for key, value in _tree_rows(file, database, is_valid)
    )
    beside = ((key, 1, sorted(leftovers[key])) for key in sorted(leftovers))
    last = b""
    for key, is_leftover, values in heapq.merge(tree, beside, key=lambda row: row[:2]):
        if key > last:
            yield key, values, bool(is_leftover)
            last = key


def _copy_outputs(source: Path, made: Path, environment: Environment, found: SalvageReport) -> None:
    """Copies large output logs: of each, the frames up to the first damaged one, if the log has its rows in LMDB."""
    for file in output_files.files_in(source / layout.OUTPUT_DIRECTORY):
        path = file.relative_to(source)
        name = output_files.name_of(file)
        try:
            measured = output_files.measure(file)
            size = file.stat().st_size
        except OSError:
            measured, size = None, 0
        rows_end = measured.base if measured is not None else 0
        if name is not None:
            with environment.reading() as transaction:
                rows_end = outputs.rows_end(environment, transaction, outputs.log_prefix(name))
        if measured is None or measured.base > rows_end:
            found.outputs_cut.append(f"{path} at byte {rows_end}")
            continue
        copying.copy(file, made / path, os.fspath(path), size_bytes=measured.size_bytes)
        if measured.size_bytes < size:
            found.outputs_cut.append(f"{path} at byte {measured.end}")


def _copy_artifacts(source: Path, made: Path, found: SalvageReport) -> None:
    """Copies the artifacts of which everything is intact."""
    copied: set[Path] = set()
    for name, files in artifact_files.salvageable(source / layout.ARTIFACT_DIRECTORY):
        if not files:
            found.artifacts_lost.append(name)
        for file in files:
            path = file.relative_to(source)
            if path not in copied:
                copied.add(path)
                copying.copy(file, made / path, os.fspath(path))


def _copy_others(source: Path, made: Path) -> bool:
    """Copies the key and the clock; returns whether there was a key."""
    for name in copying.OTHER_FILES:
        with contextlib.suppress(OSError):
            copying.copy(source / name, made / name, name)
    key = made / copying.OTHER_FILES[0]
    return key.exists() and key.stat().st_size > 0
