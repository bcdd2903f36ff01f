"""Inputs of called workflows and composite steps: their values once the expressions in them are evaluated.

The compiler has checked the names, and the values that hold no expression; the others are checked here, by the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine.rules import secrets
from waterflowd.model import inputs
from waterflowd.model.plan import CallPlan, InputSpec, InputType, Json

_EMPTY: dict[InputType, Json] = {InputType.BOOLEAN: False, InputType.NUMBER: 0, InputType.JSON: None}
#: Whole numbers up to here are exact.
_EXACT_MAX = 1e15


def resolve_inputs(specs: Sequence[InputSpec], arguments: dict[str, Any]) -> dict[str, Json]:
    """A checked and converted value for each input. Raises `Rejected` WF110."""
    for spec in specs:
        value = arguments.get(spec.name)
        if secrets.has_reference(value):
            try:
                inputs.check_secret(spec, value)
            except ValueError as error:
                raise Rejected(inputs.WRONG_INPUT, f"input {quote(spec.name)}: {error}") from None
    return inputs.resolve(specs, arguments)


def of_call(call: CallPlan, given: dict[str, Any]) -> dict[str, Any]:
    """The typed inputs of the workflow that is called. Raises `Rejected`."""
    return {spec.name: _value(call, spec, given.get(spec.name)) for spec in call.inputs}


def _value(call: CallPlan, spec: InputSpec, given: Json) -> Json:
    value = spec.default if given is None else given
    if value is None:
        if spec.required:
            raise Rejected("WF111", f"input {spec.name} of {call.path} is required and was given nothing")
        return _EMPTY.get(spec.type, "")
    match spec.type:
        case InputType.STRING:
            try:
                return inputs.convert(spec, value)
            except ValueError as error:
                text = f"input {quote(spec.name)} of {call.path}: {error}"
                raise Rejected(inputs.WRONG_INPUT, text) from None
        case InputType.BOOLEAN if isinstance(value, bool) or value in ("true", "false"):
            return value is True or value == "true"
        case InputType.NUMBER:
            number = expr.to_number(value)
            if number == number:
                return int(number) if abs(number) <= _EXACT_MAX and number == int(number) else number
        case InputType.CHOICE if value in spec.options:
            return value
        case InputType.JSON:
            return value
    wanted = f"one of {', '.join(spec.options)}" if spec.options else f"a {spec.type.value}"
    raise Rejected("WF111", f"input {spec.name} of {call.path} must be {wanted}")
