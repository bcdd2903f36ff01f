"""Locks: who has a place in which concurrency group, and who waits for one. Pure.

Rules of this file:

- Everything here is derived from the open runs: who was granted a place by the log holds it, until its run or job is over. So a
  run that is gone never holds one.
- Those who wait are served in the order in which they came, by the log: over a restart too. Whoever asks finds a group that has
  served those before them. `latest` keeps the newest alone, `reject` keeps nobody.
- Who is far back in a queue is told so once: a place that comes free costs the same however many wait.
- A group belongs to a repository; what was sent without one shares one set of groups.
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

#: Positions in a queue that are told exactly.
TOLD_MAX = 10


class Holder(NamedTuple):
    """A run, or one of its jobs."""

    run: RunId
    job: JobId | None


class Ask(msgspec.Struct, frozen=True):
    """What somebody wants."""

    holder: Holder
    #: The group's name in its repository, and that of the repository ("" without one).
    group: str
    repository: str
    limit: int
    queue: Queue
    #: When it was asked first, by the log.
    asked_at: int = 0


class Answer(msgspec.Struct, frozen=True):
    """Granted without a reason; else why not, and whether that is final."""

    holder: Holder
    is_granted: bool = False
    is_refused: bool = False
    reason: Reason | None = None


class _Group:
    """One concurrency group."""

    __slots__ = ("asks", "holders", "told")

    def __init__(self) -> None:
        self.holders: dict[Holder, None] = {}
        self.asks: OrderedDict[Holder, Ask] = OrderedDict()
        self.told: dict[Holder, Reason] = {}


class Locks:
    """All concurrency groups that somebody is in."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}
        self._of_runs: dict[RunId, dict[Holder, tuple[str, str]]] = {}
        #: Groups in which a place may have come free.
        self._doubted: dict[tuple[str, str], None] = {}

    def hold(self, ask: Ask) -> None:
        """The place is theirs by the log: what recovery finds."""
        self._enter(ask).holders[ask.holder] = None

    def wait(self, ask: Ask) -> None:
        """They wait by the log: what recovery finds. Their turn is that of `asked_at`; `news` has the answer."""
        group = self._enter(ask)
        if ask.holder in group.holders or ask.holder in group.asks:
            return
        behind = [holder for holder, other in group.asks.items() if other.asked_at > ask.asked_at]
        group.asks[ask.holder] = ask
        for holder in behind:
            group.asks.move_to_end(holder)
        self._doubted[ask.repository, ask.group] = None

    def holders(self, repository: str, group: str) -> list[Holder]:
        """Who has a place in the group."""
        found = self._groups.get((repository, group))
        return list(found.holders) if found is not None else []

    def ask(self, ask: Ask) -> list[Answer]:
        """Answers to the one who asks, and to those whose turn has come or whose place in the queue is gone."""
        group = self._enter(ask)
        answers = list(_granted(group))
        if ask.holder in group.holders:
            return [*answers, Answer(ask.holder, is_granted=True)]
        if ask.holder not in group.asks:
            answers += self._ask(group, ask)
        # It may have come back to a place in the queue that it had.
        why = group.told.get(ask.holder) if ask.holder in group.asks else None
        return answers if why is None else [*answers, Answer(ask.holder, reason=why)]

    def _ask(self, group: _Group, ask: Ask) -> Iterator[Answer]:
        if ask.queue is Queue.LATEST:
            text = f'a newer one took its place in the queue of concurrency group "{ask.group}"'
            why = reason(ReasonCode.SUPERSEDED, text, group=ask.group)
            for older in list(group.asks):
                self._leave(older)
                yield Answer(older, is_refused=True, reason=why)
        if not group.asks and len(group.holders) < ask.limit:
            group.holders[ask.holder] = None
            yield Answer(ask.holder, is_granted=True)
            return
        if ask.queue is Queue.REJECT:
            self._leave(ask.holder)
            text = f'concurrency group "{ask.group}" is full, and its file says reject'
            yield Answer(ask.holder, is_refused=True, reason=reason(ReasonCode.LOCK_REFUSED, text, group=ask.group))
            return
        group.asks[ask.holder] = ask
        group.told[ask.holder] = _waits(group, ask, len(group.asks))

    def release(self, holder: Holder) -> None:
        """The place is free, or not wanted any more. Nothing happens when there is none."""
        self._leave(holder)

    def forget(self, run: RunId) -> None:
        """Nothing of the run holds or wants a place any more."""
        for holder in list(self._of_runs.get(run, ())):
            self._leave(holder)

    def news(self) -> Iterator[Answer]:
        """Places that came free for those who wait, and new positions in the queues."""
        while self._doubted:
            name = next(iter(self._doubted))
            del self._doubted[name]
            group = self._groups.get(name)
            if group is None:
                continue
            yield from _granted(group)
            for position, ask in enumerate(list(itertools.islice(group.asks.values(), TOLD_MAX + 1)), 1):
                why = _waits(group, ask, position)
                if why != group.told.get(ask.holder):
                    group.told[ask.holder] = why
                    yield Answer(ask.holder, reason=why)

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
        group.told.pop(holder, None)
        if not group.holders and not group.asks:
            del self._groups[name]
        else:
            self._doubted[name] = None


def _granted(group: _Group) -> Iterator[Answer]:
    """Gives what is free to those who wait, in their order."""
    while group.asks:
        ask = next(iter(group.asks.values()))
        if len(group.holders) >= ask.limit:
            return
        del group.asks[ask.holder]
        group.told.pop(ask.holder, None)
        group.holders[ask.holder] = None
        yield Answer(ask.holder, is_granted=True)


def _waits(group: _Group, ask: Ask, position: int) -> Reason:
    if position > TOLD_MAX:
        text = f'more than {TOLD_MAX} are before it in the queue of concurrency group "{ask.group}"'
        return reason(ReasonCode.WAITING_LOCK, text, group=ask.group)
    first = next(iter(group.holders))
    whom = f"run {first.run}" + (f', job "{first.job}"' if first.job is not None else "")
    more = f" and {len(group.holders) - 1} more" if len(group.holders) > 1 else ""
    text = f'number {position} in the queue of concurrency group "{ask.group}", which {whom}{more} is in'
    return reason(ReasonCode.WAITING_LOCK, text, group=ask.group, position=position, holder=first.run)
