"""The result of a node, before it becomes a message: the same for nodes inside the agent, scripts and processes."""

from __future__ import annotations

from typing import Any

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.display import single_line
from waterflow_agent.execution.masking import Masking
from waterflow_agent.nodes.step_files import Summary

STDOUT = 1
STDERR = 2
#: A reason is one line for people; longer text belongs in the output log.
REASON_LENGTH_MAX = 500
#: The nesting limit of values in expressions.
HEIGHT_MAX = 128


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a node. `printed` is what the agent adds to the output: (stream, bytes)."""

    outcome: Outcome
    exit_code: int | None = None
    reason_code: str = ""
    reason_text: str = ""
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}
    summary: Summary = Summary()
    printed: list[tuple[int, bytes]] = []


def failure(reason_code: str, text: str, *, exit_code: int | None = None) -> NodeResult:
    """Return a failure with this reason; the text becomes one printable line of bounded length."""
    return NodeResult(outcome=Outcome.FAILURE, exit_code=exit_code, reason_code=reason_code, reason_text=one_line(text))


def output_error(outputs: Any) -> str:
    """Return why the outputs cannot be recorded and sent; "" if they can."""
    level = [outputs]
    for _ in range(HEIGHT_MAX + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return ""
        if any(isinstance(item, int) and not -(1 << 63) <= item < 1 << 64 for item in level):
            return "outputs contain a number of more than 64 bits; use a string"
    return f"outputs are nested more than {HEIGHT_MAX} levels deep"


def masked(result: NodeResult, masks: Masking) -> NodeResult:
    """Return the result with all secrets in its texts, outputs and environment masked."""
    return msgspec.structs.replace(
        result,
        reason_text=masks.text(result.reason_text),
        outputs=masks.value(result.outputs),
        env=masks.value(result.env),
        summary=msgspec.structs.replace(result.summary, text=masks.text(result.summary.text)),
        printed=[(stream, masks.data(data)) for stream, data in result.printed],
    )


def withheld(result: NodeResult) -> NodeResult:
    """Return the result of an attempt whose secrets are no longer known; a success that loses its outputs becomes a failure."""
    text = "the agent no longer knows the secrets of this attempt, so its output and results are withheld"
    is_incomplete = result.outcome is Outcome.SUCCESS and bool(result.outputs or result.env)
    return NodeResult(
        outcome=Outcome.FAILURE if is_incomplete else result.outcome,
        exit_code=result.exit_code,
        reason_code="node-error" if is_incomplete else result.reason_code,
        reason_text=text,
        printed=[(STDERR, f"waterflow: {text}\n".encode())],
    )


def one_line(text: str) -> str:
    """Return the text as one printable line of bounded length."""
    return single_line(text, REASON_LENGTH_MAX)
