"""The parts of a run that an event affects: where outstanding commands may change, and where moves may follow.

Rules of this file: an event names what it changes, so that its cost does not grow with the run. Only events about the whole
run, or about everything that a job has become, affect more parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from waterflowd.engine import events
from waterflowd.engine.fold.transitions import is_inside
from waterflowd.engine.state.blocks import Block, Step
from waterflowd.engine.state.runs import Job, Run

#: A part of a run: the index of a job and the number of one of its blocks. For moves, block 0 also means the job as a
#: whole.
Part = tuple[int, int]
#: Instead of a block's number, for commands: the job without its blocks.
ALONE = -1
#: Instead of a job's part, for commands: the run without its jobs. Sorts before all jobs.
RUN: Part = (-1, ALONE)

#: Events about the run as a whole: every job may continue, or must end.
_WHOLE_RUN = frozenset({events.RunCreated, events.RunStarted, events.CancelRequested, events.RunTimedOut})
#: Events that affect the jobs that a job has become.
_WHOLE_JOB = frozenset({events.JobExpanded, events.JobEntered, events.JobHalted, events.JobCancelled})
#: Events that affect all blocks of a job.
_ALL_BLOCKS = frozenset({
    events.JobCompleted,
    events.JobRestarted,
    events.JobRetryScheduled,
    events.JobSkipped,
    events.JobTimedOut,
    events.StepTimedOut,
})  # fmt: skip
#: Events after which it may be the next instance's turn.
_TURNS = frozenset({
    events.JobReady,
    events.JobEntered,
    events.JobExpanded,
    events.JobCompleted,
    events.EnvironmentEntered,
    events.LockRequested,
    events.BatchCompleted,
    events.BatchStarted,
})  # fmt: skip
#: Events about a step; those of approvals may be about a job instead.
_OF_STEPS = frozenset({
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
    events.ChildRunRequested,
    events.ChildRunStarted,
    events.StepHeld,
    events.StepCompleted,
    events.ApprovalRequested,
    events.ApprovalDecided,
    events.LateReport,
})  # fmt: skip
#: Events about a step that do not change the commands of its job, apart from those of its blocks.
_OF_BLOCKS = frozenset({
    events.AttemptQueued,
    events.AttemptWaiting,
    events.AttemptStarted,
    events.AttemptFinished,
    events.RetryScheduled,
    events.LateReport,
})  # fmt: skip


def command_parts(run: Run, event: events.RunEvent) -> Iterator[Part]:
    """The parts whose outstanding commands may differ once the event is applied."""
    kind = type(event)
    if kind in _WHOLE_RUN:
        yield RUN
        for job in run.jobs:
            yield from _parts_for_commands(job)
        return
    if isinstance(event, events.RunCompleted) or event.job is None:  # type: ignore[union-attr]
        yield RUN
        return
    job = run.jobs_by_id[event.job]  # type: ignore[union-attr]
    if kind in _OF_STEPS and event.step is not None:  # type: ignore[union-attr]
        step = job.steps_by_id[event.step]  # type: ignore[union-attr]
        # The first server starts the job's timeout, and its other branches request their slots there.
        if kind is events.StepTimedOut or (kind is events.AttemptDispatched and job.agent is None):
            yield from _parts_for_commands(job)
            return
        yield job.index, _number(job, step.block)
        is_quiet = kind in _OF_BLOCKS or kind is events.AttemptDispatched
        if not (is_quiet or (kind is events.StepCompleted and step.approval is None)):
            yield job.index, ALONE
    elif kind in _WHOLE_JOB or kind in _ALL_BLOCKS:
        yield from _parts_for_commands(job)
    else:
        yield job.index, ALONE
    if kind in _WHOLE_JOB:
        for child in _below(job):
            yield from _parts_for_commands(child)


def _parts_for_commands(job: Job) -> Iterator[Part]:
    yield job.index, ALONE
    yield from ((job.index, _number(job, block)) for block in job.blocks.values())


def move_parts(run: Run, event: events.RunEvent) -> Sequence[Part]:
    """The parts from which moves may follow once the event is applied."""
    kind = type(event)
    if kind in _WHOLE_RUN or (kind is events.LockRefused and event.job is None):  # type: ignore[union-attr]
        return [part for job in run.jobs for part in _parts_for_moves(job)]
    if isinstance(event, events.RunCompleted) or event.job is None:  # type: ignore[union-attr]
        return ()
    job = run.jobs_by_id[event.job]  # type: ignore[union-attr]
    if kind in _OF_STEPS and event.step is not None:  # type: ignore[union-attr]
        return _around(job, job.steps_by_id[event.step], kind)  # type: ignore[union-attr]
    return list(_of_job(run, job, kind))


def _of_job(run: Run, job: Job, kind: type) -> Iterator[Part]:
    if kind in (events.JobTimedOut, events.JobSkipped) or kind in _WHOLE_JOB:
        yield from _parts_for_moves(job)
    else:
        yield job.index, 0
    if kind in _WHOLE_JOB:
        for child in _below(job):
            yield from _parts_for_moves(child)
    if kind in _TURNS:
        yield from _next_turn(job)
        if job.parent is not None:
            yield from _next_turn(job.parent)
    if kind is events.JobCompleted:
        yield from ((dependent.index, 0) for dependent in run.dependents.get(job.id, ()))
        if job.parent is not None:
            yield job.parent.index, 0


def _below(job: Job) -> Iterator[Job]:
    """Everything that the job has become, at any depth."""
    if job.children is not None:
        for child in job.children.jobs:
            yield child
            yield from _below(child)


def _parts_for_moves(job: Job) -> Iterator[Part]:
    yield job.index, 0
    yield from ((job.index, number) for number in job.blocks)


def _around(job: Job, step: Step, kind: type) -> Sequence[Part]:
    """The step's own block, the one around it, and the inner ones that it has just started or must end."""
    block = step.block
    owner = block.owner
    if owner is None and not step.has_blocks:
        return ((job.index, 0),)
    found = [(job.index, _number(job, block))]
    if kind is events.BlockStarted:
        found.append((job.index, step.blocks[-1].number))
    elif kind is events.StepTimedOut:
        found += [(job.index, inner.number) for inner in job.blocks.values() if _is_within(inner, step)]
    if owner is not None:
        found.append((job.index, _number(job, owner.block)))
    return found


def _is_within(block: Block, step: Step) -> bool:
    return block.owner is step or (block.owner is not None and is_inside(block.owner, step))


def _number(job: Job, block: Block) -> int:
    return 0 if block is job.root else block.number


def _next_turn(job: Job) -> Iterator[Part]:
    children = job.children
    if children is not None and children.scope is None and children.next_index < len(children.jobs):
        yield children.jobs[children.next_index].index, 0
