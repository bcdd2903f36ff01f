"""The nodes that run inside the agent because they finish at once: `log`, `fail`, `set-outputs`."""

from __future__ import annotations

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.outcome import STDERR, STDOUT, NodeResult, failure, one_line
from waterflow_agent.wire import messages

#: The parameter records of these nodes.
RECORDS = (schema.Log, schema.Fail, schema.SetOutputs)


def run(parameters: schema.Parameters) -> NodeResult:
    """Run one of these nodes."""
    if isinstance(parameters, schema.Log):
        return NodeResult(outcome=Outcome.SUCCESS, exit_code=0, printed=[(STDOUT, _line(parameters.message))])
    if isinstance(parameters, schema.Fail):
        return NodeResult(
            outcome=Outcome.FAILURE,
            exit_code=parameters.exit_code,
            reason_code="exit-code",
            reason_text=one_line(parameters.message),
            printed=[(STDERR, _line(parameters.message))],
        )
    assert isinstance(parameters, schema.SetOutputs), f"{type(parameters).__name__} does not run inside the agent"
    size = len(msgspec.msgpack.encode(parameters.outputs))
    if size > messages.OUTPUTS_BYTES_MAX:
        return failure("node-error", f"outputs of {size} bytes exceed the limit of {messages.OUTPUTS_BYTES_MAX} bytes")
    return NodeResult(outcome=Outcome.SUCCESS, exit_code=0, outputs=parameters.outputs)


def _line(text: str) -> bytes:
    return text.encode("utf-8", "replace") + (b"" if text.endswith("\n") else b"\n")
