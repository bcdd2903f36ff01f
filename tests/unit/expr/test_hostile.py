"""Hostile expressions: each ends at once, with an error that says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from waterflowd import expr
from waterflowd.expr import errors

SOURCES = {
    "a megabyte": ("'" + "x" * 2**20 + "'", errors.BOUND),
    "a megabyte of operators": ("1" + "+1" * 2**19, errors.BOUND),
    "10,000 parentheses": ("(" * 10_000 + "1" + ")" * 10_000, errors.BOUND),
    "as many as fit": ("(" * 4000 + "1" + ")" * 4000, errors.BOUND),
    "nots": ("!" * 8000 + "1", errors.BOUND),
    "indexes": ("a" + "[0]" * 2000, errors.BOUND),
    "calls": ("toJSON(" * 1000 + "1" + ")" * 1000, errors.BOUND),
    "sums": ("1" + " + 1" * 1500, errors.BOUND),
    "brackets that never close": ("a[" * 3000, errors.BOUND),
    "quotes that never close": ("'" + "''" * 4000, errors.SYNTAX),
    "a number without end": ("1" * 8000 + "x", errors.SYNTAX),
    "an expression in an expression": ("'${{ a }}' == ${{ a }}", errors.SYNTAX),
    "half a character": ("'\ud800'", errors.SYNTAX),
}


@pytest.mark.parametrize("name", SOURCES)
def test_an_excessive_source_is_refused_with_its_location(name: str) -> None:
    """The parser does not recurse, and does no work beyond the limit."""
    source, code = SOURCES[name]

    with pytest.raises(expr.ExpressionError) as caught:
        expr.parse(source)

    assert caught.value.code == code
    assert 0 <= caught.value.offset <= len(source)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("fromJSON(a.brackets)", errors.BOUND),
        ("fromJSON(a.open)", errors.BOUND),
        ("fromJSON(a.digits)", None),
        ("contains(a.many, a.nearly)", None),
        ("startsWith(a.many, a.nearly) || endsWith(a.many, a.nearly)", None),
        ("a.many == a.nearly", None),
        ("a.digits + 0 == 1", errors.WRONG_VALUE),
        ("a.digits == 1", None),
        ("replace(a.many, 'a', a.many)", errors.BOUND),
        ("join(split(a.many, 'a'), a.many)", errors.BOUND),
        ("format(a.holes, a.many)", errors.BOUND),
        ("range(0, 1e18)", errors.BOUND),
        ("a.__class__ || a['__dict__'] || a.many.__len__", None),
        ("__import__('os')", errors.UNKNOWN_FUNCTION),
        ("a.many.format('{0.__class__}', a)", errors.SYNTAX),
        ("format('{0.__class__}', a)", errors.WRONG_VALUE),
        ("match('(a+)+$', a.many)", errors.UNKNOWN_FUNCTION),
    ],
)
def test_excessive_values_give_a_value_or_an_explained_error(source: str, code: str | None) -> None:
    """No value grows beyond the limit, no search is exponential, and Python's internals are unreachable."""
    contexts: Mapping[str, object] = {
        "a": {
            "many": "a" * 500_000,
            "nearly": "a" * 250_000 + "b",
            "brackets": "[" * 100_000 + "]" * 100_000,
            "open": '{"a":' * 100_000,
            "digits": "1" * 200_000,
            "holes": "{0}" * 1000,
        }
    }
    found: str | None = None
    try:
        node = expr.parse(source)
        assert not isinstance(expr.evaluate(node, expr.Env(contexts=contexts)), type)
    except expr.ExpressionError as error:
        found = error.code

    assert found == code
