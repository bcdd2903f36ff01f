"""The turns of shared streams: an update appends facts at an expected position, or is told the current one.

Rules of this file:

- Who appends has decided by all facts up to the position that it names. A turn checks only that position, and never looks into
  the facts: they may be those of a newer release.
- A stream lives forever, and each execution begins with all facts. So they are replaced now and then by fewer ones that say the
  same (`Compact`). Positions go on: a snapshot says which position it stands for.
- What does not fit into a new execution any longer is refused, before the stream would stall.
- A turn needs nothing in memory, because the shell keeps `state` for it: the position and the size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import msgspec

from waterflowd.model.codec import UnreadableError, ValueCodec
from waterflowd.temporal import facts
from waterflowd.temporal.sealing.codec import SEALED_BYTES_MAX
from waterflowd.temporal.workflow import messages

logger = logging.getLogger("waterflow.temporal")

#: Facts since the newest snapshot after which there is another one; fewer if they are large.
FACTS_MAX = 2_000
#: All facts of a stream, before they are compressed. Half of it is a reason for a snapshot.
BYTES_MAX = SEALED_BYTES_MAX - 100_000
#: Fewer facts than these are no reason for a snapshot: a stream that is large and cannot shrink would be folded in each turn.
_FACTS_MIN = 100

#: Facts that say the same as these facts of a stream; the last argument is the time.
Compact = Callable[[str, Sequence[bytes], int], list[bytes]]


class AppendRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Append these facts if the stream is at this position."""

    expected: int
    facts: tuple[bytes, ...]


class AppendAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The stream's position after the request."""

    position: int
    is_appended: bool = False
    #: Why the facts can never be appended; empty if they were, or if only the position was another one.
    refusal: str = ""


REQUESTS = ValueCodec("append-request", AppendRequest)
ANSWERS = ValueCodec("append-answer", AppendAnswer)


class _State(msgspec.Struct, array_like=True):
    """What a turn must know of the facts."""

    position: int
    size: int
    #: Facts since the newest snapshot.
    since: int


#: Made on import, on one thread: see `workflow.messages.PREPARED`.
_decode_state = msgspec.msgpack.Decoder(_State).decode


class AppendTurns:
    """Implements `messages.Turn` for shared streams. `compact` is None for a stream whose facts are never replaced."""

    def __init__(self, compact: Compact | None = None, *, takes_signals: bool = False) -> None:
        """With `takes_signals`, a signal contains a fact that other streams append, at whatever position."""
        self._compact = compact
        self._takes_signals = takes_signals

    async def __call__(self, request: messages.TurnRequest) -> messages.TurnResult:
        """See `messages.Turn`."""
        past = request.past.facts if request.past is not None else None
        if past is None and not request.state:
            return messages.TurnResult(is_cold=True, seq=request.seq)
        state = _folded(past) if past is not None else _decode_state(request.state)
        replaced: list[bytes] | None = None
        if self._compact is not None and _is_large(state):
            if past is None:
                return messages.TurnResult(is_cold=True, seq=request.seq)
            replaced = self._snapshot(request, past, state)
            state = _folded(replaced)
        new: list[bytes] = []
        if self._takes_signals:
            _append_signals(request, state, new)
        commands = list(_answers(request, state, new))
        stored = [*(replaced or ()), *new]
        return messages.TurnResult(
            facts=stored,
            commands=commands,
            taken=[item.number for item in request.inputs],
            seq=len(stored) + (0 if replaced is not None else request.seq),
            is_snapshot=replaced is not None,
            state=msgspec.msgpack.encode(state),
        )

    def _snapshot(self, request: messages.TurnRequest, past: list[bytes], state: _State) -> list[bytes]:
        assert self._compact is not None
        parts = facts.parts(past)
        compacted = self._compact(request.stream, [*parts.snapshot, *parts.later], request.now)
        return [facts.snapshot_header(state.position, len(compacted)), *compacted]


def _folded(past: Sequence[bytes]) -> _State:
    parts = facts.parts(past)
    return _State(parts.base + len(parts.later), sum(map(len, past)), len(parts.later))


def _is_large(state: _State) -> bool:
    return state.since >= FACTS_MAX or (state.size >= BYTES_MAX // 2 and state.since >= _FACTS_MIN)


def _append_signals(request: messages.TurnRequest, state: _State, new: list[bytes]) -> None:
    """Appends the facts in signals, before all requests. What does not fit is dropped: its sender does not wait."""
    for item in request.inputs:
        if not isinstance(item, messages.SignalReceived):
            continue
        if state.size + len(item.content) > BYTES_MAX:
            logger.error("the stream %s is full: a fact that another stream has sent is dropped", request.stream)
            continue
        new.append(item.content)
        state.position += 1
        state.size += len(item.content)
        state.since += 1


def _answers(request: messages.TurnRequest, state: _State, new: list[bytes]) -> Iterator[messages.AnyCommand]:
    """Appends to `new` what the requests may append, and answers them. All other inputs mean nothing to a shared stream."""
    for item in request.inputs:
        if not isinstance(item, messages.UpdateReceived):
            continue
        answer = _append(request.stream, item.content, state, new)
        yield messages.AnswerUpdate(id=item.id, content=ANSWERS.pack(answer))


def _append(stream: str, content: bytes, state: _State, new: list[bytes]) -> AppendAnswer:
    try:
        append: AppendRequest = REQUESTS.unpack(content)
    except UnreadableError as error:
        # Only daemons can seal a request, so a daemon of a newer release has sent it.
        return AppendAnswer(position=state.position, refusal=f"{error}; upgrade all daemons")
    if append.expected != state.position:
        return AppendAnswer(position=state.position)
    size = sum(map(len, append.facts))
    if state.size + size > BYTES_MAX:
        text = f"the stream {stream} is full: its facts have {state.size:,} bytes, and {BYTES_MAX:,} fit into Temporal"
        return AppendAnswer(position=state.position, refusal=text)
    new += append.facts
    state.position += len(append.facts)
    state.size += size
    state.since += len(append.facts)
    return AppendAnswer(position=state.position, is_appended=True)
