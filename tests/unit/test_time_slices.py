"""Divided work: it gets one time slice in each iteration of the loop, however much of it there is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from waterflowd import time_slices
from waterflowd.time_slices import TimeSlices, Work, finish


@pytest.fixture(autouse=True)
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts work wherever it can be interrupted."""
    monkeypatch.setattr(time_slices, "SLICE_S", 0.0)


def work(name: str, count: int, done: list[str]) -> Work[str]:
    for _ in range(count):
        done.append(name)
        yield
    return name


def test_work_can_be_done_at_once() -> None:
    """For callers that cannot wait."""
    done: list[str] = []
    assert finish(work("a", 3, done)) == "a"
    assert done == ["a"] * 3


async def test_all_work_together_has_one_slice_in_each_iteration_of_the_loop() -> None:
    """Twenty pieces of work share the slices, and between any two slices other tasks continue."""
    shared, done = TimeSlices(), list[str]()

    async def other() -> None:
        while True:
            done.append("other")
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    names = [f"w{number}" for number in range(20)]
    assert await asyncio.gather(*(shared.do(work(name, 3, done)) for name in names)) == names
    task.cancel()
    worked = [name for name in done if name != "other"]
    assert worked[:40] == names * 2
    assert all("other" in pair for pair in itertools.pairwise(done[1:]) if pair[0] != pair[1])


async def test_items_are_collected_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice without an item returns nothing, and a long slice returns several."""

    def items() -> Iterator[int | None]:
        yield from (1, None, None, 2, 3)

    assert [found async for found in TimeSlices().collect(items())] == [[1], [2], [3]]
    monkeypatch.setattr(time_slices, "SLICE_S", 3600.0)
    assert [found async for found in TimeSlices().collect(items())] == [[1, 2, 3]]


async def test_an_error_ends_only_its_own_work() -> None:
    """Other work continues."""
    shared, done = TimeSlices(), list[str]()

    def broken() -> Work[str]:
        yield
        raise ValueError("broken")

    results = await asyncio.gather(shared.do(broken()), shared.do(work("a", 3, done)), return_exceptions=True)
    assert isinstance(results[0], ValueError)
    assert results[1] == "a"
