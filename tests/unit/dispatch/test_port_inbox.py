"""What waits to be handled: each connection's records in order, and the connections in turn."""

from __future__ import annotations

from collections.abc import Iterator

from waterflowd.dispatch.port import records
from waterflowd.dispatch.port.inbox import Inbox
from waterflowd.dispatch.port.records import Kind, Record


def message(connection: int, text: str) -> Record:
    return Kind.MESSAGE, connection, memoryview(text.encode())


def rest(inbox: Inbox) -> Iterator[tuple[int, str]]:
    while inbox:
        _, connection, payload = inbox.take()
        yield connection, bytes(payload).decode()


def test_connections_take_turns_and_keep_their_order() -> None:
    """A single message waits for one of each other connection, however many these have sent."""
    inbox = Inbox()
    inbox.add([message(1, f"flood {n}") for n in range(1, 51)])
    inbox.add([message(2, "two"), message(3, "three"), message(2, "two again")])
    found = list(rest(inbox))
    assert found[:6] == [(1, "flood 1"), (2, "two"), (3, "three"), (1, "flood 2"), (2, "two again"), (1, "flood 3")]
    assert [text for connection, text in found if connection == 1] == [f"flood {n}" for n in range(1, 51)]


def test_the_cost_is_that_of_what_waits() -> None:
    """As the windows of the connections count it."""
    inbox = Inbox()
    inbox.add([message(1, "small"), message(2, "x" * 5_000)])
    assert inbox.cost == records.MESSAGE_COST_MIN + 5_000
    inbox.take()
    assert inbox.cost == 5_000
    inbox.clear()
    assert (inbox.cost, bool(inbox)) == (0, False)
