"""A process for the store's tests: `writer_process.py MODE DIRECTORY`; prints one line for everything that is durable.

`append` appends to ten runs and two output logs forever, with several batches in flight; `hold` opens the directory and
waits for the end of stdin; `open` opens and closes it and prints the outcome; `depose` takes the generation as a second
daemon would if it got past the lock.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import lmdb

from waterflow_agent.errors import Stalled
from waterflow_agent.testing import attempt_id
from waterflowd.engine import events
from waterflowd.model import ids
from waterflowd.model.ids import AttemptId
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import Batch, OutputAppend, OutputPiece, StreamAppend
from waterflowd.store import layout
from waterflowd.store.opening import Store, open_store

UNIONS = {"run": events.RunEvent}
REASON = Reason(code=ReasonCode.STARTED, text="started")
RUNS = 10
LOGS = 2


def run(number: int) -> ids.RunId:
    return ids.run_id(1_700_000_000_000 + number, number)


def name(number: int) -> AttemptId:
    return attempt_id(run(number), "job", "step", 1)


def line(number: int, position: int) -> bytes:
    """Returns the content of output log `number` from offset `position * 1000` on."""
    return (b"%d-%d " % (number, position)).ljust(1000, b".")


async def append_for_ever(store: Store) -> None:
    """Appends to all streams concurrently, so that batches share transactions."""

    async def events_of(number: int) -> None:
        position = store.log.head(ids.run_stream(run(number)))
        while True:
            count = position % 7 + 1
            facts = [events.RunStarted(at=position + each, reason=REASON) for each in range(count)]
            append = StreamAppend(stream=ids.run_stream(run(number)), expected=position, at=position, events=facts)
            await store.log.append(Batch(appends=[append], counters={f"run-{number}": position + count}))
            position += count
            print("event", number, position, flush=True)

    async def output_of(number: int) -> None:
        position = store.outputs.size(name(number)) // 1000
        while True:
            pieces = [
                OutputPiece(offset=each * 1000, at=each, stream=1, data=line(number, each))
                for each in range(position, position + 3)
            ]
            sizes = await store.outputs.append([OutputAppend(attempt=name(number), pieces=pieces)])
            position += 3
            print("output", number, sizes[0], flush=True)

    await asyncio.gather(*map(events_of, range(RUNS)), *map(output_of, range(LOGS)))


def depose(directory: Path) -> None:
    """Writes the next generation without the lock."""
    path = directory / layout.ENVIRONMENT_DIRECTORY
    with lmdb.open(os.fspath(path), map_size=1 << 30, max_dbs=12, lib_version=0) as environment:
        meta = environment.open_db(b"meta")
        with environment.begin(write=True) as transaction:
            transaction.put(b"generation", layout.seal(b"generation", b"999"), db=meta)


def main() -> None:
    mode, directory = sys.argv[1], Path(sys.argv[2])
    if mode == "depose":
        depose(directory)
        return
    try:
        with open_store(directory, UNIONS, wait_s=0.3) as store:
            print("open", store.log.generation, flush=True)
            if mode == "append":
                asyncio.run(append_for_ever(store))
            elif mode == "hold":
                sys.stdin.read()
    except Stalled as error:
        print("stalled", error, flush=True)


if __name__ == "__main__":
    main()
