"""A small engine for tests of the shell: an input contains the commands that answer it.

A fact is an input with the commands that followed from it. So the facts alone determine what is outstanding: timers and
activities that were started, and have neither been cancelled nor ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from waterflowd.temporal.workflow import messages


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What a turn recorded about one input."""

    by: str
    input: messages.AnyInput
    commands: list[messages.AnyCommand]


#: How a timer or an activity ends.
ENDS = (messages.TimerFired, messages.ActivityCompleted, messages.ActivityFailed)

_facts = msgspec.msgpack.Decoder(Fact)
_commands = msgspec.msgpack.Decoder(list[messages.AnyCommand])


def content(*commands: messages.AnyCommand) -> bytes:
    """An input that is answered with these commands."""
    return msgspec.msgpack.encode(list(commands))


def facts_of(encoded: Sequence[bytes]) -> list[Fact]:
    """The facts of a stream."""
    return [_facts.decode(fact) for fact in encoded]


class ToyEngine:
    """Turns, which are counted. `name` is recorded with each fact."""

    def __init__(self, name: str = "first") -> None:
        self.name = name
        self.requests: list[messages.TurnRequest] = []
        #: Raised by the next turns, one each.
        self.errors: list[Exception] = []
        self._taken: dict[tuple[str, int], messages.AnyInput] = {}
        self._memory: dict[str, list[bytes]] = {}
        #: The name of the state in memory: a turn whose result was lost leaves facts that nobody knows.
        self._state: dict[str, bytes] = {}

    def facts(self, stream: str) -> list[Fact]:
        """All facts of a stream, over all of its executions."""
        return facts_of(self._memory[stream])

    def count(self, kind: type[Any] = messages.Input) -> int:
        """How many inputs of a kind turns have taken."""
        return sum(isinstance(item, kind) for item in self._taken.values())

    async def __call__(self, request: messages.TurnRequest) -> messages.TurnResult:
        """A turn: cold unless memory is exactly at `seq` and `state`."""
        self.requests.append(request)
        if self.errors:
            raise self.errors.pop(0)
        if request.past is not None:
            self._memory[request.stream] = list(request.past.facts)
            self._state[request.stream] = request.state
        known = self._memory.get(request.stream)
        if known is None or len(known) != request.seq or self._state[request.stream] != request.state:
            return messages.TurnResult(is_cold=True, seq=request.seq)
        ended = {item.id for item in request.inputs if isinstance(item, ENDS)}
        open_ = outstanding(facts_of(known)) if request.begins else []
        commands: list[messages.AnyCommand] = [command for command in open_ if command.id not in ended]
        new = []
        for item in request.inputs:
            followed = self._answers(item)
            new.append(msgspec.msgpack.encode(Fact(by=self.name, input=item, commands=followed)))
            commands += followed
        self._taken |= {(request.stream, item.number): item for item in request.inputs}
        known += new
        self._state[request.stream] = _name(request.state, new)
        taken = [item.number for item in request.inputs]
        state = self._state[request.stream]
        return messages.TurnResult(facts=new, commands=commands, taken=taken, seq=len(known), state=state)

    def _answers(self, item: messages.AnyInput) -> list[messages.AnyCommand]:
        match item:
            case messages.SignalReceived() if item.content:
                return _commands.decode(item.content)
            case messages.UpdateReceived():
                answer = messages.AnswerUpdate(id=item.id, content=f"{self.name} answers".encode())
                return [*_commands.decode(item.content), answer]
            case messages.TimerFired() | messages.ActivityCompleted() if item.id.startswith("last"):
                return [messages.Complete(content=item.id.encode())]
        return []


def _name(before: bytes, facts: Sequence[bytes]) -> bytes:
    return hashlib.sha256(before + b"".join(facts)).digest()


def outstanding(facts: Sequence[Fact]) -> list[messages.StartTimer | messages.ScheduleActivity]:
    """What was started and has not ended."""
    open_: dict[str, messages.StartTimer | messages.ScheduleActivity] = {}
    for fact in facts:
        if isinstance(fact.input, ENDS):
            open_.pop(fact.input.id, None)
        for command in fact.commands:
            if isinstance(command, messages.StartTimer | messages.ScheduleActivity):
                open_[command.id] = command
            elif isinstance(command, messages.CancelTimer | messages.CancelActivity):
                open_.pop(command.id, None)
    return list(open_.values())


def inputs(facts: Sequence[Fact], kind: type[Any]) -> list[Any]:
    """The inputs of one kind, in the order in which turns took them."""
    return [fact.input for fact in facts if isinstance(fact.input, kind)]
