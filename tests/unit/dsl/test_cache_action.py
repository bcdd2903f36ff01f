"""`actions/cache`: a step that restores in its place, and one at the end that saves."""

from __future__ import annotations

import pytest

from waterflowd.dsl import compile_workflow
from waterflowd.model import plan
from waterflowd.model.plan import StepPlan

HEAD = "name: x\njobs:\n  a:\n    runs-on: w\n    steps:\n"


def compiled(steps: str) -> tuple[StepPlan, ...]:
    result = compile_workflow("a.yml", (HEAD + steps).encode())
    assert result.plan is not None, result.diagnostics
    return plan.decode(result.plan).jobs[0].steps


def errors(steps: str) -> list[tuple[str, str, str]]:
    result = compile_workflow("a.yml", (HEAD + steps).encode())
    return [(found.code, found.message, found.suggestion) for found in result.diagnostics]


def test_the_files_are_saved_at_the_end_if_all_has_succeeded_and_the_key_was_not_found() -> None:
    """With the key that the first step has evaluated, and what that one runs with; the last one that restores saves first."""
    steps = compiled(
        """
      - uses: actions/cache@v4
        with: {path: a, key: "k-${{ git.sha }}", restore-keys: k-, scope: server}
      - id: second
        name: Packages
        if: git.branch == 'main'
        env: {HOME: /srv}
        uses: actions/cache@v4.2.0
        with: {path: b, key: b}
      - run: make
"""
    )

    assert [(step.id, step.node, step.name) for step in steps] == [
        ("1", "cache/restore", "actions/cache@v4"),
        ("second", "cache/restore", "Packages"),
        ("3", "shell", "Run make"),
        ("4", "cache/save", "Post Packages"),
        ("5", "cache/save", "Post actions/cache@v4"),
    ]
    saving = steps[4]
    assert saving.params == {"key": "${{ steps['1'].outputs.cache-primary-key }}", "path": "a", "scope": "server"}
    assert saving.condition == (
        "success() && steps['1'].outcome == 'success' && steps['1'].outputs.cache-hit != 'true'"
    )
    assert saving.continue_on_error is True
    assert steps[3].env == {"HOME": "/srv"}
    assert steps[1].condition == "git.branch == 'main'"


def test_the_halves_are_one_step_each() -> None:
    """`actions/cache/restore` and `save` do what their names say."""
    steps = compiled(
        """
      - uses: actions/cache/restore@v4
        with: {path: a, key: k, fail-on-cache-miss: true, enableCrossOsArchive: true}
      - uses: actions/cache/save@v4
        with: {path: a, key: k, upload-chunk-size: 1}
"""
    )
    assert [step.node for step in steps] == ["cache/restore", "cache/save"]


def test_a_condition_saves_at_the_end_of_its_branch() -> None:
    """The step that restores is not visible outside."""
    (step,) = compiled(
        """
      - uses: condition
        with:
          if: true
          then:
            - uses: actions/cache@v4
              with: {path: a, key: k}
            - run: make
"""
    )
    assert [inner.node for inner in step.blocks[0].steps] == ["cache/restore", "shell", "cache/save"]


@pytest.mark.parametrize(
    ("parameters", "message", "suggestion"),
    [
        ("{path: a}", 'cache/restore requires the parameter "key"', "add it under with"),
        ('{path: a, key: "a,b"}', "key: expected text without a comma", ""),
        ("{path: a, key: k, scope: job}", "scope: expected one of shared, server, found", ""),
        ("{path: a, key: k, save-always: true}", 'cache/restore has no parameter "save-always"', "if: always()"),
    ],
)
def test_a_wrong_parameter_is_an_error_with_the_fix(parameters: str, message: str, suggestion: str) -> None:
    """Before a run starts."""
    ((code, text, hint),) = errors(f"\n      - uses: actions/cache@v4\n        with: {parameters}\n")
    assert code == "WF115"
    assert message in text
    assert suggestion in hint
