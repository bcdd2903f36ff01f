"""The contexts that expressions in one part of a run can read, created only when an expression uses them.

Rules of this file: it reads the run and changes nothing. Shapes follow GitHub's contexts; the language reference describes
additions. Values that do not exist yet are null, never an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from waterflow_agent import server_paths
from waterflowd import expr
from waterflowd.engine.rules import containers, github, secrets
from waterflowd.engine.state.blocks import COMPOSITE, LOOP, Block, Step
from waterflowd.engine.state.runs import Job, Run, Scope
from waterflowd.model.statuses import Conclusion, result_word


class _Position(NamedTuple):
    """The position of an expression in a run; `server` is the one on which the job's step is about to run."""

    run: Run
    scope: Scope
    job: Job | None = None
    block: Block | None = None
    server: dict[str, object] | None = None
    #: Makes the `env` context.
    environment: Callable[[], dict[str, str]] = dict

    @property
    def at_job(self) -> Job:
        """The job of an expression that belongs to a job."""
        assert self.job is not None
        return self.job

    @property
    def at_block(self) -> Block:
        """The block of an expression that belongs to a block."""
        assert self.block is not None
        return self.block


_Makers = Mapping[str, Callable[[_Position], object]]


class Contexts(dict[str, object]):
    """Contexts by name; each is created when it is first used."""

    def __init__(self, makers: _Makers, position: _Position) -> None:
        super().__init__()
        self._makers = makers
        self._position = position

    def __missing__(self, name: str) -> object:
        value = self[name] = self._makers[name](self._position)
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
    """The content of `steps.<id>`."""
    return {
        "outputs": step.outputs,
        "outcome": _result(step.outcome),
        "conclusion": _result(step.conclusion),
        "exit-code": step.exit_code,
        "attempt": len(step.attempts) - step.earlier,
    }


def _steps(block: Block) -> dict[str, object]:
    """The steps that a step of the block can see: those before it, and those before the steps that contain it."""
    result: dict[str, object] = {}
    around: Block | None = block
    while around is not None:
        for step in around.steps[: around.cursor + 1]:
            if step.plan.is_named:
                result.setdefault(step.plan.id, step_facts(step))
        owner = around.owner
        # Inside a composite step, the steps around it are not visible.
        around = owner.block if owner is not None and owner.plan.node != COMPOSITE else None
    return result


def _strategy(job: Job) -> dict[str, object]:
    if job.parent is None or job.parent.children is None or not job.is_instance:
        return {"job-index": 0, "job-total": 1, "fail-fast": True, "max-parallel": 1}
    children = job.parent.children
    total = len(children.jobs)
    return {
        "job-index": job.position,
        "job-total": total,
        "fail-fast": children.fail_fast,
        "max-parallel": children.max_parallel or total,
    }


class _Secrets(Mapping[str, object]):
    """Maps each name of a secret to its reference, whose value is filled in for the agent. The names cannot be listed."""

    def __getitem__(self, name: str) -> object:
        return secrets.reference(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def agent(facts: dict[str, Any], name: str, group: str) -> dict[str, object]:
    """The `agent` context of a job on this server."""
    return {**facts, "name": name, "group": group}


def _agent(position: _Position) -> dict[str, object]:
    job = position.at_job
    return position.server or (agent(job.agent_facts, job.agent_name, job.group) if job.agent is not None else {})


def _runner(position: _Position) -> Mapping[str, object]:
    """The `runner` context: the server with GitHub's names for systems and architectures, and its paths."""
    facts = _agent(position)
    names = {"temp": server_paths.TEMP, "workspace": server_paths.PARENT}
    paths = {name: server_paths.reference(path) for name, path in names.items()}
    return github.WithPaths({**facts, **github.runner(facts)} if facts else {}, paths)


def _github(position: _Position) -> Mapping[str, object]:
    run, job, block = position.run, position.job, position.block
    folder = github.action_folder(job, block) if job is not None and block is not None else None
    return github.context(run, None if job is None else job.plan.id, folder)


def _job_facts(job: Job) -> dict[str, object]:
    status = "failure" if job.failed_step is not None else "success"
    return {"id": job.id, "status": status, **containers.facts(job)}


def _payload(run: Run) -> dict[str, object]:
    return {"name": run.trigger.kind.value, **run.trigger.payload}


def _vars(position: _Position) -> dict[str, Any]:
    values = position.scope.vars
    environment = position.job.own_environment if position.job is not None else None
    policy = position.run.environments.get(environment) if environment is not None else None
    return values | policy.vars if policy is not None else values


def _inputs(position: _Position) -> dict[str, Any]:
    """The inputs of the enclosing composite step, or else of the workflow."""
    owner = position.block.owner if position.block is not None else None
    while owner is not None:
        if owner.plan.node == COMPOSITE:
            return owner.inputs
        owner = owner.block.owner
    return position.scope.inputs


_FOR_RUN: _Makers = {
    "run": lambda position: _run(position.run),
    "git": lambda position: position.run.trigger.git,
    "event": lambda position: _payload(position.run),
    "github": _github,
    "inputs": lambda position: _inputs(position),
    "vars": lambda position: _vars(position),
    "env": lambda position: position.environment(),
}
_FOR_CALL: _Makers = {
    **_FOR_RUN,
    "jobs": lambda position: {name: _need(called) for name, called in position.scope.jobs.items()},
}
_FOR_JOB: _Makers = {
    **_FOR_RUN,
    "needs": lambda position: _needs(position.at_job),
    "matrix": lambda position: position.at_job.matrix or None,
    "strategy": lambda position: _strategy(position.at_job),
    "secrets": lambda position: _Secrets(),
}
_FOR_STEP: _Makers = {
    **_FOR_JOB,
    "steps": lambda position: _steps(position.at_block),
    "job": lambda position: _job_facts(position.at_job),
    "agent": _agent,
    "runner": _runner,
}


def job_status(run: Run, job: Job) -> expr.Status:
    """The results of the status functions in a job's `if`."""
    needs = [job.scope.jobs[need] for need in job.plan.needs]
    caller = job.caller
    # A call that started after the run was cancelled, by its own `if`, is not affected, and neither is what it calls.
    is_cancelled = run.is_cancelled if caller is None else caller.is_cancelled
    return expr.Status(
        success=not is_cancelled and all(need.has_success for need in needs),
        failure=any(need.has_failure for need in needs),
        cancelled=is_cancelled,
    )


def step_status(job: Job, block: Block) -> expr.Status:
    """The results of the status functions in a step's `if`."""
    return expr.Status(
        success=not job.is_cancelled and block.failed_step is None,
        failure=block.failed_step is not None,
        cancelled=job.is_cancelled,
    )


def for_vars(inputs: dict[str, Any], known: dict[str, Any], git: dict[str, Any], payload: dict[str, Any]) -> expr.Env:
    """The environment for the values of `vars`: inputs, the trigger, and the preceding vars."""
    return expr.Env(contexts={"inputs": inputs, "vars": known, "git": git, "event": payload})


def for_run(run: Run, now: int) -> expr.Env:
    """The environment for the keys of the run as a whole."""
    return expr.Env(contexts=Contexts(_FOR_RUN, _Position(run, run.scope)), now_at=now, hash_files=run.hash_files)


def for_job(run: Run, job: Job, now: int) -> expr.Env:
    """The environment for the keys of a job before it has a server."""
    position = _Position(run, job.scope, job)
    return expr.Env(
        contexts=Contexts(_FOR_JOB, position), status=job_status(run, job), now_at=now, hash_files=run.hash_files
    )


def for_instance(run: Run, job: Job, values: dict[str, Any], now: int) -> expr.Env:
    """The environment for the name of an instance that does not exist yet."""
    found = for_job(run, job, now)
    assert isinstance(found.contexts, Contexts)
    found.contexts["matrix"] = values
    return found


def for_call(run: Run, job: Job, scope: Scope, now: int) -> expr.Env:
    """The environment for the outputs of a called workflow."""
    return expr.Env(
        contexts=Contexts(_FOR_CALL, _Position(run, scope)),
        status=job_status(run, job),
        now_at=now,
        hash_files=run.hash_files,
    )


def for_outputs(run: Run, now: int) -> expr.Env:
    """The environment for the outputs of the run."""
    return expr.Env(contexts=Contexts(_FOR_CALL, _Position(run, run.scope)), now_at=now, hash_files=run.hash_files)


def for_step(
    run: Run,
    job: Job,
    block: Block,
    now: int,
    env: dict[str, str] | None = None,
    server: dict[str, object] | None = None,
) -> expr.Env:
    """The environment for the keys of the block's current step.

    `env` holds the environment variables so far, `server` the server that the step is about to run on.
    """
    found = _in_block(_Position(run, job.scope, job, block, server), job, block, now)
    if env is not None:
        assert isinstance(found.contexts, Contexts)
        found.contexts["env"] = env
    return found


def for_end(run: Run, job: Job, block: Block, now: int, environment: Callable[[], dict[str, str]]) -> expr.Env:
    """The environment for what is evaluated when a step, or all steps of the block, have ended.

    `environment` makes the `env` context, if an expression uses it.
    """
    return _in_block(_Position(run, job.scope, job, block, environment=environment), job, block, now)


def _in_block(position: _Position, job: Job, block: Block, now: int) -> expr.Env:
    contexts = Contexts(_FOR_STEP, position)
    if block.owner is not None:
        _add_passes(contexts, block)
    status, hash_files = step_status(job, block), position.run.hash_files
    return expr.Env(contexts=contexts, status=status, now_at=now, hash_files=hash_files)


def for_pass(run: Run, job: Job, step: Step, index: int, now: int, env: dict[str, str]) -> expr.Env:
    """The environment for the `while` of a loop before the iteration with this index, from 0."""
    found = for_step(run, job, step.block, now, env)
    assert isinstance(found.contexts, Contexts)
    found.contexts["loop"] = _pass(step, index)
    return found


def _pass(step: Step, index: int) -> dict[str, object]:
    return {"index": index, "number": index + 1, "total": step.count}


def _add_passes(contexts: Contexts, block: Block) -> None:
    """Adds the values of the enclosing loops, innermost first."""
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
