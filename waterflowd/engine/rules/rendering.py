"""Rendering: evaluates the expressions in the plan's text to the values of one attempt.

Rules of this file: pure; the caller turns an `ExpressionError` into a failure with a reason. Static values of the plan are
neither rendered nor recorded again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine.rules import contexts, environment_variables
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.records import Trigger

#: Parameters and environment of one attempt: below the largest task that agents take, with room for its names.
VALUES_BYTES_MAX = (2 << 20) - (64 << 10)
#: Names are shown in lists and in the process's environment.
NAME_LENGTH_MAX = 500

#: The longest accepted timeout: 35 days, as in GitHub Actions.
MINUTES_MAX = 50_400.0


_encode = msgspec.msgpack.Encoder().encode


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The values of one attempt; None where the plan's own apply."""

    name: str | None
    params: dict[str, Any] | None
    env: dict[str, str] | None
    working_directory: str | None
    timeout_ms: int | None


def resolve_vars(values: dict[str, Any], inputs: dict[str, Any], trigger: Trigger) -> dict[str, Any]:
    """The values of `vars` in order, each seeing those before it. Raises `Rejected`."""
    known: dict[str, Any] = {}
    for name, value in values.items():
        if expr.is_static(value):
            known[name] = value
        else:
            known[name] = expr.render(value, contexts.for_vars(inputs, dict(known), trigger.git, trigger.payload))
    return known


def minutes_ms(value: float | str | None, env: expr.Env, where: str) -> int | None:
    """A number of minutes, or an expression that yields one, in milliseconds."""
    if value is None:
        return None
    if isinstance(value, str):
        rendered = expr.render(value, env)
        number = expr.to_number(rendered)
    else:
        number = float(value)
    if not 0 < number <= MINUTES_MAX:
        raise Rejected("WF111", f"{where} is {number:g}; it must be greater than 0 and at most {MINUTES_MAX:g}")
    return max(1, round(number * 60_000))


def render(run: Run, job: Job, step: Step, server: dict[str, object], now: int) -> Rendered:
    """The values of the step's next attempt. Raises `ExpressionError`, or `Rejected`, also for values that no agent accepts."""
    plan = step.plan
    is_env_static = environment_variables.are_static(job, step)
    is_name_static = "${{" not in plan.name
    is_params_static = expr.is_static(plan.params)
    is_directory_static = plan.working_directory is None or "${{" not in plan.working_directory
    known = (
        environment_variables.static(job, step)
        if is_env_static
        else environment_variables.rendered(run, job, step, server, now)
    )
    if is_env_static and is_name_static and is_params_static and is_directory_static:
        env = _NOTHING
    else:
        env = contexts.for_step(run, job, step.block, now, known, server)
    params = None if is_params_static else _object(expr.render(plan.params, env))
    directory = None if is_directory_static else expr.to_text(expr.render(plan.working_directory, env))
    own = run.plan.node(plan.node)
    source = "" if own is None else own.source
    values = (plan.params if params is None else params, known, directory, source)
    check_size("the step's parameters and environment", values, VALUES_BYTES_MAX)
    return Rendered(
        name=None if is_name_static else label(expr.render(plan.name, env)),
        params=params,
        env=None if is_env_static else known,
        working_directory=directory,
        timeout_ms=_timeout_ms(run, job, step, server, now),
    )


def label(value: object) -> str:
    """A rendered name, bounded."""
    name = expr.to_text(value)
    return name if len(name) <= NAME_LENGTH_MAX else name[: NAME_LENGTH_MAX - 1] + "…"


def check_size(what: str, value: object, bytes_max: int) -> None:
    """Raises `Rejected` WF112 for a value that is too large or cannot be encoded, such as a number of more than 64 bits."""
    try:
        size = len(_encode(value))
    except (ValueError, OverflowError) as error:
        raise Rejected("WF112", f"{what} cannot be stored or sent: {error}") from error
    if size > bytes_max:
        raise Rejected("WF112", f"{what} have {size} bytes; the limit is {bytes_max}")


def _object(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


_NOTHING = expr.Env()


def _timeout_ms(run: Run, job: Job, step: Step, server: dict[str, object], now: int) -> int | None:
    minutes = step.plan.timeout_minutes
    if not isinstance(minutes, str):
        return minutes_ms(minutes, _NOTHING, "timeout-minutes")
    known = environment_variables.rendered(run, job, step, server, now)
    return minutes_ms(minutes, contexts.for_step(run, job, step.block, now, known, server), "timeout-minutes")


def is_continued(value: bool | str, env: expr.Env) -> bool:
    """The value of `continue-on-error`."""
    return value if isinstance(value, bool) else expr.is_truthy(expr.render(value, env))
