"""Expressions whose outcome was recorded from GitHub's own implementation (npm @actions/expressions 0.3.61).

Outcomes are `{"error": true}` or `{"value": ...}`, in which a number is `{"num": text}` and an object is
`{"obj": [[key, value], ...]}`, so that NaN, infinities and the order of keys are distinguishable.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from waterflowd import expr
from waterflowd.model.numbers import shortest

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "github_cases.json").read_text(encoding="utf-8"))
GROUPS = [name for name in RECORDED if name != "contexts"]


def recorded_form(value: object) -> object:
    """Returns a value in the notation of the recorded file."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        number = float(value)
        if math.isfinite(number):
            return {"num": shortest(number)}
        return {"num": "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"}
    if isinstance(value, list):
        return [recorded_form(item) for item in value]
    assert isinstance(value, dict)
    return {"obj": [[key, recorded_form(item)] for key, item in value.items()]}


def outcome(source: str) -> dict[str, object]:
    """Returns the outcome of the source, in the notation of the recorded file."""
    try:
        return {"value": recorded_form(expr.evaluate(expr.parse(source), expr.Env(contexts=RECORDED["contexts"])))}
    except expr.ExpressionError:
        return {"error": True}


@pytest.mark.parametrize("group", GROUPS)
def test_expressions_have_github_s_outcome(group: str) -> None:
    """Both the values and the choice of invalid sources match GitHub's implementation."""
    different = [
        (source, expected, found) for source, expected in RECORDED[group] if (found := outcome(source)) != expected
    ]

    assert different == []
