"""The event log on LMDB: the adapter of `ports.Journal`.

Rules of this file: a write is encoded here and done on the writer thread (batch.py, writer.py); a read is one read
transaction per call, on the caller's thread. A stream is read backwards along `previous`, from its head or from the
next mark after the requested part, and then checked forwards: positions without gaps, and a chain that ends in the hash
of the head. A record that fails a check is never returned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping

import lmdb
import msgspec

from waterflowd.model.ids import RUN_ID_LENGTH, RunId, StreamName, run_stream
from waterflowd.model.records import Batch, Record, Removal, RemovedOutput, RemovedRun, RunFilter, RunSummary
from waterflowd.store import layout, record, removal
from waterflowd.store.batch import BatchWork, decode_summary
from waterflowd.store.codec import Codec
from waterflowd.store.environment import Environment
from waterflowd.store.health import FailureLatch
from waterflowd.store.rows import find, seek_before, seek_from
from waterflowd.store.sealing import KEY_ID_BYTES, SealKey
from waterflowd.store.writer import Writer

#: Rows that one call of `runs` examines: about 3 ms of the loop's time.
RUNS_EXAMINED_MAX = 1_000


class LmdbLog:
    """The log of one data directory. `append` needs a running loop; `append_blocking` and reads work on any thread."""

    def __init__(
        self,
        environment: Environment,
        writer: Writer,
        *,
        codec: Codec,
        latch: FailureLatch,
        generation: int,
        seals: Mapping[StreamName, SealKey],
    ) -> None:
        """`seals` has the keys of the streams whose new records are sealed."""
        self._environment = environment
        self._writer = writer
        self._codec = codec
        self._latch = latch
        self._generation = generation
        self._seals = seals

    @property
    def generation(self) -> int:
        """Increases by one each time the data directory is opened, and by more when it was restored from a backup."""
        return self._generation

    @property
    def last_seq(self) -> int:
        """Global sequence of the newest durable record."""
        return self._writer.last_seq

    @property
    def last_at(self) -> int:
        """The log's time of the newest durable record in ms."""
        return self._writer.last_at

    @property
    def is_disk_low(self) -> bool:
        """True from the first full disk until there is space again: admit no new work meanwhile."""
        return self._writer.is_disk_low

    def append(self, batch: Batch) -> Awaitable[int]:
        """Makes the batch durable; see `ports.Journal`. The awaitable is a future of the running loop."""
        self._latch.check()
        return self._writer.submit(BatchWork(batch, self._codec, self._seals))

    def append_blocking(self, batch: Batch) -> int:
        """Like `append`, for a thread without a loop: returns when the batch is durable."""
        self._latch.check()
        last_seq: int = self._writer.run(BatchWork(batch, self._codec, self._seals)).result()
        return last_seq

    def head(self, stream: StreamName) -> int:
        """Position of the stream's newest durable event."""
        self._latch.check()
        packed = self._row("heads", layout.stream_key(stream))
        return 0 if packed is None else layout.unpack_head(packed)[1]

    def seal_key_id(self, stream: StreamName) -> str:
        """The id of the key that sealed the newest record of a stream, in hexadecimal; empty if it has no seal."""
        self._latch.check()
        packed = self._row("heads", layout.stream_key(stream))
        if packed is None:
            return ""
        seq = layout.unpack_head(packed)[0]
        with self._environment.reading() as transaction:
            value = transaction.get(layout.pack_u64(seq), db=self._environment.database("records"))
        if value is None:
            raise record.broken(seq, "it is missing", stream)
        return record.unpack(seq, value).seal[:KEY_ID_BYTES].hex()

    def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        """Durable records of a stream from position `first` on, checked."""
        self._latch.check()
        return read_stream(self._environment, self._codec, stream, first, limit)

    def feed(self, after_seq: int, limit: int) -> list[Record]:
        """Durable records of all streams with a sequence above `after_seq`, in order."""
        self._latch.check()
        found: list[record.StoredRecord] = []
        # Read before the transaction begins, which then sees at least this many records.
        last_seq = self._writer.last_seq
        with self._environment.reading() as transaction:
            hidden = _hidden_runs(self._environment, transaction)
            cursor = transaction.cursor(self._environment.database("records"))
            more = cursor.set_range(layout.pack_u64(max(after_seq, 0) + 1))
            expected = max(after_seq, 0)
            while more and len(found) < limit:
                expected += 1
                seq = layout.unpack_u64(cursor.key())
                if seq != expected and removal.gap_before(self._environment, transaction, seq) > expected:
                    raise record.broken(expected, "it is missing")
                expected = seq
                stored = record.unpack(seq, cursor.value())
                if stored.stream.run not in hidden:
                    found.append(stored)
                more = cursor.next()
            if not more and expected < last_seq:
                raise record.broken(expected + 1, "it is missing")
        return [self._record(stored) for stored in found]

    def streams(self) -> list[StreamName]:
        """Names of all streams that have events."""
        self._latch.check()
        with self._environment.reading() as transaction:
            heads = list(transaction.cursor(self._environment.database("heads")))
        for key, sealed in heads:
            layout.unseal("heads", key, sealed)
        return [record.stream_name(record.stream_ref(key)) for key, _ in heads]

    def plan(self, plan_hash: str) -> bytes | None:
        """The plan with this hash."""
        self._latch.check()
        return self._row("plans", layout.text_key(plan_hash))

    def open_runs(self) -> Iterator[RunId]:
        """Runs that are not completed at the time of the call, oldest first."""
        self._latch.check()
        with self._environment.reading() as transaction:
            cursor = transaction.cursor(self._environment.database("open"))
            rows = list(cursor)
        for key, sealed in rows:
            layout.unseal("open", key, sealed)
        return iter([layout.run_of_key(key) for key, _ in rows])

    def run(self, run: RunId) -> RunSummary | None:
        """The row of one run; None for an unknown or invalid id."""
        self._latch.check()
        try:
            key = layout.run_key(run)
        except ValueError:
            return None
        row = self._row("runs", key)
        return None if row is None else decode_summary(row)

    def runs(self, selected: RunFilter, *, before: RunId | None, limit: int) -> tuple[list[RunSummary], RunId | None]:
        """A page of rows, newest first, and the start of the next page."""
        self._latch.check()
        page: list[RunSummary] = []
        with self._environment.reading() as transaction:
            cursor = transaction.cursor(self._environment.database("runs"))
            more = cursor.last() if before is None else seek_before(cursor, "runs", layout.run_key(before)) is not None
            examined = 0
            while more and len(page) < limit and examined < RUNS_EXAMINED_MAX:
                key, sealed = cursor.item()
                summary = decode_summary(layout.unseal("runs", key, sealed))
                if selected.matches(summary):
                    page.append(summary)
                before = summary.id
                examined += 1
                more = cursor.prev()
        return page, before if more else None

    def runs_by_prefix(self, prefix: str, limit: int) -> list[RunId]:
        """Ids that begin with `prefix`, oldest first."""
        self._latch.check()
        prefix = prefix.upper()
        try:
            start = layout.run_key(RunId(prefix.ljust(RUN_ID_LENGTH, "0")))
        except ValueError:
            return []
        found: list[RunId] = []
        with self._environment.reading() as transaction:
            cursor = transaction.cursor(self._environment.database("runs"))
            more = seek_from(cursor, "runs", start)
            while more and len(found) < limit:
                key, sealed = cursor.item()
                layout.unseal("runs", key, sealed)
                run = layout.run_of_key(key)
                if not run.startswith(prefix):
                    break
                found.append(run)
                more = cursor.next()
        return found

    def run_for_key(self, key: str) -> RunId | None:
        """The run that a trigger key started."""
        self._latch.check()
        row = self._row("keys", layout.text_key(key))
        return None if row is None else layout.run_of_key(row)

    def counter(self, name: str) -> int:
        """Value of a counter."""
        self._latch.check()
        row = self._row("counters", layout.text_key(name))
        return 0 if row is None else layout.unpack_u64(row)

    def removal(self, run: RunId, *, events_max: int, output_bytes_max: int) -> Removal:
        """The next piece of a completed run, or of its output, to remove; see `ports.Journal`."""
        self._latch.check()
        stream = run_stream(run)

        def plan_key(body: bytes) -> bytes:
            created = self._codec.decode(stream, 1, self._codec.schema, body)
            return layout.text_key(getattr(created, "plan_hash", ""))

        return removal.read_removal(
            self._environment, run, events_max=events_max, output_bytes_max=output_bytes_max, plan_key=plan_key
        )

    def unfinished_removals(self) -> list[tuple[RunId, bool]]:
        """Runs of which a part is still to be removed, and whether it is only their output."""
        self._latch.check()
        with self._environment.reading() as transaction:
            rows = list(transaction.cursor(self._environment.database("removing")))
        return [
            (layout.run_of_key(key), layout.unseal("removing", key, sealed) == removal.ONLY_OUTPUT)
            for key, sealed in rows
        ]

    def removed_run(self, run: RunId) -> RemovedRun | None:
        """What is remembered of a removed run; None for an unknown or invalid id."""
        self._latch.check()
        try:
            row = self._row("removed", layout.run_key(run))
        except ValueError:
            return None
        return None if row is None else _decode_removed(row)

    def removed_runs(self, after: RunId | None, limit: int) -> list[RemovedRun]:
        """What is remembered of removed runs, by ascending id after `after`."""
        self._latch.check()
        found: list[RemovedRun] = []
        with self._environment.reading() as transaction:
            cursor = transaction.cursor(self._environment.database("removed"))
            more = seek_from(cursor, "removed", b"" if after is None else layout.run_key(after) + b"\0")
            while more and len(found) < limit:
                key, sealed = cursor.item()
                found.append(_decode_removed(layout.unseal("removed", key, sealed)))
                more = cursor.next()
        return found

    def removed_output(self, run: RunId) -> RemovedOutput | None:
        """When and why the run's output was removed."""
        self._latch.check()
        row = self._row("outputless", layout.run_key(run))
        return None if row is None else msgspec.msgpack.decode(row, type=RemovedOutput)

    def _row(self, database: str, key: bytes) -> bytes | None:
        with self._environment.reading() as transaction:
            return find(self._environment, transaction, database, key)

    def _record(self, stored: record.StoredRecord) -> Record:
        stream = record.stream_name(stored.stream)
        event = self._codec.decode(stream, stored.position, stored.schema, stored.body)
        return Record(seq=stored.seq, stream=stream, position=stored.position, at=stored.at, event=event)


_decode_removed = msgspec.msgpack.Decoder(RemovedRun).decode


def _hidden_runs(environment: Environment, transaction: lmdb.Transaction[bytes]) -> frozenset[bytes]:
    """The keys of removed runs of which some events are left."""
    return frozenset(
        key
        for key, sealed in transaction.cursor(environment.database("removing"))
        if layout.unseal("removing", key, sealed) == removal.WHOLE_RUN
    )


def read_stream(
    environment: Environment, codec: Codec, stream: StreamName, first: int = 1, limit: int | None = None
) -> list[Record]:
    """Durable records of a stream from position `first` on, checked. The environment may be read-only."""
    first = max(first, 1)
    with environment.reading() as transaction:
        if layout.stream_key(stream)[1:] in _hidden_runs(environment, transaction):
            return []
        chain, walked = _StreamReader(environment, transaction, stream).records(first, limit)
    records = []
    for stored in walked:
        chain = record.next_chain(chain, stored.schema, stored.position, stored.at, stored.body)
        if chain != stored.chain:
            raise record.broken(stored.seq, f"its hash does not continue the chain of {stream}")
        event = codec.decode(stream, stored.position, stored.schema, stored.body)
        records.append(Record(seq=stored.seq, stream=stream, position=stored.position, at=stored.at, event=event))
    return records


class _StreamReader:
    """Reads part of one stream in one transaction, from the newest requested record back to the oldest."""

    def __init__(self, environment: Environment, transaction: lmdb.Transaction[bytes], stream: StreamName) -> None:
        self._environment = environment
        self._transaction = transaction
        self._stream = stream
        self._key = layout.stream_key(stream)
        self._ref = record.stream_ref(self._key)

    def records(self, first: int, limit: int | None) -> tuple[bytes, list[record.StoredRecord]]:
        """The chain before position `first`, and the records from there on in order."""
        packed = self._row("heads", self._key)
        if packed is None:
            return b"", []
        head_seq, head_position, head_chain = layout.unpack_head(packed)
        last = head_position if limit is None else min(head_position, first + limit - 1)
        if last < first:
            return b"", []
        seq, position = self._start(last, head_seq, head_position)
        walked = self._back(seq, position, first)
        if position == head_position and walked[0].chain != head_chain:
            raise record.broken(head_seq, f"it is not the newest event of {self._stream}")
        walked.reverse()
        chain = record.chain_start(self._key) if first == 1 else walked.pop(0).chain
        return chain, walked[: last - first + 1]

    def _start(self, last: int, head_seq: int, head_position: int) -> tuple[int, int]:
        """Where to begin: sequence and position of the nearest mark or head at or after position `last`."""
        marked = -(-last // layout.MARK_EVERY) * layout.MARK_EVERY
        if marked < head_position:
            packed = self._row("marks", self._key + layout.pack_u64(marked))
            if packed is not None:
                return layout.unpack_u64(packed), marked
        return head_seq, head_position

    def _back(self, seq: int, position: int, first: int) -> list[record.StoredRecord]:
        """Records from `position` back to the one before `first`, whose chain is needed."""
        database = self._environment.database("records")
        stop = max(first - 1, 1)
        walked = []
        while position >= stop:
            value = self._transaction.get(layout.pack_u64(seq), db=database)
            if value is None:
                raise record.broken(seq, f"event {position} of {self._stream} is missing")
            stored = record.unpack(seq, value)
            if stored.stream != self._ref or stored.position != position:
                raise record.broken(seq, f"it is not event {position} of {self._stream}")
            walked.append(stored)
            seq = stored.previous
            position -= 1
        if stop == 1 and seq != 0:
            raise record.broken(walked[-1].seq, f"the first event of {self._stream} refers to an earlier one")
        return walked

    def _row(self, database: str, key: bytes) -> bytes | None:
        return find(self._environment, self._transaction, database, key)


def newest(environment: Environment) -> tuple[int, int]:
    """Sequence and time of the newest durable record; zeros for an empty log.

    Raises `Stalled` WF304 when that record is damaged or is not its stream's head.
    """
    with environment.reading() as transaction:
        cursor = transaction.cursor(environment.database("records"))
        if not cursor.last():
            return 0, 0
        stored = record.unpack(layout.unpack_u64(cursor.key()), cursor.value())
        key = layout.stream_key(record.stream_name(stored.stream))
        sealed = transaction.get(key, db=environment.database("heads"))
    if sealed is None or layout.unpack_head(layout.unseal("heads", key, sealed)) != (
        stored.seq,
        stored.position,
        stored.chain,
    ):
        raise record.broken(stored.seq, "the index of stream heads does not match it")
    return stored.seq, stored.at
