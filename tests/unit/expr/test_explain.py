"""Explanations of conditions, with their values."""

from __future__ import annotations

import pytest

from waterflowd import expr

ENV = expr.Env(
    contexts={
        "inputs": {"env": "dev", "n": 2, "list": [1, 2], "one": ["x"], "obj": {"a": 1}, "none": None, "q": "it's"},
        "secrets": {"token": "hunter2"},
    },
    status=expr.Status(),
)


@pytest.mark.parametrize(
    ("condition", "displayed"),
    [
        ("inputs.env == 'prod'", "inputs.env ('dev') == 'prod'"),
        ("inputs.n > 3 || inputs.none", "inputs.n (2) > 3 || inputs.none (null)"),
        ("(inputs.n > 3 || inputs.q) && true", "(inputs.n (2) > 3 || inputs.q ('it''s')) && true"),
        ("contains(inputs.list, 3)", "contains(inputs.list (2 items), 3) (false)"),
        ("inputs.one && inputs.obj", "inputs.one (1 item) && inputs.obj (1 key)"),
        ("!inputs.env", "!inputs.env ('dev')"),
        ("failure() && inputs.n", "failure() (false) && inputs.n (2)"),
        ("nope.x == 1 + inputs['n']", "nope.x (?) == 1 + inputs.n (2)"),
        ("secrets.token == 'x'", "secrets.token (***) == 'x'"),
        ("contains(secrets.token, 'h')", "contains(secrets.token (***), 'h') (***)"),
        ("secrets[inputs.env].x == 1 - (2 - 3)", "secrets[inputs.env].x (***) == 1 - (2 - 3)"),
    ],
)
def test_each_leaf_of_a_condition_shows_its_value(condition: str, displayed: str) -> None:
    """Paths and calls are followed by their value in parentheses; an implied `success()` is omitted while it is true."""
    assert expr.explain(expr.parse_condition(condition), ENV) == displayed


def test_an_implied_success_that_failed_is_the_explanation() -> None:
    """In this case the author's own condition was not the reason."""
    env = expr.Env(contexts=ENV.contexts, status=expr.Status(success=False, failure=True))

    assert expr.explain(expr.parse_condition("inputs.env == 'dev'"), env) == "success() (false)"


def test_an_explanation_is_one_short_printable_line() -> None:
    """Control characters, terminal escapes and a megabyte of text do no harm."""
    env = expr.Env(contexts={"x": {"evil": "\x1b]0;pwned\x07\r\n\u202e", "long": "y" * 1_000_000}})

    displayed = expr.explain(expr.parse("x.evil == x.long && x.evil == x.long && x.long == x.evil && x.evil"), env)

    assert displayed.isprintable()
    assert len(displayed) <= 200
    assert displayed.startswith("x.evil ('\\x1b]0;pwned\\x07\\r\\n\\u202e') == x.long ('yyy")
