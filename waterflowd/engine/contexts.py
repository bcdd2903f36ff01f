"""What expressions can see: the contexts of one place of a run, made only when an expression asks for them.

Rules of this file: reads the run, changes nothing. Shapes follow GitHub's contexts; what is beyond them is in the language
reference. Values that a run has not yet are null, never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from waterflowd import expr
from waterflowd.engine.state import Job, Run
from waterflowd.model.statuses import Conclusion, result_word


class _Place(NamedTuple):
    """Where an expression stands; `server` is the one that the job's step is about to run on."""

    run: Run
    job: Job
    server: dict[str, object] | None


_Makers = Mapping[str, Callable[[_Place], object]]


class Contexts(dict[str, object]):
    """Contexts by name; each is made at its first use."""

    def __init__(self, makers: _Makers, place: _Place) -> None:
        super().__init__()
        self._makers = makers
        self._place = place

    def __missing__(self, name: str) -> object:
        value = self[name] = self._makers[name](self._place)
        return value


def _word(conclusion: Conclusion | None) -> str | None:
    return None if conclusion is None else conclusion.value


def _result(conclusion: Conclusion | None) -> str | None:
    return None if conclusion is None else result_word(conclusion)


def _run(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "number": run.number,
        "attempt": 1,
        "workflow": run.plan.name,
        "url": f"/v1/runs/{run.id}",
    }


def _needs(run: Run, job: Job) -> dict[str, object]:
    result: dict[str, object] = {}
    for need in job.plan.needs:
        needed = run.jobs_by_id[need]
        result[need] = {
            "result": _result(needed.conclusion),
            "conclusion": _word(needed.conclusion),
            "outputs": needed.outputs,
        }
    return result


def _steps(job: Job) -> dict[str, object]:
    result: dict[str, object] = {}
    for step in job.steps[: job.cursor + 1]:
        if step.plan.is_named:
            result[step.id] = {
                "outputs": step.outputs,
                "outcome": _result(step.outcome),
                "conclusion": _result(step.conclusion),
                "exit-code": step.exit_code,
                "attempt": len(step.attempts),
            }
    return result


def agent(facts: dict[str, Any], name: str, group: str) -> dict[str, object]:
    """The `agent` context of a job on this server."""
    return {**facts, "name": name, "group": group}


def _agent(job: Job) -> dict[str, object]:
    return agent(job.agent_facts, job.agent_name, job.group) if job.agent is not None else {}


def _job_facts(job: Job) -> dict[str, object]:
    return {"id": job.id, "status": "failure" if job.failed_step is not None else "success"}


def _payload(run: Run) -> dict[str, object]:
    return {"name": run.trigger.kind, **run.trigger.payload}


_FOR_JOB: _Makers = {
    "run": lambda place: _run(place.run),
    "git": lambda place: place.run.trigger.git,
    "event": lambda place: _payload(place.run),
    "inputs": lambda place: place.run.inputs,
    "vars": lambda place: place.run.vars,
    "env": lambda place: {},
    "needs": lambda place: _needs(place.run, place.job),
}
_FOR_STEP: _Makers = {
    **_FOR_JOB,
    "steps": lambda place: _steps(place.job),
    "job": lambda place: _job_facts(place.job),
    "agent": lambda place: place.server or _agent(place.job),
    "runner": lambda place: place.server or _agent(place.job),
}


def job_status(run: Run, job: Job) -> expr.Status:
    """What the status functions say in a job's `if`."""
    needs = [run.jobs_by_id[need] for need in job.plan.needs]
    return expr.Status(
        success=not run.is_cancelled and all(need.has_success for need in needs),
        failure=any(need.has_failure for need in needs),
        cancelled=run.is_cancelled,
    )


def step_status(job: Job) -> expr.Status:
    """What the status functions say in a step's `if`."""
    return expr.Status(
        success=not job.is_cancelled and job.failed_step is None,
        failure=job.failed_step is not None,
        cancelled=job.is_cancelled,
    )


def for_vars(inputs: dict[str, Any], known: dict[str, Any], git: dict[str, Any], payload: dict[str, Any]) -> expr.Env:
    """What the values of `vars` can see: inputs, the trigger, and the vars before them."""
    return expr.Env(contexts={"inputs": inputs, "vars": known, "git": git, "event": payload})


def for_job(run: Run, job: Job, now: int) -> expr.Env:
    """What the keys of a job can see before it has a server."""
    return expr.Env(contexts=Contexts(_FOR_JOB, _Place(run, job, None)), status=job_status(run, job), now_at=now)


def for_step(
    run: Run, job: Job, now: int, env: dict[str, str] | None = None, server: dict[str, object] | None = None
) -> expr.Env:
    """What the keys of the current step can see; `env` is the environment so far, `server` the one it is about to run on."""
    contexts = Contexts(_FOR_STEP, _Place(run, job, server))
    if env is not None:
        contexts["env"] = env
    return expr.Env(contexts=contexts, status=step_status(job), now_at=now)
