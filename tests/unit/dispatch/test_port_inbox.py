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


def test_ends_that_wait_behind_messages_are_counted() -> None:
    """The place of such a connection is free, although a newer connection's turn may come first."""
    inbox = Inbox()
    closed: Record = (Kind.CLOSED, 1, memoryview(b""))
    inbox.add([message(1, "one"), message(1, "two"), closed, message(2, "three")])
    assert (inbox.count(Kind.CLOSED), inbox.count(Kind.MESSAGE)) == (1, 3)
    assert [inbox.take()[0] for _ in range(3)] == [Kind.MESSAGE] * 3
    assert inbox.count(Kind.CLOSED) == 1
    inbox.take()
    assert inbox.count(Kind.CLOSED) == 0


def test_the_cost_is_that_of_what_waits() -> None:
    """As the windows of the connections count it."""
    inbox = Inbox()
    inbox.add([message(1, "small"), message(2, "x" * 5_000)])
    assert inbox.cost == records.MESSAGE_COST_MIN + 5_000
    inbox.take()
    assert inbox.cost == 5_000
    inbox.clear()
    assert (inbox.cost, bool(inbox)) == (0, False)
