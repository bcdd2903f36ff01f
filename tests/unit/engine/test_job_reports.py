"""The values of jobs in their reports: recorded at the end of each job, bounded, and never a reason to fail."""

from __future__ import annotations

from typing import Any

import pytest

from waterflowd.engine.rules import reports, rerun
from waterflowd.model.ids import JobId
from waterflowd.model.reports import Cell, ReportCells
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario

EACH = """\
jobs:
  inspect:
    runs-on: {group: web, target: each}
    report: {columns: {Kernel: "${{ steps.facts.outputs.kernel }}", Free: "${{ steps.disk.outputs.free }} GB"}}
    steps:
      - {id: facts, run: facts}
      - {id: disk, run: disk}
"""


def _values(scenario: Scenario) -> dict[str, dict[str, Cell] | None]:
    return {job.id: None if job.report is None else job.report.values for job in scenario.run.jobs if job.is_instance}


def _cell(expression: str, outputs: str) -> ReportCells:
    """The row of a job with one column, whose step has these outputs."""
    scenario = Scenario(
        f"jobs: {{a: {{runs-on: web, report: {{columns: {{X: {expression}}}}}, steps: [{{id: s, run: x}}]}}}}"
    )
    scenario.play(f"connect web-1 web\nstart\nfinish a/s {outputs}")
    found = scenario.run.jobs[0].report
    assert found is not None
    return found


def test_each_server_has_the_values_of_its_own_job() -> None:
    """A server whose job failed has what its steps had written until then; one that was not reached has none."""
    scenario = Scenario(EACH)
    scenario.play(
        "connect web-1 web\nconnect web-2 web\nconnect web-3 web\ndisconnect web-3\nstart\n"
        "finish inspect[web-1]/facts out.kernel=6.1\nfinish inspect[web-1]/disk out.free=12\n"
        "finish inspect[web-2]/facts out.kernel=5.10\nfinish inspect[web-2]/disk failure exit=1"
    )
    assert _values(scenario) == {
        "inspect[web-1]": {"Kernel": "6.1", "Free": "12 GB"},
        "inspect[web-2]": {"Kernel": "5.10"},
        "inspect[web-3]": None,
    }


def test_a_report_has_no_influence_on_how_its_job_ends() -> None:
    """A value that cannot be evaluated is missing, and the row says which and why; the other values are there."""
    scenario = Scenario(
        'jobs: {a: {runs-on: web, report: {columns: {Bad: "${{ fromJSON(steps.s.outputs.x) }}", Good: "${{ agent.name }}"}},'
        " steps: [{id: s, run: x}]}}"
    )
    scenario.play("connect web-1 web\nstart\nfinish a/s out.x={")
    job = scenario.run.jobs[0]
    assert job.conclusion is Conclusion.SUCCESS
    assert job.report is not None
    assert job.report.values == {"Good": "web-1"}
    assert job.report.problem.startswith("Bad: ")


@pytest.mark.parametrize("text", [f"[{'1,' * 300_000}1]", '{"a":' * 100 + "1" + "}" * 100])
def test_a_value_that_is_too_large_as_json_is_missing(text: str) -> None:
    """The job ends as always, and the row says why."""
    found = _cell("'${{ fromJSON(steps.s.outputs.x) }}'", f"'out.x={text}'")
    if "1,1" in text:
        assert found.values == {}
        assert found.problem.startswith("X: the result is larger than")
    else:
        assert found.problem == ""


def test_white_space_is_no_value() -> None:
    """A command that printed only a newline has said nothing."""
    assert _cell("'${{ steps.s.outputs.x }}'", "'out.x= '").values == {}


@pytest.mark.parametrize(
    ("expression", "outputs", "expected"),
    [
        ("'${{ steps.s.outputs.x }}'", "out.x=text", "text"),
        ("'${{ fromJSON(steps.s.outputs.x) }}'", "out.x=1.5", 1.5),
        ("'${{ fromJSON(steps.s.outputs.x) }}'", "out.x=true", True),
        ("'${{ fromJSON(steps.s.outputs.x) }}'", "out.x=[1,2]", "[ 1, 2 ]"),
        ("'${{ fromJSON(steps.s.outputs.x) }}'", "out.x=9007199254740993", "9007199254740993"),
        ("'${{ steps.s.outputs.x }}'", '"out.x=two \t words and a bell\x07"', r"two words and a bell\x07"),
        ("'${{ steps.s.exit-code }} of 0'", "exit=0", "0 of 0"),
        ("constant", "", "constant"),
    ],
)
def test_a_value_is_one_line(expression: str, outputs: str, expected: Cell) -> None:
    """Numbers and booleans keep their type; spaces are joined, and control characters escaped."""
    if "\\x07" in outputs:
        outputs = outputs.replace("\\x07", "\x07")
    assert _cell(expression, outputs).values == {"X": expected}


@pytest.mark.parametrize("expression", ["'${{ steps.s.outputs.none }}'", "'${{ steps.s.outputs.none }} GB'"])
def test_text_around_expressions_without_values_is_no_value(expression: str) -> None:
    """Units alone would look like a result."""
    assert _cell(expression, "").values == {}


def test_a_long_value_is_cut_with_an_ellipsis() -> None:
    """What is recorded has at most 500 characters."""
    (value,) = _cell("'${{ steps.s.outputs.x }}'", f"out.x={'x' * 10_000}").values.values()
    assert isinstance(value, str)
    assert len(value) == reports.CELL_LENGTH_MAX
    assert value.endswith("…")


def test_the_reports_of_a_run_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that exceeds the limit is recorded without values, and says so."""
    monkeypatch.setattr(reports, "REPORTS_LENGTH_MAX", 10)
    scenario = Scenario(EACH)
    scenario.play(
        "connect web-1 web\nconnect web-2 web\nstart\n"
        + "".join(
            f"finish inspect[web-{n}]/facts out.kernel=6.1.0\nfinish inspect[web-{n}]/disk out.free=1\n" for n in (1, 2)
        )
    )
    first, second = (job.report for job in scenario.run.jobs if job.is_instance)
    assert first is not None
    assert second is not None
    assert (len(first.values), first.problem) == (2, "")
    assert second.values == {}
    assert "have reached" in second.problem


def test_a_rerun_of_failed_servers_keeps_the_values_of_the_others() -> None:
    """The new run's report is complete, although only one server ran again."""
    scenario = Scenario(EACH)
    start = "connect web-1 web\nconnect web-2 web\nstart\n"
    scenario.play(
        start + "finish inspect[web-1]/facts out.kernel=6.1\nfinish inspect[web-1]/disk out.free=12\n"
        "finish inspect[web-2]/facts failure exit=1"
    )
    again = Scenario(EACH)
    again.reused = rerun.select(scenario.run, scenario.plan, rerun.RerunRequest(is_failed=True)).reused
    again.play(start + "finish inspect[web-2]/facts out.kernel=5.10\nfinish inspect[web-2]/disk out.free=3")
    assert _values(again) == {
        "inspect[web-1]": {"Kernel": "6.1", "Free": "12 GB"},
        "inspect[web-2]": {"Kernel": "5.10", "Free": "3 GB"},
    }


def test_each_combination_of_a_matrix_has_values() -> None:
    """Columns see the values of the matrix."""
    scenario = Scenario(
        "jobs: {a: {runs-on: web, strategy: {matrix: {n: [1, 2]}}, outputs: {twice: '${{ matrix.n * 2 }}'},"
        " report: [twice], steps: [{run: x}]}}"
    )
    scenario.play("connect web-1 web slots=2\nstart\nfinish a[1]/1\nfinish a[2]/1")
    found: dict[str, Any] = {job.id: job.report for job in scenario.run.jobs if job.is_instance}
    assert found == {
        "a[1]": ReportCells(values={"twice": 2}),
        "a[2]": ReportCells(values={"twice": 4}),
    }
    assert scenario.run.jobs_by_id[JobId("a")].report is None
