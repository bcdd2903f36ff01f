"""What is to be sent, and which problems are open: folded from the facts of the stream `notices`.

Rules of this file: pure. `evolve` accepts every logged fact, makes no decisions and is the only writer. Everything is bounded:
a channel that takes nothing loses its oldest notices, and says so in its next message.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from waterflowd.notices import events
from waterflowd.notices.events import Notice

#: Notices that wait for one channel. The oldest ones are dropped.
PENDING_MAX = 200
#: Open problems that are remembered; the oldest ones are forgotten, and told again if they still exist.
PROBLEMS_MAX = 10_000
#: Tries of one message. A single one that fails may be a moment of the other side.
_FAILURES_MIN = 3


class Pending(msgspec.Struct, kw_only=True):
    """What waits for one channel."""

    #: Ids of notices, oldest first; true for one that may have been sent.
    notices: dict[int, bool] = {}
    #: When the first of them was queued, in ms.
    since: int = 0
    #: Notices that were dropped because too many were waiting.
    dropped: int = 0
    #: What is being sent; its outcome is unknown until the delivery has ended.
    begun: tuple[int, ...] = ()
    failures: int = 0
    #: Why the last delivery failed; empty after a success.
    problem: str = ""
    #: The last success, in ms; 0 for none.
    sent_at: int = 0

    @property
    def keeps_failing(self) -> bool:
        """Whether a message was given up or has failed several times, and none was sent since."""
        return bool(self.problem) and (self.failures == 0 or self.failures >= _FAILURES_MIN)


class NoticeState(msgspec.Struct, kw_only=True):
    """Everything that is known about notices."""

    #: Position in the log up to which events were looked at; 0: not looking.
    events_seq: int = 0
    last_id: int = 0
    #: The notices that some channel still has to get.
    notices: dict[int, Notice] = {}
    channels: dict[str, Pending] = {}
    #: Open problems by key, and when they were last told, in ms.
    problems: dict[str, int] = {}


def evolve(state: NoticeState, fact: events.Fact) -> None:
    """Applies one fact to the state, in place."""
    match fact:
        case events.EventsRead():
            state.events_seq = fact.seq
        case events.NoticeQueued():
            _queue(state, fact)
        case events.ProblemEnded():
            state.problems.pop(fact.key, None)
        case events.DeliveryBegun():
            state.channels.setdefault(fact.channel, Pending()).begun = fact.notices
        case events.DeliveryEnded():
            _end(state, fact)
        case events.TestSent():
            if (pending := state.channels.get(fact.channel)) is not None:
                pending.failures, pending.problem = 0, ""
        case events.StateRecorded():
            recorded = msgspec.msgpack.decode(fact.state, type=NoticeState)
            for name in NoticeState.__struct_fields__:
                setattr(state, name, getattr(recorded, name))


def fold(facts: Iterable[events.Fact]) -> NoticeState:
    """The state after these facts. What was being sent when they end may have been sent."""
    state = NoticeState()
    for fact in facts:
        evolve(state, fact)
    for pending in state.channels.values():
        for notice in pending.begun:
            if notice in pending.notices:
                pending.notices[notice] = True
        pending.begun = ()
    return state


def recorded(state: NoticeState, at: int) -> events.StateRecorded:
    """The fact that stands for the whole state. What is being sent counts as perhaps sent."""
    copied = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=NoticeState)
    return events.StateRecorded(at=at, state=msgspec.msgpack.encode(copied))


def _queue(state: NoticeState, fact: events.NoticeQueued) -> None:
    notice = fact.notice
    state.last_id = max(state.last_id, notice.id)
    if notice.is_resolved:
        state.problems.pop(notice.key, None)
    else:
        state.problems.pop(notice.key, None)
        state.problems[notice.key] = fact.at
        while len(state.problems) > PROBLEMS_MAX:
            del state.problems[next(iter(state.problems))]
    for name in fact.channels:
        pending = state.channels.setdefault(name, Pending())
        if not pending.notices:
            pending.since = fact.at
        pending.notices[notice.id] = False
        if len(pending.notices) > PENDING_MAX:
            oldest = next(iter(pending.notices))
            del pending.notices[oldest]
            pending.dropped += 1
            _forget(state, [oldest])
    if any(notice.id in pending.notices for pending in state.channels.values()):
        state.notices[notice.id] = notice


def _end(state: NoticeState, fact: events.DeliveryEnded) -> None:
    pending = state.channels.setdefault(fact.channel, Pending())
    pending.begun = ()
    pending.problem = fact.text
    if fact.outcome == "failed":
        pending.failures += 1
        for notice in fact.notices:
            if notice in pending.notices and fact.is_uncertain:
                pending.notices[notice] = True
        return
    pending.failures = 0
    pending.dropped = 0
    for notice in fact.notices:
        pending.notices.pop(notice, None)
    pending.since = fact.at if pending.notices else 0
    if fact.outcome == "sent":
        pending.sent_at = fact.at
    _forget(state, fact.notices)
    if fact.outcome == "dropped" and not pending.notices:
        # The channel no longer exists.
        del state.channels[fact.channel]


def _forget(state: NoticeState, ids: Iterable[int]) -> None:
    """Drops notices that no channel needs."""
    for notice in ids:
        if not any(notice in pending.notices for pending in state.channels.values()):
            state.notices.pop(notice, None)
