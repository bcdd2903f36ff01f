"""Removes runs and output from the log, a bounded piece at a time.

Rules of this file:

- A removal is read first, in a read transaction of its own, and staged later, on the writer thread: what is read from a cold
  disk does not delay a commit. Staging checks that the run has not changed meanwhile.
- A run disappears for all readers with the transaction that removes its first piece: its row goes, what is remembered of it is
  written, and `removing` says that more is to follow. Its events are removed from the newest one back, so at any time what is
  left is a stream with a valid chain and head, and a log without damage.
- Removed sequences are recorded as gaps in maximal ranges, under their first and their last sequence, so that readers and
  checks tell a removed record from a lost one. There are at most as many ranges as records that are left.
- The newest record of the log is never removed, because sequences continue after it: every removal is in one transaction with
  a record of the audit trail (`BatchWork` requires that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import lmdb
import msgspec

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Removal, RemovedOutput, RemovedRun
from waterflowd.store import layout, record
from waterflowd.store.environment import Environment
from waterflowd.store.rows import find, seek_from
from waterflowd.store.staging import Staging

#: Values of `removing`: a whole run, or only its output.
WHOLE_RUN, ONLY_OUTPUT = b"r", b"o"

_FIRST, _LAST = b"f", b"l"

encode_memory: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode


class Piece(NamedTuple):
    """What one transaction removes of a run: keys of rows, and the stream's head before and after."""

    head: bytes | None = None
    head_after: bytes | None = None
    seqs: tuple[int, ...] = ()
    marks: tuple[bytes, ...] = ()
    output: tuple[bytes, ...] = ()
    #: The plan of the run, with its last events.
    plan_key: bytes | None = None


def read_removal(
    environment: Environment, run: RunId, *, events_max: int, output_bytes_max: int, plan_key: Callable[[bytes], bytes]
) -> Removal:
    """The next piece to remove of a run: its newest events, then its output rows. With `events_max` 0 only output.

    `plan_key` gives the key of the plan in the body of a run's first record. Raises `Stalled` WF304 for a damaged record.
    """
    key = layout.stream_key(run_stream(run))
    with environment.reading() as transaction:
        head = find(environment, transaction, "heads", key) if events_max else None
        stored = list(_newest(environment, transaction, key, head, events_max + 1))
        taken = stored[:events_max]
        rest = stored[events_max] if len(stored) > events_max else None
        output, output_bytes, has_more_output = _output_keys(environment, transaction, run, output_bytes_max)
    # The events go last, because a stream is what finds the rest after a restart.
    if has_more_output and events_max:
        taken, rest = [], None
    is_whole = rest is None and not has_more_output
    piece = Piece(
        head=head if taken else None,
        head_after=None if rest is None else layout.pack_head(rest.seq, rest.position, rest.chain),
        seqs=tuple(sorted(found.seq for found in taken)),
        marks=tuple(
            key + layout.pack_u64(found.position) for found in taken if found.position % layout.MARK_EVERY == 0
        ),
        output=output,
        plan_key=plan_key(taken[-1].body) if taken and rest is None else None,
    )
    event_bytes = sum(len(found.body) for found in taken)
    return Removal(run=run, events=len(taken), bytes=event_bytes + output_bytes, is_whole=is_whole, detail=piece)


def _newest(
    environment: Environment, transaction: lmdb.Transaction[bytes], key: bytes, head: bytes | None, count: int
) -> Iterator[record.StoredRecord]:
    """The newest `count` records of a stream, from the head back."""
    if head is None:
        return
    seq, position, _ = layout.unpack_head(head)
    database, ref = environment.database("records"), record.stream_ref(key)
    while position > 0 and count > 0:
        value = transaction.get(layout.pack_u64(seq), db=database)
        if value is None:
            raise record.broken(seq, "it is missing", record.stream_name(ref))
        stored = record.unpack(seq, value)
        if stored.stream != ref or stored.position != position:
            raise record.broken(seq, f"it is not event {position} of {record.stream_name(ref)}")
        yield stored
        seq, position, count = stored.previous, position - 1, count - 1


def _output_keys(
    environment: Environment, transaction: lmdb.Transaction[bytes], run: RunId, bytes_max: int
) -> tuple[tuple[bytes, ...], int, bool]:
    """Keys of the run's first output rows, at least one if there are any, their size, and whether there are more."""
    prefix, size = layout.run_key(run), 0
    keys: list[bytes] = []
    cursor = transaction.cursor(environment.database("output"))
    more = seek_from(cursor, "output", prefix)
    while more and cursor.key().startswith(prefix):
        if keys and size >= bytes_max:
            return tuple(keys), size, True
        keys.append(cursor.key())
        size += len(cursor.value())
        more = cursor.next()
    return tuple(keys), size, False


def stage_run(staging: Staging, removal: Removal, memory: RemovedRun) -> None:
    """Stages a piece of a run; the first one hides the run. Call `check_removable` before anything is staged."""
    run_key = layout.run_key(removal.run)
    if staging.get("removing", run_key) != WHOLE_RUN:
        if memory.trigger_key is not None and staging.get("keys", layout.text_key(memory.trigger_key)) == run_key:
            staging.delete("keys", layout.text_key(memory.trigger_key))
        staging.delete("runs", run_key)
        staging.delete("outputless", run_key)
        _remember(staging, run_key, memory)
    _stage_piece(staging, removal, WHOLE_RUN)


def stage_output(staging: Staging, removal: Removal, memory: RemovedOutput) -> None:
    """Stages a piece of a run's output; the first one says that the output is removed."""
    run_key = layout.run_key(removal.run)
    if staging.get("removing", run_key) == WHOLE_RUN:
        return
    staging.put("outputless", run_key, encode_memory(memory))
    _stage_piece(staging, removal, ONLY_OUTPUT)


def check_removable(staging: Staging, removal: Removal) -> None:
    """Raises `Stalled` WF301 when the run is open, or has got events since the piece was read. Nothing is staged."""
    piece: Piece = removal.detail
    if staging.get("open", layout.run_key(removal.run)) is not None:
        raise Stalled("WF301", f"run {removal.run} is open and cannot be removed")
    if piece.head is not None and staging.get("heads", layout.stream_key(run_stream(removal.run))) != piece.head:
        raise Stalled("WF301", f"run {removal.run} has new events; read it again first")


def _stage_piece(staging: Staging, removal: Removal, kind: bytes) -> None:
    piece: Piece = removal.detail
    run_key, key = layout.run_key(removal.run), layout.stream_key(run_stream(removal.run))
    if piece.head_after is not None:
        staging.put("heads", key, piece.head_after)
    elif piece.head is not None:
        staging.delete("heads", key)
    for seq in piece.seqs:
        staging.delete("records", layout.pack_u64(seq))
    for first, last in _ranges(piece.seqs):
        _add_gap(staging, first, last)
    for mark in piece.marks:
        staging.delete("marks", mark)
    for row in piece.output:
        staging.delete("output", row)
    if piece.plan_key is not None:
        release_plan(staging, piece.plan_key)
    if removal.is_whole:
        staging.delete("removing", run_key)
    else:
        staging.put("removing", run_key, kind)


def use_plan(staging: Staging, key: bytes) -> None:
    """Counts one more run with this plan."""
    uses = staging.get("plan_uses", key)
    staging.put("plan_uses", key, layout.pack_u64(1 if uses is None else layout.unpack_u64(uses) + 1))


def release_plan(staging: Staging, key: bytes) -> None:
    """Counts one run less; removes a plan that no run has any longer. An uncounted plan stays."""
    uses = staging.get("plan_uses", key)
    left = 0 if uses is None else layout.unpack_u64(uses) - 1
    if left > 0:
        staging.put("plan_uses", key, layout.pack_u64(left))
    elif uses is not None:
        staging.delete("plan_uses", key)
        staging.delete("plans", key)


def _remember(staging: Staging, run_key: bytes, memory: RemovedRun) -> None:
    staging.put("removed", run_key, encode_memory(memory))
    staging.drop_oldest("removed", layout.REMOVED_MAX)


def _ranges(seqs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The ascending numbers as ranges without a hole."""
    first = last = -1
    for seq in seqs:
        if seq != last + 1 or first < 0:
            if first >= 0:
                yield first, last
            first = seq
        last = seq
    if first >= 0:
        yield first, last


def _add_gap(staging: Staging, first: int, last: int) -> None:
    """Adds a range to the gaps, joined with those beside it."""
    before = staging.get("gaps", _LAST + layout.pack_u64(first - 1))
    if before is not None:
        staging.delete("gaps", _LAST + layout.pack_u64(first - 1))
        first = layout.unpack_u64(before)
    after = staging.get("gaps", _FIRST + layout.pack_u64(last + 1))
    if after is not None:
        staging.delete("gaps", _FIRST + layout.pack_u64(last + 1))
        last = layout.unpack_u64(after)
    staging.put("gaps", _FIRST + layout.pack_u64(first), layout.pack_u64(last))
    staging.put("gaps", _LAST + layout.pack_u64(last), layout.pack_u64(first))


def gap_before(environment: Environment, transaction: lmdb.Transaction[bytes], seq: int) -> int:
    """The first sequence of the removed range that ends before `seq`; `seq` itself without one."""
    row = find(environment, transaction, "gaps", _LAST + layout.pack_u64(seq - 1))
    return seq if row is None else layout.unpack_u64(row)


def gaps(environment: Environment, transaction: lmdb.Transaction[bytes]) -> dict[int, int]:
    """The last sequence of each removed range, by its first. Raises `Stalled` WF304 when its two rows do not agree."""
    by_first: dict[int, int] = {}
    by_last: dict[int, int] = {}
    for key, sealed in transaction.cursor(environment.database("gaps")):
        number = layout.unpack_u64(layout.unseal("gaps", key, sealed))
        (by_first if key[:1] == _FIRST else by_last)[layout.unpack_u64(key[1:])] = number
    if by_first != {first: last for last, first in by_last.items()}:
        raise Stalled("WF304", "the index of removed records is damaged; restore a backup of the data directory")
    return by_first
