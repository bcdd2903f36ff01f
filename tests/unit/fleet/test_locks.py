"""Locks: free places are always used, waiting holders are served in order, and the cost does not grow with the queue."""

from __future__ import annotations

from waterflowd.fleet.locks import REPORTED_MAX, Holder, LockAnswer, LockRequest, Locks
from waterflowd.model.ids import JobId, RunId
from waterflowd.model.plan import Queue


def ask(run: str, *, limit: int = 1, queue: Queue = Queue.FIFO, at: int = 0) -> LockRequest:
    return LockRequest(Holder(RunId(run), None), "deploy", "ops", limit, queue, at)


def reported(answers: list[LockAnswer]) -> list[tuple[str, str]]:
    """Returns each holder with its answer."""
    words = {(True, False): "granted", (False, True): "refused", (False, False): "waits"}
    return [(answer.holder.run, words[answer.is_granted, answer.is_refused]) for answer in answers]


def release(locks: Locks, run: str) -> None:
    locks.release(Holder(RunId(run), None))


def test_a_free_slot_belongs_to_the_first_waiting_holder() -> None:
    """Between a release and its notification, the place belongs to the first waiting holder; a newcomer queues behind it."""
    locks = Locks()
    assert reported(locks.request(ask("a"))) == [("a", "granted")]
    assert reported(locks.request(ask("b"))) == [("b", "waits")]
    release(locks, "a")
    assert reported(locks.request(ask("c"))) == [("b", "granted"), ("c", "waits")]
    assert reported(list(locks.news())) == []


def test_latest_does_not_take_a_slot_already_granted_to_an_older_holder() -> None:
    """`latest` supersedes only holders that are really waiting, not one that has already been given a free place."""
    locks = Locks()
    locks.request(ask("a"))
    locks.request(ask("b", queue=Queue.LATEST))
    release(locks, "a")
    assert reported(locks.request(ask("c", queue=Queue.LATEST))) == [("b", "granted"), ("c", "waits")]
    assert reported(locks.request(ask("d", queue=Queue.LATEST))) == [("c", "refused"), ("d", "waits")]


def test_a_newcomer_that_supersedes_the_queue_uses_its_own_limit() -> None:
    """Once a newcomer has superseded the queue, only its own limit counts, so a free place is given to it at once."""
    locks = Locks()
    locks.request(ask("a"))
    locks.request(ask("b"))
    assert reported(locks.request(ask("c", queue=Queue.LATEST, limit=2))) == [("b", "refused"), ("c", "granted")]


def test_holders_that_wait_according_to_the_log_keep_their_position() -> None:
    """After a recovery or a failed commit, holders that wait according to the log queue before those that asked meanwhile."""
    locks = Locks()
    locks.hold(ask("a", at=1))
    locks.request(ask("d", at=4))
    locks.wait(ask("c", at=3))
    locks.wait(ask("b", at=2))
    locks.wait(ask("b", at=2))
    order = []
    for run in "abc":
        release(locks, run)
        order += [answer.holder.run for answer in locks.news() if answer.is_granted]
    assert order == ["b", "c", "d"]


def test_a_request_that_arrives_late_keeps_its_place() -> None:
    """Between daemons, requests may overtake each other; the order is that of the requests."""
    locks = Locks()
    locks.request(ask("a", at=1))
    locks.request(ask("d", at=4))
    assert [answer.reason.facts["position"] for answer in locks.request(ask("c", at=3)) if answer.reason] == [1]
    locks.request(ask("b", at=2))
    order = []
    for run in "abc":
        release(locks, run)
        order += [answer.holder.run for answer in locks.news() if answer.is_granted]
    assert order == ["b", "c", "d"]


def test_a_late_request_does_not_replace_a_newer_one() -> None:
    """`latest` keeps the newest request, also when an older one arrives after it."""
    locks = Locks()
    locks.request(ask("a", at=1))
    locks.request(ask("c", at=3, queue=Queue.LATEST))
    assert reported(locks.request(ask("b", at=2, queue=Queue.LATEST))) == [("b", "refused")]
    release(locks, "a")
    assert reported(list(locks.news())) == [("c", "granted")]


def test_a_repeated_request_gets_the_same_answer() -> None:
    """A repeated request gets the same answer: a holder keeps its place, a waiting one keeps waiting."""
    locks = Locks()
    locks.request(ask("a"))
    locks.request(ask("b"))
    assert reported(locks.request(ask("a"))) == [("a", "granted")]
    assert reported(locks.request(ask("b"))) == [("b", "waits")]
    release(locks, "a")
    assert reported(list(locks.news())) == [("b", "granted")]


def test_only_the_first_positions_of_a_long_queue_are_notified() -> None:
    """The number of notifications after one release does not grow with the length of the queue."""
    locks = Locks()
    for number in range(500):
        locks.request(ask(f"{number:03}"))
    for number in range(3):
        release(locks, f"{number:03}")
        assert len(list(locks.news())) <= REPORTED_MAX + 2


def test_groups_are_scoped_by_repository() -> None:
    """Group names are scoped by repository, and a run and its jobs are different holders."""
    locks = Locks()
    locks.request(ask("a"))
    other = LockRequest(Holder(RunId("b"), JobId("j")), "deploy", "other", 1, Queue.FIFO)
    assert reported(locks.request(other)) == [("b", "granted")]
    locks.forget(RunId("b"))
    assert locks.holders("other", "deploy") == []
    assert locks.holders("ops", "deploy") == [Holder(RunId("a"), None)]
