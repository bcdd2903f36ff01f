"""Damaged keys: LMDB finds no row under a key that a flipped bit has changed; that must not look like an absent row."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb

from tests.integration.store import writer_process
from waterflow_agent.errors import Stalled
from waterflowd.engine import events
from waterflowd.model import ids
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
from waterflowd.store import layout
from waterflowd.store.opening import Store, open_store

RUNS = 60
#: Enough for several leaf pages, and thus for branch pages, in the databases that grow.
LINES = 5
Question = Callable[[], Any]


def summary(number: int) -> RunSummary:
    is_open = number % 3 == 0
    return RunSummary(
        id=writer_process.run(number), number=number, name="a name that takes some room", path="workflows/a.yml",
        repository=None, revision=None, trigger=Trigger(kind=TriggerKind.CLI),
        status=Status.RUNNING if is_open else Status.COMPLETED, conclusion=None,
        reason=Reason(code=ReasonCode.STARTED, text="started"), created_at=number, started_at=None, completed_at=None,
        seq=1,
    )  # fmt: skip


async def fill(store: Store) -> None:
    """Stores some of everything that the store keeps under a key."""
    for number in range(RUNS):
        append = StreamAppend(
            stream=ids.run_stream(writer_process.run(number)),
            expected=0,
            at=number,
            events=[events.RunStarted(at=number, reason=writer_process.REASON)],
        )
        batch = Batch(
            appends=[append],
            summaries=[summary(number)],
            plans={f"hash-{number}": b"a plan"},
            keys={f"trigger-{number}": writer_process.run(number)},
            counters={f"counter-{number}": number},
        )
        await store.log.append(batch)
        pieces = [
            OutputPiece(offset=each * 1000, at=each, stream=1, data=writer_process.line(number, each))
            for each in range(LINES)
        ]
        await store.outputs.append([OutputAppend(attempt=writer_process.name(number), pieces=pieces)])


def questions(store: Store) -> Iterator[Question]:
    """Yields every query, for existing and for missing keys."""
    log, outputs = store.log, store.outputs
    for number in range(RUNS + 1):
        run, name = writer_process.run(number), writer_process.name(number)
        yield functools.partial(log.run, run)
        yield functools.partial(log.head, ids.run_stream(run))
        yield functools.partial(log.read, ids.run_stream(run))
        yield functools.partial(log.run_for_key, f"trigger-{number}")
        yield functools.partial(log.counter, f"counter-{number}")
        yield functools.partial(log.plan, f"hash-{number}")
        yield functools.partial(outputs.size, name)
        for offset, bytes_max in ((0, 1 << 20), (0, 10), (2_500, 1 << 20), (4_999, 1)):
            yield functools.partial(outputs.read, name, offset, bytes_max)
    for after, limit in ((0, 1_000), (10, 3), (RUNS - 1, 10), (RUNS, 10)):
        yield functools.partial(log.feed, after, limit)
    yield lambda: list(log.open_runs())
    yield lambda: log.runs(RunFilter(), before=None, limit=100)
    yield lambda: log.runs(RunFilter(), before=writer_process.run(30), limit=7)
    yield lambda: log.runs_by_prefix(writer_process.run(7), 3)
    yield lambda: log.runs_by_prefix(writer_process.run(0)[:8], 100)
    yield lambda: sorted(log.streams())


def answered(store: Store, question: Question) -> Any:
    # Read the ends of the output logs from the disk again.
    store.outputs._tails.clear()
    try:
        return question()
    except Stalled as error:
        return error.code


def places_of_keys(directory: Path) -> list[tuple[int, int]]:
    """Returns offset and length of each key in the file, in leaf and branch pages."""
    path = directory / layout.ENVIRONMENT_DIRECTORY
    content = (path / layout.LOG_FILE).read_bytes()
    found = []
    with lmdb.open(
        os.fspath(path), readonly=True, lock=False, max_dbs=len(layout.DATABASES), lib_version=layout.LMDB_ENGINE
    ) as environment:
        for name in layout.DATABASES:
            database = environment.open_db(name.encode(), create=False)
            with environment.begin(db=database) as transaction:
                for key, value in transaction.cursor():
                    # A number alone could also occur elsewhere.
                    sought = key + value[:16] if len(key) == 8 else key
                    at = content.find(sought)
                    while at >= 0:
                        found.append((at, len(key)))
                        at = content.find(sought, at + 1)
    return found


async def test_a_damaged_key_hides_nothing(tmp_path: Path) -> None:
    """Each read returns the true value or WF304, whichever bit of whichever key was flipped."""
    with open_store(tmp_path, writer_process.UNIONS) as store:
        await fill(store)
    locations = places_of_keys(tmp_path)
    dice = random.Random(1)
    detected = 0
    with (
        open_store(tmp_path, writer_process.UNIONS) as store,
        (tmp_path / layout.ENVIRONMENT_DIRECTORY / layout.LOG_FILE).open("r+b", buffering=0) as file,
    ):
        questions_asked = list(questions(store))
        truth = [answered(store, question) for question in questions_asked]
        assert "WF304" not in truth
        for at, length in dice.sample(locations, 400):
            position, bit = at + dice.randrange(length), 1 << dice.randrange(8)
            (whole,) = os.pread(file.fileno(), 1, position)
            os.pwrite(file.fileno(), bytes([whole ^ bit]), position)
            answers = [answered(store, question) for question in questions_asked]
            os.pwrite(file.fileno(), bytes([whole]), position)
            detected += "WF304" in answers
            for question, got, true in zip(questions_asked, answers, truth, strict=True):
                assert got in (true, "WF304"), (
                    f"byte {position}, bit {bit}: {question.__defaults__}: {got} is not {true}"
                )
        assert detected > 100, "most of these bits are in rows that are read"
        assert [answered(store, question) for question in questions_asked] == truth
