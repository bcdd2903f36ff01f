"""A batch of the log as a work item: encoded by the caller, checked and numbered on the writer thread.

Rules of this file: `BatchWork` is built on the caller's thread, so that an event that cannot be encoded fails there and
costs the writer nothing. `stage` checks the expected position of every stream and the trigger keys before it stages
anything; after these checks nothing can fail. Positions, sequences and chains are assigned only here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from waterflow_agent.errors import Stalled
from waterflowd.model.ids import StreamName
from waterflowd.model.records import Batch, RunSummary
from waterflowd.model.statuses import Status
from waterflowd.store import layout, record, removal
from waterflowd.store.codec import Codec
from waterflowd.store.sealing import SealKey
from waterflowd.store.staging import Staging

#: Bytes of a record besides the event itself: header, key, and the entry in its page.
RECORD_OVERHEAD_BYTES = 96

_NO_SEALS: Mapping[StreamName, SealKey] = MappingProxyType({})

_encode_summary = msgspec.msgpack.Encoder().encode


class _Append(NamedTuple):
    stream: StreamName
    key: bytes
    expected: int
    at: int
    bodies: list[bytes]


class _Head(NamedTuple):
    seq: int
    position: int
    chain: bytes


class BatchWork:
    """One batch to append to the log; its result is the last global sequence."""

    def __init__(self, batch: Batch, codec: Codec, seals: Mapping[StreamName, SealKey] = _NO_SEALS) -> None:
        self._schema = codec.schema
        self._seals = {layout.stream_key(stream): key for stream, key in seals.items()}
        self._appends: list[_Append] = []
        self.size_bytes = 0
        for append in batch.appends:
            codec.check(append.stream)
            if not 0 <= append.at < 1 << 63:
                raise ValueError(f"not a time in milliseconds: {append.at}")
            bodies = list(map(codec.encode, append.events))
            self._appends.append(
                _Append(append.stream, layout.stream_key(append.stream), append.expected, append.at, bodies)
            )
            self.size_bytes += sum(map(len, bodies)) + RECORD_OVERHEAD_BYTES * len(bodies)
        self._plans = [(layout.text_key(plan_hash), plan) for plan_hash, plan in batch.plans.items()]
        self._summaries = [_packed_summary(summary) for summary in batch.summaries]
        self._keys = [(key, layout.text_key(key), layout.run_key(run)) for key, run in batch.keys.items()]
        self._counters = [(layout.text_key(name), layout.pack_u64(value)) for name, value in batch.counters.items()]
        self.size_bytes += sum(len(plan) for _, plan in self._plans) + sum(len(row) for _, row, _ in self._summaries)
        self._plan_uses = list(map(layout.text_key, batch.plan_uses))
        self._removed_runs, self._removed_output = batch.removed_runs, batch.removed_output
        if (batch.removed_runs or batch.removed_output) and not batch.appends:
            raise ValueError(
                "a removal needs a record in the same transaction, so that the newest one is never removed"
            )

    def stage(self, staging: Staging) -> int:
        """Checks and stages the batch. Raises `Stalled` WF301 with nothing staged."""
        for key, packed, run in self._keys:
            held = staging.get("keys", packed)
            if held is not None and held != run:
                raise Stalled("WF301", f'the trigger key "{key}" already started run {layout.run_of_key(held)}')
        for item, _ in (*self._removed_runs, *self._removed_output):
            removal.check_removable(staging, item)
        self._stage_records(staging)
        for removed, run_memory in self._removed_runs:
            removal.stage_run(staging, removed, run_memory)
        for removed, output_memory in self._removed_output:
            removal.stage_output(staging, removed, output_memory)
        for key_bytes, plan in self._plans:
            if staging.get("plans", key_bytes) is None:
                staging.put("plans", key_bytes, plan)
        for key_bytes in self._plan_uses:
            removal.use_plan(staging, key_bytes)
        for run_key, row, is_open in self._summaries:
            staging.put("runs", run_key, row)
            if is_open:
                staging.put("open", run_key, b"")
            else:
                staging.delete("open", run_key)
        for _, packed, run in self._keys:
            staging.put("keys", packed, run)
        for name, value in self._counters:
            staging.put("counters", name, value)
        return staging.last_seq

    def _stage_records(self, staging: Staging) -> None:
        heads: dict[bytes, _Head] = {}
        marks: list[tuple[bytes, bytes]] = []
        records: list[tuple[bytes, bytes]] = []
        seq, last_at = staging.last_seq, staging.last_at
        for append in self._appends:
            head = heads.get(append.key) or _head(staging, append.key)
            if head.position != append.expected:
                raise _moved(append, head.position)
            before, position, chain = head
            ref, seal_key = record.stream_ref(append.key), self._seals.get(append.key)
            for body in append.bodies:
                seq += 1
                position += 1
                seal = b"" if seal_key is None else seal_key.seal(chain, self._schema, position, append.at, body)
                chain = record.next_chain(chain, self._schema, position, append.at, body)
                stored = record.StoredRecord(seq, ref, position, append.at, before, chain, self._schema, body, seal)
                records.append((layout.pack_u64(seq), record.pack(stored)))
                if position % layout.MARK_EVERY == 0:
                    marks.append((append.key + layout.pack_u64(position), layout.pack_u64(seq)))
                before = seq
            if append.bodies:
                last_at = append.at
                heads[append.key] = _Head(seq, position, chain)
        staging.add_records(records, seq, last_at)
        for key, head in heads.items():
            staging.put("heads", key, layout.pack_head(*head))
        for key, value in marks:
            staging.put("marks", key, value)


def decode_summary(row: bytes) -> RunSummary:
    """The summary in a row of `runs`."""
    return msgspec.msgpack.decode(row, type=RunSummary)


def _packed_summary(summary: RunSummary) -> tuple[bytes, bytes, bool]:
    return layout.run_key(summary.id), _encode_summary(summary), summary.status is not Status.COMPLETED


def _head(staging: Staging, key: bytes) -> _Head:
    packed = staging.get("heads", key)
    return _Head(0, 0, record.chain_start(key)) if packed is None else _Head(*layout.unpack_head(packed))


def _moved(append: _Append, position: int) -> Stalled:
    return Stalled(
        "WF301", f"the log of {append.stream} ends at event {position}, not at {append.expected}; read it again first"
    )
