"""Nested blocks: once a block has timed out, or is cancelled or skipped, nothing inside it starts, at any depth."""

from __future__ import annotations

import pytest

from waterflowd.engine import events
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario

LOOPS = """
jobs:
  a:
    runs-on: {group: web, target: each, offline: skip}
    steps:
      - uses: loop
        timeout-minutes: 1
        with:
          items: [1, 2]
          steps:
            - uses: loop
              with:
                while: "true"
                max-iterations: 500
                steps: [{run: work}]
"""


@pytest.mark.parametrize("script", ["wait 2m\nfinish a[web-1]/1[0]/1[0]/1 timed-out", "disconnect web-1"])
def test_an_inner_loop_starts_no_iteration_after_the_outer_one_has_ended(script: str) -> None:
    """The outer loop has timed out, or its job is skipped."""
    scenario = Scenario(LOOPS)
    slots = 0 if "disconnect" in script else 1
    scenario.play(f"connect web-1 web slots={slots}\nstart\n{script}")
    assert scenario.run.is_completed
    assert sum(isinstance(event, events.BlockStarted) for event in scenario.history) == 2


CALLEE = {
    "workflows/callee.yml": """
on: {workflow_call: {}}
jobs:
  work: {runs-on: web, steps: [{run: work}]}
  tidy: {needs: work, if: always(), runs-on: web, steps: [{run: tidy}]}
  more: {needs: work, runs-on: web, steps: [{run: more}]}
"""
}


def test_after_a_cancel_jobs_of_a_called_workflow_run_by_their_own_if() -> None:
    """They behave like jobs of the file itself: those with `always()` run, the others are cancelled."""
    scenario = Scenario("jobs: {call: {uses: ./workflows/callee.yml}}", CALLEE)
    scenario.play("connect web-1 web\nstart\ncancel\nfinish call/work/1 cancelled\nfinish call/tidy/1")
    ends = {str(job.id): job.conclusion for job in scenario.run.jobs}
    assert ends["call/tidy"] is Conclusion.SUCCESS
    assert ends["call/more"] is ends["call"] is scenario.run.conclusion is Conclusion.CANCELLED


def test_a_call_that_starts_after_a_cancel_runs() -> None:
    """A job whose `if` starts it after the cancel is not affected, and neither are the jobs that it calls."""
    scenario = Scenario(
        "jobs:\n  a: {runs-on: web, steps: [{run: work}]}\n"
        "  clean: {needs: a, if: always(), uses: ./workflows/callee.yml}\n",
        CALLEE,
    )
    scenario.play("connect web-1 web\nstart\ncancel\nfinish a/1 cancelled")
    scenario.play("finish clean/work/1\nfinish clean/tidy/1\nfinish clean/more/1")
    assert all(job.conclusion is Conclusion.SUCCESS for job in scenario.run.jobs if job.id.startswith("clean"))
    assert scenario.run.conclusion is Conclusion.CANCELLED
