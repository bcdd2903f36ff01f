"""Child runs: runs that a step starts and waits for (`workflow/run`).

Rules of this file:

- The registry is bookkeeping, rebuilt from the log at each start; nothing in it is authoritative.
- A child run starts under a trigger key that names the attempt, so that repeated requests cannot start it twice.
- It is a run of the same repository at the same commit, started on behalf of the principal that started its parent: ref,
  approvals and groups are checked as for any other run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.dsl.building.uses.child_workflows import child_workflow_path
from waterflowd.dsl.reporting import codes
from waterflowd.engine import Run, commands, inputs
from waterflowd.engine.outstanding import outstanding_of_block
from waterflowd.engine.rules.child_runs import is_exclusive
from waterflowd.model import chains, ids, plan
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.inputs import check_start
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.records import RunSummary, StartRequest, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion


class ChildRunRegistry:
    """Requested child runs, and attempts that wait for one. `look_up` reads a run that is not open from the log, or None."""

    def __init__(self, look_up: Callable[[RunId], Run | None] = lambda run: None) -> None:
        self.look_up = look_up
        #: Attempts that request a child run, with the number of failed starts.
        self._requested: dict[AttemptId, int] = {}
        #: The attempts that wait for the end of a run, and the run that each of them waits for.
        self._waiting: dict[RunId, dict[AttemptId, None]] = {}
        self._watched: dict[AttemptId, RunId] = {}
        #: The attempts of each run that request or wait for a child run.
        self._of_run: dict[RunId, dict[AttemptId, None]] = {}
        self._queue: asyncio.Queue[AttemptId] = asyncio.Queue()

    def request(self, attempt: AttemptId) -> None:
        """Requests the attempt's child run; `next` returns the attempt."""
        if attempt not in self._requested:
            self._requested[attempt] = 0
            self._of_run.setdefault(attempt.run, {})[attempt] = None
            self._queue.put_nowait(attempt)

    async def next(self) -> AttemptId:
        """The next attempt whose child run is to be started; each is returned once, and again after `retry`."""
        while (attempt := await self._queue.get()) not in self._requested:
            pass
        return attempt

    def failed(self, attempt: AttemptId) -> int:
        """Counts a failed start; returns the number of failures, 0 when the child run is no longer requested."""
        if attempt in self._requested:
            self._requested[attempt] += 1
        return self._requested.get(attempt, 0)

    def retry(self, attempt: AttemptId) -> None:
        """Lets `next` return the attempt once more, if its child run is still requested."""
        if attempt in self._requested:
            self._queue.put_nowait(attempt)

    def watch(self, attempt: AttemptId, run: RunId) -> None:
        """The attempt waits for the end of an open run."""
        self._waiting.setdefault(run, {})[attempt] = None
        self._watched[attempt] = run
        self._of_run.setdefault(attempt.run, {})[attempt] = None

    def waiting_for(self, run: RunId) -> Iterable[AttemptId]:
        """The attempts that wait for the run."""
        return tuple(self._waiting.get(run, ()))

    def drop(self, attempt: AttemptId) -> None:
        """The attempt no longer requests or waits for a child run."""
        self._requested.pop(attempt, None)
        run = self._watched.pop(attempt, None)
        if run is not None:
            self._waiting[run].pop(attempt)
            if not self._waiting[run]:
                del self._waiting[run]
        own = self._of_run.get(attempt.run, {})
        own.pop(attempt, None)
        if not own:
            self._of_run.pop(attempt.run, None)

    def forget(self, run: RunId) -> None:
        """The run leaves the live state, with the requests of its steps."""
        for attempt in list(self._of_run.get(run, ())):
            self.drop(attempt)


# Starts ---------------------------------------------------------------------------------------------------------------


def is_requested(run: Run, attempt: AttemptId) -> bool:
    """Whether the attempt still requests its child run."""
    job = run.jobs_by_id.get(attempt.job)
    step = job.steps_by_id.get(attempt.step) if job is not None else None
    if job is None or step is None or step.block.number not in job.blocks:
        return False
    command = commands.StartChildRun(job=attempt.job, step=attempt.step, attempt=attempt.number)
    return command in outstanding_of_block(run, job, step.block)


def start_request(run: Run, attempt: AttemptId, compiled: bytes, arguments: dict[str, Any]) -> StartRequest:
    """The request that starts the attempt's child run. Raises `Rejected` WF110 for inputs that the workflow does not accept."""
    return with_plan(start_draft(run, attempt), compiled, arguments)


def with_plan(draft: StartRequest, compiled: bytes, arguments: dict[str, Any]) -> StartRequest:
    """A draft with its plan and inputs. Raises `Rejected` WF110 for inputs that the workflow does not accept."""
    typed = check_start(plan.decode(compiled).inputs, arguments)
    return msgspec.structs.replace(draft, plan=compiled, inputs=typed)


def start_draft(run: Run, attempt: AttemptId) -> StartRequest:
    """The request that starts the attempt's child run, as far as its parent decides: without the plan and the inputs."""
    return StartRequest(
        plan=b"",
        repository=run.repository,
        revision=run.revision,
        trigger=Trigger(
            kind=TriggerKind.PARENT_RUN,
            by=run.trigger.by,
            # A child run acts for the same principal, so that nobody can approve what they started themselves, or reach
            # other groups through it.
            principal=run.trigger.principal,
            scope=run.trigger.scope,
            is_exclusive=_is_exclusive(run, attempt),
            key=trigger_key(attempt),
            ref=run.trigger.ref,
            git=run.trigger.git,
            payload=_payload(run, attempt),
        ),
    )


def workflow_path(run: Run, workflow: str) -> str:
    """The path of the workflow file that a step of the run names. Raises `Rejected` WF135 if there can be none."""
    path = child_workflow_path(run.plan.path, workflow)
    if path is None:
        text = f'"{workflow}" is not a workflow of this repository; give the path or name of a .yml or .yaml file'
        raise Rejected(codes.WRONG_CALL, text)
    if run.repository is None or run.revision is None:
        text = "this run does not come from a repository, so it has no other workflows; push it to a watched repository"
        raise Rejected(codes.WRONG_CALL, text)
    return path


def child_id(run: Run, name: AttemptId) -> RunId:
    """The id of the attempt's child run, where several daemons may start it: derived from the attempt."""
    attempt = run.attempt(name.job, name.step, name.number)
    assert attempt is not None, "the attempt is one of the run's"
    digest = hashlib.sha256(trigger_key(name).encode()).digest()
    return ids.run_id(attempt.queued_at, int.from_bytes(digest[:10], "big"))


def parent_of(trigger: Trigger) -> AttemptId | None:
    """The attempt that has started a child run; None for other runs."""
    if trigger.kind is not TriggerKind.PARENT_RUN:
        return None
    about = trigger.payload[chains.PARENT_RUN]
    return AttemptId(RunId(about["id"]), JobId(about["job"]), StepId(about["step"]), AttemptNo(about["attempt"]))


def _is_exclusive(run: Run, name: AttemptId) -> bool:
    attempt = run.attempt(name.job, name.step, name.number)
    return attempt is not None and is_exclusive(run, run.jobs_by_id[name.job], attempt)


def check_depth(run: Run) -> None:
    """Raises `Rejected` WF609 when the run is nested too deeply to start a child run."""
    if chains.depth_of(run.trigger) >= chains.CHILD_RUN_DEPTH_MAX:
        raise Rejected("WF609", f"nesting limit of {chains.CHILD_RUN_DEPTH_MAX} child runs reached")


def trigger_key(attempt: AttemptId) -> str:
    """The key that makes an attempt start at most one child run; long keys are replaced by a hash."""
    return ids.trigger_key(f"child-run:{attempt.run}", f"{attempt.job}:{attempt.step}:{attempt.number}")


def _payload(run: Run, attempt: AttemptId) -> dict[str, Any]:
    """The `event` context: the step that starts the child run."""
    return {
        "name": chains.PARENT_RUN,
        chains.PARENT_RUN: {
            "id": run.id,
            "number": run.number,
            "name": run.plan.name,
            "path": run.plan.path,
            "job": attempt.job,
            "step": attempt.step,
            "attempt": attempt.number,
            "depth": chains.depth_of(run.trigger) + 1,
        },
    }


# Inputs for the parent run --------------------------------------------------------------------------------------------


def started(attempt: AttemptId, row: RunSummary) -> inputs.ChildRunCreated:
    """The child run exists."""
    return inputs.ChildRunCreated(
        job=attempt.job, step=attempt.step, attempt=attempt.number, run=row.id, name=row.name, number=row.number
    )


def not_started(attempt: AttemptId, cause: Reason, *, is_refused: bool) -> inputs.ChildRunNotCreated:
    """The child run was not created yet, or never will be."""
    return inputs.ChildRunNotCreated(
        job=attempt.job, step=attempt.step, attempt=attempt.number, reason=cause, is_refused=is_refused
    )


def ended(attempt: AttemptId, run: Run) -> inputs.ChildRunEnded:
    """The child run has ended."""
    assert run.conclusion is not None
    return inputs.ChildRunEnded(
        job=attempt.job,
        step=attempt.step,
        attempt=attempt.number,
        run=run.id,
        conclusion=run.conclusion,
        reason=run.reason.text,
        outputs=run.outputs,
    )


def missing(attempt: AttemptId, run: RunId) -> inputs.ChildRunEnded:
    """The log does not contain the child run."""
    return inputs.ChildRunEnded(
        job=attempt.job,
        step=attempt.step,
        attempt=attempt.number,
        run=run,
        conclusion=Conclusion.LOST,
        reason="the run is missing from the log; its outcome is unknown",
    )


def terminated(attempt: AttemptId, run: RunId) -> inputs.ChildRunEnded:
    """An operator has ended the child run from outside."""
    return msgspec.structs.replace(
        missing(attempt, run), reason="the run was terminated from outside; its outcome is unknown"
    )


def cancel(parent: RunId, *, is_forced: bool) -> inputs.CancelRun:
    """The cancel of a child run by its parent."""
    return inputs.CancelRun(by=f"run {parent}", is_forced=is_forced)


def delay(error: WaterflowError) -> Reason:
    """Why the child run cannot be started yet, for the step."""
    return reason(ReasonCode.CHILD_RUN_STARTING, f"cannot start the child run yet: {error.text}", error=error.code)


def refusal(error: Rejected) -> Reason:
    """Why the child run cannot be started, for the step."""
    text = f"{error.where}: {error.text}" if error.where else error.text
    return reason(ReasonCode.CHILD_RUN_REFUSED, f"{text} [{error.code}]", error=error.code)
