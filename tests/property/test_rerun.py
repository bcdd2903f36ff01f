"""Re-runs of random runs: reused and repeated parts together cover the run, and fit together."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_engine import _FILES, _act, _drain, workflows
from waterflow_agent.errors import Rejected
from waterflowd.engine import events
from waterflowd.engine.rules import rerun
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.records import Kept
from waterflowd.model.statuses import Conclusion
from waterflowd.testing.scenario import Scenario


def _is_kept(job: Job, kept: Kept) -> bool:
    """Returns whether nothing of the job runs again."""
    if job.id in kept.jobs:
        return True
    children = job.children
    return children is not None and children.scope is None and all(one.id in kept.jobs for one in children.jobs)


def _wish(draw: st.DataObject, run: Run) -> rerun.Wish:
    kind = draw.draw(st.sampled_from(["failed", "from", "from-step", "servers"]))
    if kind == "failed":
        return rerun.Wish(is_failed=True)
    if kind == "servers":
        return rerun.Wish(
            servers=draw.draw(st.sampled_from([("failed",), ("not-reached",), ("failed", "not-reached")]))
        )
    job = draw.draw(st.sampled_from(list(run.scope.jobs.values())))
    if kind == "from" or not job.steps:
        return rerun.Wish(start=job.id)
    return rerun.Wish(start=f"{job.id}/{draw.draw(st.sampled_from(job.steps)).id}")


def _check_selection(run: Run, kept: Kept) -> None:
    for job in run.scope.jobs.values():
        if not _is_kept(job, kept):
            continue
        assert job.conclusion is not None
        for need in job.plan.needs:
            assert _is_kept(run.scope.jobs[need], kept), f"{job.id} is kept, and {need} is done again"
    for name in kept.steps:
        assert name not in kept.jobs, "a job is kept as a whole or in part"
    for name, result in kept.jobs.items():
        assert run.jobs_by_id[name].conclusion is result.conclusion  # type: ignore[index]


@settings(max_examples=80, deadline=None)
@given(workflow=workflows(), draw=st.data(), count=st.integers(0, 15))
def test_what_is_kept_and_what_is_done_again(workflow: str, draw: st.DataObject, count: int) -> None:
    """No reused part depends on a repeated one; the new run ends, repeats no reused part, and runs all the others."""
    first = Scenario(workflow, _FILES)
    first.play("start")
    for _ in range(count):
        first.play(_act(first, draw))
    _drain(first)
    wish = _wish(draw, first.run)
    try:
        selection = rerun.select(first.run, first.plan, wish)
    except Rejected:
        assert wish.start is None or "/" in wish.start, "a job that the run has can be named"
        return
    kept = selection.kept
    assert kept is not None
    _check_selection(first.run, kept)
    second = Scenario(workflow, _FILES)
    second.kept = kept
    second.play("connect web-1 web slots=1 zone=a\nconnect web-2 web,db slots=2\nstart")
    _drain(second)
    tried = {(event.job, event.step) for event in second.history if isinstance(event, events.AttemptQueued)}
    for job in second.run.jobs:
        known = kept.jobs.get(job.id)
        assert job.conclusion is not None
        if known is not None:
            assert job.conclusion is known.conclusion
            assert job.outputs == known.outputs
            assert not any(owner == job.id or owner.startswith(f"{job.id}/") for owner, _ in tried)
        for step in kept.steps.get(job.id, {}):
            assert (job.id, step) not in tried or job.number > 1
    if selection.again_names and not kept.servers:
        ends = {job.id: job.conclusion for job in second.run.scope.jobs.values()}
        again = [job for job in second.run.scope.jobs.values() if not _is_kept(job, kept)]
        assert again, "something is done again"
        assert all(ends[job.id] is not None for job in again)
    assert second.run.conclusion in set(Conclusion)
