"""`report` of a job: its forms, and what is wrong with it, each with its location."""

from __future__ import annotations

import pytest

from waterflowd.dsl import Diagnostic, compile_workflow
from waterflowd.dsl.models.report import COLUMNS_MAX
from waterflowd.model import plan as plans

WORKFLOW = """\
jobs:
  a:
    runs-on: {group: web, target: each}
    env: {TOKEN: "${{ secrets.TOKEN }}"}
    outputs: {kernel: "${{ steps.facts.outputs.kernel }}", load: "${{ steps.facts.outputs.load }}"}
    report: REPORT
    steps:
      - {id: facts, run: facts}
"""


def _plan(report: str) -> plans.ReportPlan:
    compiled = compile_workflow("w.yml", WORKFLOW.replace("REPORT", report).encode())
    assert compiled.plan is not None, compiled.diagnostics
    found = plans.decode(compiled.plan).jobs[0].report
    assert found is not None
    return found


def _errors(report: str) -> list[Diagnostic]:
    compiled = compile_workflow("w.yml", WORKFLOW.replace("REPORT", report).encode())
    assert compiled.plan is None
    return compiled.diagnostics


def test_a_list_of_outputs_is_short_for_columns_with_their_values() -> None:
    """The same as with `columns`; names are compared without case, as in expressions."""
    expected = {"kernel": "${{ steps.facts.outputs.kernel }}", "load": "${{ steps.facts.outputs.load }}"}
    assert _plan("[kernel, LOAD]") == plans.ReportPlan(columns=expected)
    assert _plan("{title: All, columns: [kernel, load]}") == plans.ReportPlan(title="All", columns=expected)


def test_columns_keep_their_order() -> None:
    """Numbers and booleans are text."""
    found = _plan("{columns: {Z: '${{ agent.os }}', A: 1.20, M: true}}")
    assert list(found.columns.items()) == [("Z", "${{ agent.os }}"), ("A", "1.20"), ("M", "true")]


@pytest.mark.parametrize(
    ("report", "code", "words", "at"),
    [
        ("[kernal]", "WF106", 'no output "kernal"', "kernal"),
        ("[kernal]", "WF106", 'did you mean "kernel"', "kernal"),
        ("{columns: [kernel, nope]}", "WF106", "known outputs: kernel, load", "nope"),
        ("[kernel, Kernel]", "WF106", 'the column "kernel" is already used', "Kernel"),
        ("[kernel, [x]]", "WF106", "expected the name of an output", "[x]"),
        ("[]", "WF106", "at least one column", "[]"),
        ("kernel", "WF106", "expected a list of outputs or a mapping", "kernel"),
        ("{title: All}", "WF105", "add columns", "report:"),
        ("{title: '${{ run.id }}', columns: [kernel]}", "WF106", "an expression is not allowed here", "'${{ run"),
        ("{columns: [kernel], titel: x}", "WF103", 'did you mean "title"', "titel"),
        ("{columns: {A: x, a: y}}", "WF106", 'the heading "a" is already used, as "A"', "a: y"),
        ("{columns: {Result: x}}", "WF106", "a column that every report has", "Result"),
        ("{columns: {NOTE: x}}", "WF106", "a column that every report has", "NOTE"),
        (f"{{columns: {{{'x' * 61}: x}}}}", "WF106", "1 to 60 characters", "x" * 61),
        ('{columns: {"a\\eb": x}}', "WF106", "can be printed", '"a\\eb"'),
        ("{columns: {A: [x]}}", "WF106", "expected text, not a list", "[x]"),
        ("{columns: {A: ''}}", "WF106", "expected text", "''"),
        ("{columns: {A: '${{ steps.facs.outputs.x }}'}}", "WF125", 'did you mean "facts"', "facs"),
        ("{columns: {A: '${{ secrets.TOKEN }}'}}", "WF129", "a secret cannot be a part of it", "secrets"),
        ("{columns: {A: '${{ env.TOKEN }}'}}", "WF136", "contains a secret", "env.TOKEN"),
        ("{columns: {A: '${{ runner.temp }}'}}", "WF146", "only known on the server", "runner.temp"),
    ],
)
def test_a_mistake_has_a_code_and_a_location(report: str, code: str, words: str, at: str) -> None:
    """It is found before the run, and the caret is under the culprit."""
    (error,) = _errors(report)
    assert error.code == code
    assert words in f"{error.message} {error.suggestion}"
    lines = WORKFLOW.replace("REPORT", report).splitlines()
    assert lines[error.line - 1][error.column - 1 :].startswith(at)


def test_the_number_of_columns_is_bounded() -> None:
    """More than twenty fit neither a page nor a screen."""
    columns = ", ".join(f"C{number}: x" for number in range(COLUMNS_MAX))
    assert len(_plan(f"{{columns: {{{columns}}}}}").columns) == COLUMNS_MAX
    (error,) = _errors(f"{{columns: {{{columns}, one: more}}}}")
    assert f"at most {COLUMNS_MAX} columns" in error.message


def test_a_call_has_no_report_itself() -> None:
    """The jobs of the called workflow have their own."""
    files = {"c.yml": b"on: workflow_call\njobs: {b: {runs-on: web, report: {columns: {A: x}}, steps: [{run: x}]}}"}
    text = b"jobs: {a: {uses: ./c.yml}}"
    compiled = compile_workflow("w.yml", text, files)
    assert compiled.plan is not None
    call = plans.decode(compiled.plan).jobs[0].call
    assert call is not None
    assert call.jobs[0].report == plans.ReportPlan(columns={"A": "x"})
    refused = compile_workflow("w.yml", text.replace(b"c.yml", b"c.yml, report: {columns: {A: x}}"), files)
    assert [error.code for error in refused.diagnostics] == ["WF116"]
