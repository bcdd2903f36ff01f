"""Runs in JSON: the size of the answer is limited, and unsuccessful parts come first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from waterflowd.api.runs import run_lookup
from waterflowd.api.schemas import jobs as schemas
from waterflowd.api.schemas.runs import RunSchema
from waterflowd.ctl.display import run_tree
from waterflowd.ctl.display.terminal import glyph
from waterflowd.dsl import compile_workflow
from waterflowd.engine import Run, events, fold
from waterflowd.engine.state.blocks import Attempt
from waterflowd.model import plan as plans
from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.reasons import CREATED, ReasonCode, reason
from waterflowd.model.records import Reused, ReusedJob, ReusedStep, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion

EACH = """\
jobs:
  roll:
    runs-on: {group: web, target: each}
    steps: [{id: one, run: x}, {id: two, run: x}]
  after: {runs-on: web, needs: roll, steps: [{run: x}]}
"""
LOOP = """\
jobs:
  a:
    runs-on: web
    steps:
      - id: all
        uses: loop
        with: {items: [1], steps: [{id: in, run: x}]}
"""
PARTS = frozenset({"jobs", "steps", "blocks"})


def made(text: str, *history: events.RunEvent, **created: Any) -> Run:
    """Returns a run of the file after these events."""
    compiled = compile_workflow("w.yml", text.encode())
    assert compiled.plan is not None, compiled.diagnostics
    first = events.RunCreated(
        at=1, plan_hash="h", number=1, trigger=Trigger(kind=TriggerKind.CLI), deadline_at=10, reason=CREATED, **created
    )
    begun = events.RunStarted(at=2, reason=CREATED)
    return fold(RunId("01J00000000000000000000000"), plans.decode(compiled.plan), [first, begun, *history])


def ready(job: str) -> events.JobReady:
    return events.JobReady(
        at=3, job=JobId(job), name=job, group="web", timeout_ms=1, start_deadline_at=9, reason=CREATED
    )


def completed(job: str, conclusion: Conclusion, outputs: dict[str, Any] | None = None) -> events.JobCompleted:
    return events.JobCompleted(
        at=9, job=JobId(job), outcome=conclusion, conclusion=conclusion, outputs=outputs or {}, reason=CREATED
    )


def instances(count: int) -> list[events.RunEvent]:
    made = [events.Instance(key=f"web-{n}", agent=AgentId(f"{n}"), agent_name=f"web-{n}") for n in range(count)]
    return [ready("roll"), events.JobExpanded(at=4, job=JobId("roll"), instances=made, reason=CREATED)]


def rows(found: Any) -> Iterator[dict[str, Any]]:
    """Returns all jobs, steps and blocks of an answer."""
    for name in PARTS & found.keys():
        for row in found[name]:
            yield row
            yield from rows(row)


def displayed(run: Run) -> dict[str, Any]:
    """Returns the answer as a client receives it."""
    content = msgspec.json.encode(RunSchema.of_run(run))
    msgspec.json.decode(content, type=RunSchema)
    found: dict[str, Any] = json.loads(content)
    return found


def test_a_run_on_thousands_of_servers_is_truncated_in_the_response() -> None:
    """All jobs of the file, a hundred instances including the failed ones, and counts of all of them."""
    ends = [
        completed(f"roll[web-{n}]", Conclusion.FAILURE if n in (7, 3_999) else Conclusion.SUCCESS) for n in range(4_000)
    ]
    run = made(EACH, *instances(4_096), *ends)
    found = displayed(run)
    roll, after = found["jobs"]
    assert (after["id"], roll["jobs_total"], len(roll["jobs"])) == ("after", 4_096, schemas.LIST_MAX)
    assert roll["counts"] == {"success": 3_998, "failure": 2, "queued": 96}
    assert [row["id"] for row in roll["jobs"] if row["conclusion"] == "failure"] == ["roll[web-7]", "roll[web-3999]"]
    assert len(json.dumps(found)) < 300_000


def test_a_loop_of_thousands_of_iterations_is_truncated_in_the_response() -> None:
    """The answer includes the total number."""
    part: dict[str, Any] = {"job": JobId("a"), "step": StepId("all")}
    passes = 5_000
    run = made(
        LOOP,
        ready("a"),
        events.StepEntered(at=4, count=passes, items=list(range(passes)), max_parallel=passes, reason=CREATED, **part),
        *(events.BlockStarted(at=5, number=number, **part) for number in range(passes)),
    )
    step = displayed(run)["jobs"][0]["steps"][0]
    assert (step["blocks_total"], step["counts"], len(step["blocks"])) == (passes, {"running": passes}, 100)
    assert (step["blocks"][7]["item"], step["blocks"][7]["steps"][0]["id"]) == (7, "all[7]/in")


def test_the_whole_response_is_bounded() -> None:
    """With many jobs of many instances each, all jobs of the file are shown, and the rows below them are limited."""
    names = [f"roll{n}" for n in range(100)]
    text = "jobs:\n" + "".join(
        f"  {name}:\n    runs-on: {{group: web, target: each}}\n    steps: [{{run: x}}]\n" for name in names
    )
    many = [events.Instance(key=f"web-{n}", agent=AgentId(f"{n}"), agent_name=f"web-{n}") for n in range(50)]
    history: list[events.RunEvent] = []
    for name in names:
        history += [ready(name), events.JobExpanded(at=4, job=JobId(name), instances=many, reason=CREATED)]
    found = displayed(made(text, *history))
    assert [job["id"] for job in found["jobs"]] == names
    assert all(job["jobs_total"] == 50 for job in found["jobs"])
    assert len(list(rows(found))) == len(names) + schemas.ROWS_MAX


def test_steps_count_as_rows() -> None:
    """All instances are shown, and the steps of the first ones."""
    text = "jobs:\n  roll:\n    runs-on: {group: web, target: each}\n    steps:\n" + "      - run: x\n" * 600
    found = displayed(made(text, *instances(50)))
    shown = found["jobs"][0]["jobs"]
    assert (found["jobs"][0]["jobs_total"], len(shown)) == (50, 50)
    assert [len(job["steps"]) for job in shown] == [100, 100, 50, *[0] * 47]
    assert all(job["steps_total"] == 600 for job in shown)


def test_a_file_with_thousands_of_steps_is_truncated_in_the_response() -> None:
    """All jobs, at most a hundred steps of each, and the failed step first, wherever it is."""
    names = [f"j{n}" for n in range(10)]
    text = "jobs:\n" + "".join(
        f"  {name}:\n    runs-on: web\n    steps:\n" + "      - run: x\n" * 1_000 for name in names
    )
    part: dict[str, Any] = {"job": JobId("j9"), "step": StepId("900")}
    skipped = [
        events.StepCompleted(
            at=5,
            job=JobId("j9"),
            step=StepId(f"{number}"),
            outcome=Conclusion.SKIPPED,
            conclusion=Conclusion.SKIPPED,
            reason=CREATED,
        )
        for number in range(1, 900)
    ]
    failed = events.StepCompleted(
        at=6, outcome=Conclusion.FAILURE, conclusion=Conclusion.FAILURE, reason=CREATED, **part
    )
    run = made(text, ready("j9"), *skipped, failed)
    found = displayed(run)
    assert [(job["id"], job["steps_total"]) for job in found["jobs"]] == [(name, 1_000) for name in names]
    assert [step["id"] for step in found["jobs"][9]["steps"]] == [*(f"{n}" for n in range(1, 100)), "900"]
    assert len(list(rows(found))) == len(names) + schemas.ROWS_MAX
    lines = list(run_tree.lines(found))
    assert sum("900 more steps" in line for line in lines) == 3
    assert any(line.endswith("1000 more steps") for line in lines)


def test_many_attempts_count_as_rows() -> None:
    """Each step has its newest attempt, and older ones as far as there is space."""
    text = "jobs:\n  a:\n    runs-on: web\n    steps:\n" + "      - run: x\n" * 90
    run = made(text)
    for step in run.jobs[0].steps:
        step.attempts += [Attempt(AttemptNo(number), 1) for number in range(1, 51)]
    steps = displayed(run)["jobs"][0]["steps"]
    assert len(steps) == 90
    assert all(step["attempts"][-1]["attempt"] == 50 for step in steps)
    assert sum(len(step["attempts"]) for step in steps) == 90 + schemas.ROWS_MAX


def test_outputs_below_the_file_s_jobs_are_bounded_and_null_beyond() -> None:
    """The first ones are shown completely, the others not at all."""
    large = {"text": "x" * 900_000}
    run = made(EACH, *instances(5), *(completed(f"roll[web-{n}]", Conclusion.SUCCESS, large) for n in range(5)))
    outputs = [row["outputs"] for row in displayed(run)["jobs"][0]["jobs"]]
    assert outputs == [large, large, None, None, None]


def test_the_first_value_always_fits() -> None:
    """A page of one row therefore contains it."""
    budget = schemas.Budget()
    huge = {"text": "x" * (3 << 20)}
    assert budget.value(huge) == huge
    assert budget.value({"a": 1}) is None
    assert budget.value({}) == {}


def test_a_rerun_shows_how_much_it_reuses() -> None:
    """The answer also names the run that they are reused from."""
    reused = Reused(
        run=RunId("01J00000000000000000000001"),
        jobs={"roll": ReusedJob(conclusion=Conclusion.SUCCESS)},
        steps={"after": {"1": ReusedStep(outcome=Conclusion.SUCCESS, conclusion=Conclusion.SUCCESS)}},
        servers={"roll": ["web-1"]},
    )
    found = displayed(made(EACH, reused=reused))
    assert found["reused"] == {"run": reused.run, "jobs": 1, "steps": 1, "servers": {"roll": ["web-1"]}}
    assert found["rerun_of"] == reused.run


def test_a_part_is_read_as_the_longest_existing_job() -> None:
    """Ids of jobs and steps may contain slashes and brackets."""
    run = made(EACH, *instances(2))
    assert run_lookup.split_part(run, "roll[web-1]/two") == ("roll[web-1]", "two")
    assert run_lookup.split_part(run, "roll[web-1]") == ("roll[web-1]", None)
    assert run_lookup.split_part(run, "roll/one") == ("roll", "one")
    assert run_lookup.is_within("roll[web-1]", "roll")
    assert not run_lookup.is_within("rolling", "roll")


CHILD_RUN = "jobs: {a: {runs-on: web, steps: [{id: other, uses: workflow/run, with: {workflow: w.yml}}]}}"


def test_a_step_and_its_child_run_name_each_other() -> None:
    """The payload of another kind of trigger with the same content is ignored."""
    compiled = compile_workflow("w.yml", CHILD_RUN.encode(), {"w.yml": CHILD_RUN.encode()})
    assert compiled.plan is not None, compiled.diagnostics
    part: dict[str, Any] = {"job": JobId("a"), "step": StepId("other"), "attempt": AttemptNo(1)}
    other = RunId("01J00000000000000000000001")
    about = {"id": "01J00000000000000000000000", "job": "a", "step": "other", "attempt": 1, "depth": 1}
    for kind, known in (
        (TriggerKind.PARENT_RUN, {"run": about["id"], "job": "a", "step": "other", "attempt": 1}),
        (TriggerKind.WEBHOOK, None),
    ):
        trigger = Trigger(kind=kind, payload={"name": kind, "parent_run": about})
        history: list[events.RunEvent] = [
            events.RunCreated(at=1, plan_hash="h", number=1, trigger=trigger, deadline_at=10, reason=CREATED),
            events.RunStarted(at=2, reason=CREATED),
            ready("a"),
            events.AttemptQueued(at=4, **part),
            events.ChildRunRequested(at=4, **part, workflow="w.yml", reason=CREATED),
            events.ChildRunStarted(at=5, **part, run=other, reason=CREATED),
        ]
        found = displayed(fold(RunId("01J00000000000000000000002"), plans.decode(compiled.plan), history))
        assert found["parent_run"] == known
        step = found["jobs"][0]["steps"][0]
        assert step["status"] == "waiting"
        assert step["attempts"][0]["child_run"] == other


@pytest.mark.parametrize("conclusion", [Conclusion.SKIPPED, Conclusion.CANCELLED, Conclusion.FAILURE])
def test_steps_of_a_job_that_never_started_are_skipped_with_its_reason(conclusion: Conclusion) -> None:
    """A completed run has no queued steps; a step that never ran has no outcome."""
    skip_reason = reason(ReasonCode.NEEDS, 'needs job "a", which ended failure')
    end = events.JobCompleted(at=9, job=JobId("after"), outcome=conclusion, conclusion=conclusion, reason=skip_reason)
    found = displayed(made(EACH, end))
    (step,) = next(job for job in found["jobs"] if job["id"] == "after")["steps"]
    assert (step["status"], step["conclusion"], step["outcome"]) == ("completed", "skipped", None)
    assert step["reason"] == {"code": "needs", "text": skip_reason.text}
    assert (step["attempts"], step["started_at"]) == ([], None)
    # The steps of a job that was skipped are not listed below it, and no reason is repeated.
    drawn = [line for line in run_tree.lines(found) if skip_reason.text in line]
    assert len(drawn) == 1
    assert glyph("completed", conclusion.value) in drawn[0]
    assert "after" in drawn[0]
