"""Names of jobs and steps as people see them, whatever becomes of their expressions."""

from __future__ import annotations

import pytest

from waterflowd.model.ids import JobId
from waterflowd.model.plan import without_expressions
from waterflowd.testing.scenario import Scenario

WORKFLOW = """
jobs:
  a:
    runs-on: web
    name: Job ${{ run.number }}
    steps:
      - {run: work}
      - {name: "Deploy ${{ run.number }} to ${{ run.id }}", run: work}
      - {name: "Clean up ${{ run.number }}", if: always(), run: work}
"""


@pytest.mark.parametrize(
    ("name", "displayed"),
    [
        ("Build", "Build"),
        ("Build ${{ inputs.x }} and ${{\n'}' }}.", "Build … and …."),
        ("Build ${{ cut in the mid", "Build …"),
        ("$ {{ }}", "$ {{ }}"),
    ],
)
def test_an_expression_in_a_name_is_an_ellipsis(name: str, displayed: str) -> None:
    """Also one that was cut, as in the first line of a script."""
    assert without_expressions(name) == displayed


def test_a_step_that_is_skipped_shows_no_expression() -> None:
    """Its name was never rendered; that of a step that runs is."""
    scenario = Scenario(WORKFLOW)
    scenario.play("start")
    job = scenario.run.jobs_by_id[JobId("a")]
    assert [step.name for step in job.steps] == ["Run work", "Deploy … to …", "Clean up …"]
    scenario.play("connect web-1 web\nfinish a/1 failure")
    assert job.name == "Job 1"
    assert [step.name for step in job.steps] == ["Run work", "Deploy … to …", "Clean up 1"]
