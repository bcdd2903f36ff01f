"""The queue in which every client gets the same share of time."""

from __future__ import annotations

import asyncio

import pytest

from waterflowd.compiler.fair_queue import FairQueue, QueueFull


def served(queue: FairQueue[int], seconds: dict[str, float], count: int) -> list[str]:
    """Serves some work and returns its clients in order; the work of each takes its time."""
    order = []
    for _ in range(count):
        taken = queue.take_nowait()
        assert taken is not None
        name = str(taken[0])
        order.append(name)
        queue.charge(name, seconds[name])
    return order


def test_a_client_with_long_work_waits_for_those_with_short_work() -> None:
    """A hundred files of a push wait for one hostile file at most, not for one each."""
    queue: FairQueue[int] = FairQueue(100)
    for number in range(100):
        queue.put("slow", number)
    assert served(queue, {"slow": 2.0}, 1) == ["slow"]
    for number in range(100):
        queue.put("push", number)
    order = served(queue, {"slow": 2.0, "push": 0.01}, 101)
    assert order.count("slow") <= 1


def test_clients_with_equal_work_take_turns() -> None:
    """However much each has waiting, and the work of each in the order of its arrival."""
    queue: FairQueue[int] = FairQueue(100)
    for number in range(50):
        queue.put("many", number)
    queue.put("few", 0)
    queue.put("few", 1)
    order = served(queue, {"many": 1.0, "few": 1.0}, 4)
    assert sorted(order) == ["few", "few", "many", "many"]


def test_a_client_that_was_away_has_no_credit() -> None:
    """It does not get all the time until it has caught up with the others."""
    queue: FairQueue[int] = FairQueue(1_000)
    for number in range(1_000):
        queue.put("busy", number)
    queue.put("rare", 0)
    served(queue, {"busy": 1.0, "rare": 1.0}, 500)
    for number in range(10):
        queue.put("rare", number)
    order = served(queue, {"busy": 1.0, "rare": 1.0}, 10)
    assert 4 <= order.count("rare") <= 6


def test_a_client_does_not_lose_its_debt_by_leaving() -> None:
    """One that sends each file only when the last is done is no better off than one that sends all at once."""
    queue: FairQueue[int] = FairQueue(100)
    order = []
    for number in range(20):
        queue.put("polite", number)
    queue.put("sly", 0)
    for _ in range(10):
        taken = queue.take_nowait()
        assert taken is not None
        order.append(taken[0])
        queue.charge(taken[0], 1.0 if taken[0] == "polite" else 10.0)
        if taken[0] == "sly":
            queue.put("sly", 0)
    assert order.count("sly") == 1


def test_the_work_of_one_client_is_bounded() -> None:
    """Its next one is refused, another client's is not; what is discarded makes room."""
    queue: FairQueue[int] = FairQueue(2)
    queue.put("a", 1)
    queue.put("a", 2)
    with pytest.raises(QueueFull):
        queue.put("a", 3)
    queue.put("b", 1)
    queue.discard("a", 1)
    queue.put("a", 3)
    assert len(queue) == 3
    assert served(queue, {"a": 1.0, "b": 1.0}, 3) == ["a", "b", "a"]


def test_clients_without_work_are_forgotten() -> None:
    """Memory does not grow with the number of clients that ever came."""
    queue: FairQueue[int] = FairQueue(2)
    for number in range(1_000):
        queue.put(number, 0)
        taken = queue.take_nowait()
        assert taken is not None
        queue.charge(taken[0], 0.001)
    assert len(queue._clients) < 10


async def test_taking_waits_for_work() -> None:
    """Work that is put later is taken by who waits."""
    queue: FairQueue[int] = FairQueue(2)
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.put("a", 7)
    assert await taking == ("a", 7)
