"""Parts that a re-run reuses stay unchanged, whatever happens to other parts."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.engine.fold.evolve import fold
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


AT_WORK = (
    "jobs:\n  a: {runs-on: web, steps: [{run: work}]}\n"
    "  b: {needs: a, runs-on: web, steps: [{run: work}, {id: two, run: work}, {run: work}]}\n"
    "  c: {needs: b, runs-on: web, steps: [{run: work}]}\n"
)


def test_a_rerun_from_an_instant_reuses_what_had_succeeded_by_then() -> None:
    """At every event of a run: whole jobs, and of the job at work the steps before the first that had not succeeded."""
    scenario = Scenario(AT_WORK)
    scenario.play("connect web-1 web\nstart\nfinish a/1\nfinish b/1\nfinish b/two failure")
    known: list[tuple[list[str], list[str]]] = []
    for seq in range(1, len(scenario.history) + 1):
        past = fold(scenario.run.id, scenario.plan, scenario.history[:seq])
        found = rerun.select_after(past, past.plan)
        assert found.reused is not None
        if (found.reused_names, found.rerun_names) not in known:
            known.append((found.reused_names, found.rerun_names))
    assert known == [([], ["a", "b", "c"]), (["a"], ["b", "c"]), (["a", "b/1"], ["b", "c"])]


def test_a_rerun_from_an_instant_at_which_everything_had_succeeded_is_refused() -> None:
    """There would be nothing to do; the message says so."""
    scenario = Scenario("jobs: {a: {runs-on: web, steps: [{run: work}]}}")
    scenario.play("connect web-1 web\nstart\nfinish a/1")
    with pytest.raises(Rejected, match="had succeeded after event"):
        rerun.select_after(scenario.run, scenario.plan)
