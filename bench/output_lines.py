"""Output by line: a log of 1 GiB is opened at any line, searched, and followed; and what that costs the event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench.figures import Row
from waterflow_agent.testing import attempt_id
from waterflowd.api.streaming.output_blocks import BlockBuilder
from waterflowd.api.streaming.output_pages import count_lines, read_lines
from waterflowd.api.streaming.output_search import OutputSearch, Query, SearchHit
from waterflowd.host.history import LogOutputs
from waterflowd.model import ids
from waterflowd.model.records import OutputAppend, OutputPiece
from waterflowd.store.opening import open_store

NAME = attempt_id(ids.run_id(1_700_000_000_000, 7), "deploy", "build", 1)
LOG_BYTES = 1 << 30
_PIECE_BYTES = 64 << 10
#: How often the loop is looked at; nothing else is to be done there.
_TICK_S = 0.001
_LINE = "2026-12-01T09:10:25.691 INFO  worker-{:02d} request {:09d} handled in 12 ms\n"


async def _write(logs: LogOutputs) -> int:
    """Writes the log; returns how many lines it has."""
    lines = offset = 0
    while offset < LOG_BYTES:
        pieces = []
        for _ in range(64):
            text = "".join(_LINE.format(number % 16, number) for number in range(lines, lines + 850))
            lines += 850
            data = text.encode()
            pieces.append(OutputPiece(offset=offset, at=offset // 1000, stream=1, data=data))
            offset += len(data)
        await logs.append([OutputAppend(attempt=NAME, pieces=pieces)])
    return lines


class _Loop:
    """How long the event loop was held at most."""

    longest_s = 0.0

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Measures while the body runs."""
        self.longest_s = 0.0
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self) -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - before - _TICK_S)
            before = now


async def _measure(folder: Path) -> list[Row]:
    store = open_store(folder / "data", {})
    logs = LogOutputs(store.outputs)
    total = await _write(logs)
    loop = _Loop()
    rows = []
    async with loop.watched():
        await asyncio.sleep(1)
    rows.append(Row("longest the event loop was held at rest", f"{loop.longest_s * 1000:.2f} ms", "", None))
    dice = random.Random(7)
    times = []
    async with loop.watched():
        for _ in range(100):
            began = time.perf_counter()
            marks = await logs.line_marks(NAME)
            assert await count_lines(logs, NAME, marks) == total
            blocks = await read_lines(logs, NAME, marks, dice.randrange(1, total), 1_000)
            msgspec.json.encode(blocks)
            times.append(time.perf_counter() - began)
    times.sort()
    rows.append(_at_most("log of 1 GiB: 1,000 lines at any line, p95 of 100", times[95] * 1000, 100, "ms"))
    rows.append(_at_most("the same: longest the event loop was held", loop.longest_s * 1000, 5, "ms"))
    late = Query(f"request 00{total - 5:07d}", is_case_sensitive=False, is_whole_word=False)
    early = Query("00000077", is_case_sensitive=True, is_whole_word=False)
    for name, text, is_early in (("a line near the end", late, False), ("100 lines near the begin", early, True)):
        first_s = None
        async with loop.watched():
            began = time.perf_counter()
            async for items in OutputSearch(logs).search(NAME, text, 1, 10_000):
                if first_s is None and any(isinstance(item, SearchHit) for item in items):
                    first_s = time.perf_counter() - began
            all_s = time.perf_counter() - began
        what = f"search of 1 GiB, {name}"
        if is_early:
            rows.append(_at_most(f"{what}: first hit", (first_s or all_s) * 1000, 300, "ms"))
        rows.append(_at_most(f"{what}: all of it", all_s, 3, "s"))
        rows.append(_at_most(f"{what}: longest the event loop was held", loop.longest_s * 1000, 5, "ms"))
    store.close()
    store = open_store(folder / "data", {})
    began = time.perf_counter()
    await LogOutputs(store.outputs).line_marks(NAME)
    rows.append(
        _at_most("log of 1 GiB: where its lines are, after a start", (time.perf_counter() - began) * 1000, 100, "ms")
    )
    store.close()
    next((folder / "data").rglob("*.index")).unlink()
    store = open_store(folder / "data", {})
    began = time.perf_counter()
    await LogOutputs(store.outputs).line_marks(NAME)
    rows.append(_at_most("log of 1 GiB: where its lines are, without its index", time.perf_counter() - began, 2, "s"))
    store.close()
    return rows


def _blocks() -> list[Row]:
    """What one line costs as a part of a block."""
    data = "".join(_LINE.format(number % 16, number) for number in range(850)).encode()
    began = time.perf_counter()
    size = 0
    for number in range(200):
        builder = BlockBuilder(1, 0)
        builder.feed(OutputPiece(offset=0, at=number, stream=1, data=data), 1 << 53, 1 << 30)
        size += len(msgspec.json.encode(builder.take()))
    lines = 200 * 850
    took_us = (time.perf_counter() - began) * 1e6 / lines
    return [
        _at_most("a line of output in a block", took_us, 0.2, "µs"),
        _at_most("a line of output of 74 bytes in a block", size / lines, 82, "bytes"),
    ]


def _at_most(name: str, value: float, goal: float, unit: str) -> Row:
    return Row(name, f"{value:.2f} {unit}", f"at most {goal:g} {unit}", value <= goal)


def output_lines(folder: Path) -> list[Row]:
    """All of them."""
    return _blocks() + asyncio.run(_measure(folder))
