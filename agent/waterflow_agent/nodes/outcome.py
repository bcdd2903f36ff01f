"""How a node ended, before it becomes a message: what every node hands back, whoever ran it."""

from __future__ import annotations

from typing import Any

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.display import single_line
from waterflow_agent.execution.masking import Masks

STDOUT = 1
STDERR = 2
#: A reason is one line for a person; what is longer is in the output log.
REASON_LENGTH_MAX = 500
#: As deep as values of expressions nest.
HEIGHT_MAX = 128


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """A node's end. `printed` is what the agent itself adds to the output: (stream, bytes)."""

    outcome: Outcome
    exit_code: int | None = None
    reason_code: str = ""
    reason_text: str = ""
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}
    printed: list[tuple[int, bytes]] = []


def failure(reason_code: str, text: str, *, exit_code: int | None = None) -> NodeResult:
    """A failure for this reason; the text is bounded and made one printable line."""
    return NodeResult(outcome=Outcome.FAILURE, exit_code=exit_code, reason_code=reason_code, reason_text=one_line(text))


def fault_of(outputs: Any) -> str:
    """Why these outputs can be put neither into the journal nor on the wire; "" when nothing speaks against it."""
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
            return "its outputs hold a number of more than 64 bits; give it as a text"
    return f"its outputs are nested deeper than {HEIGHT_MAX}"


def masked(end: NodeResult, masks: Masks) -> NodeResult:
    """The end without a secret in its texts, outputs and environment."""
    return msgspec.structs.replace(
        end,
        reason_text=masks.text(end.reason_text),
        outputs=masks.value(end.outputs),
        env=masks.value(end.env),
        printed=[(stream, masks.data(data)) for stream, data in end.printed],
    )


def withheld(end: NodeResult) -> NodeResult:
    """The end of an attempt whose secrets nobody knows any more; a success that has lost what it handed back is none."""
    text = "the secrets of this attempt are not known here any more, so what it printed and handed back is withheld"
    is_incomplete = end.outcome is Outcome.SUCCESS and bool(end.outputs or end.env)
    return NodeResult(
        outcome=Outcome.FAILURE if is_incomplete else end.outcome,
        exit_code=end.exit_code,
        reason_code="node-error" if is_incomplete else end.reason_code,
        reason_text=text,
        printed=[(STDERR, f"waterflow: {text}\n".encode())],
    )


def one_line(text: str) -> str:
    """`text` as one printable line of bounded length."""
    return single_line(text, REASON_LENGTH_MAX)
