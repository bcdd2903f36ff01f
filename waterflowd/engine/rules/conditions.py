"""The value of an `if`, and the reason when it is false."""

from __future__ import annotations

from waterflowd import expr
from waterflowd.model.reasons import Reason, ReasonCode, reason


def holds(condition: str | None, env: expr.Env) -> bool:
    """The value of an `if`; without one, of `success()`. Raises `Rejected`."""
    if condition is None:
        assert env.status is not None
        return env.status.success
    return expr.evaluate_condition(expr.parse_condition(condition), env)


def names_status(condition: str | None) -> bool:
    """Whether the condition names a status function, so that `success()` is not implied."""
    return condition is not None and not expr.is_success_implied(expr.parse_condition(condition))


def false(condition: str | None, env: expr.Env) -> Reason:
    """Why an `if` was false."""
    explanation = expr.explain(expr.parse_condition(condition), env) if condition is not None else "success()"
    return reason(ReasonCode.CONDITION_FALSE, f"if was false: {explanation}", condition=condition)
