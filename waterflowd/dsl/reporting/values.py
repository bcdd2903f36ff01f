"""Values from a file or a request: how they are called in messages, and how they read as text."""

from __future__ import annotations

from waterflow_agent.display import quote
from waterflowd.dsl.reading.tree import WrittenFloat, WrittenInt

EXPRESSION = "${{"


def describe(value: object) -> str:
    """A value from a file in a few words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case WrittenInt() | WrittenFloat():
            return f"the number {quote(value.text)[1:-1]}"
        case int() | float():
            return f"the number {value}"
        case str():
            return quote(value)
        case list():
            return "a list"
    return "a mapping"


def has_expression(value: object) -> bool:
    """Whether a value is text with an expression in it."""
    return isinstance(value, str) and EXPRESSION in value


def as_text(value: object) -> object:
    """Numbers and booleans as they were written, everything else unchanged."""
    match value:
        case WrittenInt() | WrittenFloat():
            return value.text
        case bool():
            return "true" if value else "false"
    return value
