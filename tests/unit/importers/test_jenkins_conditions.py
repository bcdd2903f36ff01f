"""`when` of Jenkins: the condition is true for the same branches."""

from __future__ import annotations

import re

import pytest

from waterflowd import expr
from waterflowd.importers.jenkins import conditions, groovy

BRANCHES = ("main", "release", "release-1", "release-1/x", "feature/a", "feature/a/b", "a-fix", "x/a-fix", "f", "")


def _condition(when: str) -> tuple[str, list[str]]:
    decisions: list[str] = []
    (statement,) = groovy.parse(f"when {{ {when} }}")
    return conditions.of_when(statement, decisions.append), decisions


def _matched(when: str) -> set[str]:
    condition, decisions = _condition(when)
    assert decisions == []
    parsed = expr.parse(condition)
    return {
        branch
        for branch in BRANCHES
        if expr.evaluate_condition(parsed, expr.Env(contexts={"git": {"branch": branch or None}}))
    }


def _ant(pattern: str) -> set[str]:
    """The branches that Ant's rules select."""
    if pattern == "**":
        return {branch for branch in BRANCHES if branch}
    folder = pattern.removesuffix("/**")
    text = re.sub(r"(\\\*)+", "[^/]*", re.escape(folder)) + ("/.*" if folder != pattern else "")
    return {branch for branch in BRANCHES if branch and re.fullmatch(text, branch)}


@pytest.mark.parametrize(
    "pattern", ["main", "release-*", "release-**", "feature/*", "feature/**", "*-fix", "*", "**", "x/*"]
)
def test_a_pattern_selects_the_same_branches(pattern: str) -> None:
    """A star ends at a slash, as in Jenkins, also in a negation."""
    assert _matched(f"branch '{pattern}'") == _ant(pattern)
    assert _matched(f"not {{ branch '{pattern}' }}") == set(BRANCHES) - _ant(pattern)


@pytest.mark.parametrize("pattern", ["a*b", "**/x", "r-[0-9]*", "?"])
def test_other_patterns_are_decisions(pattern: str) -> None:
    """They never become something similar."""
    condition, decisions = _condition(f"branch '{pattern}'")
    assert condition == "false"
    assert decisions == [f"when has no counterpart for {pattern}, so it is false"]


def test_what_cannot_be_computed_is_false_also_in_a_negation() -> None:
    """Otherwise a stage would run because something is not known."""
    assert _condition("not { branch 'a*b' }")[0] == "false"
    assert (
        _condition("anyOf { branch 'main'; not { anyOf { branch 'a*b'; branch 'x' } } }")[0]
        == "git.branch == 'main' || false"
    )
