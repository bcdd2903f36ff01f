"""How a node ended, before it becomes a message: what every node hands back, whoever ran it."""

from __future__ import annotations

from typing import Any

import msgspec

from waterflow_agent.wire.messages import Outcome

STDOUT = 1
STDERR = 2
#: A reason is one line for a person; what is longer is in the output log.
REASON_LENGTH_MAX = 500


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A node's end. `printed` is what the agent itself adds to the output: (stream, bytes)."""

    outcome: Outcome
    exit_code: int | None = None
    reason_code: str = ""
    reason_text: str = ""
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}
    printed: list[tuple[int, bytes]] = []


def failure(reason_code: str, text: str, *, exit_code: int | None = None) -> Ended:
    """A failure for this reason; the text is bounded and made one printable line."""
    return Ended(outcome=Outcome.FAILURE, exit_code=exit_code, reason_code=reason_code, reason_text=one_line(text))


def one_line(text: str) -> str:
    """`text` as one printable line of bounded length."""
    if len(text) > REASON_LENGTH_MAX:
        text = text[: REASON_LENGTH_MAX - 1] + "…"
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
