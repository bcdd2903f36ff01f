"""Whatever a file holds, the answer is a plan or diagnostics with places, and the same one again."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from waterflowd.dsl import compile_workflow, render_diagnostic
from waterflowd.dsl.places import snippet
from waterflowd.model import plan

_SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

BASE = """\
name: everything
on: {push: {branches: [main]}, manual: {inputs: {who: {default: x}, n: {type: number}}}}
vars: {a: 1, b: "${{ vars.a }}"}
env: {A: 1.20}
jobs:
  build: &job
    runs-on: ${{ vars.a }}-servers
    if: always() && inputs.n > 1
    outputs: {x: "${{ steps.one.outputs.x }}"}
    steps:
      - id: one
        run: |
          echo "${{ inputs.who }}"
        retry: {max-attempts: 3, on: [failure, exit:75]}
      - uses: sleep
        with: {duration: 2s}
  deploy: {<<: *job, needs: build}
"""

_words = st.sampled_from(
    [
        "jobs",
        "steps",
        "run",
        "uses",
        "with",
        "needs",
        "on",
        "push",
        "if",
        "env",
        "runs-on",
        "<<",
        "${{ run.id }}",
        "${{",
    ]
) | st.text(max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=12,
)


def check(content: bytes) -> None:
    compiled = compile_workflow("w.yml", content)
    assert compiled == compile_workflow("w.yml", content)
    assert (compiled.plan is None) == bool(compiled.diagnostics)
    if compiled.plan is not None:
        decoded = plan.decode(compiled.plan)
        assert plan.encode(decoded) == compiled.plan
        assert decoded.jobs
    lines = content.decode("utf-8", "replace").count("\n") + content.count(b"\r") + 1
    for error in compiled.diagnostics:
        assert 1 <= error.line <= lines
        assert error.column >= 1
        assert 1 <= error.caret <= len(error.snippet) + 1
        assert len(error.message) < 2_000
        assert all(character.isprintable() or character == "\n" for character in render_diagnostic(error))


@_SETTINGS
@given(st.binary(max_size=300))
def test_any_bytes_are_answered(content: bytes) -> None:
    """No bytes make the compiler raise."""
    check(content)


@_SETTINGS
@given(st.text(st.sampled_from("ab:- \n\t[]{}&*!|>'\"#%@,?${}<.~1"), max_size=120))
def test_any_yaml_like_text_is_answered(text: str) -> None:
    """Nor does what looks like YAML."""
    check(text.encode())


@_SETTINGS
@given(_values)
def test_any_structure_is_answered(value: object) -> None:
    """Nor does YAML of the wrong shape; every JSON value is YAML."""
    import json

    check(f"jobs: {json.dumps(value)}".encode())
    check(f"jobs: {{j: {json.dumps(value)}}}".encode())
    check(f"jobs: {{j: {{runs-on: g, steps: [{json.dumps(value)}]}}}}".encode())
    check(f"{{on: {json.dumps(value)}, jobs: {{j: {{runs-on: g, steps: [{{run: x}}]}}}}}}".encode())


@_SETTINGS
@given(st.data())
def test_a_damaged_workflow_is_answered(data: st.DataObject) -> None:
    """A good file with a piece cut out or put in is good or has errors inside of it."""
    start = data.draw(st.integers(0, len(BASE)))
    end = data.draw(st.integers(start, min(len(BASE), start + 20)))
    inserted = data.draw(_words | st.sampled_from(["\n", ":", "- ", "  ", "'", "[", "*job", "\t"]))
    check((BASE[:start] + inserted + BASE[end:]).encode())


@_SETTINGS
@given(st.text(max_size=400), st.integers(1, 500))
def test_a_snippet_is_bounded_and_printable(line: str, column: int) -> None:
    """And its caret points into it."""
    text, caret = snippet(line, column)
    assert text.isprintable()
    assert len(text) <= 1_300
    assert 1 <= caret <= len(text) + 1


def test_the_base_of_these_tests_compiles() -> None:
    """Otherwise the damage would be no damage."""
    assert compile_workflow("w.yml", BASE.encode()).plan is not None
