"""Values of a file: how messages describe them, and how they read as text."""

from __future__ import annotations

from waterflow_agent.display import escape_for_display
from waterflowd.dsl.reading.tree import WrittenFloat, WrittenInt
from waterflowd.model import wording

EXPRESSION = "${{"


def describe(value: object) -> str:
    """A value from a file in a few words; numbers as they are written there."""
    if isinstance(value, WrittenInt | WrittenFloat):
        return f"the number {escape_for_display(value.text)}"
    return wording.describe(value)


def has_expression(value: object) -> bool:
    """Whether a value is text that contains an expression."""
    return isinstance(value, str) and EXPRESSION in value


def as_text(value: object) -> object:
    """Numbers and booleans as they were written, everything else unchanged."""
    match value:
        case WrittenInt() | WrittenFloat():
            return value.text
        case bool():
            return "true" if value else "false"
    return value
