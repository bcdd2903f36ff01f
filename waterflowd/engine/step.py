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
from waterflowd.engine.blocks import Block, Step
from waterflowd.engine.decide import decide
from waterflowd.engine.evolve import evolve
from waterflowd.engine.outstanding import owed_to_job, owed_to_run
from waterflowd.engine.state import Job, Run
from waterflowd.engine.transitions import is_inside
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
    while (following := _next(run, owed, waiting, now)) is not None:
        _apply(run, following, owed, happened, waiting)
    return Progress(happened, [*owed.difference(), *_released(run, happened)])


#: Where something may follow: a job's index, and the number of one of its blocks (0: its root, and the job itself).
Place = tuple[int, int]


def _next(run: Run, owed: _Owed, waiting: list[Place], now: int) -> events.RunEvent | None:
    """The next event that follows by itself: of the first touched place for which one does, else of the run."""
    while waiting and (run.started_at is not None or moves.is_ending(run)):
        index, block = waiting[0]
        owed.note(index)
        event = moves.of_place(run, run.jobs[index], block, now)
        if event is not None:
            return event
        heapq.heappop(waiting)
    return moves.of_run(run, now)


def _apply(
    run: Run, event: events.RunEvent, owed: _Owed, happened: list[events.RunEvent], waiting: list[Place]
) -> None:
    for index in _concerned(run, event):
        owed.note(index)
    evolve(run, event)
    happened.append(event)
    for place in _touched(run, event):
        if place not in waiting:
            heapq.heappush(waiting, place)


#: Events about the run as a whole: every job may go on, or must end.
_WHOLE_RUN = (events.RunCreated, events.RunStarted, events.CancelRequested, events.RunTimedOut)
#: Events that reach what a job has become.
_WHOLE_JOB = (events.JobExpanded, events.JobEntered, events.JobHalted, events.JobCancelled)
#: Events after which the next instance may have its turn.
_TURNS = (
    events.JobReady,
    events.JobEntered,
    events.JobExpanded,
    events.JobCompleted,
    events.LockWanted,
    events.BatchCompleted,
    events.BatchStarted,
)


def _concerned(run: Run, event: events.RunEvent) -> Iterator[int]:
    """The jobs that the event changes, as they are before it."""
    if isinstance(event, _WHOLE_RUN):
        yield from range(len(run.jobs))
    elif not isinstance(event, events.RunCompleted) and event.job is not None:
        job = run.jobs_by_id[event.job]
        yield job.index
        if isinstance(event, _WHOLE_JOB):
            yield from (child.index for child in _below(job))


def _below(job: Job) -> Iterator[Job]:
    """Everything that the job has become."""
    if job.children is not None:
        for child in job.children.jobs:
            yield child
            yield from _below(child)


def _touched(run: Run, event: events.RunEvent) -> Iterator[Place]:
    """The places at which something may follow from the event."""
    if isinstance(event, _WHOLE_RUN) or (isinstance(event, events.LockRefused) and event.job is None):
        for job in run.jobs:
            yield from _places(job)
        return
    if isinstance(event, events.RunCompleted) or event.job is None:
        return
    job = run.jobs_by_id[event.job]
    step = job.steps_by_id.get(event.step) if isinstance(event, _OF_STEPS) and event.step is not None else None
    if step is not None:
        yield from _around(job, step)
        return
    if isinstance(event, events.JobTimedOut | events.JobSkipped):
        yield from _places(job)
    else:
        yield job.index, 0
    if isinstance(event, _WHOLE_JOB):
        for child in _below(job):
            yield from _places(child)
    if isinstance(event, _TURNS):
        yield from _next_turn(job)
        if job.parent is not None:
            yield from _next_turn(job.parent)
    if isinstance(event, events.JobCompleted):
        yield from ((dependent.index, 0) for dependent in run.dependents.get(job.id, ()))
        if job.parent is not None:
            yield job.parent.index, 0


_OF_STEPS = (
    events.AttemptQueued,
    events.AttemptWaiting,
    events.AttemptDispatched,
    events.AttemptStarted,
    events.AttemptFinished,
    events.RetryScheduled,
    events.StepEntered,
    events.BlockStarted,
    events.StepTimedOut,
    events.StepSleeping,
    events.StepHeld,
    events.StepCompleted,
    events.ApprovalRequested,
    events.ApprovalGiven,
    events.LateReport,
)


def _places(job: Job) -> Iterator[Place]:
    yield job.index, 0
    yield from ((job.index, number) for number in job.blocks)


def _around(job: Job, step: Step) -> Iterator[Place]:
    """The step's own block, the ones inside of it that are open, and the one around."""
    yield job.index, _number(job, step.block)
    if step.has_blocks:
        yield from ((job.index, block.number) for block in job.blocks.values() if _is_within(block, step))
    owner = step.block.owner
    if owner is not None:
        yield job.index, _number(job, owner.block)


def _is_within(block: Block, step: Step) -> bool:
    return block.owner is step or (block.owner is not None and is_inside(block.owner, step))


def _number(job: Job, block: Block) -> int:
    return 0 if block is job.root else block.number


def _next_turn(job: Job) -> Iterator[Place]:
    children = job.children
    if children is not None and children.scope is None and children.next_index < len(children.jobs):
        yield children.jobs[children.next_index].index, 0


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
