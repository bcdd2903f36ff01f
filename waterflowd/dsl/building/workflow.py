"""Builds the plan of a workflow from its models, with the checks that span several keys.

Rules of this file: errors are reported, not raised. A plan is valid only when the report is empty; then every expression in it
has been parsed, and its names exist. A called workflow is built like one that is started, except for its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building.block_scope import BlockScope
from waterflowd.dsl.building.compilation import Compilation, SourceFile
from waterflowd.dsl.building.contexts import WorkflowNames
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.building.job_and_step_keys import check_shell, check_variable_names, check_working_directory
from waterflowd.dsl.building.jobs import JobBuilder, needed_jobs, warn_of_jobs_that_never_run, workflow_scope
from waterflowd.dsl.building.needs import check_needs
from waterflowd.dsl.building.placement import PlacementBuilder
from waterflowd.dsl.building.steps import StepBuilder
from waterflowd.dsl.building.triggers import build_call_inputs, build_inputs, build_triggers, started_inputs
from waterflowd.dsl.building.uses import calls
from waterflowd.dsl.building.uses.calls import Callee, WorkflowCalls
from waterflowd.dsl.building.uses.composite_steps import CompositeSteps
from waterflowd.dsl.models.ids import Ids
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.model.plan import CallPlan, ConcurrencyPlan, InputSpec, InputType, JobPlan, Json, Plan, StepPlan

JOBS_MAX = 256


class WorkflowBuilder:
    """Builds the first file of a compilation, and every workflow that it calls."""

    def __init__(self, compilation: Compilation, path: str) -> None:
        self._compilation = compilation
        self._composite_steps = CompositeSteps(compilation, self._composite_step_steps)
        self._calls = WorkflowCalls(compilation, path, self._callee)

    def _composite_step_steps(
        self,
        source: SourceFile,
        expressions: ExpressionChecker,
        path: Path,
        steps: list[models.Step],
        scope: BlockScope,
    ) -> tuple[StepPlan, ...]:
        return StepBuilder(source, self._compilation, expressions, self._composite_steps).build(path, steps, scope)

    def plan(self, source: SourceFile, workflow: models.Workflow) -> Plan:
        """The plan of a workflow; valid only when no report has errors afterwards."""
        triggers = build_triggers(source, workflow)
        inputs = started_inputs(source, workflow)
        known = (*inputs, *build_inputs(source, workflow), *(build_call_inputs(source, workflow) or ()))
        built = _FileBuilder(source, workflow, self._compilation, known)
        jobs = built.jobs(self._composite_steps, self._calls)
        return Plan(
            name=_name(source, workflow),
            path=source.path,
            description=workflow.description,
            triggers=triggers,
            inputs=inputs,
            vars=built.variables(),
            env=dict(workflow.env),
            timeout_ms=_milliseconds(workflow.timeout_minutes),
            concurrency=built.concurrency(),
            hashed=tuple(self._compilation.hashed),
            nodes=tuple(self._compilation.nodes[name] for name in sorted(self._compilation.nodes)),
            outputs=_call_outputs(workflow),
            jobs=jobs,
        )

    def _callee(self, source: SourceFile, workflow: models.Workflow) -> Callee | None:
        call = workflow.on.workflow_call if workflow.on is not None else None
        if call is None:
            hint = "add workflow_call under on"
            where = ("on",) if workflow.has("on") else ("jobs",)
            source.at_key(where, codes.WRONG_CALL, "another workflow calls this one, but on has no workflow_call", hint)
            return None
        build_triggers(source, workflow)
        own: Sequence[InputSpec] = build_inputs(source, workflow)
        specs = build_call_inputs(source, workflow) or ()
        built = _FileBuilder(source, workflow, self._compilation, (*specs, *own))
        jobs = built.jobs(self._composite_steps, self._calls)
        concurrency = built.concurrency()
        if concurrency is not None and not _is_same_for_caller(concurrency):
            text = "the concurrency of a called workflow applies to the calling job, which has other inputs and vars"
            hint = "set it in the calling job, or in the jobs of this workflow"
            source.at_key(("concurrency",), codes.WRONG_CALL, text, hint)
        job_count, step_count = calls.size_of(jobs)
        plan = CallPlan(
            path=source.path,
            name=_name(source, workflow),
            inputs=tuple(specs),
            vars=built.variables(),
            env=dict(workflow.env),
            outputs=_call_outputs(workflow),
            jobs=jobs,
        )
        return Callee(
            call=plan,
            declared_secrets=dict(call.secrets),
            used_secrets=calls.used_secrets(jobs),
            concurrency=concurrency,
            minutes=workflow.timeout_minutes,
            height=calls.call_height(jobs),
            jobs=job_count,
            steps=step_count,
        )


class _FileBuilder:
    """Builds the parts of one workflow file's plan."""

    def __init__(
        self, source: SourceFile, workflow: models.Workflow, compilation: Compilation, inputs: Sequence[InputSpec]
    ) -> None:
        self._source = source
        self._workflow = workflow
        self._compilation = compilation
        self._expressions = ExpressionChecker(source, compilation.hashed)
        self._names = WorkflowNames(
            inputs=expr.Names(spec.name for spec in inputs),
            variables=expr.Names(workflow.vars) if workflow.vars else None,
            jobs=needed_jobs(workflow),
            booleans=_boolean_names(inputs),
        )

    def variables(self) -> dict[str, Json]:
        """`vars`."""
        ids = Ids("variable", self._source.report)
        earlier = expr.Names()
        available = self._names.for_variables(earlier)
        for name, value in self._workflow.vars.items():
            ids.take(name, self._source.document.key_start(("vars", name)))
            self._expressions.value(("vars", name), value, available)
            earlier.add(name)
        return {name: plain(value) for name, value in self._workflow.vars.items()}

    def concurrency(self) -> ConcurrencyPlan | None:
        """`concurrency` of the run."""
        placing = PlacementBuilder(self._source, self._expressions)
        return placing.concurrency(("concurrency",), self._workflow.concurrency, self._names.for_workflow())

    def jobs(self, composites: CompositeSteps, called: WorkflowCalls) -> tuple[JobPlan, ...]:
        """The jobs, and the keys that apply to all of them."""
        workflow, source = self._workflow, self._source
        self._check_bounds()
        self._check_shared_keys()
        needed = {name: job.needs for name, job in workflow.jobs.items()}
        needs: Mapping[str, tuple[str, ...]] = check_needs(needed, source.document, source.report)
        builder = JobBuilder(source, self._compilation, composites, called)
        scope = workflow_scope(workflow, self._names)
        ids = Ids("job", source.report)
        jobs: list[JobPlan] = []
        for name, job in workflow.jobs.items():
            ids.take(name, source.document.key_start(("jobs", name)))
            jobs.append(builder.build(name, job, self._names, needs[name], scope))
        warn_of_jobs_that_never_run(source, workflow, dict(needs))
        return tuple(jobs)

    def _check_bounds(self) -> None:
        jobs = self._workflow.jobs
        if len(jobs) > JOBS_MAX:
            text = f"the workflow has {len(jobs):,} jobs; the limit is {JOBS_MAX}"
            self._source.at_key(("jobs",), codes.BOUND, text, "split it into several workflows")
        self._compilation.count(self._source, ("jobs",), jobs=len(jobs))

    def _check_shared_keys(self) -> None:
        workflow, names = self._workflow, self._names
        check_variable_names(("env",), workflow.env, self._source.document, self._source.report)
        self._expressions.value(("env",), dict(workflow.env), names.for_workflow().with_secrets)
        directory = ("defaults", "run", "working-directory")
        self._expressions.value(directory, workflow.defaults.run.working_directory, names.for_workflow())
        check_working_directory(self._source, directory, workflow.defaults.run.working_directory)
        shell = ("defaults", "run", "shell")
        self._expressions.value(shell, workflow.defaults.run.shell, names.for_workflow())
        check_shell(self._source, shell, workflow.defaults.run.shell, names.for_workflow())
        call = workflow.on.workflow_call if workflow.on is not None else None
        if call is None:
            return
        outputs, secrets = Ids("output", self._source.report), Ids("secret", self._source.report)
        base = ("on", "workflow_call")
        for name, output in call.outputs.items():
            outputs.take(name, self._source.document.key_start((*base, "outputs", name)))
            self._expressions.text((*base, "outputs", name, "value"), output.value, names.for_call_outputs())
        for name in call.secrets:
            secrets.take(name, self._source.document.key_start((*base, "secrets", name)))


def _is_same_for_caller(concurrency: ConcurrencyPlan) -> bool:
    """Whether its expressions mean the same in the calling workflow."""
    texts = (text for text in (concurrency.group, concurrency.cancel_in_progress) if isinstance(text, str))
    return all("inputs" not in text.lower() and "vars" not in text.lower() for text in texts if "${{" in text)


def _boolean_names(inputs: Sequence[InputSpec]) -> frozenset[str]:
    """The inputs that are boolean in every declaration, in lower case."""
    others = {spec.name.lower() for spec in inputs if spec.type is not InputType.BOOLEAN}
    return frozenset(spec.name.lower() for spec in inputs) - others


def _name(source: SourceFile, workflow: models.Workflow) -> str:
    return workflow.name or PurePosixPath(source.path).stem


def _call_outputs(workflow: models.Workflow) -> dict[str, Json]:
    call = workflow.on.workflow_call if workflow.on is not None else None
    return {name: output.value for name, output in call.outputs.items()} if call is not None else {}


def _milliseconds(minutes: float | None) -> int | None:
    return None if minutes is None else max(1, round(minutes * 60_000))
