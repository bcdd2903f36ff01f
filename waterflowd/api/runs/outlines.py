"""Outlines: what happened to each part of a run, and when, as the fold of its events.

Rules of this file:

- An outline is kept in memory and only continued with new events, so a page that follows a run costs little. `CACHED_OUTLINES`
  and `CACHED_EVENTS` bound what is kept; the outline that was read last is always kept.
- What a state is, the engine's own fold says (`evolve`): a change is recorded when the status, conclusion or kind of reason of
  a part differs after an event. Of attempts it records that they were queued, sent, started and have finished.
- Nodes are in the order in which they came to be, so parents come before their children, and a position never changes.
- An outline is read from the history of any engine.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.engine import Run, events, evolve
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job
from waterflowd.model import plan as plans
from waterflowd.model.ids import JobId, RunId, StepId, run_stream
from waterflowd.model.reasons import Reason
from waterflowd.model.statuses import Outcome
from waterflowd.ports import History

CACHED_OUTLINES = 32
#: Events of all outlines together: 1 to 2 KB of memory for each.
CACHED_EVENTS = 50_000
#: Different reasons of one outline; later ones have only their code.
REASONS_MAX = 10_000
#: Marks of one outline; later ones are counted.
MARKS_MAX = 2_000
#: Events that are applied before the event loop continues: a millisecond.
_EVENTS = 64

#: What an event about an attempt says about its step.
_OF_ATTEMPTS = {
    events.AttemptQueued: "queued",
    events.AttemptDispatched: "sent",
    events.AttemptStarted: "started",
    events.AttemptFinished: "finished",
}
#: Events that may end all steps of their job, or begin them again.
_ALL_STEPS = frozenset({events.JobCompleted, events.JobRestarted})
_MARKS: dict[type, str] = {
    events.ApprovalRequested: "approval-requested",
    events.ApprovalDecided: "approval-decided",
    events.BatchCompleted: "batch-completed",
    events.BatchStarted: "batch-started",
    events.JobHalted: "halted",
    events.RetryScheduled: "retry",
    events.JobRetryScheduled: "retry",
    events.StepHeld: "held",
    events.CancelRequested: "cancel",
    events.RunTimedOut: "timed-out",
    events.RunCompleted: "completed",
}
_FAILED = frozenset({Outcome.FAILURE, Outcome.REFUSED, Outcome.TIMED_OUT, Outcome.LOST})


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part changed: position of the event, ms since the run's creation, the code of the new state, index of the reason."""

    seq: int
    at_ms: int
    code: str
    reason: int


class Mark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Something that a person may look for: position of the event, ms since the run's creation, and its kind."""

    seq: int
    at_ms: int
    kind: str


class OutlineReason(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A reason: its code, and its sentence."""

    code: str
    text: str


@dataclass(slots=True)
class Node:
    """A job or step. What it is now, the run's state says."""

    place: str
    part: Job | Step
    job: Job
    #: Position of the event that made it, and of the newest one that affects it.
    made_seq: int
    touched_seq: int
    state: tuple[str, str]
    changes: list[Change] = field(default_factory=list)


class Outline:
    """What happened to the parts of one run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.nodes: list[Node] = []
        self.marks: list[Mark] = []
        self.marks_left_out = 0
        self.reasons: list[OutlineReason] = []
        self.lock = asyncio.Lock()
        #: Positions of the events that had the reasons first.
        self._reason_seqs: list[int] = []
        self._reason_indexes: dict[OutlineReason, int] = {}
        self._by_place: dict[str, Node] = {}
        self._jobs = 0
        self._steps: dict[str, int] = {}

    @property
    def seq(self) -> int:
        """Position of the newest event."""
        return self.run.seq

    def apply(self, event: events.RunEvent) -> None:
        """Continues with the run's next event."""
        run = self.run
        evolve(run, event)
        at_ms = max(0, event.at - run.created_at)
        self._add_jobs()
        kind = type(event)
        job = run.jobs_by_id.get(JobId(getattr(event, "job", None) or ""))
        if job is not None:
            self._add_steps(job)
            if kind in _ALL_STEPS:
                for ended in job.steps_by_id.values():
                    self._touch(self._by_place[_place(job, ended)], at_ms)
            found = job.steps_by_id.get(StepId(getattr(event, "step", None) or ""))
            code = _OF_ATTEMPTS.get(kind)
            while found is not None:
                self._touch(self._by_place[_place(job, found)], at_ms, code)
                found, code = found.block.owner, None
            above: Job | None = job
            while above is not None:
                self._touch(self._by_place[above.id], at_ms)
                above = above.parent
        self._mark(event, at_ms)

    def _add_jobs(self) -> None:
        for job in self.run.jobs[self._jobs :]:
            self._add(job.id, job, job)
            self._add_steps(job)
        self._jobs = len(self.run.jobs)

    def _add_steps(self, job: Job) -> None:
        known = self._steps.get(job.id, 0)
        if len(job.steps_by_id) == known:
            return
        for step in job.steps_by_id.values():
            place = _place(job, step)
            if place not in self._by_place:
                self._add(place, step, job)
        self._steps[job.id] = len(job.steps_by_id)

    def _add(self, place: str, part: Job | Step, job: Job) -> None:
        node = Node(place, part, job, self.seq, self.seq, _state(part))
        self.nodes.append(node)
        self._by_place[place] = node

    def _touch(self, node: Node, at_ms: int, attempt_code: str | None = None) -> None:
        part = node.part
        if isinstance(part, Step):
            # A job that restarts has new steps in the same places.
            part = node.part = node.job.steps_by_id.get(part.id, part)
        node.touched_seq = self.seq
        state = _state(part)
        if attempt_code is not None:
            node.changes.append(Change(self.seq, at_ms, attempt_code, self._reason(part.reason)))
            node.state = state
        elif state != node.state:
            last = node.changes[-1] if node.changes else None
            if (
                last is not None
                and last.code == "finished"
                and last.seq == self.seq - 1
                and part.conclusion is not None
            ):
                # The result of the last attempt is that of the step.
                node.changes.pop()
            node.changes.append(Change(self.seq, at_ms, state[0], self._reason(part.reason)))
            node.state = state

    def _reason(self, reason: Reason) -> int:
        entry = OutlineReason(reason.code.value, reason.text)
        index = self._reason_indexes.get(entry)
        if index is None and len(self.reasons) >= REASONS_MAX:
            entry = OutlineReason(reason.code.value, "")
            index = self._reason_indexes.get(entry)
        if index is None:
            index = self._reason_indexes[entry] = len(self.reasons)
            self.reasons.append(entry)
            self._reason_seqs.append(self.seq)
        return index

    def _mark(self, event: events.RunEvent, at_ms: int) -> None:
        kind = _MARKS.get(type(event))
        if isinstance(event, events.AttemptFinished) and event.outcome in _FAILED:
            kind = "lost" if event.outcome is Outcome.LOST else "failure"
        if kind is None:
            return
        if len(self.marks) >= MARKS_MAX:
            self.marks_left_out += 1
        else:
            self.marks.append(Mark(self.seq, at_ms, kind))

    def reasons_before(self, after: int) -> int:
        """How many reasons the events up to `after` had."""
        return bisect_right(self._reason_seqs, after)

    def selected(self, after: int, job: str | None, depth: int | None, first: int) -> Iterator[tuple[int, Node]]:
        """The nodes from an index on that an event after `after` affected, with their indexes."""
        for index in range(first, len(self.nodes)):
            node = self.nodes[index]
            if node.touched_seq > after and _is_shown(node, job, depth):
                yield index, node


def _state(part: Job | Step) -> tuple[str, str]:
    return (part.conclusion or part.status).value, part.reason.code.value


def _place(job: Job, step: Step) -> str:
    return f"{job.id}/{step.id}"


def _is_shown(node: Node, job: str | None, depth: int | None) -> bool:
    """Whether the node is in the job, and not deeper than `depth`: 0 for jobs, 1 for the steps of the file, more inside."""
    if job is not None and not _is_within(node.job, job):
        return False
    if depth is None or isinstance(node.part, Job):
        return True
    level, owner = 1, node.part.block.owner
    while owner is not None and level <= depth:
        level, owner = level + 1, owner.block.owner
    return level <= depth


def _is_within(job: Job, name: str) -> bool:
    above: Job | None = job
    while above is not None:
        if above.id == name:
            return True
        above = above.parent
    return False


class Outlines:
    """Reads outlines from a history, with a cache."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._cache: OrderedDict[RunId, Outline] = OrderedDict()

    async def read(self, run: RunId) -> Outline:
        """The outline with all durable events. Another reader may continue it after the next `await`."""
        outline = self._cache.get(run)
        if outline is None:
            outline = self._cache[run] = Outline(await self._begin(run))
        if run in self._cache:
            self._cache.move_to_end(run)
        async with outline.lock:
            await self._continue(outline)
        self._shrink()
        return outline

    async def _begin(self, run: RunId) -> Run:
        records = await self._history.read(run_stream(run), 1, 1)
        if not records:
            raise Rejected("WF604", f"run {run} no longer exists", status=404)
        compiled = await self._history.plan(records[0].event.plan_hash)
        if compiled is None:
            raise Stalled("WF305", f"the plan of run {run} is missing from the log; run waterflowd fsck")
        return Run(run, plans.decode(compiled))

    async def _continue(self, outline: Outline) -> None:
        while True:
            count = _EVENTS - outline.seq % _EVENTS
            records = await self._history.read(run_stream(outline.run.id), outline.seq + 1, count)
            try:
                for record in records:
                    outline.apply(record.event)
            except BaseException:
                self._cache.pop(outline.run.id, None)
                raise
            if len(records) < count:
                return
            # The events of a long run are read in pieces, so that everything else on the loop continues.
            await asyncio.sleep(0)

    def _shrink(self) -> None:
        while len(self._cache) > 1 and (
            len(self._cache) > CACHED_OUTLINES or sum(outline.seq for outline in self._cache.values()) > CACHED_EVENTS
        ):
            self._cache.popitem(last=False)
