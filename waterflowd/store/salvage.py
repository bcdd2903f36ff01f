"""Makes a new data directory of what a damaged one still holds, and says what was kept and what was lost.

Rules of this file:

- The source is only read, by plain reads (pages.py), and never changed. Nothing is repaired; what verifies is copied.
- A record counts with its CRC and as the next link of its stream's chain. A stream ends before its first gap; what comes
  behind is lost, even where it can be read, for nobody knows what it followed.
- Records keep their order and get new global sequences without gaps; a stream's chain does not depend on them.
- Where the tree is damaged, pages that it does not reach are searched too. They may hold what never was committed, so a
  record from there counts only up to its stream's head, if that is known, and never where two claim one place.
- A stream is proven whole by the whole table of records, or by its head. Whatever is not proven counts as cut.
- Only records, plans and output are taken over: heads and marks are made again here, rows, keys and counters by the caller.
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
from waterflowd.store import copying, directory, layout, output_files, outputs, record
from waterflowd.store import environment as environment_files
from waterflowd.store.environment import Environment
from waterflowd.store.pages import PageFile, Row
from waterflowd.store.staging import Staging
from waterflowd.store.writer import GENERATION_KEY

#: What is written in one transaction: enough that flushes do not count, little enough for memory.
GROUP_BYTES = 16 << 20

_HEAD_BYTES = 32
#: Rows of other tables have sealed values of 8 and 16 bytes under keys like those of plans; no plan is as short.
_PLAN_BYTES_MIN = 17


class TruncatedStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is not proven whole."""

    stream: str
    #: Position of its last good event; 0 when none is left.
    kept: int
    #: Events behind it that are lost; None when nobody can know.
    lost: int | None
    why: str


class SalvageReport(msgspec.Struct, kw_only=True):
    """What became of a damaged directory."""

    records: int = 0
    streams: int = 0
    #: Records of the source that are not in the copy; None when nobody can know.
    records_lost: int | None = 0
    cuts: list[TruncatedStream] = []
    plans: int = 0
    #: Output logs whose end is lost: a run, or a file.
    outputs_cut: list[str] = []
    #: Pages of the log's trees that could not be read or made no sense.
    damaged_pages: int = 0
    #: Whether the key that agents know the server by was kept.
    has_server_key: bool = False

    @property
    def is_whole(self) -> bool:
        """True when nothing is known or feared to be lost."""
        return self.records_lost == 0 and not self.cuts and not self.outputs_cut and self.has_server_key


@contextlib.contextmanager
def salvage_directory(source: Path, target: Path) -> Iterator[SalvageReport]:
    """Salvages `source` into the new or empty directory `target`, which can be opened for rescue inside of the block.

    It becomes a data directory when the block is left in order; otherwise nothing is left in it. Raises `Stalled`: WF310 while
    a daemon is in the source, WF311 when it holds no log or a newer release wrote it, WF315 for a target with something in it.
    """
    source = Path(os.path.abspath(source))
    log = source / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE
    if not log.exists():
        raise Stalled("WF311", f"{source} holds no log: there is no {log.relative_to(source)} in it")
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
        found.has_server_key = _copy_others(source, made)
        copying.sync_directories(made)
        yield found
        directory.write_format(made, directory.State.DATA)


def _refuse_newer(source: Path) -> None:
    """A newer release's log is not damaged, it is not understood. A `FORMAT` that cannot be read is damage like any other."""
    try:
        directory.read_format(source)
    except Stalled as error:
        if error.__cause__ is None:
            raise


class _Survey(NamedTuple):
    """One table as far as its tree can be walked."""

    #: First key and number of each leaf page, in the order of keys.
    leaves: list[tuple[bytes, int]]
    #: Every row is there and true.
    is_whole: bool
    #: The greatest key.
    last: bytes


class _Stream:
    """One stream on its way into the copy."""

    __slots__ = ("chain", "from_seq", "position", "seen", "to_seq", "why")

    def __init__(self, key: bytes) -> None:
        self.chain = record.chain_start(key)
        #: The newest record's sequence in the source, and in the copy.
        self.from_seq = self.to_seq = 0
        self.position = 0
        #: The greatest position that was seen at all.
        self.seen = 0
        #: Why it goes on no more.
        self.why = ""


class _Salvage:
    """The log's part: from pages to a new environment."""

    def __init__(self, file: PageFile, environment: Environment) -> None:
        self._file = file
        self._sink = _Sink(environment)
        self._streams: dict[bytes, _Stream] = {}
        self._heads: dict[bytes, tuple[int, int, bytes]] = {}
        self._found = SalvageReport()

    def run(self) -> SalvageReport:
        """Takes over what verifies."""
        file = self._file
        heads = _survey(file, "heads", _is_sealed)
        if file.is_rooted:
            self._heads = {
                key: layout.unpack_head(sealed[4:])
                for key, sealed in _tree_rows(file, heads, _is_sealed)
                if len(sealed) == 4 + _HEAD_BYTES
            }
        records = _survey(file, "records", _is_record)
        plans, rows = _survey(file, "plans", _is_sealed), _survey(file, "output", _is_sealed)
        meta = _survey(file, "meta", _is_sealed)
        spare = _Spare()
        if not (file.is_rooted and records.is_whole and plans.is_whole and rows.is_whole and heads.is_whole):
            spare.fill(file)
        self._found.damaged_pages = file.damaged
        for key, sealed in _tree_rows(file, meta, _is_sealed):
            if key == GENERATION_KEY:
                self._sink.put("meta", key, sealed[4:])
        for key, values, _ in _merged(file, plans, _is_sealed, spare.plans):
            if len(values) == 1:
                self._found.plans += 1
                self._sink.put("plans", key, values[0][4:])
        self._take_records(records, spare.records)
        self._take_rows(rows, spare.rows)
        self._sink.flush()
        last = layout.unpack_u64(records.last) if records.last else 0
        is_proven = file.is_rooted and records.is_whole and last == file.trees["records"].entries
        self._judge(is_proven=is_proven, last=last)
        return self._found

    def _take_records(self, survey: _Survey, spare: dict[bytes, set[bytes]]) -> None:
        for key, values, is_spare in _merged(self._file, survey, _is_record, spare):
            seq = layout.unpack_u64(key)
            found = [record.unpack(seq, value) for value in values]
            candidates = [stored for stored in found if not is_spare or self._is_known(stored)]
            fitting = [stored for stored in candidates if self._fits(stored)]
            if len(fitting) == 1:
                self._take(fitting[0])
            for stored in candidates:
                stream = self._stream(stored)
                stream.seen = max(stream.seen, stored.position)
                if len(fitting) > 1 and not stream.why:
                    stream.why = f"two records claim the place of record {seq}"
                elif stored.position > stream.position and not stream.why:
                    stream.why = f"event {stream.position + 1} is damaged or missing"

    def _stream(self, stored: record.StoredRecord) -> _Stream:
        key = layout.stream_key(record.stream_of(stored.place))
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream(key)
        return stream

    def _is_known(self, stored: record.StoredRecord) -> bool:
        """Whether the record is one that was committed, as far as the stream's head is known."""
        head = self._heads.get(layout.stream_key(record.stream_of(stored.place)))
        return head is None or stored.position <= head[1]

    def _fits(self, stored: record.StoredRecord) -> bool:
        stream = self._stream(stored)
        if stream.why or stored.position != stream.position + 1 or stored.previous != stream.from_seq:
            return False
        chain = record.chained(stream.chain, stored.schema, stored.position, stored.at, stored.body)
        return chain == stored.chain

    def _take(self, stored: record.StoredRecord) -> None:
        stream = self._stream(stored)
        stream.from_seq, stream.position, stream.chain = stored.seq, stored.position, stored.chain
        stream.to_seq = self._sink.add(stored, previous=stream.to_seq)

    def _take_rows(self, survey: _Survey, spare: dict[bytes, set[bytes]]) -> None:
        """Small output logs: of each the pieces up to its first gap."""
        prefix, end, is_cut = b"", 0, False
        for key, values, _ in _merged(self._file, survey, _is_sealed, spare):
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
            self._sink.put("output", key, values[0][4:])
        if not survey.is_whole and not self._found.outputs_cut:
            self._found.outputs_cut.append("the ends of small output logs, perhaps: their table is damaged")

    def _judge(self, *, is_proven: bool, last: int) -> None:
        """Says which streams are whole, and what of the others is lost."""
        found = self._found
        found.records = self._sink.last_seq
        for key in sorted(self._streams.keys() | self._heads.keys()):
            stream = self._streams.get(key) or _Stream(key)
            head = self._heads.get(key)
            found.streams += stream.position > 0
            is_whole = not stream.why and (is_proven if head is None else head[1:] == (stream.position, stream.chain))
            if not is_whole:
                newest = max(stream.seen, head[1] if head is not None else 0)
                why = stream.why or ("its newest events are gone" if head else "nothing proves that this is its newest")
                lost = newest - stream.position or None
                name = record.stream_of(record.place_of(key))
                found.cuts.append(TruncatedStream(stream=name, kept=stream.position, lost=lost, why=why))
        newest = max([last, *(head[0] for head in self._heads.values())])
        is_known = is_proven or (self._file.is_rooted and bool(self._heads))
        found.records_lost = max(newest - found.records, 0) if is_known else None


class _Spare:
    """Rows of pages that no tree reaches, by what they can be."""

    def __init__(self) -> None:
        self.records: dict[bytes, set[bytes]] = {}
        self.plans: dict[bytes, set[bytes]] = {}
        self.rows: dict[bytes, set[bytes]] = {}

    def fill(self, file: PageFile) -> None:
        """Searches them. Every tree must have been walked."""
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


class _Sink:
    """The new environment: everything goes in by large transactions of a `Staging` each."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._records: list[Row] = []
        self._heads: dict[bytes, bytes] = {}
        self._rows: list[tuple[str, bytes, bytes]] = []
        self._bytes = 0
        self.last_seq = self._last_at = 0

    def add(self, stored: record.StoredRecord, *, previous: int) -> int:
        """Adds a record behind the newest one; gives its sequence."""
        self.last_seq += 1
        self._last_at = stored.at
        fresh = stored._replace(seq=self.last_seq, previous=previous)
        packed = record.pack(fresh)
        key = layout.stream_key(record.stream_of(stored.place))
        self._records.append((layout.pack_u64(self.last_seq), packed))
        self._heads[key] = layout.pack_head(self.last_seq, stored.position, stored.chain)
        if stored.position % layout.MARK_EVERY == 0:
            self._rows.append(("marks", key + layout.pack_u64(stored.position), layout.pack_u64(self.last_seq)))
        self._grow(len(packed))
        return self.last_seq

    def put(self, database: str, key: bytes, value: bytes) -> None:
        """Puts a row of another table."""
        self._rows.append((database, key, value))
        self._grow(len(key) + len(value))

    def flush(self) -> None:
        """Makes durable what was added."""
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


def _survey(file: PageFile, name: str, is_true: Callable[[bytes, bytes], bool]) -> _Survey:
    """Walks a table once and checks every row."""
    before = file.damaged
    leaves: list[tuple[bytes, int]] = []
    count, last, is_sound = 0, b"", name in file.trees
    for leaf in file.leaves(name):
        rows = list(file.rows(leaf))
        true = sorted(key for key, value in rows if is_true(key, value))
        is_sound = is_sound and len(true) == len(rows) and bool(true) and true[0] > last
        if true:
            leaves.append((true[0], leaf))
            last = max(last, true[-1])
        count += len(true)
    is_whole = is_sound and file.damaged == before and count == file.trees[name].entries
    return _Survey(sorted(leaves), is_whole, last)


def _tree_rows(file: PageFile, survey: _Survey, is_true: Callable[[bytes, bytes], bool]) -> Iterator[Row]:
    """The true rows of a table, in the order of keys, each key once."""
    last = b""
    for _, leaf in survey.leaves:
        for key, value in sorted(file.rows(leaf)):
            if key > last and is_true(key, value):
                yield key, value
                last = key


def _merged(
    file: PageFile, survey: _Survey, is_true: Callable[[bytes, bytes], bool], spare: dict[bytes, set[bytes]]
) -> Iterator[tuple[bytes, list[bytes], bool]]:
    """Keys in order with their values: the tree's one where it has one, else all that were found beside it (then true)."""
    tree: Iterable[tuple[bytes, int, list[bytes]]] = (
        (key, 0, [value]) for key, value in _tree_rows(file, survey, is_true)
    )
    beside = ((key, 1, sorted(spare[key])) for key in sorted(spare))
    last = b""
    for key, is_spare, values in heapq.merge(tree, beside, key=lambda row: row[:2]):
        if key > last:
            yield key, values, bool(is_spare)
            last = key


def _copy_outputs(source: Path, made: Path, environment: Environment, found: SalvageReport) -> None:
    """Large output logs: of each the frames up to the first that is damaged, if its rows lead up to it."""
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


def _copy_others(source: Path, made: Path) -> bool:
    """Copies the key and the clock, and tells whether the key was there."""
    for name in copying.OTHER_FILES:
        with contextlib.suppress(OSError):
            copying.copy(source / name, made / name, name)
    key = made / copying.OTHER_FILES[0]
    return key.exists() and key.stat().st_size > 0
