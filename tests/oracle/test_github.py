"""Our evaluator and GitHub's own agree on the value and its type, or both refuse the expression.

`WATERFLOW_ROUNDS` multiplies the number of generated expressions, 3,000 per round. Needs node and npm; the evaluator is
installed from the npm registry on first use (see `github.py`).
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.oracle import github, grammar
from waterflowd import expr
from waterflowd.expr.nodes import Binary, Call, walk

ROUNDS = int(os.environ.get("WATERFLOW_ROUNDS", "1"))
#: Number of expressions that share contexts and one request to the other process.
BATCH = 10
EXAMPLES = 300 * ROUNDS


def difference(source: str, contexts: dict[str, object], theirs: dict[str, Any]) -> str | None:
    """Returns how the outcomes differ, or None if they agree or the difference is intended."""
    ours = github.our_outcome(source, contexts)
    if ("error" in ours and "error" in theirs) or _unordered(ours) == _unordered(theirs):
        return None
    if ("error" in theirs and is_meant(source, contexts)) or ("error" in ours and is_lenient(source, contexts)):
        return None
    return f"{source}\n  GitHub: {theirs}\n  we:     {ours}\n  in {contexts}"


def _unordered(outcome: Any) -> Any:
    """Returns the outcome with sorted object keys: JavaScript puts numeric keys first."""
    if isinstance(outcome, list):
        return [_unordered(item) for item in outcome]
    if isinstance(outcome, dict):
        pairs = outcome.get("obj")
        if pairs is not None:
            return {"obj": sorted(([key, _unordered(value)] for key, value in pairs), key=lambda pair: pair[0])}
        return {key: _unordered(value) for key, value in outcome.items()}
    return outcome


def test_sources_that_only_the_npm_package_accepts_are_listed() -> None:
    """This works for a source that we cannot parse, too."""
    assert is_lenient("join(a.list.*,)", {})
    assert is_lenient("format('{0abc}', 1)", {})
    assert not is_lenient("join(a.list.*)", {})
    assert not is_lenient("join(", {})


def is_meant(source: str, contexts: dict[str, object]) -> bool:
    """Returns whether GitHub's evaluator refuses one of our extensions, or an argument that `case` does not choose."""
    for node, _ in walk(expr.parse(source)):
        if isinstance(node, Binary) and node.operator in "+-*/%":
            return True
        if isinstance(node, Call) and node.name.lower() == "case":
            for argument in node.arguments:
                try:
                    expr.evaluate(argument, expr.Env(contexts=contexts))
                except expr.ExpressionError:
                    return True
    return False


#: The npm package ignores what follows the number of a placeholder; the runner refuses it, and so do we.
_LENIENT = re.compile(r"\{[0-9]+[^0-9}]")
#: The npm package also accepts a comma after the last argument.
_TRAILING_COMMA = re.compile(r",\s*\)")


def is_lenient(source: str, contexts: dict[str, object]) -> bool:
    """Returns whether the npm package accepts what GitHub's runner refuses."""
    try:
        nodes = list(walk(expr.parse(source)))
    except expr.ExpressionError:
        return _TRAILING_COMMA.search(source) is not None
    for node, _ in nodes:
        if isinstance(node, Call) and node.name.lower() == "format":
            try:
                pattern = expr.evaluate(node.arguments[0], expr.Env(contexts=contexts))
            except expr.ExpressionError:
                continue
            if isinstance(pattern, str) and _LENIENT.search(pattern):
                return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(900 + 60 * ROUNDS)
def test_generated_expressions_have_github_s_outcome(evaluator: github.GitHub) -> None:
    """They cover literals, operators, coercions, indexes, filters, functions and their errors, over contexts of every shape."""
    compared = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(grammar.CONTEXTS, st.lists(grammar.SOURCES, min_size=BATCH, max_size=BATCH))
    def agree(contexts: dict[str, object], sources: list[str]) -> None:
        nonlocal compared
        for source, theirs in zip(sources, evaluator.outcomes(sources, contexts), strict=True):
            assert (found := difference(source, contexts, theirs)) is None, found
        compared += len(sources)

    agree()
    assert compared >= EXAMPLES * BATCH


#: Source, contexts, the outcome of GitHub's evaluator, our outcome, the reason. The documentation lists the differences that
#: users can notice (docs/expressions.md).
DIFFERENCES: list[tuple[str, dict[str, object], object, object]] = [
    # The npm package replaces only the first doubled quote of a literal; the runner replaces all, as documented.
    ("'a''b''c'", {}, "a'b''c", "a'b'c"),
    # A trailing comma, which the runner refuses too.
    ("contains('a', 'a',)", {}, True, None),
    # Text after the number of a placeholder, which the runner refuses too.
    ("format('{0abc}', 1)", {}, "1", None),
    ("format('{0{0}', 1)", {}, "1", None),
    # JavaScript's objects have built-in names and sort numeric keys.
    ("fromJSON('{\"constructor\": 1}').constructor", {}, None, 1),
    ('toJSON(fromJSON(\'{"b": 1, "1": 2}\'))', {}, '{\n  "1": 2,\n  "b": 1\n}', '{\n  "b": 1,\n  "1": 2\n}'),
    # Keys that differ only in case: GitHub keeps the first, we keep both and prefer the exact one.
    ("a.X", {"a": {"x": 1, "X": 2}}, 1, 2),
    # Whole numbers stay exact up to 64 bits.
    ("format('{0}', 9007199254740993)", {}, "9007199254740992", "9007199254740993"),
    # `case` computes only what it chooses.
    ("case(true, 1, fromJSON('no'))", {}, None, 1),
    # Half of a surrogate pair is not a character and could not be stored.
    ("fromJSON('\"\\ud800\"')", {}, "\ud800", None),
    # Arithmetic.
    ("1 + 2", {}, None, 3),
]


@pytest.mark.parametrize(("source", "contexts", "theirs", "ours"), DIFFERENCES, ids=[row[0] for row in DIFFERENCES])
def test_known_differences_from_github_have_both_outcomes(
    evaluator: github.GitHub, source: str, contexts: dict[str, object], theirs: object, ours: object
) -> None:
    """None stands for an error or for null; a difference that no longer exists must be removed from the list."""
    (found,) = evaluator.outcomes([source], contexts)

    assert found.get("value") == github.spelled(theirs)
    assert github.our_outcome(source, contexts).get("value") == github.spelled(ours)


def test_expressions_may_nest_deeper_than_on_github(evaluator: github.GitHub) -> None:
    """GitHub's limit is 50 levels and ours is 64; neither overflows its stack."""
    sources = ["(" * depth + "1" + ")" * depth for depth in (49, 63, 10_000)]
    theirs = [set(outcome) for outcome in evaluator.outcomes(sources, {})]
    ours = [set(github.our_outcome(source, {})) for source in sources]

    assert theirs == [{"value"}, {"error"}, {"error"}]
    assert ours == [{"value"}, {"value"}, {"error"}]
