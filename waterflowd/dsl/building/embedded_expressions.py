"""The expressions embedded in the texts of a value, for those that ask what a plan refers to; malformed ones are ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from waterflowd import expr


def embedded(value: object) -> Iterator[expr.Node]:
    """The expressions in all texts of a JSON value, in order."""
    for text in texts_with_expressions(value):
        try:
            template = expr.parse_template(text)
        except expr.ExpressionError:
            continue
        yield from (expression.node for expression in template.expressions)


def condition_nodes(condition: str | None) -> list[expr.Node]:
    """The expression of an `if`; none if there is no `if`, or if it is malformed."""
    if condition is None:
        return []
    try:
        return [expr.parse_condition(condition)]
    except expr.ExpressionError:
        return []


def texts_with_expressions(value: object) -> Iterator[str]:
    """The texts of a JSON value that contain expressions, in order."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text if "${{" in text:
                yield text
            case Mapping() as mapping:
                waiting.extend(reversed(list(mapping.values())))
            case (list() | tuple()) as items:
                waiting.extend(reversed(items))
