"""One concurrency group as a stream of facts: who holds a slot, who waits, and who is gone.

Rules of this file:

- Pure. `Locks` decides; the facts are its decisions, from which the same table can be folded at any time.
- A run or job requests its slot once and is gone once it has released it, was refused, or its run has ended. So every request
  and every release may be repeated, and may arrive in any order: a request of who is gone enters nobody.
- Who says that it holds a slot, by the facts of its run, does hold it. The table knows already, unless it was lost.
- Everything is bounded: a queue by `WAITING_MAX`, those who are gone by `GONE_MAX` (what arrives even later is noticed by its
  run, which gives the slot back), and the facts by `snapshot`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec

from waterflowd.fleet.locks import Holder, LockAnswer, LockRequest, Locks
from waterflowd.model.ids import RunId
from waterflowd.model.reasons import Reason, ReasonCode, reason

#: Requests that wait in one group.
WAITING_MAX = 5_000
#: Holders that are remembered after they have gone.
GONE_MAX = 1_000


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts."""


class Requested(Fact, frozen=True, kw_only=True, tag="requested"):
    """The run or job waits for a slot."""

    request: LockRequest


class Granted(Fact, frozen=True, kw_only=True, tag="granted"):
    """The run or job holds a slot."""

    holder: Holder


class Gone(Fact, frozen=True, kw_only=True, tag="gone"):
    """The run or job neither holds a slot nor waits for one, and never will again. `refusal` is why it was refused."""

    holder: Holder
    refusal: Reason | None = None


class Snapshot(Fact, frozen=True, kw_only=True, tag="snapshot"):
    """Everything that the facts before it say."""

    holding: list[LockRequest] = []
    waiting: list[LockRequest] = []
    gone: list[Gone] = []


TableFact = Requested | Granted | Gone | Snapshot


class LockTable:
    """The table, folded from its facts. `new_facts` are those that its decisions have added since."""

    def __init__(self, facts: Iterable[TableFact] = ()) -> None:
        self.new_facts: list[TableFact] = []
        self._holding: dict[Holder, LockRequest] = {}
        self._waiting: dict[Holder, LockRequest] = {}
        self._gone: OrderedDict[Holder, Reason | None] = OrderedDict()
        for fact in facts:
            self._apply(fact)
        self._locks = Locks()
        for request in self._holding.values():
            self._locks.hold(request)
        for request in self._waiting.values():
            self._locks.wait(request)

    @property
    def holders(self) -> list[Holder]:
        """Who holds a slot."""
        return list(self._holding)

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds a slot or waits for one."""
        return not self._holding and not self._waiting

    def knows(self, holder: Holder) -> bool:
        """Whether the holder has a slot, waits for one, or is remembered as gone."""
        return holder in self._holding or holder in self._waiting or holder in self._gone

    def snapshot(self) -> Snapshot:
        """All facts as one."""
        return Snapshot(
            holding=list(self._holding.values()),
            waiting=list(self._waiting.values()),
            gone=[Gone(holder=holder, refusal=refusal) for holder, refusal in self._gone.items()],
        )

    # Decisions --------------------------------------------------------------------------------------------------------

    def request(self, request: LockRequest, *, is_held: bool = False) -> list[LockAnswer]:
        """The answer to this request, and to those that are granted or replaced because of it.

        `is_held`: the facts of its run say that it holds the slot.
        """
        holder = request.holder
        if holder in self._gone:
            refusal = self._gone[holder]
            return [] if refusal is None else [LockAnswer(holder, is_refused=True, reason=refusal)]
        if is_held:
            self._restore(request)
            return []
        if holder not in self._holding and holder not in self._waiting:
            if len(self._waiting) >= WAITING_MAX:
                text = f'limit of {WAITING_MAX} requests that wait for concurrency group "{request.group}" reached'
                cause = reason(ReasonCode.LOCK_REFUSED, text, group=request.group)
                return self._recorded([LockAnswer(holder, is_refused=True, reason=cause)])
            self._record(Requested(request=request))
        return self._recorded(self._locks.request(request))

    def release(self, holder: Holder) -> None:
        """The holder needs no slot any longer; `news` has who gets it."""
        if holder not in self._gone:
            self._record(Gone(holder=holder))
            self._locks.release(holder)

    def end(self, runs: Iterable[RunId]) -> None:
        """These runs have ended, with all of their jobs."""
        ended = frozenset(runs)
        for holder in [*self._holding, *self._waiting]:
            if holder.run in ended:
                self.release(holder)

    def news(self) -> list[LockAnswer]:
        """Grants free slots to waiting requests; also has the requests whose position has changed."""
        return self._recorded(self._locks.news())

    def _restore(self, request: LockRequest) -> None:
        holder = request.holder
        if holder in self._holding:
            return
        if holder not in self._waiting:
            self._record(Requested(request=request))
        self._record(Granted(holder=holder))
        self._locks.release(holder)
        self._locks.hold(request)

    def _recorded(self, answers: Iterable[LockAnswer]) -> list[LockAnswer]:
        return list(self._each_recorded(answers))

    def _each_recorded(self, answers: Iterable[LockAnswer]) -> Iterator[LockAnswer]:
        for answer in answers:
            if answer.is_granted and answer.holder not in self._holding:
                self._record(Granted(holder=answer.holder))
            elif answer.is_refused:
                self._record(Gone(holder=answer.holder, refusal=answer.reason))
            yield answer

    # Facts ------------------------------------------------------------------------------------------------------------

    def _record(self, fact: TableFact) -> None:
        self.new_facts.append(fact)
        self._apply(fact)

    def _apply(self, fact: TableFact) -> None:
        match fact:
            case Requested(request=request):
                self._waiting[request.holder] = request
            case Granted(holder=holder):
                self._holding[holder] = self._waiting.pop(holder)
            case Gone(holder=holder):
                self._holding.pop(holder, None)
                self._waiting.pop(holder, None)
                self._gone[holder] = fact.refusal
                if len(self._gone) > GONE_MAX:
                    self._gone.popitem(last=False)
            case Snapshot():
                self._holding = {request.holder: request for request in fact.holding}
                self._waiting = {request.holder: request for request in fact.waiting}
                self._gone = OrderedDict((gone.holder, gone.refusal) for gone in fact.gone)
