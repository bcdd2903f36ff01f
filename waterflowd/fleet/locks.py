"""Locks: which runs and jobs hold a slot in which concurrency group, and which wait for one. Pure.

Rules of this file:

- Everything here is derived from the open runs: a run or job holds the slot that the log grants it until it ends. So a run that
  has ended never holds one.
- Slots are granted in the order of the requests, by the log, also across restarts and if one arrives late. Before a new request
  is answered, waiting ones are served. `queue: latest` keeps only the newest waiting request, `queue: reject` keeps none.
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


class LockRequest(msgspec.Struct, frozen=True):
    """A request for a slot in a concurrency group."""

    holder: Holder
    #: The group's name in its repository, and that of the repository ("" without one).
    group: str
    repository: str
    limit: int
    queue: Queue
    #: When it was first requested, by the log.
    requested_at: int = 0


class LockAnswer(msgspec.Struct, frozen=True):
    """The answer to a request: granted, refused for good, or waiting; with a reason unless it is granted."""

    holder: Holder
    is_granted: bool = False
    is_refused: bool = False
    reason: Reason | None = None


class _Group:
    """One concurrency group."""

    __slots__ = ("holders", "reported", "waiting")

    def __init__(self) -> None:
        self.holders: dict[Holder, None] = {}
        self.waiting: OrderedDict[Holder, LockRequest] = OrderedDict()
        self.reported: dict[Holder, Reason] = {}

    def queue(self, request: LockRequest) -> int:
        """Lets a request wait behind all earlier ones; returns its position, from 1."""
        newest_first = reversed(self.waiting.values())
        later = list(itertools.takewhile(lambda other: other.requested_at > request.requested_at, newest_first))
        self.waiting[request.holder] = request
        for other in reversed(later):
            self.waiting.move_to_end(other.holder)
        return len(self.waiting) - len(later)


class Locks:
    """All concurrency groups that are in use."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Group] = {}
        self._of_runs: dict[RunId, dict[Holder, tuple[str, str]]] = {}
        #: Groups in which a slot may have become free.
        self._to_recheck: dict[tuple[str, str], None] = {}

    def hold(self, request: LockRequest) -> None:
        """Restores a slot that the log has granted."""
        self._enter(request).holders[request.holder] = None

    def wait(self, request: LockRequest) -> None:
        """Restores a request that waits by the log, in the order of `requested_at`; `news` has the answer."""
        group = self._enter(request)
        if request.holder in group.holders or request.holder in group.waiting:
            return
        group.queue(request)
        self._to_recheck[request.repository, request.group] = None

    def holders(self, repository: str, group: str) -> list[Holder]:
        """Who holds a slot in the group."""
        found = self._groups.get((repository, group))
        return list(found.holders) if found is not None else []

    def request(self, request: LockRequest) -> list[LockAnswer]:
        """The answer to this request, and to those that are granted or replaced because of it."""
        group = self._enter(request)
        answers = list(_granted(group))
        if request.holder in group.holders:
            return [*answers, LockAnswer(request.holder, is_granted=True)]
        if request.holder not in group.waiting:
            answers += self._decide(group, request)
        # The request may have been in the queue already.
        cause = group.reported.get(request.holder) if request.holder in group.waiting else None
        return answers if cause is None else [*answers, LockAnswer(request.holder, reason=cause)]

    def _decide(self, group: _Group, request: LockRequest) -> Iterator[LockAnswer]:
        if request.queue is Queue.LATEST:
            text = f'replaced by a newer one in the queue for concurrency group "{request.group}"'
            cause = reason(ReasonCode.SUPERSEDED, text, group=request.group)
            older = [other.holder for other in group.waiting.values() if other.requested_at <= request.requested_at]
            is_newest = len(older) == len(group.waiting)
            for holder in older if is_newest else [*older, request.holder]:
                self._leave(holder)
                yield LockAnswer(holder, is_refused=True, reason=cause)
            if not is_newest:
                return
        if not group.waiting and len(group.holders) < request.limit:
            group.holders[request.holder] = None
            yield LockAnswer(request.holder, is_granted=True)
            return
        if request.queue is Queue.REJECT:
            self._leave(request.holder)
            text = f'concurrency group "{request.group}" is full (`queue: reject`)'
            yield LockAnswer(
                request.holder, is_refused=True, reason=reason(ReasonCode.LOCK_REFUSED, text, group=request.group)
            )
            return
        position = group.queue(request)
        group.reported[request.holder] = _waiting_reason(group, request, position)

    def release(self, holder: Holder) -> None:
        """Frees the slot or removes the request, if there is one."""
        self._leave(holder)

    def forget(self, run: RunId) -> None:
        """Frees all slots and removes all requests of the run."""
        for holder in list(self._of_runs.get(run, ())):
            self._leave(holder)

    def news(self) -> Iterator[LockAnswer]:
        """Grants free slots to waiting requests; also yields the requests whose position has changed."""
        while self._to_recheck:
            name = next(iter(self._to_recheck))
            del self._to_recheck[name]
            group = self._groups.get(name)
            if group is None:
                continue
            yield from _granted(group)
            for position, request in enumerate(list(itertools.islice(group.waiting.values(), REPORTED_MAX + 1)), 1):
                cause = _waiting_reason(group, request, position)
                if cause != group.reported.get(request.holder):
                    group.reported[request.holder] = cause
                    yield LockAnswer(request.holder, reason=cause)

    def _enter(self, request: LockRequest) -> _Group:
        name = (request.repository, request.group)
        self._of_runs.setdefault(request.holder.run, {})[request.holder] = name
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
        group.waiting.pop(holder, None)
        group.reported.pop(holder, None)
        if not group.holders and not group.waiting:
            del self._groups[name]
        else:
            self._to_recheck[name] = None


def _granted(group: _Group) -> Iterator[LockAnswer]:
    """Grants free slots to waiting requests, in order."""
    while group.waiting:
        request = next(iter(group.waiting.values()))
        if len(group.holders) >= request.limit:
            return
        del group.waiting[request.holder]
        group.reported.pop(request.holder, None)
        group.holders[request.holder] = None
        yield LockAnswer(request.holder, is_granted=True)


def _waiting_reason(group: _Group, request: LockRequest, position: int) -> Reason:
    if position > REPORTED_MAX:
        text = f'more than {REPORTED_MAX} are ahead in the queue for concurrency group "{request.group}"'
        return reason(ReasonCode.WAITING_LOCK, text, group=request.group)
    first = next(iter(group.holders))
    owner = f"run {first.run}" + (f', job "{first.job}"' if first.job is not None else "")
    others = len(group.holders) - 1
    more = "" if not others else " and 1 other" if others == 1 else f" and {others} others"
    text = f'position {position} in the queue for concurrency group "{request.group}", held by {owner}{more}'
    return reason(ReasonCode.WAITING_LOCK, text, group=request.group, position=position, holder=first.run)
