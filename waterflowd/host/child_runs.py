"""Runs that steps start and wait for (`workflow/run`): which are wanted, who waits for which, and how each is asked for.

Rules of this file:

- Bookkeeping of what the open runs are owed, made again from the log at each start; nothing here is a fact.
- A run is wanted under a trigger key that names the attempt, so that it cannot be started twice however often it is asked for.
- It is a run of the same repository at the same commit, started for whoever started the first one: ref, approvals and groups
  are judged as for any other.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd.engine import Run, commands, inputs
from waterflowd.engine.outstanding import owed_to_block
from waterflowd.model import chains, plan
from waterflowd.model.ids import AttemptId, RunId
from waterflowd.model.inputs import check_start
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion

_KEY_BYTES_MAX = 400


class ChildRunRegistry:
    """What is wanted and waited for. `look` gives a run that is not open, from the log; None when there is none."""

    def __init__(self, look: Callable[[RunId], Run | None] = lambda run: None) -> None:
        self.look = look
        #: Attempts whose run is to be started, and how often it could not be yet.
        self._wanted: dict[AttemptId, int] = {}
        #: Who waits for the end of a run, and the other way round.
        self._waiting: dict[RunId, dict[AttemptId, None]] = {}
        self._watched: dict[AttemptId, RunId] = {}
        #: The attempts of each run that want or wait for something.
        self._of_run: dict[RunId, dict[AttemptId, None]] = {}
        self._queue: asyncio.Queue[AttemptId] = asyncio.Queue()

    def want(self, place: AttemptId) -> None:
        """The attempt's run is to be started, by whoever asks `next`."""
        if place not in self._wanted:
            self._wanted[place] = 0
            self._of_run.setdefault(place.run, {})[place] = None
            self._queue.put_nowait(place)

    async def next(self) -> AttemptId:
        """The next attempt whose run is to be started; each is handed out once, and again after `again`."""
        while (place := await self._queue.get()) not in self._wanted:
            pass
        return place

    def failed(self, place: AttemptId) -> int:
        """Notes that the run could not be started yet; gives how often that was so, 0 when it is not wanted any more."""
        if place in self._wanted:
            self._wanted[place] += 1
        return self._wanted.get(place, 0)

    def again(self, place: AttemptId) -> None:
        """Hands the attempt out once more, if it is still wanted."""
        if place in self._wanted:
            self._queue.put_nowait(place)

    def watch(self, place: AttemptId, run: RunId) -> None:
        """The attempt waits for the end of an open run."""
        self._waiting.setdefault(run, {})[place] = None
        self._watched[place] = run
        self._of_run.setdefault(place.run, {})[place] = None

    def waiting(self, run: RunId) -> Iterable[AttemptId]:
        """The attempts that wait for the run."""
        return tuple(self._waiting.get(run, ()))

    def drop(self, place: AttemptId) -> None:
        """The attempt wants nothing and waits for nothing any more."""
        self._wanted.pop(place, None)
        run = self._watched.pop(place, None)
        if run is not None:
            self._waiting[run].pop(place)
            if not self._waiting[run]:
                del self._waiting[run]
        own = self._of_run.get(place.run, {})
        own.pop(place, None)
        if not own:
            self._of_run.pop(place.run, None)

    def forget(self, run: RunId) -> None:
        """The run leaves the live state, with what its steps want."""
        for place in list(self._of_run.get(run, ())):
            self.drop(place)


# Starts ---------------------------------------------------------------------------------------------------------------


def is_wanted(run: Run, place: AttemptId) -> bool:
    """Whether the attempt still wants its run to be started."""
    job = run.jobs_by_id.get(place.job)
    step = job.steps_by_id.get(place.step) if job is not None else None
    if job is None or step is None or step.block.number not in job.blocks:
        return False
    wanted = commands.StartChildRun(job=place.job, step=place.step, attempt=place.number)
    return wanted in owed_to_block(run, job, step.block)


def start_request(run: Run, place: AttemptId, compiled: bytes, given: dict[str, Any]) -> StartRequest:
    """The start of the run that the attempt wants. Raises `Rejected` WF110 for inputs that the workflow does not take."""
    values = check_start(plan.decode(compiled).inputs, given)
    return StartRequest(
        plan=compiled,
        repository=run.repository,
        revision=run.revision,
        trigger=Trigger(
            kind=TriggerKind.PARENT_RUN,
            # Whoever may not approve what they started themselves may not by this way either.
            by=run.trigger.by,
            key=trigger_key(place),
            ref=run.trigger.ref,
            git=run.trigger.git,
            payload=_payload(run, place),
        ),
        inputs=values,
    )


def check_depth(run: Run) -> None:
    """Raises `Rejected` WF609 when the run ends a chain: it may start no other."""
    if chains.depth_of(run.trigger) >= chains.CHILD_RUN_DEPTH_MAX:
        text = f"{chains.CHILD_RUN_DEPTH_MAX} runs before this one have started one another, which is the limit"
        raise Rejected("WF609", text)


def trigger_key(place: AttemptId) -> str:
    """The text under which an attempt starts a run once; long ones end in a hash."""
    key = f"child-run:{place.run}:{place.job}:{place.step}:{place.number}"
    if len(key.encode()) > _KEY_BYTES_MAX:
        key = f"child-run:{place.run}:sha256-{hashlib.sha256(key.encode()).hexdigest()}"
    return key


def _payload(run: Run, place: AttemptId) -> dict[str, Any]:
    """The `event` context: the step that starts the run."""
    return {
        "name": chains.PARENT_RUN,
        chains.PARENT_RUN: {
            "id": run.id,
            "number": run.number,
            "name": run.plan.name,
            "path": run.plan.path,
            "job": place.job,
            "step": place.step,
            "attempt": place.number,
            "depth": chains.depth_of(run.trigger) + 1,
        },
    }


# Answers --------------------------------------------------------------------------------------------------------------


def created(place: AttemptId, row: RunSummary) -> inputs.ChildRunCreated:
    """The run exists."""
    return inputs.ChildRunCreated(
        job=place.job, step=place.step, attempt=place.number, run=row.id, name=row.name, number=row.number
    )


def not_created(place: AttemptId, why: Reason, *, is_refused: bool) -> inputs.ChildRunNotCreated:
    """The run does not exist."""
    return inputs.ChildRunNotCreated(
        job=place.job, step=place.step, attempt=place.number, reason=why, is_refused=is_refused
    )


def ended(place: AttemptId, run: Run) -> inputs.ChildRunEnded:
    """The run has ended."""
    assert run.conclusion is not None
    return inputs.ChildRunEnded(
        job=place.job,
        step=place.step,
        attempt=place.number,
        run=run.id,
        conclusion=run.conclusion,
        why=run.reason.text,
        outputs=run.outputs,
    )


def gone(place: AttemptId, run: RunId) -> inputs.ChildRunEnded:
    """The log has no such run any more."""
    why = "the log has no such run any more, so nobody can know how it ended"
    return inputs.ChildRunEnded(
        job=place.job, step=place.step, attempt=place.number, run=run, conclusion=Conclusion.LOST, why=why
    )


def refusal(error: Rejected) -> Reason:
    """Why the run can never be, for the step."""
    text = f"{error.where}: {error.text}" if error.where else error.text
    return reason(ReasonCode.CHILD_RUN_REFUSED, f"{text} [{error.code}]", error=error.code)
