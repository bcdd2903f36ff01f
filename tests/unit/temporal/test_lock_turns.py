"""Concurrency groups on the Temporal engine: runs, the streams of their locks, and what may go wrong between them."""

from __future__ import annotations

import random

import pytest

from tests.unit.temporal.streams_harness import Streams
from waterflowd.engine import commands, events, inputs, outstanding
from waterflowd.fleet import lock_table
from waterflowd.fleet.lock_table import LockTable
from waterflowd.model.ids import RunId
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.temporal import orders, run_commands, run_turns
from waterflowd.temporal.coordination import lock_turns
from waterflowd.temporal.workflow import messages

LOCKED = "{concurrency: deploy, jobs: {a: {runs-on: web, steps: [{run: x}]}}}"
LOCK = orders.lock_stream("", "deploy")


def locked(**settings: object) -> str:
    """A workflow with these settings of its concurrency group."""
    more = "".join(f", {name}: {value}" for name, value in settings.items())
    return LOCKED.replace("deploy", f"{{group: deploy{more}}}")


def holding(streams: Streams, runs: list[RunId]) -> list[RunId]:
    """The open runs that hold a slot, by their own facts."""
    found = []
    for run in runs:
        state = streams.run(run)
        is_open = streams.all[f"run/{run}"].is_open
        if is_open and state.lock is not None and state.lock.is_held and not state.is_completed:
            found.append(run)
    return found


def table(streams: Streams) -> LockTable:
    """The table of the group, by its facts."""
    return LockTable(lock_turns.FACTS.unpack(LOCK, fact).event for fact in streams.all[LOCK].facts)


async def test_runs_take_turns_in_the_order_of_their_requests() -> None:
    """The next one begins when the one before it has ended; at the end the stream of the lock ends."""
    streams = Streams()
    streams.finish = lambda run: False
    runs = [streams.start(LOCKED) for _ in range(3)]
    order = []
    await streams.settle()
    for _ in runs:
        [run] = holding(streams, runs)
        order.append(run)
        streams.finish = lambda other, run=run: other == run  # type: ignore[misc]
        await streams.settle()
        assert streams.run(run).conclusion is Conclusion.SUCCESS
    assert order == runs
    waits = [
        event.reason.facts["position"] for event in streams.events(runs[2]) if isinstance(event, events.LockWaiting)
    ]
    assert waits == [2, 1]
    assert streams.all[LOCK].is_open
    await streams.advance(2 * lock_turns.CHECK_MS)
    assert not streams.all[LOCK].is_open


async def test_a_group_begins_again_under_the_same_name() -> None:
    """The stream of a lock that has ended is started by the next request."""
    streams = Streams()
    first = streams.start(LOCKED)
    await streams.advance(2 * lock_turns.CHECK_MS)
    assert streams.run(first).is_completed
    assert not streams.all[LOCK].is_open
    second = streams.start(LOCKED)
    await streams.settle()
    assert streams.run(second).conclusion is Conclusion.SUCCESS


async def test_a_full_group_rejects() -> None:
    """`queue: reject` refuses at once; the reason is the one of the log engine."""
    streams = Streams()
    streams.finish = lambda run: False
    runs = [streams.start(locked(queue="reject")) for _ in range(2)]
    await streams.settle()
    assert holding(streams, runs) == runs[:1]
    refused = streams.run(runs[1])
    assert refused.conclusion is Conclusion.CANCELLED
    assert refused.reason.text == 'concurrency group "deploy" is full (`queue: reject`)'


async def test_only_the_newest_request_waits() -> None:
    """`queue: latest` replaces the one that waited before."""
    streams = Streams()
    streams.finish = lambda run: False
    runs = []
    for _ in range(3):
        runs.append(streams.start(locked(queue="latest")))
        await streams.settle()
    assert streams.run(runs[1]).conclusion is Conclusion.CANCELLED
    assert "replaced by a newer one" in streams.run(runs[1]).reason.text
    streams.finish = lambda run: True
    await streams.settle()
    assert [streams.run(run).conclusion for run in runs] == [
        Conclusion.SUCCESS,
        Conclusion.CANCELLED,
        Conclusion.SUCCESS,
    ]


async def test_cancel_in_progress_cancels_the_run_that_holds_the_slot() -> None:
    """The new run gets the slot once the other one has ended."""
    streams = Streams()
    streams.finish = lambda run: False
    first = streams.start(LOCKED)
    await streams.settle()
    second = streams.start(locked(**{"cancel-in-progress": "true"}))
    await streams.settle()
    assert streams.run(first).is_cancelled
    assert streams.run(first).cancel_by == f"run {second}"
    assert holding(streams, [first, second]) == [first]
    streams.finish = lambda run: True
    await streams.settle()
    assert (streams.run(first).conclusion, streams.run(second).conclusion) == (Conclusion.CANCELLED, Conclusion.SUCCESS)


async def test_cancel_in_progress_cancels_a_job_that_holds_the_slot() -> None:
    """The slot of a job: only that job is cancelled, with the reason."""
    text = "jobs: {a: {runs-on: web, concurrency: GROUP, steps: [{run: x}]}, b: {runs-on: web, steps: [{run: x}]}}"
    streams = Streams()
    streams.finish = lambda run: False
    first = streams.start(text.replace("GROUP", "deploy"))
    await streams.settle()
    streams.start(text.replace("GROUP", "{group: deploy, cancel-in-progress: true}"))
    await streams.settle()
    cancelled, other = streams.run(first).jobs
    assert (cancelled.is_cancelled, other.is_cancelled) == (True, False)


async def test_a_run_that_was_terminated_frees_its_slot() -> None:
    """An operator's `terminate` tells nobody; the lock looks after those who hold slots every minute."""
    streams = Streams()
    streams.finish = lambda run: False
    runs = [streams.start(LOCKED) for _ in range(2)]
    await streams.settle()
    streams.terminate(f"run/{runs[0]}")
    await streams.settle()
    assert holding(streams, runs) == []
    await streams.advance(lock_turns.CHECK_MS)
    assert holding(streams, runs) == runs[1:]


async def test_a_run_that_was_terminated_while_it_waited_gets_no_slot() -> None:
    """The grant cannot be delivered: the next one gets the slot at once."""
    streams = Streams()
    streams.finish = lambda run: False
    runs = [streams.start(LOCKED) for _ in range(3)]
    await streams.settle()
    streams.terminate(f"run/{runs[1]}")
    streams.finish = lambda run: run == runs[0]
    await streams.settle()
    assert holding(streams, runs) == runs[2:]


async def test_a_request_that_arrives_after_its_release_gets_nothing() -> None:
    """Both are repeated until they are delivered, so one may overtake the other."""
    streams = Streams()
    streams.finish = lambda run: False
    first, second = streams.start(LOCKED), streams.start(LOCKED)
    await streams.settle()
    request = _request(streams, second)
    streams.tell(second, inputs.CancelRun(by="ada"))
    await streams.settle()
    streams.all[LOCK].receive(messages.SignalReceived(number=0, content=request))
    await streams.settle()
    assert [holder.run for holder in table(streams).holders] == [first]
    streams.finish = lambda run: True
    await streams.settle()
    assert table(streams).is_empty


def _request(streams: Streams, run: RunId) -> bytes:
    """The request of a run, as its activity delivers it."""
    state = streams.run(run)
    assert state.lock is not None
    [command] = [command for command in outstanding(state) if isinstance(command, commands.AcquireLock)]
    [activity] = run_commands.carried_out(state, [command], 0)
    assert isinstance(activity, messages.ScheduleActivity)
    return activity.content


async def test_a_new_execution_frees_the_slot_of_a_job_that_has_ended() -> None:
    """The previous execution ended before it had freed the slot; the lock only checks whether the whole run has ended."""
    streams = Streams()
    text = (
        "jobs: {a: {runs-on: web, concurrency: deploy, steps: [{run: x}]},"
        " b: {runs-on: web, steps: [{uses: approval, with: {approvers: [ada]}}]}}"
    )
    run = streams.start(text)
    stream = streams.all[f"run/{run}"]
    while "unlock/a" not in stream.activities:
        assert await streams.one()
    assert [holder.job for holder in table(streams).holders] == ["a"]
    streams.continue_as_new(stream.name)
    await streams.settle()
    assert not streams.run(run).is_completed
    assert table(streams).is_empty


async def test_a_slot_that_nobody_wants_is_given_back() -> None:
    """A very late request: the lock has forgotten that its run had released the slot, and grants it."""
    streams = Streams()
    streams.finish = lambda run: False
    text = "jobs: {a: {runs-on: web, concurrency: deploy, steps: [{run: x}]}, b: {runs-on: web, steps: [{run: x}]}}"
    run = streams.start(text)
    await streams.settle()
    request = orders.LockOrder(
        request=next(iter(table(streams).snapshot().holding)),
    )
    streams.tell(run, inputs.CancelJob(job=request.request.holder.job, reason=streams.run(run).reason))  # type: ignore[arg-type]
    streams.finish = lambda run: True
    await streams.advance(2 * lock_turns.CHECK_MS)
    streams.all[f"run/{run}"].is_open = True
    streams._signal_with_start(LOCK, orders.ORDERS.pack(request))
    await streams.settle()
    assert table(streams).is_empty


async def test_a_lock_that_an_operator_has_terminated_learns_who_holds_its_slots() -> None:
    """Runs repeat their requests: who holds a slot keeps it, and who waits gets one later."""
    streams = Streams()
    streams.finish = lambda run: False
    runs = [streams.start(LOCKED) for _ in range(3)]
    await streams.settle()
    streams.terminate(LOCK)
    await streams.advance(run_turns.LOCK_AGAIN_MS)
    assert [holder.run for holder in table(streams).holders] == runs[:1]
    streams.finish = lambda run: True
    await streams.settle()
    assert [streams.run(run).conclusion for run in runs] == [Conclusion.SUCCESS] * 3


async def test_who_holds_a_slot_holds_it_although_the_lock_was_terminated() -> None:
    """One that waits may be first with its repeated request; then both hold a slot, and nobody else gets one meanwhile."""
    streams = Streams()
    streams.finish = lambda run: False
    runs = [streams.start(LOCKED) for _ in range(3)]
    await streams.settle()
    streams.terminate(LOCK)
    for run in (runs[1], runs[0], runs[2]):
        streams.all[f"run/{run}"].receive(messages.TimerFired(number=0, id="lock"))
        await streams.settle()
    assert [holder.run for holder in table(streams).holders] == [runs[1], runs[0]]
    streams.finish = lambda run: run == runs[0]
    await streams.settle()
    assert holding(streams, runs) == [runs[1]]


async def test_facts_are_replaced_by_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy group never ends, so its facts must not grow; the snapshot says the same."""
    monkeypatch.setattr(lock_turns, "FACTS_MAX", 20)
    streams = Streams()
    streams.finish = lambda run: False
    runs: list[RunId] = []
    sizes = []
    for index in range(30):
        runs += [streams.start(LOCKED), streams.start(locked(queue="reject"))]
        await streams.settle()
        if index % 3 == 0:
            streams.restart()
            streams.continue_as_new(LOCK)
        [oldest] = holding(streams, runs)
        streams.finish = lambda run, oldest=oldest: run == oldest  # type: ignore[misc]
        await streams.settle()
        sizes.append(len(streams.all[LOCK].facts))
    assert max(sizes) <= 20
    ended = [streams.run(run).conclusion for run in runs[::2] if streams.run(run).is_completed]
    assert len(ended) == 30 - len(holding(streams, runs))
    assert set(ended) == {Conclusion.SUCCESS}


async def test_a_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a request is refused, with the reason."""
    monkeypatch.setattr(lock_table, "WAITING_MAX", 2)
    streams = Streams()
    streams.finish = lambda run: False
    runs = [streams.start(LOCKED) for _ in range(4)]
    await streams.settle()
    assert streams.run(runs[3]).conclusion is Conclusion.CANCELLED
    assert "limit of 2 requests" in streams.run(runs[3]).reason.text


def test_the_name_of_a_group_is_not_readable() -> None:
    """Workflow ids are: the group's name may be computed from inputs."""
    name = orders.lock_stream("shop", "deploy-${customer}")
    assert name.startswith("lock/shop/")
    assert "deploy" not in name
    assert len({orders.lock_stream(*each) for each in (("a", "b"), ("a/b", ""), ("", "a/b"), ("", "b"))}) == 4


@pytest.mark.parametrize("seed", range(30))
async def test_never_too_many_hold_a_slot_and_none_forever(seed: int) -> None:
    """By chance: signals and activities late, repeated, in any order; daemons forget, streams continue as new, runs are killed.

    At the end every run has ended that nobody has killed, and so have all locks.
    """
    chance = random.Random(seed)
    limit = chance.choice([1, 1, 2])
    streams = Streams(chance)
    runs: list[RunId] = []
    killed: set[RunId] = set()

    def check() -> None:
        assert len(holding(streams, runs)) <= limit

    streams.check = check
    streams.finish = lambda run: chance.random() < 0.2
    for _ in range(chance.randint(3, 8)):
        queue = chance.choice(["fifo", "latest", "reject"])
        cancels = chance.choice(["true", "false"]) if queue != "reject" else "false"
        runs.append(streams.start(locked(limit=limit, queue=queue, **{"cancel-in-progress": cancels})))
        for _ in range(chance.randint(0, 40)):
            await streams.one()
        what = chance.random()
        if what < 0.2:
            streams.restart()
        elif what < 0.4:
            streams.continue_as_new(chance.choice([name for name in streams.all if streams.all[name].is_open]))
        elif what < 0.5:
            streams.tell(chance.choice(runs), inputs.CancelRun(by="ada"))
        elif what < 0.6:
            run = chance.choice(runs)
            killed.add(run)
            streams.terminate(f"run/{run}")
    streams.finish = lambda run: True
    await streams.advance(3 * run_turns.LOCK_AGAIN_MS)
    for run in runs:
        assert run in killed or streams.run(run).status is Status.COMPLETED
    assert not any(stream.is_open for stream in streams.all.values())
