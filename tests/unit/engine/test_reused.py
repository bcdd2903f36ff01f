"""Parts that a re-run reuses stay unchanged, whatever happens to other parts."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflowd.engine.fold.evolve import fold
from waterflowd.engine.rules import rerun
from waterflowd.engine.state.blocks import NODES_IN_AGENT
from waterflowd.model.ids import JobId, RunId
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
    assert known == [([], ["a", "b", "c"]), (["a"], ["b", "c"]), (["a", "b/1"], ["b/two", "b/3", "c"])]


def test_a_rerun_from_an_instant_at_which_everything_had_succeeded_is_refused() -> None:
    """There would be nothing to do; the message says so."""
    scenario = Scenario("jobs: {a: {runs-on: web, steps: [{run: work}]}}")
    scenario.play("connect web-1 web\nstart\nfinish a/1")
    with pytest.raises(Rejected, match="had succeeded after event"):
        rerun.select_after(scenario.run, scenario.plan)


def _continued(scenario: Scenario, start: str) -> Scenario:
    """A re-run of the scenario's run from a step on."""
    again = Scenario(AT_WORK)
    again.reused = rerun.select(scenario.run, scenario.plan, rerun.RerunRequest(start=start)).reused
    return again


def test_a_job_that_starts_at_a_step_runs_only_on_the_server_with_its_directory() -> None:
    """Other servers of the group are free, and get nothing of it; its steps and their names are what the selection says."""
    scenario = Scenario(AT_WORK)
    scenario.play("connect web-1 web\nstart\nfinish a/1\nfinish b/1\nfinish b/two failure")
    chosen = rerun.select(scenario.run, scenario.plan, rerun.RerunRequest(start="b/two"))
    assert (chosen.reused_names, chosen.rerun_names) == (["a", "b/1"], ["b/two", "b/3", "c"])

    again = _continued(scenario, "b/two")
    again.play("connect web-1 web\ndisconnect web-1\nconnect web-2 web\nstart")
    job = again.run.jobs_by_id[JobId("b")]
    assert job.agent is None
    assert "web-1" in job.reason.text
    again.play("connect web-1 web")
    assert job.agent_name == "web-1"


def test_the_next_try_of_a_continued_job_runs_all_of_it_anywhere() -> None:
    """It starts at its first step, in a new directory."""
    source = AT_WORK.replace(
        "b: {needs: a,", "b: {needs: a, retry: {max-attempts: 2, initial-interval: 1s, jitter: 0},"
    )
    scenario = Scenario(source)
    scenario.play(
        "connect web-1 web\nstart\nfinish a/1\nfinish b/1\nfinish b/two failure\nwait 1s\nfinish b/1\nfinish b/two failure"
    )
    again = Scenario(source)
    again.reused = rerun.select(scenario.run, scenario.plan, rerun.RerunRequest(start="b/two")).reused
    again.play("connect web-1 web\nstart\nfinish b/two failure")
    assert again.run.jobs_by_id[JobId("b")].kept is not None
    again.play("wait 1s")
    job = again.run.jobs_by_id[JobId("b")]
    assert (job.number, job.kept) == (2, None)
    assert job.steps[0].last is not None


def test_a_job_whose_reused_steps_ran_on_no_server_needs_no_directory() -> None:
    """It may start on any server: nodes that run in the agent itself leave nothing behind."""
    scenario = Scenario(
        "jobs: {a: {runs-on: web, steps: [{uses: log, with: {message: m}},"
        " {uses: sleep, with: {duration: 1s}}, {id: x, run: y}]}}"
    )
    scenario.play("connect web-1 web\nstart\nfinish a/1\nwait 1s\nfinish a/x failure")
    reused = rerun.select(scenario.run, scenario.plan, rerun.RerunRequest(start="a/x")).reused
    assert reused is not None
    assert reused.directories == {}


def test_nodes_that_run_in_the_agent_are_known() -> None:
    """The engine, which does not know the nodes' records, has the same list."""
    assert {node.name for node in schema.BUILT_IN.values() if node.runs_in is schema.RunsIn.AGENT} == NODES_IN_AGENT


def test_only_the_directory_of_a_job_that_failed_is_kept_and_not_for_ever() -> None:
    """Each reason is a sentence of its own."""
    scenario = Scenario(AT_WORK)
    scenario.play("connect web-1 web\nstart\nfinish a/1\nfinish b/1\nfinish b/two failure")
    succeeded, failed = (scenario.run.jobs_by_id[JobId(name)] for name in "ab")
    assert failed.completed_at is not None
    assert "only the directory of a failed job is kept" in (rerun.directory_problem(succeeded, 0, 1000) or "")
    assert rerun.directory_problem(failed, failed.completed_at + 999, 1000) is None
    assert "is kept for 1 s, and that time is over" in (
        rerun.directory_problem(failed, failed.completed_at + 1000, 1000) or ""
    )
