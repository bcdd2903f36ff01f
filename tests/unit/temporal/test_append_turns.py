"""The turns of shared streams: appends at a position, snapshots, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from waterflowd.temporal import facts
from waterflowd.temporal.shared_streams import append_turns
from waterflowd.temporal.shared_streams.append_turns import ANSWERS, REQUESTS, AppendAnswer, AppendRequest, AppendTurns
from waterflowd.temporal.workflow import messages


def fact(number: int, size: int = 0) -> bytes:
    """A fact that no release understands."""
    return msgspec.msgpack.encode([99, number, {"type": "of-the-future", "text": "x" * size}])


class Stream:
    """A shared stream as its shell has it; each turn may be taken by another daemon."""

    def __init__(self, compact: append_turns.Compact | None = None) -> None:
        self.facts: list[bytes] = []
        self.state = b""
        self.colds = 0
        self._number = 0
        self._compact = compact
        self._has_begun = False

    async def append(self, *requests: tuple[int, Sequence[bytes]]) -> list[AppendAnswer]:
        """Sends these requests in one turn; returns the answers."""
        items: list[messages.AnyInput] = []
        for expected, new in requests:
            self._number += 1
            content = REQUESTS.pack(AppendRequest(expected=expected, facts=tuple(new)))
            items.append(messages.UpdateReceived(number=self._number, id=str(self._number), content=content))
        result = await self.turn(items)
        answers = [command for command in result.commands if isinstance(command, messages.AnswerUpdate)]
        assert [answer.id for answer in answers] == [item.id for item in items if hasattr(item, "id")]
        return [ANSWERS.unpack(answer.content) for answer in answers]

    async def turn(self, items: list[messages.AnyInput]) -> messages.TurnResult:
        """One turn, with everything that the shell does with it."""
        past = messages.Past(subject=b"", facts=list(self.facts))
        request = messages.TurnRequest(
            stream="fleet",
            seq=len(self.facts),
            now=1,
            inputs=items,
            begins=not self._has_begun,
            past=None if self._has_begun else past,
            state=self.state,
        )
        result = await AppendTurns(self._compact)(request)
        if result.is_cold:
            self.colds += 1
            result = await AppendTurns(self._compact)(msgspec.structs.replace(request, past=past))
        assert result.seq == len(result.facts) + (0 if result.is_snapshot else request.seq)
        assert result.taken == [item.number for item in items]
        self.facts = [*([] if result.is_snapshot else self.facts), *result.facts]
        self.state, self._has_begun = result.state, True
        return result

    def continue_as_new(self) -> None:
        """The next execution begins."""
        self.state, self._has_begun = b"", False


async def test_appends_at_a_position() -> None:
    """An append at an old position is refused with the current one. Positions continue in new executions."""
    stream = Stream()
    assert await stream.append((0, [fact(1), fact(2)])) == [AppendAnswer(position=2, is_appended=True)]
    assert await stream.append((0, [fact(3)]), (2, [fact(4)]), (2, [fact(5)])) == [
        AppendAnswer(position=2),
        AppendAnswer(position=3, is_appended=True),
        AppendAnswer(position=3),
    ]
    stream.continue_as_new()
    assert await stream.append((3, [fact(6)])) == [AppendAnswer(position=4, is_appended=True)]
    assert stream.facts == [fact(1), fact(2), fact(4), fact(6)]
    assert stream.colds == 0


async def test_a_snapshot_replaces_facts_and_keeps_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot stands for a position; later facts follow it, and the next snapshot replaces both."""
    monkeypatch.setattr(append_turns, "FACTS_MAX", 4)
    seen: list[list[bytes]] = []

    def compact(name: str, stored: Sequence[bytes], now: int) -> list[bytes]:
        seen.append(list(stored))
        return list(stored[-1:])

    stream = Stream(compact)
    for position in range(4):
        await stream.append((position, [fact(position)]))
    assert len(stream.facts) == 4
    assert await stream.append((4, [fact(4)])) == [AppendAnswer(position=5, is_appended=True)]
    assert seen == [[fact(0), fact(1), fact(2), fact(3)]]
    assert facts.parts(stream.facts) == facts.Parts(4, [fact(3)], [fact(4)])
    stream.continue_as_new()
    for position in range(5, 8):
        assert await stream.append((position, [fact(position)])) == [
            AppendAnswer(position=position + 1, is_appended=True)
        ]
    assert await stream.append((3, [fact(9)])) == [AppendAnswer(position=8)]
    assert seen[1] == [fact(3), fact(4), fact(5), fact(6), fact(7)]
    assert facts.parts(stream.facts) == facts.Parts(8, [fact(7)], [])
    assert stream.colds == 2


async def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream stays usable: what fits is still appended."""
    monkeypatch.setattr(append_turns, "BYTES_MAX", 1_000)
    stream = Stream()
    [answer] = await stream.append((0, [fact(1, 2_000)]))
    assert not answer.is_appended
    assert answer.refusal == "the stream fleet is full: its facts have 0 bytes, and 1,000 fit into Temporal"
    assert await stream.append((0, [fact(1, 500)])) == [AppendAnswer(position=1, is_appended=True)]


async def test_all_other_inputs_mean_nothing() -> None:
    """A request that this release cannot read is refused; signals and cancels are taken and dropped."""
    stream = Stream()
    result = await stream.turn(
        [
            messages.SignalReceived(number=1, content=b"x"),
            messages.CancelRequested(number=2, reason="tidy up"),
            messages.UpdateReceived(number=3, id="u", content=msgspec.msgpack.encode([99, {}])),
        ]
    )
    [command] = result.commands
    assert isinstance(command, messages.AnswerUpdate)
    assert "schema 99" in ANSWERS.unpack(command.content).refusal
    assert not result.facts
