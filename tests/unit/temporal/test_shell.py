"""The workflow code of streams, on an in-memory Temporal."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Iterator

import pytest

from tests.integration.temporal.server import KEYS
from tests.integration.temporal.toy_engine import ToyEngine, content
from tests.twin.cluster import Cluster, Execution, Status
from tests.twin.core import CONVERTER, Violation
from tests.twin.daemon import Daemon
from tests.twin.simulation import Totals, low_limits, payload, simulate
from waterflowd.temporal.sealing import codec
from waterflowd.temporal.workflow import messages, shell, turns

STREAM = "run/1"
#: A second or two; `tests/simulation` has more.
SIMULATIONS = 8


class Harness:
    """A cluster, a daemon, and one stream."""

    def __init__(self, begin: messages.Begin | None = None) -> None:
        self.cluster, self.engine = Cluster(), ToyEngine()
        self.daemon = Daemon(self.cluster, self.engine)
        self.cluster.start(STREAM, payload(begin or messages.Begin()))

    @property
    def newest(self) -> Execution:
        """The newest execution."""
        return self.cluster.streams[STREAM][-1]

    def send(self, *commands: messages.AnyCommand) -> None:
        """An input that is answered with these commands."""
        self.cluster.signal(STREAM, messages.INPUT_SIGNAL, payload(content(*commands)))

    def work(self, steps: int = 10_000) -> None:
        """Tasks are carried out until there are none."""
        for _ in range(steps):
            if self.daemon.is_busy:
                self.daemon.step()
            elif waiting := [execution for execution in self.cluster.open() if execution.has_task]:
                self.daemon.take(waiting[0])
            else:
                return


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The shell warns of what it drops, and simulated strangers send a lot of that."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def schedule(identifier: str) -> messages.ScheduleActivity:
    return messages.ScheduleActivity(id=identifier, name="attempt", queue="agents", content=b"task")


def test_every_promise_is_kept() -> None:
    """In simulations with kills, replays, resets, cancellations and new executions at any point."""
    totals = Totals()
    for seed in range(SIMULATIONS):
        totals.add(simulate(seed))
    assert totals.executions > 3 * SIMULATIONS


def test_a_seed_determines_a_simulation() -> None:
    """So that every failure can be repeated."""
    assert simulate(7, 40).trace == simulate(7, 40).trace


def test_what_does_not_fit_into_a_task_follows_in_the_next() -> None:
    """Although nothing else happens."""
    with low_limits():
        test = Harness()
        test.send(*(schedule(f"a{number}") for number in range(8)), *(_signal(number) for number in range(8)))
        test.work()
        for _ in range(5):
            test.cluster.advance(10)
            test.work()
    assert len(test.newest.activities) == 8
    assert len(test.newest.signals) == 8


def test_the_limit_of_activities_does_not_delay_signals() -> None:
    """A stream that ends waits for its signals, and its activities may take forever."""
    with low_limits():
        test = Harness()
        test.send(*(schedule(f"a{number}") for number in range(20)))
        test.work()
        test.send(_signal(1), messages.Complete(content=b"done"))
        for _ in range(5):
            test.cluster.advance(10)
            test.work()
        assert test.newest.is_running
        [seq] = test.newest.signals
        test.cluster.deliver(test.newest, seq)
        test.work()
    assert test.newest.status is Status.COMPLETED


def test_what_arrives_while_a_stream_ends_gets_a_turn() -> None:
    """It may begin again under the same id, so nothing must be lost in between; the turn decides again."""
    test = Harness()
    test.send(_signal(1), messages.Complete(content=b"done"))
    test.work()
    test.send()
    [seq] = test.newest.signals
    test.cluster.deliver(test.newest, seq)
    test.work()
    assert test.newest.is_running
    assert test.engine.count(messages.SignalReceived) == 2
    test.send(messages.Complete(content=b"done"))
    test.work()
    assert test.newest.status is Status.COMPLETED


@pytest.mark.parametrize("is_single_batch", [False, True])
def test_a_request_to_cancel_is_one_input(is_single_batch: bool) -> None:
    """Also with the flag of Temporal's library that applies all jobs of an activation at once, its future default."""
    test = Harness()
    test.daemon = Daemon(test.cluster, test.engine, is_single_batch=is_single_batch)
    test.work()
    test.send()
    test.cluster.cancel(STREAM, "an operator")
    test.work()
    assert test.newest.is_running
    assert test.engine.count(messages.CancelRequested) == 1


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_no_turn_is_taken_in_an_execution_that_was_reset(tasks: int) -> None:
    """Wherever it was reset to, also if signals wait; an operator lets it continue, until the next reset."""
    test = Harness()
    for _ in range(3):
        test.work()
        test.send()
    for _ in range(2):
        calls = len(test.engine.requests)
        test.cluster.reset(test.newest, tasks)
        test.work()
        assert len(test.engine.requests) == calls
        assert _stalled(test.newest) == messages.RESET
        test.cluster.signal(STREAM, messages.RETRY_SIGNAL)
        test.work()
        assert _stalled(test.newest) == ""
        assert len(test.engine.requests) > calls


def test_inputs_that_arrive_during_the_check_of_a_new_execution_are_taken_first() -> None:
    """Only what was checked is part of its beginning."""
    with low_limits():
        test = Harness()
        test.work()
        while not _is_checking(test):
            test.send()
            test.daemon.take(test.newest)
            while test.daemon.is_busy and not _is_checking(test):
                test.daemon.step()
        before = len(test.cluster.streams[STREAM])
        assert test.daemon.heartbeat()
        test.send(messages.SetMemo(name="late", content=b"x"))
        test.work()
        [argument] = test.newest.first.initialize_workflow.arguments
        assert len(test.cluster.streams[STREAM]) == before + 1
        assert b"late" not in argument.data.split(b"inputs")[1]


def test_a_new_execution_that_would_be_too_large_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the code of the limit; inputs that have arrived do not pass by the check."""
    monkeypatch.setattr(turns, "SEALED_BYTES_MAX", 1000)
    small = dataclasses.replace(CONVERTER, payload_codec=codec.SealingCodec(KEYS, sealed_bytes_max=1000))
    with low_limits():
        test = Harness(messages.Begin(subject=random.Random(0).randbytes(1000)))
        test.daemon = Daemon(test.cluster, test.engine, converter=small)
        for _ in range(40):
            test.send()
            test.work()
    assert _stalled(test.newest) == "WF812"
    assert len(test.cluster.streams[STREAM]) == 1


def test_the_end_of_what_was_cancelled_is_forgotten() -> None:
    """Although it had arrived before the turn that cancelled it."""
    with low_limits():
        test = Harness()
        test.send(messages.StartTimer(id="t", due_at=0))
        test.work()
        for _ in range(shell.INPUTS_MAX):
            test.send(messages.CancelTimer(id="t"))
        test.cluster.advance(10)
        test.work()
    assert test.engine.count(messages.TimerFired) == 0


def test_the_twin_notices_a_shell_that_decides_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay that differs is an error, as with the real server."""
    test = Harness()
    test.send(schedule("a"))
    test.work()
    monkeypatch.setattr(shell, "TASK_MAX", 0)
    test.send()
    test.daemon.kill()
    with pytest.raises(Violation, match="differs"):
        test.work()


def _signal(number: int) -> messages.SendSignal:
    return messages.SendSignal(id=f"s{number}", workflow_id="run/none", content=b"")


def _stalled(execution: Execution) -> str:
    found = execution.attributes.get(messages.STALLED_ATTRIBUTE)
    return found.data.decode().strip('"') if found is not None else ""


def _is_checking(test: Harness) -> bool:
    return test.daemon.next_local == messages.CHECK_SIZE
