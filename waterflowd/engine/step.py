"""`step`: the only entry point. Every input of a run enters here; events and commands come out.

Rules of this file: decide, apply, make moves in the order of the file until none is left, then return the commands that
are new or no longer needed. The host makes the events durable before it executes any command, except the requests to the fleet,
which are answered inside the same turn.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence

import msgspec

from waterflowd.engine import commands, events, inputs
from waterflowd.engine.decide import decide
from waterflowd.engine.fold.evolve import evolve
from waterflowd.engine.moves import run_moves
from waterflowd.engine.moves.affected_parts import ALONE, RUN, Part, command_parts, move_parts
from waterflowd.engine.outstanding import outstanding_of_block, outstanding_of_job_alone, outstanding_of_run
from waterflowd.engine.state.runs import Run
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.statuses import FAILURES, Outcome


class Progress(msgspec.Struct, frozen=True):
    """The result of one input. Persist `events` before executing `commands`; both are empty if the input changed nothing."""

    events: list[events.RunEvent]
    commands: list[commands.Command]


_NOTHING = Progress([], [])


def step(run: Run, input: inputs.Input, now: int) -> Progress:
    """Feeds one input to the run and applies everything that follows from it."""
    first = decide(run, input, now)
    if not first:
        return _NOTHING
    outstanding = _OutstandingBefore(run)
    happened: list[events.RunEvent] = []
    waiting = _Waiting()
    for event in first:
        _apply(run, event, outstanding, happened, waiting)
    while (following := _next(run, waiting, now)) is not None:
        _apply(run, following, outstanding, happened, waiting)
    return Progress(happened, [*outstanding.difference(), *_released(run, happened)])


class _Waiting:
    """The parts from which a move may follow, each once, in the order of the file."""

    def __init__(self) -> None:
        self._heap: list[Part] = []
        self._known: set[Part] = set()

    def add(self, part: Part) -> None:
        """Adds a part."""
        if part not in self._known:
            self._known.add(part)
            heapq.heappush(self._heap, part)

    def first(self) -> Part | None:
        """The next part."""
        return self._heap[0] if self._heap else None

    def drop(self) -> None:
        """Removes the next part: nothing follows from it."""
        self._known.discard(heapq.heappop(self._heap))


def _next(run: Run, waiting: _Waiting, now: int) -> events.RunEvent | None:
    """The next event that follows: from the first part that has one, else from the run."""
    if run.started_at is not None or run_moves.is_ending(run):
        while (part := waiting.first()) is not None:
            event = run_moves.of_part(run, run.jobs[part[0]], part[1], now)
            if event is not None:
                return event
            waiting.drop()
    return run_moves.of_run(run, now)


def _apply(
    run: Run,
    event: events.RunEvent,
    outstanding: _OutstandingBefore,
    happened: list[events.RunEvent],
    waiting: _Waiting,
) -> None:
    for part in command_parts(run, event):
        outstanding.note(part)
    evolve(run, event)
    happened.append(event)
    for part in move_parts(run, event):
        waiting.add(part)


class _OutstandingBefore:
    """The outstanding commands of the affected parts before the input."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._of_parts: dict[Part, tuple[commands.Command, ...]] = {}

    def note(self, part: Part) -> None:
        """Records the commands of a part, before its first change."""
        if part not in self._of_parts:
            self._of_parts[part] = self._now(part)

    def _now(self, part: Part) -> tuple[commands.Command, ...]:
        if part == RUN:
            return outstanding_of_run(self._run)
        index, number = part
        job = self._run.jobs[index]
        if number == ALONE:
            return outstanding_of_job_alone(self._run, job)
        block = job.root if number == 0 else job.blocks.get(number)
        return outstanding_of_block(self._run, job, block) if block is not None else ()

    def difference(self) -> Iterator[commands.Command]:
        """Commands that undo those no longer needed, then the new commands; first of the run, then job by job."""
        run = self._run
        for _, parts in itertools.groupby(sorted(self._of_parts), key=lambda part: part[0]):
            before: list[commands.Command] = []
            after: list[commands.Command] = []
            for part in parts:
                now = self._now(part)
                if now != self._of_parts[part]:
                    before += self._of_parts[part]
                    after += now
            yield from _difference(run, before, after)


def _difference(
    run: Run, before: Sequence[commands.Command], after: Sequence[commands.Command]
) -> Iterator[commands.Command]:
    if before == after:
        return
    for command in before:
        if command not in after:
            yield from _settled(run, command)
    for command in after:
        if command not in before:
            yield command


#: Events after which a job no longer has a server.
_RELEASING = (events.JobCompleted, events.JobRetryScheduled)


def _released(run: Run, happened: list[events.RunEvent]) -> Iterator[commands.Command]:
    for event in happened:
        if isinstance(event, _RELEASING):
            agent = run.jobs_by_id[event.job].agent
            if agent is not None:
                is_kept = isinstance(event, events.JobCompleted) and event.conclusion in FAILURES
                yield commands.ReleaseJob(job=event.job, agent=agent, is_kept=is_kept)


#: Reasons for ends that the agent did not report itself, so that it must be told to stop.
_TERMINATING = (ReasonCode.TERMINATED,)


def _settled(run: Run, command: commands.Command) -> Iterator[commands.Command]:
    # The most frequent ones first.
    match command:
        case commands.RequestSlot(job=job, step=name, attempt=number):
            yield commands.CancelSlotRequest(job=job, step=name, attempt=number)
        case commands.SendTask(job=job, step=name, attempt=number, agent=agent, epoch=epoch):
            attempt = run.attempt(job, name, number)
            if attempt is not None and (attempt.outcome is Outcome.LOST or attempt.reason.code in _TERMINATING):
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
        case commands.ArmTimer(timer=timer):
            yield commands.DropTimer(timer=timer)
        case commands.ListServers(job=job):
            yield commands.DropServerList(job=job)
        case commands.AcquireLock(job=job, group=group):
            yield commands.ReleaseLock(job=job, group=group)
        case commands.StartChildRun(job=job, step=name, attempt=number):
            yield commands.DropChildRun(job=job, step=name, attempt=number)
        case commands.WatchChildRun(job=job, step=name, attempt=number, run=child_run):
            attempt = run.attempt(job, name, number)
            if attempt is not None and attempt.reason.code in _TERMINATING:
                yield commands.CancelChildRun(job=job, step=name, attempt=number, run=child_run, is_forced=True)
            yield commands.DropChildRun(job=job, step=name, attempt=number)
        case _:
            pass
