"""A turn: one call of the engine for one run, together with the answers that its host knows at once.

Rules of this file:

- No I/O and no store: the run, its inputs, the time and the answers are arguments. The host records `facts`, and only then
  carries out `commands`.
- Some commands are requests, such as one for a slot. If the host knows the answer at once, the answer is an input of the same
  turn, and the command is done. Every other command is left to the host, in the order in which the engine gave them.
- A slot that was granted to an attempt which no longer needs it is freed like the slot of an ended attempt.
- Values that cannot be stored are rejected before they become facts: they would fail the other runs' events too.
- If the engine raises, the turn ends with `error`. The facts before it are valid, but the run in memory is ahead of them: it
  must be folded again before it is used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.engine import Run, commands, events, inputs, step

_encode = msgspec.msgpack.Encoder().encode


class Answers(Protocol):
    """What a host knows at once."""

    def answer(self, run: Run, command: commands.Command) -> Sequence[inputs.Input] | None:
        """The inputs that answer the command; empty if it is done without any; None if it is left to the host."""
        ...


class Turn(msgspec.Struct):
    """The result of a turn. Record `facts` before carrying out `commands`."""

    facts: list[events.RunEvent] = []
    commands: list[commands.Command] = []
    #: How many of the inputs were taken: all of them, or those before the one that raised `error`.
    taken: int = 0
    error: Exception | None = None


def take(
    run: Run,
    arrived: Sequence[inputs.Input],
    now: int,
    answers: Answers,
    outstanding: Sequence[commands.Command] = (),
) -> Turn:
    """Feeds the inputs to the run, in order, each with all inputs that follow from it. Changes the run; never raises.

    `outstanding` are commands of earlier turns that are not done yet, such as those after a recovery; they come first.
    """
    turn = Turn()
    following: deque[inputs.Input] = deque()
    try:
        _answer(run, outstanding, answers, turn, following)
        _feed(run, following, now, answers, turn)
        for item in arrived:
            following.append(item)
            _feed(run, following, now, answers, turn)
            turn.taken += 1
    except Exception as error:  # noqa: BLE001  supervision point: one run's failure must not stop the others
        turn.error = error
    return turn


def _feed(run: Run, following: deque[inputs.Input], now: int, answers: Answers, turn: Turn) -> None:
    while following:
        item = following.popleft()
        progress = step(run, item, now)
        if progress.events:
            check_storable(progress.events)
            turn.facts += progress.events
        if isinstance(item, inputs.SlotGranted) and not _is_held(run, item):
            _answer(run, [_free(item)], answers, turn, following)
        _answer(run, progress.commands, answers, turn, following)


def _answer(
    run: Run, issued: Sequence[commands.Command], answers: Answers, turn: Turn, following: deque[inputs.Input]
) -> None:
    for command in issued:
        answer = answers.answer(run, command)
        if answer is None:
            turn.commands.append(command)
        else:
            following.extend(answer)


def _is_held(run: Run, item: inputs.SlotGranted) -> bool:
    """Whether the attempt has a slot on this server, by this answer or another one to the same request."""
    attempt = run.attempt(item.job, item.step, item.attempt)
    return attempt is not None and attempt.is_open and attempt.agent == item.agent


def _free(item: inputs.SlotGranted) -> commands.FreeSlot:
    return commands.FreeSlot(job=item.job, step=item.step, attempt=item.attempt, agent=item.agent)


def check_storable(content: Sequence[Any]) -> None:
    """Raises `Rejected` WF605 for values that cannot be encoded: a number of more than 64 bits, a lone surrogate, a cycle."""
    try:
        _encode(content)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Rejected("WF605", f"a value cannot be stored: {error}") from error
