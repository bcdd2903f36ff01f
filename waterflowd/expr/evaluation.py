"""Evaluates a tree, through closures that are built once for each tree.

`compiled(node)` turns every node into a function of the `Env`; the tree's height is bounded, and so is the recursion.
Operands of `&&` and `||` are evaluated only as far as needed. Evaluation ends with a value or with an ExpressionError
that has the offset; any other exception is a bug of the host, such as a context that is not JSON data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

from waterflow_agent.display import quote
from waterflowd.expr.env import Env
from waterflowd.expr.errors import UNKNOWN_CONTEXT, UNKNOWN_FUNCTION, WRONG_ARITY, WRONG_VALUE, ExpressionError
from waterflowd.expr.functions import FUNCTIONS, Function, arity_text
from waterflowd.expr.json_text import Problem, bounded, plain
from waterflowd.expr.nodes import Binary, Call, Context, Filter, Index, Literal, Logical, Node, Not
from waterflowd.expr.values import (
    NUMBER,
    STRING,
    Value,
    all_of,
    equals,
    is_less,
    is_truthy,
    kind_of,
    property_of,
)
from waterflowd.model.numbers import Number, normal
from waterflowd.model.wording import closest

Evaluator = Callable[[Env], object]


def evaluate(node: Node, env: Env) -> Value:
    """Return the value of an expression as plain JSON data that shares nothing with the contexts.

    Raises ExpressionError if it has no value, or one that exceeds the size limit of results.
    """
    value = compiled(node)(env)
    try:
        return bounded(value) if type(value) is str else plain(value)
    except Problem as problem:
        raise ExpressionError(problem.code, problem.text, max(node.offset, 0)) from None


def evaluate_condition(node: Node, env: Env) -> bool:
    """Return whether an expression is true; cheaper than `evaluate`, since no value is copied."""
    return is_truthy(compiled(node)(env))


@lru_cache(maxsize=4096)
def compiled(node: Node) -> Evaluator:
    """Return the function that computes a node."""
    return _compile(node)


def _compile(node: Node) -> Evaluator:
    match node:
        case Literal(value):
            return lambda env: value
        case Context(name):
            return _context(name, node.offset)
        case Index(target, key):
            return _index(target, key)
        case Filter(target):
            inner = _compile(target)
            return lambda env: all_of(inner(env))
        case Call():
            return _call(node)
        case Not(operand):
            inner = _compile(operand)
            return lambda env: not is_truthy(inner(env))
        case Binary():
            return _binary(node)
        case Logical():
            return _logical(node)


def _context(name: str, offset: int) -> Evaluator:
    lowered = name.lower()

    def read(env: Env) -> object:
        try:
            return env.contexts[lowered]
        except KeyError:
            text = f"the context {quote(name)} is not available here"
            raise ExpressionError(UNKNOWN_CONTEXT, text, offset, suggestion=closest(name, env.contexts)) from None

    return read


def _index(target: Node, key: Node) -> Evaluator:
    outer = _compile(target)
    if isinstance(key, Literal):
        constant = key.value
        return lambda env: property_of(outer(env), constant)
    inner = _compile(key)
    return lambda env: property_of(outer(env), inner(env))


def _logical(node: Logical) -> Evaluator:
    *first, last = (_compile(operand) for operand in node.operands)
    decides = node.operator == "||"

    def decide(env: Env) -> object:
        for operand in first:
            value = operand(env)
            if is_truthy(value) is decides:
                return value
        return last(env)

    return decide


def _call(node: Call) -> Evaluator:
    function = find_function(node)
    arguments = [_compile(argument) for argument in node.arguments]
    call, name, offset, is_lazy = function.call, function.name, max(node.offset, 0), function.is_lazy

    def answer(env: Env) -> object:
        values = [partial(argument, env) if is_lazy else argument(env) for argument in arguments]
        try:
            return call(values, env)
        except Problem as problem:
            text = problem.text if problem.text.startswith(name) else f"{name}: {problem.text}"
            raise ExpressionError(problem.code, text, offset) from None

    return answer


def find_function(node: Call) -> Function:
    """Return the function of a call; raises ExpressionError if it does not exist or has another number of arguments."""
    function = FUNCTIONS.get(node.name.lower())
    if function is None:
        names = (known.name for known in FUNCTIONS.values())
        text = f"unknown function {quote(node.name)}"
        raise ExpressionError(UNKNOWN_FUNCTION, text, node.offset, suggestion=closest(node.name, names))
    count = len(node.arguments)
    if not function.least <= count <= function.most or (function.is_odd and count % 2 == 0):
        text = f"{function.name} takes {arity_text(function)}, found {count}"
        raise ExpressionError(WRONG_ARITY, text, node.offset)
    return function


def _binary(node: Binary) -> Evaluator:
    left, right = _compile(node.left), _compile(node.right)
    match node.operator:
        case "==":
            return lambda env: equals(left(env), right(env))
        case "!=":
            return lambda env: not equals(left(env), right(env))
        case "<":
            return lambda env: is_less(left(env), right(env))
        case ">":
            return lambda env: is_less(right(env), left(env))
        case "<=":
            return lambda env: _is_at_most(left(env), right(env))
        case ">=":
            return lambda env: _is_at_most(right(env), left(env))
    calculate = _ARITHMETIC[node.operator]
    operator, offset = node.operator, node.offset

    def arithmetic(env: Env) -> object:
        first, second = left(env), right(env)
        if kind_of(first) is not NUMBER or kind_of(second) is not NUMBER:
            wrong = first if kind_of(first) is not NUMBER else second
            text = f"{operator} needs numbers, found {kind_of(wrong)}"
            hint = "; fromJSON() reads a number from text" if kind_of(wrong) is STRING else ""
            hint += ", format() joins text" if hint and operator == "+" else ""
            raise ExpressionError(WRONG_VALUE, text + hint, offset)
        assert isinstance(first, int | float)
        assert isinstance(second, int | float)
        if operator in "/%" and second == 0:
            raise ExpressionError(WRONG_VALUE, "division by zero", offset)
        return normal(calculate(normal(first), normal(second)))

    return arithmetic


def _is_at_most(left: Value, right: Value) -> bool:
    return equals(left, right) or is_less(left, right)


def _remainder(left: Number, right: Number) -> Number:
    """Return the remainder with the sign of the dividend, as in JavaScript and C."""
    if isinstance(left, int) and isinstance(right, int):
        rest = abs(left) % abs(right)
        return rest if left >= 0 else -rest
    return math.fmod(left, right) if math.isfinite(left) else math.nan


def _quotient(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    return left / right


_ARITHMETIC: dict[str, Callable[[Number, Number], Number]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _quotient,
    "%": _remainder,
}
