"""The decisions of the ledger for each input."""

from __future__ import annotations

import msgspec
import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.state.ledger import (
    Ledger,
    ReleaseAttempt,
    ReportResult,
    RunnerView,
    StartAttempt,
    StopAttempt,
    records,
)
from waterflow_agent.testing import task_id
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, TaskId

NOW = 1_000


def key(step: str = "s", attempt: int = 1, epoch: int = 1) -> TaskId:
    return task_id("run", "job", step, attempt, epoch)


def task(which: TaskId, **fields: object) -> messages.Task:
    made = messages.Task(
        key=which,
        node="shell",
        params={},
        env={},
        step_name="a step",
        working_directory=None,
        timeout_ms=1_000,
        stop_signal="SIGTERM",
        grace_ms=100,
        output_bytes_max=1_000,
        boot_id="boot",
        instance="instance",
    )
    return msgspec.structs.replace(made, **fields)


def finished(which: TaskId, output_bytes: int = 0) -> messages.Finished:
    return messages.Finished(which, Outcome.SUCCESS, 0, "", "", {}, {}, NOW, NOW, output_bytes, 0)


def new_ledger() -> Ledger:
    return Ledger(boot_id="boot", instance="instance", slots=2)


@pytest.fixture
def ledger() -> Ledger:
    return new_ledger()


def started(ledger: Ledger, which: TaskId) -> None:
    """Brings an attempt to the state of a running process."""
    assert isinstance(ledger.offer(task(which), NOW), StartAttempt)
    ledger.hand_over(which)
    assert ledger.started(which, NOW)


def outcome_of(move: object) -> Outcome:
    assert isinstance(move, ReportResult)
    return move.record.result.outcome


def test_offer_is_started_once(ledger: Ledger) -> None:
    """A second offer is only acknowledged."""
    first, second = ledger.offer(task(key()), NOW), ledger.offer(task(key()), NOW)

    assert isinstance(first, StartAttempt)
    assert second is None


def test_offer_of_a_removed_attempt_is_not_started_again(ledger: Ledger) -> None:
    """This holds even after the daemon has acknowledged the result and the entry was removed."""
    started(ledger, key())
    ledger.finish(finished(key()))
    assert ledger.result_acknowledged(key()) == ReleaseAttempt(key())

    assert ledger.offer(task(key()), NOW) is None
    assert len(ledger) == 0


@pytest.mark.parametrize("fields", [{"boot_id": "other"}, {"instance": "other"}])
def test_offer_for_another_start_is_refused(ledger: Ledger, fields: dict[str, object]) -> None:
    """Offers are bound to a boot and a start of the agent."""
    assert outcome_of(ledger.offer(task(key(), **fields), NOW)) is Outcome.REFUSED


def test_refused_attempt_is_not_started_by_a_second_offer(ledger: Ledger) -> None:
    """Its result is final, even after the daemon has acknowledged it."""
    ledger.offer(task(key(), instance="other"), NOW)
    ledger.result_acknowledged(key())

    assert ledger.offer(task(key()), NOW) is None


def test_offer_accepted_before_a_restart_is_a_duplicate(ledger: Ledger) -> None:
    """A second offer of an attempt that an earlier process accepted is a duplicate."""
    ledger.replay(records.AcceptedRecord(key(), "shell", "a step", NOW))

    assert ledger.offer(task(key(), instance="the one before"), NOW) is None


def test_second_attempt_of_a_step_does_not_start_while_the_first_runs() -> None:
    """Two attempts of one step never run at the same time."""
    for second, outcome in (
        (key(attempt=2), Outcome.REFUSED),
        (key(epoch=2), Outcome.REFUSED),
        (key(attempt=0), Outcome.LOST),
    ):
        ledger = new_ledger()
        started(ledger, key())

        assert outcome_of(ledger.offer(task(second), NOW)) is outcome


def test_next_attempt_is_accepted_when_the_first_has_ended(ledger: Ledger) -> None:
    """It is accepted even if the daemon has not acknowledged the first one's result."""
    started(ledger, key())
    ledger.finish(finished(key()))

    assert isinstance(ledger.offer(task(key(attempt=2)), NOW), StartAttempt)


def test_attempt_older_than_a_known_one_is_lost(ledger: Ledger) -> None:
    """It may have run, so it is lost and not refused."""
    started(ledger, key(epoch=3))
    ledger.finish(finished(key(epoch=3)))

    assert outcome_of(ledger.offer(task(key(epoch=2)), NOW)) is Outcome.LOST


def test_offers_beyond_the_slots_are_refused(ledger: Ledger) -> None:
    """The agent never runs more attempts than it has slots."""
    started(ledger, key("a"))
    started(ledger, key("b"))

    assert outcome_of(ledger.offer(task(key("c")), NOW)) is Outcome.REFUSED


def test_end_frees_the_slot_at_once(ledger: Ledger) -> None:
    """A result that waits for its acknowledgement needs no slot."""
    started(ledger, key("a"))
    started(ledger, key("b"))
    ledger.finish(finished(key("a")))

    assert isinstance(ledger.offer(task(key("c")), NOW), StartAttempt)


def test_cancel_of_a_running_attempt_stops_it_once(ledger: Ledger) -> None:
    """A second cancel changes nothing, a forced one does."""
    started(ledger, key())
    polite, forced = messages.Cancel(key(), False, "why"), messages.Cancel(key(), True, "why")

    moves = [ledger.cancel(cancel, NOW) for cancel in (polite, polite, forced, forced, polite)]

    assert moves == [StopAttempt(key(), False, "why"), None, StopAttempt(key(), True, "why"), None, None]


def test_cancel_before_the_start_ends_it(ledger: Ledger) -> None:
    """An attempt that was not handed to the runner is cancelled without it."""
    ledger.offer(task(key()), NOW)

    assert outcome_of(ledger.cancel(messages.Cancel(key(), False, ""), NOW)) is Outcome.CANCELLED
    assert not any(entry.is_live for entry in ledger)


@pytest.mark.parametrize("is_finished", [False, True])
def test_cancel_of_an_unknown_or_ended_attempt_is_ignored(ledger: Ledger, is_finished: bool) -> None:
    """The settlement or the result informs the daemon."""
    if is_finished:
        started(ledger, key())
        ledger.finish(finished(key()))

    assert ledger.cancel(messages.Cancel(key(), False, ""), NOW) is None


def test_result_is_final(ledger: Ledger) -> None:
    """A second result of an attempt changes nothing."""
    started(ledger, key())
    first = ledger.finish(finished(key()))
    second = ledger.finish(msgspec.structs.replace(finished(key()), outcome=Outcome.LOST))

    assert outcome_of(first) is Outcome.SUCCESS
    assert second is None


@pytest.mark.parametrize("order", ["result first", "output first"])
def test_attempt_is_kept_until_result_and_output_are_acknowledged(ledger: Ledger, order: str) -> None:
    """In either order, the attempt is removed after the second acknowledgement."""
    started(ledger, key())
    ledger.finish(finished(key(), output_bytes=5), has_spool=True)
    steps = [ledger.result_acknowledged, ledger.output_acknowledged]
    if order == "output first":
        steps.reverse()

    moves = [step(key()) for step in steps]

    assert moves == [None, ReleaseAttempt(key())]


def test_new_session_sends_unacknowledged_reports(ledger: Ledger) -> None:
    """Unacknowledged results and known starts are sent once each."""
    started(ledger, key("a"))
    started(ledger, key("b"))
    ledger.finish(finished(key("a"), output_bytes=5))

    assert ledger.undelivered() == [finished(key("a"), output_bytes=5), messages.Started(key("b"), NOW)]
    assert [held.state for held in ledger.held()] == [AttemptState.FINISHED, AttemptState.STARTED]

    ledger.result_acknowledged(key("a"))

    assert ledger.undelivered() == [messages.Started(key("b"), NOW)]
    assert [held.key for held in ledger.held()] == [key("b")]


def test_forgotten_attempt_is_killed_and_not_reported(ledger: Ledger) -> None:
    """A finished attempt is removed at once, a running one when its process has exited."""
    started(ledger, key("a"))
    started(ledger, key("b"))
    ledger.finish(finished(key("a")))

    moves = ledger.forget([key("a"), key("b"), key("unknown")])

    assert moves[0] == ReleaseAttempt(key("a"))
    assert isinstance(moves[1], StopAttempt)
    assert ledger.held() == []
    assert ledger.finish(finished(key("b"))) == ReleaseAttempt(key("b"))


@pytest.mark.parametrize(
    ("view", "is_same_boot", "expected"),
    [
        (RunnerView.UNKNOWN, True, Outcome.REFUSED),
        (RunnerView.UNKNOWN, False, Outcome.LOST),
        (RunnerView.RUNNING, True, None),
        (RunnerView.ENDED, True, None),
        (RunnerView.PENDING, True, None),
    ],
)
def test_accepted_attempt_is_refused_after_a_restart_and_lost_after_a_reboot(
    ledger: Ledger, view: RunnerView, is_same_boot: bool, expected: Outcome | None
) -> None:
    """An attempt that the runner does not know did not run, unless the machine was rebooted."""
    boot_id = ledger.boot_id if is_same_boot else "another boot"
    ledger.restore(boot_id, [records.AcceptedRecord(key(), "shell", "a step", NOW)])

    moves = ledger.settle({key(): view}, NOW)

    assert [outcome_of(move) for move in moves] == ([] if expected is None else [expected])


def test_started_attempt_unknown_to_the_runner_is_lost(ledger: Ledger) -> None:
    """It ran with an unknown outcome, so it counts neither as a success nor as refused."""
    ledger.replay(records.AcceptedRecord(key(), "shell", "a step", NOW))
    ledger.replay(records.StartedRecord(key(), NOW))

    (move,) = ledger.settle({}, NOW)

    assert outcome_of(move) is Outcome.LOST
    assert isinstance(move, ReportResult)
    assert move.record.result.reason_code == "outcome-unknown"


def test_facts_rebuild_the_ledger(ledger: Ledger) -> None:
    """A snapshot is equivalent to the records before it."""
    started(ledger, key("a"))
    ledger.offer(task(key("b")), NOW)
    ledger.finish(finished(key("a"), output_bytes=3), [messages.OutputChunk(NOW, 1, b"abc")])

    again = Ledger(boot_id="boot", instance="later", slots=2)
    for fact in ledger.snapshot():
        again.replay(fact)

    assert again.held() == ledger.held()
    assert again.undelivered() == ledger.undelivered()
    assert again.snapshot() == ledger.snapshot()
