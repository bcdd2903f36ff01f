"""The turns of locks: one concurrency group, as the shell of its stream sees it.

Rules of this file:

- A turn only computes. A table in memory is valid for one sequence of facts, which `state` names.
- The stream lives while somebody holds a slot or waits for one, and at most `CHECK_MS` longer. It ends and begins again under
  the same id: a request starts it together with its signal, and a stream that has inputs does not end.
- Answers and cancels are signals to the runs. A run that does not want a slot any longer gives it back.
- A run that was terminated or deleted does not free its slot. So the runs that hold slots are checked every `CHECK_MS`, and
  whenever a signal could not be delivered.
- Facts are replaced by one snapshot after `FACTS_MAX` of them, because a busy group never ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from waterflowd.engine import inputs
from waterflowd.fleet.lock_table import LockTable, TableFact
from waterflowd.fleet.locks import LockAnswer
from waterflowd.host import fleet_requests
from waterflowd.model.codec import UnreadableError
from waterflowd.model.ids import RunId, run_stream
from waterflowd.temporal import facts, orders
from waterflowd.temporal.workflow import messages

#: The prefix of the streams of locks.
PREFIX = "lock/"
#: Groups in memory.
TABLES_CACHED = 1_000
#: How often the runs that hold slots are checked.
CHECK_MS = 60_000
#: Runs that are checked at a time; the next ones follow after `CHECK_MS`.
LOOK_MAX = 200
FACTS_MAX = 2_000

FACTS = facts.FactCodec("lock", TableFact)
_CHECK_TIMER = "check"
_LOOK = "look"


@dataclass
class _Live:
    """A group in memory, and the name of the facts that it was folded from."""

    table: LockTable
    state: bytes


@dataclass
class _Result:
    """A turn in the making."""

    #: Answers and cancels, with the runs that they are for.
    reports: list[tuple[RunId, inputs.Input]] = field(default_factory=list)
    is_check_due: bool = False
    must_look: bool = False


class LockTurns:
    """Implements `messages.Turn` for the streams of locks."""

    def __init__(self) -> None:
        self._tables: OrderedDict[str, _Live] = OrderedDict()

    async def __call__(self, request: messages.TurnRequest) -> messages.TurnResult:
        """See `messages.Turn`."""
        # Whatever happens now, it is no longer valid for what it was.
        live = self._tables.pop(request.stream, None)
        if request.past is not None:
            live = _fold(request.stream, request.past.facts)
        elif live is None or live.state != request.state:
            return messages.TurnResult(is_cold=True, seq=request.seq)
        table, result = live.table, _Result()
        for item in request.inputs:
            _take(table, item, result)
        result.reports += _reported(table.news())
        new, is_snapshot = _packed(request, table)
        live.state = facts.chain(facts.NO_FACTS if is_snapshot else live.state, new)
        self._tables[request.stream] = live
        if len(self._tables) > TABLES_CACHED:
            self._tables.popitem(last=False)
        return messages.TurnResult(
            facts=new,
            commands=list(_commands(request, table, result)),
            taken=[item.number for item in request.inputs],
            seq=len(new) + (0 if is_snapshot else request.seq),
            is_snapshot=is_snapshot,
            state=live.state,
        )


def _fold(stream: str, past: list[bytes]) -> _Live:
    table = LockTable(FACTS.unpack(stream, fact).event for fact in past)
    return _Live(table, facts.chain(facts.NO_FACTS, past))


def _packed(request: messages.TurnRequest, table: LockTable) -> tuple[list[bytes], bool]:
    """The turn's facts; and whether they are a snapshot."""
    new, table.new_facts = table.new_facts, []
    is_snapshot = bool(new) and request.seq + len(new) > FACTS_MAX
    if is_snapshot:
        new = [table.snapshot()]
    return [FACTS.pack(request.now, fact) for fact in new], is_snapshot


# Inputs ---------------------------------------------------------------------------------------------------------------


def _take(table: LockTable, item: messages.AnyInput, result: _Result) -> None:
    match item:
        case messages.SignalReceived():
            _take_order(table, _unpack(item.content), result)
        case messages.ActivityCompleted():
            _take_order(table, _unpack(item.content), result)
        case messages.TimerFired():
            result.is_check_due = result.must_look = True
        case messages.SignalNotDelivered():
            # Its run has probably ended.
            result.must_look = True
        case messages.ActivityFailed() | messages.UpdateReceived() | messages.CancelRequested():
            # The next check looks again. Nobody sends updates to a lock, and one that an operator cancels is still needed.
            pass


def _take_order(table: LockTable, order: orders.AnyOrder, result: _Result) -> None:
    match order:
        case orders.LockOrder(request=request):
            is_new = not table.knows(request.holder)
            answers = table.request(request, is_held=order.is_held)
            result.reports += _reported(answers)
            is_waiting = any(
                answer.holder == request.holder and not answer.is_granted and not answer.is_refused
                for answer in answers
            )
            if is_new and is_waiting and order.cancel_in_progress:
                result.reports += fleet_requests.lock_cancellations(table.holders, request)
        case orders.UnlockOrder(holder=holder):
            table.release(holder)
        case orders.EndedRuns(runs=runs):
            table.end(runs)
        case _:
            raise UnreadableError(f"an order of the type {type(order).__name__} is not for locks").stalled("an input")


def _unpack(content: bytes) -> orders.AnyOrder:
    try:
        order: orders.AnyOrder = orders.ORDERS.unpack(content)
    except UnreadableError as error:
        raise error.stalled("an input of a lock") from error
    return order


def _reported(answers: Iterable[LockAnswer]) -> Iterator[tuple[RunId, inputs.Input]]:
    return ((answer.holder.run, fleet_requests.lock_answer(answer)) for answer in answers)


# Commands -------------------------------------------------------------------------------------------------------------


def _commands(request: messages.TurnRequest, table: LockTable, result: _Result) -> Iterator[messages.AnyCommand]:
    # Unique among the signals that are being sent: the number of an input of this turn.
    number = request.inputs[-1].number if request.inputs else f"begin-{request.now}"
    for index, (run, content) in enumerate(result.reports):
        yield messages.SendSignal(
            id=f"report/{number}/{index}", workflow_id=run_stream(run), content=orders.INPUTS.pack(content)
        )
    if result.is_check_due and table.is_empty and not result.reports:
        yield messages.Complete(content=b"")
        return
    if result.must_look and table.holders:
        yield _look(request, table)
    yield messages.StartTimer(id=_CHECK_TIMER, due_at=request.now + CHECK_MS)


def _look(request: messages.TurnRequest, table: LockTable) -> messages.ScheduleActivity:
    runs = list(dict.fromkeys(holder.run for holder in table.holders))
    first = request.now // CHECK_MS * LOOK_MAX % len(runs)
    order = orders.LookOrder(runs=tuple([*runs[first:], *runs[:first]][:LOOK_MAX]))
    return messages.ScheduleActivity(
        id=_LOOK,
        name=orders.LOOK,
        queue=orders.STREAMS_QUEUE,
        content=orders.ORDERS.pack(order),
        start_to_close_ms=CHECK_MS,
        summary=f"which of {len(order.runs)} runs have ended",
    )
