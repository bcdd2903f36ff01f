"""The parser: what it accepts beyond GitHub's syntax, its errors with positions, its limits."""

from __future__ import annotations

import pytest

from waterflowd import expr
from waterflowd.expr import errors


def evaluated(source: str) -> object:
    return expr.evaluate(expr.parse(source), expr.Env(contexts={"n": {"a": 7, "b-c": 2, "text": "x"}}))


def failure(source: str) -> expr.ExpressionError:
    with pytest.raises(expr.ExpressionError) as caught:
        expr.parse(source)
    return caught.value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 - 2 - 1", 4),
        ("7 -2", 5),
        ("7-2", 5),
        ("7 - -2", 9),
        ("-7 % 3", -1),
        ("7 % -3", 1),
        ("7.5 % 2", 1.5),
        ("7 / 2", 3.5),
        ("6 / 2", 3),
        ("2 * .5", 1),
        ("0.5 + 0.5 == 1", True),
        ("1 + 1 > 1 && 2 * 2 == 4", True),
        ("n.a - 1", 6),
        ("n.a*n.a", 49),
        ("n.a+1", 8),
        ("n.b-c", 2),
        ("(n.a)-1", 6),
        ("n['a'] -1", 6),
        ("!n.a == false", True),
        ("9007199254740993 + 1", 9007199254740994),
        ("1e300 * 1e300", float("inf")),
    ],
)
def test_arithmetic_binds_tighter_than_comparison_and_groups_to_the_left(source: str, value: object) -> None:
    """The operators `+ - * / %` have the usual precedence, and a remainder has the sign of the dividend."""
    found = evaluated(source)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "offset", "part"),
    [
        ("", 0, "nothing"),
        ("a b", 2, '"b"'),
        ("a == ", 5, "incomplete"),
        ("(a", 2, 'expected ")"'),
        ("f(a", 3, 'expected ")"'),
        ("f(a,)", 4, '")"'),
        ("a[1", 3, 'expected "]"'),
        ("a.", 2, "property name"),
        ("'it", 0, "closing quote"),
        ('a == "b"', 5, "single quotes"),
        ("a = 1", 2, "=="),
        ("a & b", 2, "&&"),
        ("a | b", 2, "||"),
        ("-a", 0, "0 - value"),
        ("1abc", 0, '"1abc"'),
        ("a && ${{ b }}", 5, "${{ }}"),
        ("a == ٣", 5, "unexpected"),
    ],
)
def test_a_syntax_error_names_its_location_and_what_was_expected(source: str, offset: int, part: str) -> None:
    """The offset points at the offending symbol, and the message helps with common mistakes."""
    error = failure(source)

    assert error.code == errors.SYNTAX
    assert error.offset == offset
    assert part in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "(" * 10_000,
        "(" * 3000 + "1" + ")" * 3000,
        "(" * 65 + "1" + ")" * 65,
        "a" + "[a" * 80 + "]" * 80,
        "f(" * 80 + ")" * 80,
        "!" * 80 + "a",
        "a" + ".b" * 80,
        "1" + " + 1" * 80,
        "a" + " == a" * 80,
        "'" + "x" * 9000 + "'",
        "'" + "é" * 5000 + "'",
        "a" * (1024 * 1024),
    ],
)
def test_sources_that_are_too_long_or_too_deep_are_errors(source: str) -> None:
    """Exceeding a limit is an ExpressionError; Python's recursion limit is never reached."""
    assert failure(source).code == errors.BOUND


def test_sixty_levels_and_a_thousand_conditions_are_accepted() -> None:
    """The limit leaves room for real expressions; a long chain of `&&` does not count as nesting."""
    assert evaluated("(" * 60 + "1" + ")" * 60) == 1
    assert evaluated(" && ".join(["n.a"] * 1000)) == 7


@pytest.mark.parametrize(
    "source",
    [
        "a.b == 'it''s' && !c || d[e.f].*.g <= -1.5",
        "a - (b - c) - d * (e + f) % 2",
        "(a || b) && c == (d == e)",
        "!(a && b)",
        "f(a, g(), 'x').y[0]['b c']",
        "(a == b).c",
        "1e-16 + NaN - Infinity",
    ],
)
def test_an_unparsed_tree_parses_to_the_same_text(source: str) -> None:
    """`unparse` returns canonical text: it keeps the structure, and repeating it changes nothing."""
    once = expr.unparse(expr.parse(source))

    assert once == source
    assert expr.unparse(expr.parse(once)) == once


def test_syntax_nodes_have_their_location() -> None:
    """An operator's node points at the operator, and a leaf at its first character."""
    node = expr.parse("a.b + 12")

    assert isinstance(node, expr.Binary)
    assert node.offset == 4
    assert node.right.offset == 6
    assert isinstance(node.left, expr.Index)
    assert (node.left.target.offset, node.left.key.offset) == (0, 2)


def test_parsing_the_same_source_again_gives_the_same_tree() -> None:
    """Trees are cached, so that each is compiled once."""
    assert expr.parse("a.b == 'cached'") is expr.parse("a.b == 'cached'")


def test_a_boolean_and_a_number_are_not_mixed_up_by_caches() -> None:
    """`true` and `1` are equal in Python, but their expressions must not share a compiled form."""
    assert evaluated("1") is not True
    assert evaluated("true") is True
    assert evaluated("format('{0}', true)") == "true"
    assert evaluated("format('{0}', 1)") == "1"


def test_every_code_is_of_the_expression_family() -> None:
    """Codes are stable and unique, and each is in the table."""
    assert set(errors.CODES) == {f"WF12{digit}" for digit in range(10)}
