"""From the models to a plan: what one key cannot know alone is checked here, across the whole file.

Rules of this file: everything is reported, nothing is raised. A plan is meaningful only when the report stays empty;
then it holds each expression as text that was parsed once and whose names exist.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from waterflowd import expr
from waterflowd.dsl import codes, schema
from waterflowd.dsl.environment import check_environment
from waterflowd.dsl.expressions import Expressions, Names, Place
from waterflowd.dsl.ids import Ids
from waterflowd.dsl.needs import check_needs
from waterflowd.dsl.places import quoted
from waterflowd.dsl.report import Report
from waterflowd.dsl.steps import Steps
from waterflowd.dsl.tree import Document, Path, plain
from waterflowd.dsl.triggers import build_inputs, build_triggers
from waterflowd.model.ids import JobId
from waterflowd.model.plan import JobPlan, Json, Plan, StepPlan

JOBS_MAX = 256
STEPS_PER_JOB_MAX = 1_000
STEPS_MAX = 10_000

#: The built-in group of every server: known, not built yet.
_ALL_SERVERS = "all-servers"
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def build(path: str, workflow: schema.Workflow, document: Document, report: Report) -> Plan:
    """The plan of a workflow; only of use when the report is empty afterwards."""
    return _Build(path, workflow, document, report).plan()


class _Build:
    """One file on its way to a plan."""

    def __init__(self, path: str, workflow: schema.Workflow, document: Document, report: Report) -> None:
        self._path = path
        self._workflow = workflow
        self._document = document
        self._report = report
        self._expressions = Expressions(document, report)
        self._steps = Steps(document, report, self._expressions)

    def plan(self) -> Plan:
        """Checks everything and builds what can be built."""
        workflow = self._workflow
        self._check_bounds()
        triggers = build_triggers(workflow, self._document, self._report)
        inputs = build_inputs(workflow, self._document, self._report)
        names = Names(
            inputs=[spec.name for spec in inputs],
            variables=list(workflow.vars) if workflow.vars else None,
            jobs=list(workflow.jobs),
        )
        variables = self._variables(names)
        check_environment(("env",), workflow.env, self._document, self._report)
        self._expressions.value(("env",), workflow.env, names.for_workflow())
        needs = check_needs({job: wanted.needs for job, wanted in workflow.jobs.items()}, self._document, self._report)
        return Plan(
            name=workflow.name or PurePosixPath(self._path).stem,
            path=self._path,
            description=workflow.description,
            triggers=triggers,
            inputs=inputs,
            vars=variables,
            env=dict(workflow.env),
            timeout_ms=_milliseconds(workflow.timeout_minutes),
            jobs=self._jobs(names, needs),
        )

    def _check_bounds(self) -> None:
        jobs = self._workflow.jobs
        if len(jobs) > JOBS_MAX:
            text = f"{len(jobs):,} jobs, a workflow may have {JOBS_MAX}"
            self._report.add(self._document.key_start(("jobs",)), codes.BOUND, text, "split it into several workflows")
        for name, job in jobs.items():
            if len(job.steps) > STEPS_PER_JOB_MAX:
                text = f"{len(job.steps):,} steps, a job may have {STEPS_PER_JOB_MAX:,}"
                self._report.add(self._document.key_start(("jobs", name, "steps")), codes.BOUND, text, "split the job")
        steps = sum(len(job.steps) for job in jobs.values())
        if steps > STEPS_MAX:
            text = f"{steps:,} steps, a workflow may have {STEPS_MAX:,}"
            self._report.add(self._document.key_start(("jobs",)), codes.BOUND, text, "split it into several workflows")

    def _variables(self, names: Names) -> dict[str, Json]:
        ids = Ids("variable", self._report)
        earlier: list[str] = []
        for name, value in self._workflow.vars.items():
            ids.take(name, self._document.key_start(("vars", name)))
            if not expr.is_static(value):
                self._expressions.value(("vars", name), value, names.for_variable(tuple(earlier)))
            earlier.append(name)
        return {name: plain(value) for name, value in self._workflow.vars.items()}

    def _jobs(self, names: Names, needs: Mapping[str, tuple[str, ...]]) -> tuple[JobPlan, ...]:
        ids = Ids("job", self._report)
        jobs: list[JobPlan] = []
        for name, job in self._workflow.jobs.items():
            ids.take(name, self._document.key_start(("jobs", name)))
            jobs.append(self._job(name, job, names, needs[name]))
        return tuple(jobs)

    def _job(self, name: str, job: schema.Job, names: Names, needs: tuple[str, ...]) -> JobPlan:
        path: Path = ("jobs", name)
        # A need that does not exist is one error, and not one more for each expression that names it.
        wanted = tuple(job.needs)
        place = names.for_job(wanted)
        self._expressions.condition((*path, "if"), job.if_, place)
        for key, value in (
            ("name", job.name),
            ("timeout-minutes", job.timeout_minutes),
            ("continue-on-error", job.continue_on_error),
        ):
            self._expressions.value((*path, key), value, place)
        self._expressions.value((*path, "env"), job.env, names.for_job(wanted, has_env=True))
        check_environment((*path, "env"), job.env, self._document, self._report)
        steps = self._job_steps(path, job, names, wanted)
        self._outputs(path, job, names.for_step(wanted, [step.id for step in job.steps if step.id], ()))
        return JobPlan(
            id=JobId(name),
            name=job.name or name,
            group=self._group(path, job, names.for_group()),
            needs=tuple(JobId(need) for need in needs),
            condition=job.if_,
            env=dict(job.env),
            timeout_minutes=job.timeout_minutes,
            start_timeout_ms=round(job.start_timeout_minutes * 60_000),
            continue_on_error=job.continue_on_error,
            outputs=dict(job.outputs),
            steps=steps,
            line=self._document.lines.position(self._document.key_start(path))[0],
        )

    def _job_steps(self, path: Path, job: schema.Job, names: Names, needs: tuple[str, ...]) -> tuple[StepPlan, ...]:
        ids = Ids("step", self._report)
        named = [(position, step.id) for position, step in enumerate(job.steps) if step.id]
        place: Place | None = None
        steps: list[StepPlan] = []
        for position, step in enumerate(job.steps[:STEPS_PER_JOB_MAX]):
            if place is None:
                earlier = [name for at, name in named if at < position]
                place = names.for_step(needs, earlier, [name for at, name in named if at >= position])
            built = self._steps.build((*path, "steps", position), step, place, ids)
            if built is not None:
                steps.append(built)
            if step.id:
                place = None
        return tuple(steps)

    def _outputs(self, path: Path, job: schema.Job, place: Place) -> None:
        ids = Ids("output", self._report)
        for name in job.outputs:
            ids.take(name, self._document.key_start((*path, "outputs", name)))
        self._expressions.value((*path, "outputs"), job.outputs, place)

    def _group(self, path: Path, job: schema.Job, place: Place) -> str:
        group = job.runs_on.group
        at: Path = (*path, "runs-on", "group")
        if not expr.is_static(group):
            self._expressions.text(at, group, place)
        elif group == _ALL_SERVERS:
            text = f"the built-in group {_ALL_SERVERS} is known, not built yet"
            self._report.add(self._document.value_start(at), codes.NOT_BUILT, text, "name one group of servers for now")
        elif not _GROUP.fullmatch(group):
            text = f"{quoted(group)} is no name of a group: letters, digits, _, - and . only, at most 100"
            self._report.add(self._document.value_start(at), codes.WRONG_VALUE, text)
        return group


def _milliseconds(minutes: float | None) -> int | None:
    return None if minutes is None else max(1, round(minutes * 60_000))
