"""Moves of steps with steps inside: `condition`, `loop`, `parallel` and composite steps. They start blocks and end the step.

After a block has failed, a loop starts no further iteration; running iterations continue to their end, as do the branches of
`parallel`.
"""

from __future__ import annotations

from typing import Any

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine import events
from waterflowd.engine.rules import calls, contexts, environment_variables, rendering
from waterflowd.engine.state.blocks import COMPOSITE, CONDITION, LOOP, Block, Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import Conclusion

#: Steps that blocks may add to one run.
STEPS_MAX = 10_000
#: Encoded results of a loop, or outputs of a composite step.
OUTPUTS_BYTES_MAX = 1 << 20
#: The default of `max-iterations`.
ITERATIONS = 1_000

_SUCCEEDED = reason(ReasonCode.SUCCEEDED, "all steps inside succeeded")


def enter(run: Run, job: Job, step: Step, env: expr.Env, now: int) -> events.StepEntered:
    """Starts the step. Raises `Rejected`, or `ValueError` with the reason as a sentence."""
    plan = step.plan
    inputs: dict[str, Any] = {}
    items: list[Any] = []
    count: int | None = len(plan.blocks)
    parallel = 1
    text = "started"
    if plan.node == CONDITION:
        is_true = _is_true(plan.params.get("if"), env)
        inputs = {"if": is_true}
        count = 1 if is_true or len(plan.blocks) > 1 else 0
        text = f"the condition is {'true' if is_true else 'false'}"
    elif plan.node == LOOP:
        parallel = _number(plan.params.get("max-parallel", 1), env, "max-parallel")
        if "while" in plan.params:
            count = None
            inputs = {"max-iterations": _number(plan.params.get("max-iterations", ITERATIONS), env, "max-iterations")}
            parallel = 1
        else:
            items = _items(expr.render(plan.params.get("items"), env))
            count = len(items)
            text = f"{count} iterations"
    elif plan.node == COMPOSITE:
        rendered = expr.render(plan.params, env)
        assert isinstance(rendered, dict)
        inputs = calls.resolve_inputs(plan.inputs, rendered)
    else:
        parallel = _number(plan.params.get("max-parallel", len(plan.blocks)), env, "max-parallel")
    minutes = rendering.minutes_ms(plan.timeout_minutes, env, "timeout-minutes")
    return events.StepEntered(
        at=now,
        job=job.id,
        step=step.id,
        name=rendering.label(expr.render(plan.name, env)) if "${{" in plan.name else None,
        count=count,
        items=items,
        inputs=inputs,
        max_parallel=parallel,
        deadline_at=None if minutes is None else now + minutes,
        reason=reason(ReasonCode.STARTED, text),
    )


def _is_true(condition: Any, env: expr.Env) -> bool:
    if isinstance(condition, str):
        return expr.evaluate_condition(expr.parse_condition(condition), env)
    return expr.is_truthy(condition)


def _items(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("items must be a list")
    if len(value) > STEPS_MAX:
        raise ValueError(f"{len(value)} items; the limit is {STEPS_MAX}")
    rendering.check_size("items", value, OUTPUTS_BYTES_MAX)
    return value


def _number(value: Any, env: expr.Env, what: str) -> int:
    number = expr.to_number(expr.render(value, env) if isinstance(value, str) else value)
    if not 1 <= number <= STEPS_MAX or number != int(number):
        raise ValueError(f"{what} is {number:g}; it must be a whole number from 1 to {STEPS_MAX}")
    return int(number)


def following(run: Run, job: Job, step: Step, now: int) -> events.RunEvent | None:
    """Starts the next block, if one may start now. Raises `Rejected`."""
    begun = len(step.blocks)
    if step.open_blocks >= step.max_parallel:
        return None
    if step.plan.node == LOOP and step.failed_block is not None:
        return None
    if step.count is None:
        if not _has_another_iteration(run, job, step, now):
            return None
    elif begun >= step.count:
        return None
    index = begun
    if step.plan.node == CONDITION:
        index = 0 if step.inputs["if"] else 1
    elif step.plan.node in (LOOP, COMPOSITE):
        index = 0
    if run.steps_made + len(step.plan.blocks[index].steps) > STEPS_MAX:
        raise Rejected("WF112", f"the run has more than {STEPS_MAX} nested steps")
    return events.BlockStarted(at=now, job=job.id, step=step.id, number=begun, plan=index)


def _has_another_iteration(run: Run, job: Job, step: Step, now: int) -> bool:
    begun = len(step.blocks)
    known = environment_variables.known(run, job, step, now)
    env = contexts.for_pass(run, job, step, begun, now, known)
    if not _is_true(step.plan.params["while"], env):
        return False
    limit = step.inputs["max-iterations"]
    if begun >= limit:
        raise Rejected("WF112", f"the loop did not end within {_iterations(limit)}")
    return True


def _iterations(count: int) -> str:
    return "1 iteration" if count == 1 else f"{count} iterations"


def end(run: Run, job: Job, step: Step, now: int) -> tuple[Conclusion, Reason, dict[str, Any]]:
    """Conclusion, reason and outputs of a step whose blocks have all ended. Raises `Rejected`."""
    outputs = _outputs(run, job, step, now)
    if step.failed_block is None:
        return Conclusion.SUCCESS, _SUCCEEDED, outputs
    failed = step.failed_block.failed_step
    assert failed is not None
    assert failed.outcome is not None
    text = f'step "{failed.name}": {failed.reason.text}'
    return failed.outcome, reason(ReasonCode.FAILED, text, step=failed.id), outputs


def _outputs(run: Run, job: Job, step: Step, now: int) -> dict[str, Any]:
    if step.plan.node == LOOP:
        results = [_result(block) for block in step.blocks]
        rendering.check_size("the loop's results", results, OUTPUTS_BYTES_MAX)
        return {"results": results}
    if step.plan.node == CONDITION:
        return {"result": step.inputs["if"]}
    if step.plan.node == COMPOSITE and step.plan.outputs and step.blocks:
        env = contexts.for_end(run, job, step.blocks[0], now, lambda: environment_variables.known(run, job, step, now))
        rendered = expr.render(step.plan.outputs, env)
        assert isinstance(rendered, dict)
        rendering.check_size("the step's outputs", rendered, OUTPUTS_BYTES_MAX)
        return rendered
    return {}


def _result(block: Block) -> dict[str, Any]:
    failed = block.failed_step
    return {
        "conclusion": "success" if failed is None or failed.conclusion is None else failed.conclusion.value,
        "steps": {step.plan.id: contexts.step_facts(step) for step in block.steps if step.plan.is_named},
    }
