"""Parts that a re-run reuses stay unchanged, whatever happens to other parts."""

from __future__ import annotations

from waterflowd.engine.rules import rerun
from waterflowd.model.ids import RunId
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import Reused, ReusedJob
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario

MATRIX = "jobs: {a: {strategy: {matrix: {x: [1, 2, 3]}, max-parallel: 1}, runs-on: web, steps: [{run: work}]}}"


def test_reused_instances_stay_when_another_one_fails_again() -> None:
    """Fail-fast cancels only instances that have not started; instances reused from the earlier run are not affected."""
    scenario = Scenario(MATRIX)
    scenario.reused = Reused(
        run=RunId("01J00000000000000000000001"), jobs={"a[2]": ReusedJob(conclusion=Conclusion.SUCCESS)}
    )
    scenario.play("connect web-1 web\nstart\nfinish a[1]/1 failure")
    ends = {str(job.id): job for job in scenario.run.jobs}
    assert ends["a[1]"].conclusion is Conclusion.FAILURE
    assert ends["a[2]"].conclusion is Conclusion.SUCCESS
    assert ends["a[2]"].reason.code is ReasonCode.REUSED
    assert ends["a[3]"].conclusion is Conclusion.CANCELLED
    assert scenario.run.conclusion is Conclusion.FAILURE


def test_dependants_of_a_repeated_part_are_repeated() -> None:
    """This applies to indirect dependants that succeeded, too: they used results that are no longer valid."""
    scenario = Scenario(
        "jobs:\n  a: {runs-on: web, steps: [{run: work}]}\n"
        "  b: {needs: a, if: always(), runs-on: web, steps: [{run: work}]}\n"
        "  c: {needs: b, if: always(), runs-on: web, steps: [{run: work}]}\n"
        "  d: {runs-on: web, steps: [{run: work}]}\n"
    )
    scenario.play("connect web-1 web\nstart\nfinish a/1 failure\nfinish b/1\nfinish c/1\nfinish d/1")
    reused = rerun.select(scenario.run, scenario.plan, rerun.RerunRequest(is_failed=True)).reused
    assert reused is not None
    assert list(reused.jobs) == ["d"]
