"""Re-runs of random runs: reused and repeated parts together cover the run, and fit together."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_engine import _FILES, _act, _drain, workflows
from waterflow_agent.errors import Rejected
from waterflowd.engine import events
from waterflowd.engine.rules import rerun
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.records import Reused
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario


def _is_reused(job: Job, reused: Reused) -> bool:
    """Returns whether nothing of the job runs again."""
    if job.id in reused.jobs:
        return True
    children = job.children
    return children is not None and children.scope is None and all(one.id in reused.jobs for one in children.jobs)


def _request(draw: st.DataObject, run: Run) -> rerun.RerunRequest:
    kind = draw.draw(st.sampled_from(["failed", "from", "from-step", "servers"]))
    if kind == "failed":
        return rerun.RerunRequest(is_failed=True)
    if kind == "servers":
        return rerun.RerunRequest(
            servers=draw.draw(st.sampled_from([("failed",), ("not-reached",), ("failed", "not-reached")]))
        )
    job = draw.draw(st.sampled_from(list(run.scope.jobs.values())))
    if kind == "from" or not job.steps:
        return rerun.RerunRequest(start=job.id)
    return rerun.RerunRequest(start=f"{job.id}/{draw.draw(st.sampled_from(job.steps)).id}")


def _check_selection(run: Run, reused: Reused) -> None:
    for job in run.scope.jobs.values():
        if not _is_reused(job, reused):
            continue
        assert job.conclusion is not None
        for need in job.plan.needs:
            assert _is_reused(run.scope.jobs[need], reused), f"{job.id} is reused, and {need} is done again"
    for name in reused.steps:
        assert name not in reused.jobs, "a job is reused as a whole or in part"
    for name, result in reused.jobs.items():
        assert run.jobs_by_id[name].conclusion is result.conclusion  # type: ignore[index]


@settings(max_examples=80, deadline=None)
@given(workflow=workflows(), draw=st.data(), count=st.integers(0, 15))
def test_a_rerun_reuses_only_independent_parts(workflow: str, draw: st.DataObject, count: int) -> None:
    """No reused part depends on a repeated one; the new run ends, repeats no reused part, and runs all the others."""
    first = Scenario(workflow, _FILES)
    first.play("start")
    for _ in range(count):
        first.play(_act(first, draw))
    _drain(first)
    request = _request(draw, first.run)
    try:
        selection = rerun.select(first.run, first.plan, request)
    except Rejected:
        assert request.start is None or "/" in request.start, "a job that the run has can be named"
        return
    reused = selection.reused
    assert reused is not None
    _check_selection(first.run, reused)
    second = Scenario(workflow, _FILES)
    second.reused = reused
    second.play("connect web-1 web slots=1 zone=a\nconnect web-2 web,db slots=2\nstart")
    _drain(second)
    tried = {(event.job, event.step) for event in second.history if isinstance(event, events.AttemptQueued)}
    for job in second.run.jobs:
        known = reused.jobs.get(job.id)
        assert job.conclusion is not None
        if known is not None:
            assert job.conclusion is known.conclusion
            assert job.outputs == known.outputs
            assert not any(owner == job.id or owner.startswith(f"{job.id}/") for owner, _ in tried)
        for step in reused.steps.get(job.id, {}):
            assert (job.id, step) not in tried or job.number > 1
    if selection.rerun_names and not reused.servers:
        ends = {job.id: job.conclusion for job in second.run.scope.jobs.values()}
        again = [job for job in second.run.scope.jobs.values() if not _is_reused(job, reused)]
        assert again, "something is done again"
        assert all(ends[job.id] is not None for job in again)
    assert second.run.conclusion in set(Conclusion)
