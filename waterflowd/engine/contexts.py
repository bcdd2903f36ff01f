"""What expressions can see: the contexts of one place of a run, made only when an expression asks for them.

Rules of this file: reads the run, changes nothing. Shapes follow GitHub's contexts; what is beyond them is in the language
reference. Values that a run has not yet are null, never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from waterflowd import expr
from waterflowd.engine import secrets
from waterflowd.engine.blocks import COMPOSITE, LOOP, Block, Step
from waterflowd.engine.state import Job, Run, Scope
from waterflowd.model.statuses import Conclusion, result_word


class Contexts(dict[str, object]):
    """Contexts by name; each is made at its first use."""

    def __init__(self, makers: Mapping[str, Callable[[], object]]) -> None:
        super().__init__()
        self._makers = makers

    def __missing__(self, name: str) -> object:
        value = self[name] = self._makers[name]()
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


def _needs(job: Job) -> dict[str, object]:
    result: dict[str, object] = {}
    for need in job.plan.needs:
        needed = job.scope.jobs[need]
        result[need] = _need(needed)
    return result


def _need(needed: Job) -> dict[str, object]:
    facts: dict[str, object] = {
        "result": _result(needed.conclusion),
        "conclusion": _word(needed.conclusion),
        "outputs": needed.outputs,
    }
    children = needed.children
    if children is None or children.scope is not None:
        return facts
    facts["outputs"] = None
    facts["instances"] = {child.key: _need(child) for child in children.jobs}
    if needed.plan.target is not None:
        facts["servers"] = {child.pinned_name: _need(child) for child in children.jobs}
    return facts


def step_facts(step: Step) -> dict[str, object]:
    """What `steps.<id>` shows."""
    return {
        "outputs": step.outputs,
        "outcome": _result(step.outcome),
        "conclusion": _result(step.conclusion),
        "exit-code": step.exit_code,
        "attempt": len(step.attempts) - step.earlier,
    }


def _steps(block: Block) -> dict[str, object]:
    """The steps that a step of the block can see: those before it, and those before the steps that it stands in."""
    result: dict[str, object] = {}
    around: Block | None = block
    while around is not None:
        for step in around.steps[: around.cursor + 1]:
            if step.plan.is_named:
                result.setdefault(step.plan.id, step_facts(step))
        owner = around.owner
        # A composite step is a world of its own.
        around = owner.block if owner is not None and owner.plan.node != COMPOSITE else None
    return result


def _inputs(job: Job, block: Block) -> dict[str, Any]:
    owner = block.owner
    while owner is not None:
        if owner.plan.node == COMPOSITE:
            return owner.inputs
        owner = owner.block.owner
    return job.scope.inputs


def _strategy(job: Job) -> dict[str, object]:
    if job.parent is None or job.parent.children is None or not job.is_instance:
        return {"job-index": 0, "job-total": 1, "fail-fast": False, "max-parallel": 1}
    children = job.parent.children
    total = len(children.jobs)
    return {
        "job-index": job.position,
        "job-total": total,
        "fail-fast": children.fail_fast,
        "max-parallel": children.max_parallel or total,
    }


class _Secrets(dict[str, object]):
    """Every secret as its reference: what is filled in on the way to the agent."""

    def __missing__(self, name: str) -> object:
        return secrets.reference(name)


def agent(facts: dict[str, Any], name: str, group: str) -> dict[str, object]:
    """The `agent` context of a job on this server."""
    return {**facts, "name": name, "group": group}


def _agent(job: Job) -> dict[str, object]:
    return agent(job.agent_facts, job.agent_name, job.group) if job.agent is not None else {}


def _job_facts(job: Job) -> dict[str, object]:
    return {"id": job.id, "status": "failure" if job.failed_step is not None else "success"}


def _payload(run: Run) -> dict[str, object]:
    return {"name": run.trigger.kind, **run.trigger.payload}


def _makers(run: Run, scope: Scope) -> dict[str, Callable[[], object]]:
    return {
        "run": lambda: _run(run),
        "git": lambda: run.trigger.git,
        "event": lambda: _payload(run),
        "inputs": lambda: scope.inputs,
        "vars": lambda: scope.vars,
        "env": dict,
    }


def _job_makers(run: Run, job: Job) -> dict[str, Callable[[], object]]:
    makers = _makers(run, job.scope) | {
        "needs": lambda: _needs(job),
        "matrix": lambda: job.matrix,
        "strategy": lambda: _strategy(job),
        "secrets": _Secrets,
    }
    policy = run.environments.get(job.approval.environment) if job.approval is not None else None
    if policy is not None and policy.vars:
        values = job.scope.vars | policy.vars
        makers["vars"] = lambda: values
    return makers


def job_status(run: Run, job: Job) -> expr.Status:
    """What the status functions say in a job's `if`."""
    needs = [job.scope.jobs[need] for need in job.plan.needs]
    return expr.Status(
        success=not run.is_cancelled and all(need.has_success for need in needs),
        failure=any(need.has_failure for need in needs),
        cancelled=run.is_cancelled,
    )


def step_status(job: Job, block: Block) -> expr.Status:
    """What the status functions say in a step's `if`."""
    return expr.Status(
        success=not job.is_cancelled and block.failed_step is None,
        failure=block.failed_step is not None,
        cancelled=job.is_cancelled,
    )


def for_vars(inputs: dict[str, Any], known: dict[str, Any], git: dict[str, Any], payload: dict[str, Any]) -> expr.Env:
    """What the values of `vars` can see: inputs, the trigger, and the vars before them."""
    return expr.Env(contexts={"inputs": inputs, "vars": known, "git": git, "event": payload})


def for_run(run: Run, now: int) -> expr.Env:
    """What the keys of the run as a whole can see."""
    return expr.Env(contexts=Contexts(_makers(run, run.scope)), now_at=now)


def for_job(run: Run, job: Job, now: int) -> expr.Env:
    """What the keys of a job can see before it has a server."""
    return expr.Env(contexts=Contexts(_job_makers(run, job)), status=job_status(run, job), now_at=now)


def for_instance(run: Run, job: Job, values: dict[str, Any], now: int) -> expr.Env:
    """What the name of an instance can see before there is one."""
    makers = _job_makers(run, job) | {"matrix": lambda: values}
    return expr.Env(contexts=Contexts(makers), status=job_status(run, job), now_at=now)


def for_call(run: Run, job: Job, scope: Scope, now: int) -> expr.Env:
    """What the outputs of a workflow that was called can see."""
    makers = _makers(run, scope) | {
        "jobs": lambda: {name: _need(called) for name, called in scope.jobs.items()},
    }
    return expr.Env(contexts=Contexts(makers), status=job_status(run, job), now_at=now)


def for_step(
    run: Run,
    job: Job,
    block: Block,
    now: int,
    env: dict[str, str] | None = None,
    server: dict[str, object] | None = None,
) -> expr.Env:
    """What the keys of the block's current step can see.

    `env` is the environment so far, `server` the one it is about to run on.
    """
    makers = _job_makers(run, job) | {
        "steps": lambda: _steps(block),
        "job": lambda: _job_facts(job),
        "agent": lambda: server or _agent(job),
        "runner": lambda: server or _agent(job),
    }
    if block.owner is not None:
        makers["inputs"] = lambda: _inputs(job, block)
    contexts = Contexts(makers)
    _add_passes(contexts, block)
    if env is not None:
        contexts["env"] = env
    return expr.Env(contexts=contexts, status=step_status(job, block), now_at=now)


def for_pass(run: Run, job: Job, step: Step, index: int, now: int, env: dict[str, str]) -> expr.Env:
    """What the `while` of a loop can see before the pass of this number, from 0."""
    found = for_step(run, job, step.block, now, env)
    assert isinstance(found.contexts, Contexts)
    found.contexts["loop"] = _pass(step, index)
    return found


def _pass(step: Step, index: int) -> dict[str, object]:
    return {"index": index, "number": index + 1, "total": step.count}


def _add_passes(contexts: Contexts, block: Block) -> None:
    """The values of the loops around, the innermost first."""
    around: Block | None = block
    while around is not None and around.owner is not None:
        owner = around.owner
        if owner.plan.node == COMPOSITE:
            return
        if owner.plan.node == LOOP:
            name = str(owner.plan.params.get("as") or "item")
            if owner.count is not None and name not in contexts:
                contexts[name] = around.item
            if "loop" not in contexts:
                contexts["loop"] = _pass(owner, around.index)
        around = owner.block
