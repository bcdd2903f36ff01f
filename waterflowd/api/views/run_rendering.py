"""A run in JSON: jobs with what they have become, steps with the steps inside of them.

Rules of this file:

- The list at the top holds the file's jobs, with the steps of the file. What a job has become (its instances, the jobs of a
  workflow that it calls) stands below it in `jobs`, what runs inside a step below it in `blocks`.
- An answer is bounded whatever the run is. Below the file's own jobs and steps there are `SHOWN_MAX` rows of one list and
  `ROWS_MAX` in all, and `VALUES_BYTES_MAX` of outputs; `jobs_total` and `blocks_total` say how many there are, `counts` how
  they stand. What did not end well or is at work is shown before what did. Everything is in pages in children.py.
- Times are RFC 3339 in UTC with milliseconds; a missing value is null, never a missing key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from waterflowd.api.views.rendering import reason_json, run_url, time_text, trigger_json
from waterflowd.engine.rules import approvals
from waterflowd.engine.state.blocks import CONDITION, LOOP, PARALLEL, Attempt, Block, Step
from waterflowd.engine.state.gates import Approval, Lock
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model import chains
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import Kept
from waterflowd.model.statuses import Conclusion, Status

#: Rows of one list below a job or a step: what a person can look through.
SHOWN_MAX = 100
#: Rows below the file's own jobs and steps in one answer: about 1 MB, 20 ms.
ROWS_MAX = 1_000
#: Outputs of those rows in one answer.
VALUES_BYTES_MAX = 2 << 20
#: The newest attempts of one step.
ATTEMPTS_MAX = 100

_Value = TypeVar("_Value")
_Part = TypeVar("_Part", Job, Block)
_encoder = msgspec.json.Encoder()
#: What is shown first: what did not end well, then what is at work, then the rest.
_BAD = frozenset({Conclusion.FAILURE, Conclusion.LOST, Conclusion.TIMED_OUT, Conclusion.CANCELLED})


class Budget:
    """What is left of an answer's bounds."""

    def __init__(self) -> None:
        self._rows = ROWS_MAX
        self._bytes = VALUES_BYTES_MAX
        self._is_first = True

    def value(self, value: _Value) -> _Value | None:
        """The value; None when it does not fit any more. The first one always fits, so that a page of one holds it."""
        if not value:
            return value
        size = len(_encoder.encode(value))
        if size > self._bytes and not self._is_first:
            return None
        self._is_first = False
        self._bytes -= size
        return value

    def take(self, things: Sequence[_Part], rank: Callable[[_Part], int]) -> list[_Part]:
        """Those of a list that are shown, in its order; of too many, the lowest ranks. Their steps count as rows."""
        order = (
            range(len(things))
            if len(things) <= SHOWN_MAX
            else sorted(range(len(things)), key=lambda n: rank(things[n]))
        )
        shown: list[int] = []
        for index in order[:SHOWN_MAX]:
            if self._rows <= 0:
                break
            shown.append(index)
            self._rows -= 1 + len(things[index].steps)
        return [things[index] for index in sorted(shown)]


def run_json(run: Run) -> dict[str, Any]:
    """A run with its jobs, steps and attempts."""
    budget = Budget()
    return {
        "id": run.id,
        "number": run.number,
        "name": run.plan.name,
        "path": run.plan.path,
        "repository": run.repository,
        "revision": run.revision,
        "trigger": trigger_json(run.trigger),
        "rerun_of": run.rerun_of,
        "parent_run": _parent_run(run),
        "status": run.status.value,
        "conclusion": _word(run.conclusion),
        "reason": reason_json(run.reason),
        "created_at": time_text(run.created_at),
        "started_at": time_text(run.started_at),
        "completed_at": time_text(run.completed_at),
        "deadline_at": time_text(run.deadline_at),
        "seq": run.seq,
        "url": run_url(run.id),
        "plan_hash": run.plan_hash,
        "inputs": run.inputs,
        "outputs": run.outputs,
        "vars": run.vars,
        "concurrency": _lock_json(run.lock),
        "kept": _kept_json(run.kept),
        "approvals": approvals_json(run),
        "jobs": [job_json(job, budget, outputs=job.outputs) for job in run.scope.jobs.values()],
    }


def _parent_run(run: Run) -> dict[str, Any] | None:
    """The step that started the run."""
    about = run.trigger.payload.get(chains.PARENT_RUN)
    if run.trigger.kind != chains.PARENT_RUN or not isinstance(about, dict):
        return None
    return {"run": about["id"], "job": about["job"], "step": about["step"], "attempt": about["attempt"]}


def approvals_json(run: Run) -> list[dict[str, Any]]:
    """What waits for people in the run: the first `SHOWN_MAX`."""
    return [
        {
            "job": job.id,
            "step": step.id if step is not None else None,
            **approval_json(approval),
            "reason": reason_json(step.reason if step is not None else job.reason),
        }
        for job, step, approval in approvals.pending(run)[:SHOWN_MAX]
    ]


def _word(conclusion: Conclusion | None) -> str | None:
    return conclusion.value if conclusion is not None else None


def _kept_json(kept: Kept | None) -> dict[str, Any] | None:
    if kept is None:
        return None
    steps = sum(len(of_job) for of_job in kept.steps.values())
    return {"run": kept.run, "jobs": len(kept.jobs), "steps": steps, "servers": kept.servers}


def _lock_json(lock: Lock | None) -> dict[str, Any] | None:
    if lock is None:
        return None
    return {
        "group": lock.group,
        "limit": lock.limit,
        "queue": lock.queue.value,
        "cancel_in_progress": lock.cancel_in_progress,
        "is_held": lock.is_held,
        "wanted_at": time_text(lock.wanted_at),
    }


def approval_json(approval: Approval) -> dict[str, Any]:
    """What waits for people, or did."""
    return {
        "environment": approval.environment or None,
        "approvers": list(approval.approvers),
        "minimum": approval.minimum,
        "given": approval.given,
        "rejected_by": approval.rejected_by,
        "self_approval": approval.may_approve_own,
        "due_at": time_text(approval.due_at),
        "default": approval.default if approval.due_at is not None else None,
    }


# Jobs -----------------------------------------------------------------------------------------------------------------


def job_json(job: Job, budget: Budget, *, outputs: dict[str, Any] | None, is_deep: bool = True) -> dict[str, Any]:
    """A job with its steps and, when `is_deep`, with what it has become and what runs inside of its steps."""
    children = job.children
    jobs = children.jobs if children is not None else []
    return {
        "id": job.id,
        "name": job.name,
        "parent": job.parent.id if job.parent is not None else None,
        "status": job.status.value,
        "conclusion": _word(job.conclusion),
        "outcome": _word(job.outcome),
        "reason": reason_json(job.reason),
        "group": job.group,
        "labels": job.labels,
        "agent": job.agent_name or None,
        "agent_fingerprint": job.agent,
        "key": job.key,
        "matrix": job.matrix,
        "server": job.pinned_name or None,
        "kind": _kind(job),
        "calls": job.plan.call.path if job.plan.call is not None else None,
        "tries": job.number,
        "retry_at": time_text(job.retry_at),
        "needs": list(job.plan.needs),
        "outputs": outputs,
        "approval": approval_json(job.approval) if job.approval is not None else None,
        "concurrency": _lock_json(job.lock),
        "kept": job.reason.code is ReasonCode.KEPT,
        "batch": _batch_json(job),
        "started_at": time_text(job.started_at),
        "completed_at": time_text(job.completed_at),
        "steps": [
            _step_json(
                step, budget, step.outputs if job.parent is None else budget.value(step.outputs), is_deep=is_deep
            )
            for step in job.steps
        ],
        "counts": dict(Counter((child.conclusion or child.status).value for child in jobs)),
        "jobs_total": len(jobs),
        "jobs": _jobs_json(jobs, budget) if is_deep else [],
    }


def _kind(job: Job) -> str:
    if job.plan.call is not None:
        return "call"
    if not job.is_template:
        return "steps"
    return "each" if job.plan.target is not None else "matrix"


def _batch_json(job: Job) -> dict[str, Any] | None:
    children = job.children
    if children is None or len(children.batches) < 2:
        return None
    number = min(children.batch + 1, len(children.batches))
    return {"number": number, "of": len(children.batches), "resume_at": time_text(children.resume_at)}


def _jobs_json(jobs: Sequence[Job], budget: Budget) -> list[dict[str, Any]]:
    return [job_json(child, budget, outputs=budget.value(child.outputs)) for child in budget.take(jobs, _job_rank)]


def _job_rank(job: Job) -> int:
    if job.conclusion in _BAD:
        return 0
    return 1 if job.status in (Status.RUNNING, Status.WAITING) else 2


# Steps ----------------------------------------------------------------------------------------------------------------


def step_json(step: Step, budget: Budget) -> dict[str, Any]:
    """A step for a page: without what is inside of it."""
    return _step_json(step, budget, budget.value(step.outputs), is_deep=False)


def _step_json(step: Step, budget: Budget, outputs: dict[str, Any] | None, *, is_deep: bool) -> dict[str, Any]:
    owner = step.block.owner
    return {
        "id": step.id,
        "name": step.name,
        "node": step.plan.node,
        "unsafe": step.plan.is_unsafe,
        "parent": owner.id if owner is not None else None,
        "status": step.status.value,
        "conclusion": _word(step.conclusion),
        "outcome": _word(step.outcome),
        "reason": reason_json(step.reason),
        "exit_code": step.exit_code,
        "outputs": outputs,
        "approval": approval_json(step.approval) if step.approval is not None else None,
        "kept": step.reason.code is ReasonCode.KEPT,
        "due_at": time_text(step.due_at),
        "retry_at": time_text(step.retry_at),
        "started_at": time_text(step.started_at),
        "completed_at": time_text(step.completed_at),
        "attempts": [_attempt_json(attempt) for attempt in step.attempts[-ATTEMPTS_MAX:]],
        "counts": dict(Counter(block_state(block) for block in step.blocks)),
        "blocks_total": max(len(step.blocks), step.count or 0),
        "blocks": _blocks_json(step, budget) if is_deep else [],
    }


def _blocks_json(step: Step, budget: Budget) -> list[dict[str, Any]]:
    return [
        {
            "index": block.index,
            "name": _block_name(step, block),
            "item": budget.value(block.item),
            "state": block_state(block),
            "steps": [_step_json(inner, budget, budget.value(inner.outputs), is_deep=True) for inner in block.steps],
        }
        for block in budget.take(step.blocks, _block_rank)
    ]


def _block_name(step: Step, block: Block) -> str:
    """What a person calls it: `then`, `pass 3`, `branch 2`."""
    if step.plan.node == LOOP:
        return f"pass {block.index + 1}"
    if step.plan.node == PARALLEL:
        return f"branch {block.index + 1}"
    if step.plan.node == CONDITION:
        return "then" if step.inputs.get("if") else "else"
    return "steps"


def block_state(block: Block) -> str:
    """How a block stands: `failure` as soon as a step in it failed, `success` at its end, else `running`."""
    if block.failed_step is not None:
        return "failure"
    if block.current is None:
        if any(step.conclusion is Conclusion.CANCELLED for step in block.steps):
            return "cancelled"
        return "success"
    return "running"


def _block_rank(block: Block) -> int:
    state = block_state(block)
    return 2 if state == "success" else 1 if state == "running" else 0


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "status": attempt.status.value,
        "outcome": attempt.outcome.value if attempt.outcome is not None else None,
        "reason": reason_json(attempt.reason),
        "exit_code": attempt.exit_code,
        "agent": attempt.agent_name or None,
        "agent_fingerprint": attempt.agent,
        "child_run": attempt.child_run,
        "epoch": attempt.epoch,
        "queued_at": time_text(attempt.queued_at),
        "dispatched_at": time_text(attempt.dispatched_at),
        "started_at": time_text(attempt.started_at),
        "finished_at": time_text(attempt.finished_at),
        "output_bytes": attempt.output_bytes,
        "output_dropped": attempt.output_dropped,
    }
