"""Why a run, job or step is where it is: from it down to what must happen first, or to what happened.

Rules of this file: pure. Each link of a chain is a part with the reason that the engine recorded. The next link is what the
part waits for or what it ended by: the need, the instance, the step, the server. The last link is the answer. A chain visits
each part at most once, so it is at most as long as the file is deep.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from itertools import chain

import msgspec

from waterflow_agent.display import escape_for_display
from waterflowd.admin.ports import AgentRow
from waterflowd.api.timestamps import Timestamp, timestamp
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.ids import AgentId, JobId, StepId
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.statuses import FAILURES, Conclusion, Status

#: Links of a chain; the deepest one has a job, a call and a step for each level of nesting.
_LINKS_MAX = 64


class WhyLink(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the run (null for the run itself), its state, and why; `until` is when something else happens by itself.

    `next` is the command for what a person can do.
    """

    place: str | None
    state: str
    code: ReasonCode
    text: str
    until: Timestamp | None
    next: str | None


class _Chain:
    def __init__(self, run: Run, agents: Callable[[AgentId], AgentRow | None], lost_after_ms: int) -> None:
        self._run = run
        self._agents = agents
        self._lost_after_ms = lost_after_ms
        self._seen: set[str | None] = set()
        self.links: list[WhyLink] = []

    def of_run(self) -> None:
        run = self._run
        self._add(None, run, run.deadline_at)
        if run.lock is not None and not run.lock.is_held and not run.is_completed:
            return
        self._of_one(run.scope.jobs.values(), run.conclusion)

    def of_job(self, job: Job) -> None:
        """A job: then what it needs, an instance, or a step."""
        if not self._add(job.id, job, job_until(job)):
            return
        if job.status is Status.COMPLETED:
            if job.reason.code is ReasonCode.NEEDS:
                self._of_need(job)
            elif job.children is not None:
                self._of_one(job.children.jobs, job.conclusion)
            else:
                self._of_steps(job, job.conclusion)
        elif job.status is Status.QUEUED and not job.is_instance:
            self._of_open_need(job)
        elif job.children is not None:
            self._of_one(job.children.jobs, None)
        elif job.is_begun:
            self._of_steps(job, None)
        elif job.is_instance and not job.is_admitted:
            self._of_earlier(job)

    def of_step(self, job: Job, step: Step) -> None:
        """A step: then a step inside it, its server or its child run."""
        place = f"{job.id}/{step.id}"
        if not self._add(place, step, step_until(step)):
            return
        if step.blocks:
            inner = chain.from_iterable(block.steps for block in step.blocks)
            found = _first_step(inner, step.conclusion)
            if found is not None:
                self.of_step(job, found)
        elif step.status is not Status.COMPLETED:
            self._of_attempt(job, step, place)

    def _of_attempt(self, job: Job, step: Step, place: str) -> None:
        last = step.last
        if last is None:
            return
        if last.child_run is not None:
            self._append(place, "running", step.reason, None, f"waterflowctl why {last.child_run}")
            return
        agent = self._agents(last.agent) if last.agent is not None and last.is_open else None
        if agent is not None and not agent.is_connected:
            cause = Reason(code=ReasonCode.SERVER_UNREACHABLE, text=f"{agent.name} is not connected: {agent.text}")
            lost_at = agent.seen_at + max(self._lost_after_ms, last.lease_ms) if agent.seen_at is not None else None
            self._append(place, step.status.value, cause, lost_at, "waterflowctl agents")

    def _of_one(self, jobs: Iterable[Job], conclusion: Conclusion | None) -> None:
        """The job that says most about the conclusion of what they are in; None: why that has not ended."""
        if conclusion is None:
            found = min((job for job in jobs if job.status is not Status.COMPLETED), key=_urgency, default=None)
        elif conclusion in (Conclusion.SUCCESS, Conclusion.SKIPPED):
            found = None
        else:
            ended = (job for job in jobs if job.conclusion is conclusion)
            found = min(ended, key=lambda job: (job.completed_at or 0, job.index), default=None)
        if found is not None:
            self.of_job(found)

    def _of_steps(self, job: Job, conclusion: Conclusion | None) -> None:
        found = _first_step(job.steps, conclusion)
        if found is not None:
            self.of_step(job, found)

    def _of_need(self, job: Job) -> None:
        need = job.reason.facts.get("job")
        found = job.scope.jobs.get(JobId(need)) if isinstance(need, str) else None
        if found is not None:
            self.of_job(found)

    def _of_open_need(self, job: Job) -> None:
        needs = (job.scope.jobs[need] for need in job.plan.needs)
        found = min((need for need in needs if need.status is not Status.COMPLETED), key=_urgency, default=None)
        if found is not None:
            self.of_job(found)

    def _of_earlier(self, job: Job) -> None:
        """An instance waits for others that are before it in the order or in the batch."""
        parent = job.parent
        siblings = parent.children.jobs if parent is not None and parent.children is not None else []
        open_ones = (other for other in siblings if other.is_admitted and other.status is not Status.COMPLETED)
        found = min(open_ones, key=_urgency, default=None)
        if found is not None:
            self.of_job(found)

    def _add(self, place: str | None, part: Run | Job | Step, until: int | None) -> bool:
        """Adds a link; False if the chain ends here."""
        if place in self._seen or len(self.links) >= _LINKS_MAX:
            return False
        self._seen.add(place)
        is_completed = part.status is Status.COMPLETED
        state = (part.conclusion or part.status).value
        self._append(place, state, part.reason, None if is_completed else until, self._next(place, part))
        return True

    def _next(self, place: str | None, part: Run | Job | Step) -> str | None:
        run = self._run.id
        reason = part.reason
        holder = reason.facts.get("holder")
        if part.status is Status.COMPLETED:
            has_output = isinstance(part, Step) and any(attempt.output_bytes for attempt in part.attempts)
            return f"waterflowctl logs {run} {_argument(place)}" if has_output and part.conclusion in FAILURES else None
        if reason.code is ReasonCode.WAITING_APPROVAL:
            return f"waterflowctl approve {run} {_argument(place)}"
        if reason.code is ReasonCode.HELD:
            return f"waterflowctl cancel {run}"
        if isinstance(holder, str):
            return f"waterflowctl why {holder}"
        return "waterflowctl agents" if reason.code in _ABOUT_SERVERS else None

    def _append(self, place: str | None, state: str, reason: Reason, until: int | None, following: str | None) -> None:
        link = WhyLink(
            place=place, state=state, code=reason.code, text=reason.text, until=timestamp(until), next=following
        )
        last = self.links[-1] if self.links else None
        if last is not None and (last.code, last.text) == (link.code, link.text):
            # A job or block says what its step says, whose place is more precise.
            self.links.pop()
            link = msgspec.structs.replace(link, until=link.until or last.until, next=link.next or last.next)
        self.links.append(link)


_ABOUT_SERVERS = frozenset(
    {
        ReasonCode.NO_SERVER_IN_GROUP,
        ReasonCode.NO_SERVER_CONNECTED,
        ReasonCode.NO_SERVER_WITH_NODE,
        ReasonCode.NO_SERVER_WITH_LABELS,
        ReasonCode.NO_SERVER_WITH_DOCKER,
        ReasonCode.SERVER_DRAINING,
        ReasonCode.SERVER_UNREACHABLE,
    }
)


def _argument(place: str | None) -> str:
    """A place quoted for a shell, to which brackets are special."""
    return shlex.quote(escape_for_display(place or ""))


def job_until(job: Job) -> int | None:
    """When something happens to the job by itself, in ms."""
    if job.approval is not None and not job.is_approved:
        return job.approval.due_at
    if job.children is not None:
        return job.children.resume_at
    return job.retry_at or job.deadline_at or job.start_deadline_at


def step_until(step: Step) -> int | None:
    """When something happens to the step by itself, in ms."""
    if step.approval is not None:
        return step.approval.due_at
    return step.retry_at or step.due_at or step.deadline_at


def _urgency(job: Job) -> tuple[int, int]:
    """Which of several open jobs says most: one that waits for something outside, then one that runs."""
    return {Status.WAITING: 0, Status.RUNNING: 1}.get(job.status, 2), job.index


def _first_step(steps: Iterable[Step], conclusion: Conclusion | None) -> Step | None:
    """The step that decided about the conclusion, or the one that is active."""
    for step in steps:
        if conclusion is None:
            if step.status not in (Status.COMPLETED, Status.QUEUED):
                return step
        elif conclusion not in (Conclusion.SUCCESS, Conclusion.SKIPPED) and step.conclusion is conclusion:
            return step
    return None


def explain(
    run: Run, job: Job | None, step: str | None, agents: Callable[[AgentId], AgentRow | None], lost_after_ms: int
) -> list[WhyLink]:
    """The chain of a run, a job or a step; `lost_after_ms` is how long a server may be away.

    For a step that does not exist yet it is that of its job.
    """
    found = _Chain(run, agents, lost_after_ms)
    known = job.steps_by_id.get(StepId(step)) if job is not None and step is not None else None
    if job is None:
        found.of_run()
    elif known is None:
        found.of_job(job)
    else:
        found.of_step(job, known)
    return found.links
