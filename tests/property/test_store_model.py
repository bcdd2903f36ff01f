"""Any sequence of operations gives the same results as the in-memory implementation, and damage is detected."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterflow_agent.errors import Stalled
from waterflow_agent.testing import attempt_id
from waterflowd.engine import events
from waterflowd.model import ids
from waterflowd.model.ids import AttemptId
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import (
    Batch,
    OutputAppend,
    OutputPiece,
    RunFilter,
    RunSummary,
    StreamAppend,
    Trigger,
    TriggerKind,
)
from waterflowd.model.statuses import Status
from waterflowd.ports import Journal, LocalOutputLogs
from waterflowd.store import layout, record, sealing
from waterflowd.store.codec import Codec
from waterflowd.store.log import LmdbLog
from waterflowd.store.opening import open_store
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs

CODEC = Codec({"run": events.RunEvent, "repo": events.RunEvent})
REASON = Reason(code=ReasonCode.STARTED, text="started")
RUNS = [ids.run_id(number, number << 70 | number) for number in (1, 2, 3)]
STREAMS = [*map(ids.run_stream, RUNS), ids.repository_stream("shop"), ids.repository_stream("s" * 200)]
KEYS = ["a", "b", "k" * 1_000]

appends = st.builds(
    lambda stream, ahead, count, at: (stream, ahead, count, at),
    st.sampled_from(STREAMS),
    st.sampled_from([0, 0, 0, 0, 1, -1]),
    st.integers(0, 300),
    st.integers(0, 2**60),
)
summaries = st.builds(
    lambda run, status, number: RunSummary(
        id=run,
        number=number,
        name="n",
        path="p",
        trigger=Trigger(kind=TriggerKind.API),
        status=status,
        reason=REASON,
        created_at=1,
        seq=1,
    ),
    st.sampled_from(RUNS),
    st.sampled_from(Status),
    st.integers(1, 9),
)
batches = st.tuples(
    st.lists(appends, max_size=4),
    st.dictionaries(st.sampled_from(KEYS), st.binary(max_size=9), max_size=2),
    st.lists(summaries, max_size=3),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(RUNS), max_size=1),
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2**63), max_size=2),
)


def built(log: Journal, plan: tuple) -> Batch:  # type: ignore[type-arg]
    """Returns the batch of a drawn plan: most appends are at the right position, some ahead of it or behind."""
    heads = {stream: log.head(stream) for stream in STREAMS}
    stream_appends = []
    for stream, ahead, count, at in plan[0]:
        facts = [events.RunStarted(at=at + number, reason=REASON) for number in range(count)]
        stream_appends.append(StreamAppend(stream=stream, expected=max(heads[stream] + ahead, 0), at=at, events=facts))
        heads[stream] += count
    return Batch(appends=stream_appends, plans=plan[1], summaries=plan[2], keys=plan[3], counters=plan[4])


def outcome(log: MemoryLog | LmdbLog, batch: Batch) -> int | str:
    try:
        return int(log.append_blocking(batch))
    except Stalled as error:
        return str(error)


def view(log: Journal) -> list[object]:
    """Returns everything that can be queried."""
    return [
        log.last_seq,
        log.last_at,
        log.feed(0, 10_000),
        log.feed(7, 5),
        [(log.head(stream), log.read(stream), log.read(stream, 256, 2)) for stream in STREAMS],
        list(log.open_runs()),
        [log.run(run) for run in RUNS],
        log.runs(RunFilter(), before=None, limit=2),
        [log.runs(RunFilter(), before=run, limit=2) for run in RUNS],
        [log.runs_by_prefix(prefix, 2) for prefix in ("", "0", "0000000001", RUNS[2], "1")],
        [(log.plan(key), log.run_for_key(key), log.counter(key)) for key in KEYS],
    ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(batches, max_size=4), min_size=1, max_size=3))
def test_the_store_and_its_twin_agree(sessions: list[list[tuple]]) -> None:  # type: ignore[type-arg]
    """For any valid and invalid batches over several restarts, both give the same results, refusals and answers."""
    twin = MemoryLog(CODEC, generation=0)
    with tempfile.TemporaryDirectory() as directory:
        for plans in sessions:
            twin = twin.reopened()
            with open_store(Path(directory), CODEC) as store:
                for plan in plans:
                    batch = built(twin, plan)
                    assert outcome(store.log, batch) == outcome(twin, batch)
                assert view(store.log) == view(twin)
                assert store.log.generation == twin.generation
                assert store.verify().records == twin.last_seq


names = st.builds(AttemptId, run=st.just(RUNS[0]), job=st.just("j"), step=st.sampled_from("st"), number=st.just(1))
sizes = st.sampled_from([0, 1, 10, 100, 8_000, 65_000])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.lists(st.lists(st.tuples(names, st.integers(-20, 3), st.lists(sizes, max_size=3)), max_size=4), max_size=4),
        min_size=1,
        max_size=3,
    )
)
def test_output_logs_and_their_twin_agree(sessions: list[list[list[tuple[AttemptId, int, list[int]]]]]) -> None:
    """The pieces may be repeated, overlapping or with gaps, small or large, over several restarts."""
    twin = MemoryOutputLogs()
    with tempfile.TemporaryDirectory() as directory:
        for calls in sessions:
            with open_store(Path(directory), CODEC) as store:
                for call in calls:
                    appends = [_pieces(twin, *each) for each in call]
                    assert asyncio.run(_append(store.outputs, appends)) == asyncio.run(_append(twin, appends))
                for step in "st":
                    name = attempt_id(RUNS[0], "j", step, 1)
                    for offset in (0, 1, 70_000, store.outputs.size(name) - 1):
                        assert store.outputs.read(name, offset, 9_000) == twin.read(name, offset, 9_000)


def _pieces(twin: MemoryOutputLogs, name: AttemptId, ahead: int, lengths: list[int]) -> OutputAppend:
    offset = max(twin.size(name) + ahead, 0) if ahead > -10 else 0
    pieces = []
    for length in lengths:
        printed = bytes((offset + number) % 251 for number in range(length))
        pieces.append(OutputPiece(offset=offset, at=offset, stream=1 + offset % 2, data=printed))
        offset += length
    return OutputAppend(attempt=name, pieces=pieces)


async def _append(logs: LocalOutputLogs, appends: list[OutputAppend]) -> list[int]:
    return await logs.append(appends)


stored = st.builds(
    record.StoredRecord,
    seq=st.integers(1, 2**63),
    stream=st.one_of(
        st.builds(record.StreamRef, st.binary(min_size=16, max_size=16), st.just(b"")),
        st.builds(record.StreamRef, st.just(bytes(16)), st.binary(min_size=1, max_size=255)),
    ),
    position=st.integers(1, 2**63),
    at=st.integers(0, 2**63),
    previous=st.integers(0, 2**63),
    chain=st.binary(min_size=16, max_size=16),
    schema=st.integers(0, 2**16 - 1),
    body=st.binary(max_size=300),
    seal=st.one_of(st.just(b""), st.binary(min_size=sealing.SEAL_BYTES, max_size=sealing.SEAL_BYTES)),
)


@given(stored)
def test_a_record_is_unpacked_as_it_was_packed(original: record.StoredRecord) -> None:
    """Every field survives."""
    assert record.unpack(original.seq, record.pack(original)) == original


@given(stored, st.data())
def test_any_damage_to_a_record_is_detected(original: record.StoredRecord, draw: st.DataObject) -> None:
    """A flipped bit, another length or another position in the log gives WF304 and no record."""
    packed = record.pack(original)
    at = draw.draw(st.integers(0, len(packed) * 8 - 1))
    flipped = bytearray(packed)
    flipped[at // 8] ^= 1 << at % 8
    for seq, value in (
        (original.seq, bytes(flipped)),
        (original.seq + 1, packed),
        (original.seq, packed[:-1]),
        (original.seq, b""),
    ):
        with pytest.raises(Stalled, match="WF304"):
            record.unpack(seq, value)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1), st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
def test_run_ids_sort_as_their_keys(at: int, randomness: int, other_at: int, other_randomness: int) -> None:
    """The sixteen bytes contain the same information as the id, and sort in the same order."""
    one, other = ids.run_id(at, randomness), ids.run_id(other_at, other_randomness)
    assert layout.run_of_key(layout.run_key(one)) == one
    assert (one < other) == (layout.run_key(one) < layout.run_key(other))
