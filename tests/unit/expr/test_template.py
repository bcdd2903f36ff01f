"""Text with `${{ }}`: rendering of whole values, and conditions."""

from __future__ import annotations

import pytest

from waterflowd import expr
from waterflowd.expr import errors

ENV = expr.Env(
    contexts={"v": {"n": 3, "list": [1, 2], "text": "x", "trick": "${{ secrets.X }}", "none": None, "obj": {"a": 1}}},
    status=expr.Status(success=False, failure=True),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${{ v.n }}", 3),
        ("${{v.list}}", [1, 2]),
        ("${{ v.none }}", None),
        (" ${{ v.n }}", " 3"),
        ("${{ v.n }}\n", "3\n"),
        ("a ${{ v.text }} b ${{ v.n }}", "a x b 3"),
        ("${{ v.text }}${{ v.none }}", "x"),
        ("=${{ v.obj }}${{ v.list }}", "=ObjectArray"),
        ("${{ '}}' }}", "}}"),
        ("${{ 'it''s }}' }}!", "it's }}!"),
        ("${{ '${{' }}", "${{"),
        ("${{ format('{0}}}', v.n) }}", "3}"),
        ("${ {v.n} } $x {{ }}", "${ {v.n} } $x {{ }}"),
        ("$${{ v.n }}", "$3"),
        ("${{ v.trick }}", "${{ secrets.X }}"),
        ("a ${{ v.trick }}", "a ${{ secrets.X }}"),
    ],
)
def test_a_text_renders_to_its_value(text: str, value: object) -> None:
    """A single expression keeps its type, anything more becomes text, and results are never parsed again."""
    assert expr.parse_template(text).render(ENV) == value


@pytest.mark.parametrize(
    ("text", "code", "offset"),
    [
        ("ab ${{ v.n", errors.UNTERMINATED, 3),
        ("${{ v.n }} ${{ 'a }}", errors.UNTERMINATED, 11),
        ("ab ${{ }}", errors.SYNTAX, 7),
        ("ab ${{ v. }}", errors.SYNTAX, 10),
        ("ab ${{ v.n + }} ${{ v.n }}", errors.SYNTAX, 13),
        ("x" * 5000 + "${{", errors.UNTERMINATED, 5000),
    ],
)
def test_an_error_in_a_template_has_its_offset_in_the_whole_text(text: str, code: str, offset: int) -> None:
    """A position within the expression would not help a reader of the file."""
    with pytest.raises(expr.ExpressionError) as caught:
        expr.parse_template(text)

    assert (caught.value.code, caught.value.offset) == (code, offset)


def test_syntax_nodes_of_a_template_have_their_offset_in_the_whole_text() -> None:
    """Positions from `check` and `evaluate` can be shown below the line of the file."""
    template = expr.parse_template("ab ${{ nope.x }} ${{ 1 / 0 }}")

    errors_found = [error for placed in template.expressions for error in expr.check(placed.node, expr.Scope())]
    assert [error.offset for error in errors_found] == [7]
    with pytest.raises(expr.ExpressionError) as caught:
        expr.evaluate(template.expressions[1].node, ENV)
    assert caught.value.offset == 23


def test_values_are_rendered_in_depth_and_keys_are_not() -> None:
    """Every text of a JSON value is rendered, but no key and no other scalar."""
    value = {"a": ["${{ v.n }}", 1, None, True], "${{ v.n }}": {"b": "n=${{ v.n }}"}}

    assert expr.render(value, ENV) == {"a": [3, 1, None, True], "${{ v.n }}": {"b": "n=3"}}


def test_a_value_without_expressions_is_static() -> None:
    """Keys do not count, because they are not rendered."""
    assert expr.is_static({"a": ["x", 1, {"b": "$x {{ }}"}], "${{ k }}": None})
    assert not expr.is_static({"a": [{"b": "x ${{ v.n }}"}]})
    assert not expr.is_static("${{")


def test_a_rendered_text_is_bounded() -> None:
    """A text with many large values is an error instead of a gigabyte in memory."""
    env = expr.Env(contexts={"v": {"big": "x" * 1024 * 1024}})

    with pytest.raises(expr.ExpressionError) as caught:
        expr.parse_template("${{ v.big }}" * 1000).render(env)
    assert caught.value.code == errors.BOUND


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("v.n == 3", False),
        ("${{ v.n == 3 }}", False),
        ("  ${{ v.n == 3 }}\n", False),
        ("always()", True),
        ("v.n == 3 && (v.n == 4 || FAILURE())", True),
        ("!success()", True),
        ("contains(format('{0}', failure()), 'true')", True),
        ("true || false", False),
    ],
)
def test_a_condition_implies_success_unless_it_uses_a_status_function(text: str, value: bool) -> None:
    """The job has already failed here, so only a condition with a status function can be true."""
    node = expr.parse_condition(text)

    assert expr.evaluate_condition(node, ENV) is value
    assert expr.is_success_implied(node) is not any(name in text.lower() for name in ("always", "success", "failure"))


@pytest.mark.parametrize("text", ["${{ v.n }} == 3", "${{ v.n }} ${{ v.n }}", "!${{ v.n }}", "v.n == ${{ v.n }}", ""])
def test_a_condition_that_would_always_be_true_is_an_error(text: str) -> None:
    """Text around `${{ }}` makes the condition a non-empty string, which is always true and never intended."""
    with pytest.raises(expr.ExpressionError) as caught:
        expr.parse_condition(text)

    assert caught.value.code == errors.SYNTAX
