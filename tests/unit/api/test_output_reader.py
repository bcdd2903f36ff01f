"""Reading the output of runs with many attempts: the cost grows with their number, and the work can be interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.executed_lines import ExecutedLines
from waterflowd import time_slices
from waterflowd.api.streaming import output_reader
from waterflowd.api.streaming.output_lines import parse_cursor
from waterflowd.api.streaming.output_reader import OutputLine, RunOutput
from waterflowd.api.streaming.streams import read_output
from waterflowd.model.ids import RunId
from waterflowd.model.statuses import Status
from waterflowd.testing.api import ApiHarness
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import request

FOLDER = str(Path(output_reader.__file__).parent)


async def a_run(harness: ApiHarness, steps: int) -> RunId:
    """A completed run; its first job is one long step, which ends after everything else, and every second step prints."""
    harness.connect("web-1", "web")
    lines = "".join(f"      - run: {'print x' if number % 2 else 'quiet'}\n" for number in range(steps))
    text = f"jobs:\n  first:\n    runs-on: web\n    steps:\n      - run: hold\n  second:\n    runs-on: web\n    steps:\n{lines}"
    row = await harness.driver.start(request(text))
    (held,) = await harness.held()
    jobs = harness.driver.state.runs[row.id].jobs
    await until(lambda: jobs[1].status is Status.COMPLETED)
    harness.fleet.release(held)
    await harness.completed(row.id)
    return row.id


async def all_lines(harness: ApiHarness, run: RunId, start: str | None = None) -> list[OutputLine]:
    output = RunOutput(
        harness.services.history, harness.services.outputs, run, start=parse_cursor(start) if start is not None else 0
    )
    await output.learn()
    return [line async for lines in output.read_some(is_last=False) for line in lines if line is not None]


async def test_the_cost_of_reading_output_grows_with_the_number_of_attempts() -> None:
    """Five times as many attempts cost about five times as much, although the first one of them ended last."""
    costs = []
    for steps in (100, 500):
        async with ApiHarness() as harness:
            run = await a_run(harness, steps)
            with ExecutedLines(FOLDER) as lines:
                assert len(await all_lines(harness, run)) == steps // 2
            costs.append(lines.count)
    assert costs[1] <= 6 * costs[0], costs


async def test_output_continues_after_any_line_of_a_long_run() -> None:
    """A cursor leads to the remaining lines; it stays short."""
    async with ApiHarness() as harness:
        run = await a_run(harness, 100)
        found = await all_lines(harness, run)
        for index, line in enumerate(found):
            assert len(line.cursor) < 40
            assert await all_lines(harness, run, line.cursor) == found[index + 1 :]


async def test_output_of_a_long_run_is_read_in_time_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts without output are places to interrupt too."""
    monkeypatch.setattr(time_slices, "SLICE_S", 0.0)
    async with ApiHarness() as harness:
        run = await a_run(harness, 100)
        count = 0
        output = RunOutput(harness.services.history, harness.services.outputs, run)
        counted = time_slices.TimeSlices()
        harness.services.time_slices = counted
        taken = counted._lock.acquire

        async def take() -> bool:
            nonlocal count
            count += 1
            return await taken()

        monkeypatch.setattr(counted._lock, "acquire", take)
        pieces = [piece async for piece in read_output(harness.services, run, output)]
        assert b"".join(pieces).count(b"\n") == 50
        assert count > 100
