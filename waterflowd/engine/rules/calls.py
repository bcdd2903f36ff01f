"""Inputs of called workflows and composite steps: their values once the expressions in them are evaluated.

The compiler has checked the names, and the values without expressions; the others are checked here, by the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflowd.engine.rules import secrets
from waterflowd.model import inputs
from waterflowd.model.plan import InputSpec, Json


def resolve_inputs(specs: Sequence[InputSpec], arguments: dict[str, Any], callee: str = "") -> dict[str, Json]:
    """A checked and converted value for each input of `callee`. Raises `Rejected` WF110."""
    for spec in specs:
        value = arguments.get(spec.name)
        if secrets.has_reference(value):
            try:
                inputs.check_secret(spec, value)
            except ValueError as error:
                raise Rejected(inputs.WRONG_INPUT, f"input {quote(spec.name)}: {error}") from None
    return inputs.resolve(specs, arguments, callee)
