"""The environment variables of steps, in layers: workflow, job, what steps wrote to `WATERFLOW_ENV`, enclosing steps, step.

Rules of this file: a layer's values may refer to the layers below. Each layer is evaluated with the names of the block it
belongs to: those of the workflow and the job never see the inputs of a composite step. What a step wrote is data: it is never
evaluated, even if it looks like an expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine.rules import contexts
from waterflowd.engine.state.blocks import Block, Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.expr.scripts import VARIABLE_PREFIX
from waterflowd.model.plan import ALL_VARIABLES


class _Layer(NamedTuple):
    values: Mapping[str, object]
    #: Whose names its expressions may use.
    block: Block
    is_data: bool = False


def are_static(job: Job, step: Step) -> bool:
    """Whether no layer of the step's environment has expressions."""
    return all(layer.is_data or expr.is_static(layer.values) for layer in _layers(job, step))


def static(job: Job, step: Step) -> dict[str, str]:
    """The step's whole environment if every layer is static."""
    return {name: expr.to_text(value) for layer in _layers(job, step) for name, value in layer.values.items()}


def known(run: Run, job: Job, step: Step, now: int) -> dict[str, str]:
    """The `env` context of a step that has no server yet, such as in its `if`. Raises `ExpressionError`."""
    return rendered(run, job, step, {}, now)


def of_job(run: Run, job: Job, now: int) -> dict[str, str]:
    """The `env` context after the job's last step: its own variables, and what its steps wrote. Raises `ExpressionError`."""
    return _render(run, job, _job_layers(job), {}, now)


def declared(run: Run, job: Job, now: int) -> dict[str, str]:
    """The variables of the workflow and the job, which no step changes. Raises `ExpressionError`, or `Rejected`."""
    return _render(run, job, (layer for layer in _job_layers(job) if not layer.is_data), {}, now)


def rendered(run: Run, job: Job, step: Step, server: dict[str, object], now: int) -> dict[str, str]:
    """The step's whole environment on the server. Raises `ExpressionError`, or `Rejected`."""
    return _render(run, job, _layers(job, step), server, now)


def _job_layers(job: Job) -> Iterator[_Layer]:
    yield _Layer(job.scope.env, job.root)
    yield _Layer(job.plan.env, job.root)
    yield _Layer(job.env, job.root, is_data=True)


def _layers(job: Job, step: Step) -> Iterator[_Layer]:
    yield from _job_layers(job)
    enclosing: list[Step] = []
    owner = step.block.owner
    while owner is not None:
        enclosing.append(owner)
        owner = owner.block.owner
    for outer in reversed(enclosing):
        yield _Layer(outer.plan.env, outer.block)
    yield _Layer(step.plan.env, step.block)


def _render(run: Run, job: Job, layers: Iterator[_Layer], server: dict[str, object], now: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for layer in layers:
        if layer.is_data or expr.is_static(layer.values):
            found.update({name: expr.to_text(value) for name, value in layer.values.items()})
            continue
        env = contexts.for_step(run, job, layer.block, now, dict(found), server)
        in_scripts = {name: value for name, value in layer.values.items() if name.startswith(VARIABLE_PREFIX)}
        own = {name: value for name, value in layer.values.items() if name not in in_scripts}
        found.update(_own(own, env))
        if in_scripts:
            # The expressions of a script see the step's own environment.
            env = contexts.for_step(run, job, layer.block, now, dict(found), server)
            found.update({name: expr.to_text(expr.render(value, env)) for name, value in in_scripts.items()})
    return found


def _own(layer: Mapping[str, object], env: expr.Env) -> dict[str, str]:
    """The variables of a layer, which one expression may yield."""
    if ALL_VARIABLES not in layer:
        return {name: expr.to_text(expr.render(value, env)) for name, value in layer.items()}
    found = expr.render(layer[ALL_VARIABLES], env)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise Rejected("WF111", f"env is {expr.to_text(found)!r}; it must be a mapping of names to text")
    return {name: expr.to_text(value) for name, value in found.items()}
