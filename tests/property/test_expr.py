"""Expressions with random and hostile input: the only exception is ExpressionError."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from waterflowd import expr

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
LEAVES = st.sampled_from(
    [
        "a",
        "a.b",
        "a.B[0]",
        "a.*.b",
        "a[b]",
        "b",
        "1",
        "-1.5",
        "0",
        "NaN",
        "1e400",
        "''",
        "'a'",
        "' 0x1f '",
        "null",
        "true",
        "success()",
        "now()",
        "range(3)",
        "a.*.*",
        "b[1.5]",
        "fromJSON('[1,{}]')",
        "'{0}'",
        "nope",
        "hashFiles('x')",
    ]
)
NAMES = st.sampled_from([*(function.name for function in expr.FUNCTIONS.values()), "nope"])
OPERATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "&&", "||", "+", "-", "*", "/", "%"])


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.tuples(inner, OPERATORS, inner).map(lambda parts: f"{parts[0]} {parts[1]} {parts[2]}")
        | inner.map(lambda source: f"!({source})")
        | st.tuples(NAMES, st.lists(inner, max_size=3)).map(lambda parts: f"{parts[0]}({', '.join(parts[1])})")
        | st.tuples(inner, inner).map(lambda parts: f"({parts[0]})[{parts[1]}]")
    )


SOURCES = st.recursive(LEAVES, _larger, max_leaves=8)
SYMBOLS = st.text(alphabet="ab.[]()'*,!<>=&|+-/% 0x1eE{}$\"\\\n\u00a0é", max_size=30)
ENVS = st.builds(
    lambda a, b: expr.Env(contexts={"a": a, "b": b}, status=expr.Status(), now_at=1),
    JSON,
    JSON,
)


def error_of(action: Callable[[], object]) -> expr.ExpressionError | None:
    """Returns the ExpressionError that the action raises; any other exception fails the test."""
    try:
        action()
    except expr.ExpressionError as error:
        return error
    return None


@settings(max_examples=300, deadline=None)
@given(SYMBOLS | st.text(max_size=40))
def test_parsing_raises_nothing_but_expression_errors(text: str) -> None:
    """The offset is inside the text; the same holds for templates and conditions."""
    for parse, source in ((expr.parse, text), (expr.parse_template, "${{" + text), (expr.parse_condition, text)):
        error = error_of(functools.partial(parse, source))
        assert error is None or 0 <= error.offset <= len(source)


@settings(max_examples=300, deadline=None)
@given(SOURCES, ENVS)
def test_evaluation_returns_json_data_or_an_expression_error(source: str, env: expr.Env) -> None:
    """This holds for any contexts, and repeating the evaluation gives the same result."""
    node = expr.parse(source)

    error = error_of(lambda: expr.evaluate(node, env))

    if error is not None:
        assert 0 <= error.offset <= len(source)
        return
    value = expr.evaluate(node, env)
    assert json.dumps(value) == json.dumps(expr.evaluate(node, env))
    assert expr.evaluate_condition(node, env) == expr.is_truthy(value)


@settings(max_examples=200, deadline=None)
@given(SOURCES, ENVS)
def test_checking_explaining_and_unparsing_never_fail(source: str, env: expr.Env) -> None:
    """These functions accept any tree, and the canonical text parses to an equivalent tree."""
    node = expr.parse(source)

    expr.check(node, expr.Scope(contexts={"a": ["b"]}))
    assert len(list(expr.references(node))) <= len(source)
    displayed = expr.explain(node, env)
    assert displayed.isprintable()
    assert len(displayed) <= 200
    assert expr.unparse(expr.parse(expr.unparse(node))) == expr.unparse(node)


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_json_text_and_back_is_the_same_value(value: object) -> None:
    """`fromJSON(toJSON(x))` is x, once NaN and infinities are null and whole floats are integers."""
    env = expr.Env(contexts={"x": value})
    once = expr.evaluate(expr.parse("fromJSON(toJSON(x))"), env)

    again = expr.evaluate(expr.parse("fromJSON(toJSON(x))"), expr.Env(contexts={"x": once}))
    assert again == once
    assert json.loads(str(expr.evaluate(expr.parse("toJSON(x)"), env)), parse_int=float) == json.loads(
        json.dumps(once), parse_int=float
    )


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_rendering_changes_nothing_in_a_static_value(value: object) -> None:
    """Rendered text is never rendered again."""
    env = expr.Env(contexts={"x": "${{ x }}"})

    if expr.is_static(value):
        assert json.dumps(expr.render(value, env)) == json.dumps(value)
    assert expr.render(["${{ x }}", "a ${{ x }}"], env) == ["${{ x }}", "a ${{ x }}"]
