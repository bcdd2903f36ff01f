"""Explains a condition: its source with the values of its leaves, for the reason why something ran or was skipped.

`inputs.env == 'prod'` becomes `inputs.env ('dev') == 'prod'`. A leaf is a whole path through a context, or a call. The
result is one line of printable characters and bounded, whatever the values hold; secrets are not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from waterflow_agent.display import escape_for_display, shorten
from waterflowd.expr.env import Env
from waterflowd.expr.errors import ExpressionError
from waterflowd.expr.evaluation import compiled
from waterflowd.expr.lexer import NAME_PATTERN
from waterflowd.expr.nodes import IMPLIED, Binary, Call, Context, Filter, Index, Literal, Logical, Node, Not
from waterflowd.expr.parser import PRECEDENCE
from waterflowd.expr.values import Value, is_truthy, to_text
from waterflowd.model.numbers import shortest

#: Fits on one line of a terminal or of a table in the UI.
EXPLANATION_CHARACTERS_MAX = 200

#: Limit of each value, so that one long value does not hide the others.
_VALUE_CHARACTERS_MAX = 60


def explain(node: Node, env: Env) -> str:
    """Return a condition with its values in one line; a leaf that cannot be evaluated shows `(?)`."""
    node = _without_implied(node, env)
    return shorten(escape_for_display(_explained(node, env)), EXPLANATION_CHARACTERS_MAX)


def unparse(node: Node) -> str:
    """Return the source of an expression in one canonical spelling; parsing it gives an equal tree."""
    return _explained(node, None)


def _without_implied(node: Node, env: Env) -> Node:
    """Return the part of an implied `success() && ...` that determined the result."""
    if isinstance(node, Logical) and node.offset == IMPLIED:
        success, condition = node.operands
        try:
            return condition if is_truthy(compiled(success)(env)) else success
        except ExpressionError:
            return condition
    return node


def _explained(node: Node, env: Env | None) -> str:
    match node:
        case Literal(value):
            return _literal(value)
        case Context() | Index() | Filter():
            return _path(node) + _value(node, env)
        case Call(name, arguments):
            return f"{name}({', '.join(_explained(argument, env) for argument in arguments)})" + _value(node, env)
        case Not(operand):
            return "!" + _inside(operand, env, PRECEDENCE["!"])
        case Binary(operator, left, right):
            tightness = PRECEDENCE[operator]
            return f"{_inside(left, env, tightness)} {operator} {_inside(right, env, tightness + 1)}"
        case Logical(operator, operands):
            first, *rest = operands
            tightness = PRECEDENCE[operator]
            texts = [_inside(first, env, tightness), *(_inside(operand, env, tightness + 1) for operand in rest)]
            return f" {operator} ".join(texts)


def _inside(node: Node, env: Env | None, least: int) -> str:
    """Return an operand, in parentheses when it binds less tightly than `least`."""
    operator = node.operator if isinstance(node, Binary | Logical) else None
    explained = _explained(node, env)
    return f"({explained})" if operator is not None and PRECEDENCE[operator] < least else explained


def _path(node: Node) -> str:
    match node:
        case Context(name):
            return name
        case Filter(target):
            return _target(target) + ".*"
        case Index(target, Literal(str() as name)) if NAME_PATTERN.fullmatch(name):
            return f"{_target(target)}.{name}"
        case Index(target, key):
            return f"{_target(target)}[{unparse(key)}]"
    return unparse(node)


def _target(node: Node) -> str:
    source = _path(node)
    return source if isinstance(node, Context | Index | Filter | Call) else f"({source})"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, float) and math.isfinite(value):
        return shortest(value)
    return "null" if value is None else to_text(value)


def _value(node: Node, env: Env | None) -> str:
    if env is None:
        return ""
    if _is_secret(node):
        return " (***)"
    try:
        value = compiled(node)(env)
    except ExpressionError:
        return " (?)"
    if isinstance(value, list | tuple | Mapping):
        many = "key" if isinstance(value, Mapping) else "item"
        return f" ({len(value)} {many}{'' if len(value) == 1 else 's'})"
    if isinstance(value, str):
        shortened = shorten(value, _VALUE_CHARACTERS_MAX)
        return f" ({_literal(shortened)})"
    return f" ({_literal(value)})"


def _is_secret(node: Node) -> bool:
    while isinstance(node, Index | Filter):
        node = node.target
    if isinstance(node, Call):
        return any(_is_secret(argument) for argument in node.arguments)
    return isinstance(node, Context) and node.name.lower() == "secrets"
