"""Static checks of expressions."""

from __future__ import annotations

import pytest

from waterflowd import expr
from waterflowd.expr import errors

SCOPE = expr.Scope(
    contexts={"steps": ("build", "Test"), "inputs": ("env",), "needs": (), "event": None, "vars": {"region": 1}},
)


def problems(source: str, scope: expr.Scope = SCOPE) -> list[tuple[str, int, str | None]]:
    return [(error.code, error.offset, error.suggestion) for error in expr.check(expr.parse(source), scope)]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("steps.build.outputs.x == inputs.env", []),
        ("STEPS.test.nope['x'] || Inputs['ENV']", []),
        ("event.anything.at.all", []),
        ("steps[event.x].outputs.*", []),
        ("step.build", [(errors.UNKNOWN_CONTEXT, 0, "steps")]),
        ("steps.biuld.outputs", [(errors.UNKNOWN_NAME, 6, "build")]),
        ("steps['biuld']", [(errors.UNKNOWN_NAME, 6, "build")]),
        ("inputs.evn", [(errors.UNKNOWN_NAME, 7, "env")]),
        ("vars.regoin", [(errors.UNKNOWN_NAME, 5, "region")]),
        ("needs.x.result", [(errors.UNKNOWN_NAME, 6, None)]),
        ("containss('a', 'b')", [(errors.UNKNOWN_FUNCTION, 0, "contains")]),
        ("tojson()", [(errors.WRONG_ARITY, 0, None)]),
        ("join('a', 'b', 'c')", [(errors.WRONG_ARITY, 0, None)]),
        ("success()", [(errors.UNKNOWN_FUNCTION, 0, None)]),
    ],
)
def test_an_unknown_name_is_an_error_with_its_location(source: str, found: list[tuple[str, int, str | None]]) -> None:
    """Contexts, their properties, functions and the number of arguments are checked; names are case-insensitive."""
    assert problems(source) == found


def test_all_problems_are_reported_at_once_in_source_order() -> None:
    """An author can fix a line in one go."""
    found = problems("foo.x == lenn(steps.nope, bar.y) && format() || needs.z")

    assert [code for code, _, _ in found] == [
        errors.UNKNOWN_CONTEXT,
        errors.UNKNOWN_FUNCTION,
        errors.UNKNOWN_NAME,
        errors.UNKNOWN_CONTEXT,
        errors.WRONG_ARITY,
        errors.UNKNOWN_NAME,
    ]
    assert [offset for _, offset, _ in found] == sorted(offset for _, offset, _ in found)


def test_status_functions_are_allowed_only_in_conditions() -> None:
    """They are allowed in an `if`; elsewhere the error says where they belong."""
    condition = expr.Scope(functions=expr.PLAIN_FUNCTIONS | expr.STATUS_FUNCTIONS)

    assert problems("success() || ALWAYS()", condition) == []
    assert "outside of `if`" in str(expr.check(expr.parse("failure()"), SCOPE)[0])


def test_a_subtraction_without_spaces_is_explained() -> None:
    """`inputs-x` is a single name, and the error says so."""
    error = expr.check(expr.parse("inputs-x"), SCOPE)[0]

    assert "hyphen" in str(error)


def test_the_message_contains_the_suggestion() -> None:
    """The message ends with the probable name and the error code."""
    error = expr.check(expr.parse("inputs.evn"), SCOPE)[0]

    assert str(error) == 'unknown input "evn" (did you mean "env"?) [WF125]'


def test_hostile_names_are_truncated_and_escaped() -> None:
    """An error message never contains control characters or a name of a kilobyte."""
    error = expr.check(expr.parse("inputs['\x1b]0;" + "a" * 500 + "']"), SCOPE)[0]

    assert str(error).isprintable()
    assert len(str(error)) < 200


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a.b == C.D.e", [(("a", "b"), 0), (("c", "D", "e"), 7)]),
        ("steps.x.outputs['y'][0]", [(("steps", "x", "outputs", "y", "0"), 0)]),
        ("needs[inputs.job].result", [(("needs", "*", "result"), 0), (("inputs", "job"), 6)]),
        ("steps.*.outputs", [(("steps", "*", "outputs"), 0)]),
        ("f(a, g(b.c))", [(("a",), 2), (("b", "c"), 7)]),
        ("(a || b).c", [(("a",), 1), (("b",), 6)]),
        ("fromJSON(a.b)[c.d]", [(("a", "b"), 9), (("c", "d"), 14)]),
        ("1 + 2", []),
    ],
)
def test_references_are_the_paths_through_contexts(source: str, found: list[tuple[tuple[str, ...], int]]) -> None:
    """Each use is listed once, in source order; `*` stands for parts that are known only at run time."""
    assert list(expr.references(expr.parse(source))) == found


def test_a_thousand_problems_are_reported_as_fifty() -> None:
    """Each problem costs a search for similar names, so a hostile expression must not cause more."""
    names = expr.Scope(contexts={"steps": [f"step-{number}" for number in range(1000)]})

    assert len(expr.check(expr.parse(" || ".join(["steps.nope"] * 550)), names)) == 50
