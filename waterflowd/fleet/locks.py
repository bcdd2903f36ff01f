"""Locks: which runs and jobs hold a slot in which concurrency group, and which wait for one. Pure.

Rules of this file:

- Everything here is derived from the open runs: a run or job holds the slot that the log grants it until it ends. So a run that
  has ended never holds one.
- Slots are granted in the order of the requests, by the log, also across restarts. Before a new request is answered, waiting
  ones are served. `queue: latest` keeps only the newest waiting request, `queue: reject` keeps none.
- Requests far back in a queue get one answer without a position, so that a freed slot costs the same however many wait.
- A group belongs to a repository; all runs without a repository share one set of groups.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from waterflowd.model.ids import JobId, RunId
from waterflowd.model.plan import Queue
from waterflowd.model.reasons import Reason, ReasonCode, reason

#: Positions in a queue that are reported exactly.
REPORTED_MAX = 10


class Holder(NamedTuple):
    """A run, or one of its jobs."""

    run: RunId
    job: JobId | None


class Ask(msgspec.Struct, frozen=True):
    """A request for a slot in a concurrency group."""

    holder: Holder
    #: The group's name in its repository, and that of the repository ("" without one).
    group: str
    repository: str
    limit: int
    queue: Queue
    #: When it was first requested, by the log.
    asked_at: int = 0


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request: granted, refused for good, or waiting; with a reason unless it is granted."""

    holder: Holder
    is_granted: bool = False
    is_refused: bool = False
    reason: Reason | None = None


class _Group:
    """One concurrency group."""

    __slots__ = ("asks", "holders", "reported")

    def __init__(self) -> None:
        self.holders: dict[Holder, None] = {}
        self.asks: OrderedDict[Holder, Ask] = OrderedDict()
        self.reported: dict[Holder, Reason] = {}


class Locks:
    """All concurrency groups that are in use."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}
        self._of_runs: dict[RunId, dict[Holder, tuple[str, str]]] = {}
        #: Groups in which a slot may have become free.
        self._to_recheck: dict[tuple[str, str], None] = {}

    def hold(self, ask: Ask) -> None:
        """Restores a slot that the log has granted."""
        self._enter(ask).holders[ask.holder] = None

    def wait(self, ask: Ask) -> None:
        """Restores a request that waits by the log, in the order of `asked_at`; `news` has the answer."""
        group = self._enter(ask)
        if ask.holder in group.holders or ask.holder in group.asks:
            return
        behind = [holder for holder, other in group.asks.items() if other.asked_at > ask.asked_at]
        group.asks[ask.holder] = ask
        for holder in behind:
            group.asks.move_to_end(holder)
        self._to_recheck[ask.repository, ask.group] = None

    def holders(self, repository: str, group: str) -> list[Holder]:
        """Who holds a slot in the group."""
        found = self._groups.get((repository, group))
        return list(found.holders) if found is not None else []

    def ask(self, ask: Ask) -> list[Answer]:
        """The answer to this request, and to those that are granted or replaced because of it."""
        group = self._enter(ask)
        answers = list(_granted(group))
        if ask.holder in group.holders:
            return [*answers, Answer(ask.holder, is_granted=True)]
        if ask.holder not in group.asks:
            answers += self._ask(group, ask)
        # The request may have been in the queue already.
        cause = group.reported.get(ask.holder) if ask.holder in group.asks else None
        return answers if cause is None else [*answers, Answer(ask.holder, reason=cause)]

    def _ask(self, group: _Group, ask: Ask) -> Iterator[Answer]:
        if ask.queue is Queue.LATEST:
            text = f'replaced by a newer one in the queue for concurrency group "{ask.group}"'
            cause = reason(ReasonCode.SUPERSEDED, text, group=ask.group)
            for older in list(group.asks):
                self._leave(older)
                yield Answer(older, is_refused=True, reason=cause)
        if not group.asks and len(group.holders) < ask.limit:
            group.holders[ask.holder] = None
            yield Answer(ask.holder, is_granted=True)
            return
        if ask.queue is Queue.REJECT:
            self._leave(ask.holder)
            text = f'concurrency group "{ask.group}" is full (`queue: reject`)'
            yield Answer(ask.holder, is_refused=True, reason=reason(ReasonCode.LOCK_REFUSED, text, group=ask.group))
            return
        group.asks[ask.holder] = ask
        group.reported[ask.holder] = _waits(group, ask, len(group.asks))

    def release(self, holder: Holder) -> None:
        """Frees the slot or removes the request, if there is one."""
        self._leave(holder)

    def forget(self, run: RunId) -> None:
        """Frees all slots and removes all requests of the run."""
        for holder in list(self._of_runs.get(run, ())):
            self._leave(holder)

    def news(self) -> Iterator[Answer]:
        """Grants free slots to waiting requests; also yields the requests whose position has changed."""
        while self._to_recheck:
            name = next(iter(self._to_recheck))
            del self._to_recheck[name]
            group = self._groups.get(name)
            if group is None:
                continue
            yield from _granted(group)
            for position, ask in enumerate(list(itertools.islice(group.asks.values(), REPORTED_MAX + 1)), 1):
                cause = _waits(group, ask, position)
                if cause != group.reported.get(ask.holder):
                    group.reported[ask.holder] = cause
                    yield Answer(ask.holder, reason=cause)

    def _enter(self, ask: Ask) -> _Group:
        name = (ask.repository, ask.group)
        self._of_runs.setdefault(ask.holder.run, {})[ask.holder] = name
        return self._groups.setdefault(name, _Group())

    def _leave(self, holder: Holder) -> None:
        of_run = self._of_runs.get(holder.run, {})
        name = of_run.pop(holder, None)
        if name is None:
            return
        if not of_run:
            del self._of_runs[holder.run]
        group = self._groups[name]
        group.holders.pop(holder, None)
        group.asks.pop(holder, None)
        group.reported.pop(holder, None)
        if not group.holders and not group.asks:
            del self._groups[name]
        else:
            self._to_recheck[name] = None


def _granted(group: _Group) -> Iterator[Answer]:
    """Grants free slots to waiting requests, in order."""
    while group.asks:
        ask = next(iter(group.asks.values()))
        if len(group.holders) >= ask.limit:
            return
        del group.asks[ask.holder]
        group.reported.pop(ask.holder, None)
        group.holders[ask.holder] = None
        yield Answer(ask.holder, is_granted=True)


def _waits(group: _Group, ask: Ask, position: int) -> Reason:
    if position > REPORTED_MAX:
        text = f'more than {REPORTED_MAX} are ahead in the queue for concurrency group "{ask.group}"'
        return reason(ReasonCode.WAITING_LOCK, text, group=ask.group)
    first = next(iter(group.holders))
    owner = f"run {first.run}" + (f', job "{first.job}"' if first.job is not None else "")
    others = len(group.holders) - 1
    more = "" if not others else " and 1 other" if others == 1 else f" and {others} others"
    text = f'position {position} in the queue for concurrency group "{ask.group}", held by {owner}{more}'
    return reason(ReasonCode.WAITING_LOCK, text, group=ask.group, position=position, holder=first.run)
