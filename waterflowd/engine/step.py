"""`step`: the one chokepoint. Every input of a run enters here; events and commands come out.

Rules of this file: decide, apply, follow every move to the fixed point in the order of the file, then say what the host owes
more and what it owes no longer. The host makes the events durable before it carries out any command except `Place` and
`Withdraw`, which are answered inside the same batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import msgspec

from waterflowd.engine import commands, events, inputs, moves
from waterflowd.engine.decide import decide
from waterflowd.engine.evolve import evolve
from waterflowd.engine.outstanding import owed_to_job, owed_to_run
from waterflowd.engine.places import Place, concerned, touched
from waterflowd.engine.state import Run
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.statuses import Outcome


class Progress(msgspec.Struct, frozen=True):
    """What one input came to. Persist `events` before carrying out `commands`; both empty: the input was no news."""

    events: list[events.RunEvent]
    commands: list[commands.Command]


_NOTHING = Progress([], [])


def step(run: Run, given: inputs.Input, now: int) -> Progress:
    """Feeds one input to the run and folds what follows into it."""
    first = decide(run, given, now)
    if not first:
        return _NOTHING
    owed = _Owed(run)
    happened: list[events.RunEvent] = []
    waiting: list[Place] = []
    for event in first:
        _apply(run, event, owed, happened, waiting)
    while (following := _next(run, waiting, now)) is not None:
        _apply(run, following, owed, happened, waiting)
    return Progress(happened, [*owed.difference(), *_released(run, happened)])


def _next(run: Run, waiting: list[Place], now: int) -> events.RunEvent | None:
    """The next event that follows by itself: of the first touched place for which one does, else of the run."""
    while waiting and (run.started_at is not None or moves.is_ending(run)):
        index, block = waiting[0]
        event = moves.of_place(run, run.jobs[index], block, now)
        if event is not None:
            return event
        heapq.heappop(waiting)
    return moves.of_run(run, now)


def _apply(
    run: Run, event: events.RunEvent, owed: _Owed, happened: list[events.RunEvent], waiting: list[Place]
) -> None:
    for index in concerned(run, event):
        owed.note(index)
    evolve(run, event)
    happened.append(event)
    for place in touched(run, event):
        if place not in waiting:
            heapq.heappush(waiting, place)


class _Owed:
    """What the host owed before, for the parts of the run that are touched."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._of_run = owed_to_run(run)
        self._of_jobs: dict[int, tuple[commands.Command, ...]] = {}

    def note(self, index: int) -> None:
        """Remembers what is owed to a job, at its first touch."""
        if index not in self._of_jobs:
            self._of_jobs[index] = owed_to_job(self._run, self._run.jobs[index])

    def difference(self) -> Iterator[commands.Command]:
        """What is owed no longer, then what is owed more, job by job."""
        run = self._run
        yield from _difference(run, self._of_run, owed_to_run(run))
        for index, before in sorted(self._of_jobs.items()):
            yield from _difference(run, before, owed_to_job(run, run.jobs[index]))


def _difference(
    run: Run, before: tuple[commands.Command, ...], after: tuple[commands.Command, ...]
) -> Iterator[commands.Command]:
    if before == after:
        return
    for command in before:
        if command not in after:
            yield from _settled(run, command)
    for command in after:
        if command not in before:
            yield command


def _released(run: Run, happened: list[events.RunEvent]) -> Iterator[commands.Command]:
    for event in happened:
        if isinstance(event, events.JobCompleted | events.JobRetryScheduled):
            agent = run.jobs_by_id[event.job].agent
            if agent is not None:
                yield commands.ReleaseJob(job=event.job, agent=agent)


#: Ends that the agent has not reported itself: it must be told.
_TOLD = (ReasonCode.TERMINATED,)


def _settled(run: Run, command: commands.Command) -> Iterator[commands.Command]:
    match command:
        case commands.ArmTimer(timer=timer):
            yield commands.DropTimer(timer=timer)
        case commands.Survey(job=job):
            yield commands.DropSurvey(job=job)
        case commands.Lock(job=job, group=group):
            yield commands.Unlock(job=job, group=group)
        case commands.Place(job=job, step=name, attempt=number):
            yield commands.Withdraw(job=job, step=name, attempt=number)
        case commands.SendTask(job=job, step=name, attempt=number, agent=agent, epoch=epoch):
            attempt = run.attempt(job, name, number)
            if attempt is not None and (attempt.outcome is Outcome.LOST or attempt.reason.code in _TOLD):
                yield commands.CancelTask(
                    job=job,
                    step=name,
                    attempt=number,
                    epoch=epoch,
                    agent=agent,
                    is_forced=True,
                    reason=attempt.reason.text,
                )
            yield commands.FreeSlot(job=job, step=name, attempt=number, agent=agent)
        case _:
            pass
