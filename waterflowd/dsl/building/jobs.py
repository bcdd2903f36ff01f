"""Builds the plans of jobs. A job has `runs-on` and `steps`, or it calls a workflow with `uses`."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building import secret_references, server_values
from waterflowd.dsl.building.block_scope import BlockScope, ScriptDefaults
from waterflowd.dsl.building.compilation import Compilation, SourceFile
from waterflowd.dsl.building.contexts import Availability, Instances, NeededJob, WorkflowNames
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.building.job_and_step_keys import (
    check_shell,
    check_variable_names,
    check_working_directory,
    retry_policy,
)
from waterflowd.dsl.building.job_containers import JobContainersBuilder
from waterflowd.dsl.building.lints import jobs_and_steps as lints
from waterflowd.dsl.building.placement import ALL_SERVERS, PlacementBuilder
from waterflowd.dsl.building.reports import ReportBuilder
from waterflowd.dsl.building.setup_step import with_setup
from waterflowd.dsl.building.steps import StepBuilder
from waterflowd.dsl.building.strategy import StrategyBuilder
from waterflowd.dsl.building.uses.calls import WorkflowCalls
from waterflowd.dsl.building.uses.checkouts import Checkouts
from waterflowd.dsl.building.uses.composite_steps import CompositeSteps
from waterflowd.dsl.models.ids import Ids
from waterflowd.dsl.models.validation import missing_hint
from waterflowd.dsl.reading.tree import Mapping, Path
from waterflowd.dsl.reporting import codes
from waterflowd.model.ids import JobId
from waterflowd.model.plan import ALL_VARIABLES, JobPlan, TargetPlan

#: The timeout of a called workflow without `timeout-minutes`, the same as for runs.
CALL_MINUTES = 30.0 * 24 * 60

#: Keys of a job with steps, and what to do instead in a job that calls a workflow.
_STEP_JOB_KEYS: dict[str, str] = {
    "runs-on": "the jobs of the called workflow define where they run",
    "steps": "a job either has steps or calls a workflow",
    "env": "pass values to the called workflow under with",
    "defaults": "the called workflow has its own",
    "outputs": "the called workflow defines its outputs; read them through needs",
    "report": "set it in the jobs of the called workflow",
    "retry": "set retry in the jobs of the called workflow",
    "checkout": "set it in the jobs of the called workflow",
    "user": "set it in the jobs of the called workflow",
    "container": "set it in the jobs of the called workflow",
    "services": "set it in the jobs of the called workflow",
    "start-timeout-minutes": "set it in the jobs of the called workflow",
}
#: Keys that are only valid in a job that calls a workflow, and what to do instead.
_CALL_KEYS = {
    "with": "remove it: the steps of a job use env, vars and inputs",
    "secrets": "remove it, and use secrets.NAME in the env of the steps",
}


_NOT_DECLARED = (
    "files are checked out before the first step, so only variables of the workflow and the job have a value"
)


def needed_jobs(workflow: models.Workflow) -> dict[str, NeededJob]:
    """What other jobs know of each job that they need."""
    return {
        name: NeededJob(
            outputs=None if job.uses is not None else expr.Names(job.outputs),
            has_matrix=job.strategy is not None and job.strategy.has("matrix"),
            is_each=job.runs_on is not None and (job.runs_on.target == "each" or job.runs_on.group == ALL_SERVERS),
        )
        for name, job in workflow.jobs.items()
    }


class JobBuilder:
    """Builds the jobs of one file."""

    def __init__(
        self, source: SourceFile, compilation: Compilation, composites: CompositeSteps, calls: WorkflowCalls
    ) -> None:
        self._source = source
        self._compilation = compilation
        self._calls = calls
        self._expressions = ExpressionChecker(source, compilation.hashed)
        self._steps = StepBuilder(source, compilation, self._expressions, composites)
        self._strategies = StrategyBuilder(source, self._expressions)
        self._placement = PlacementBuilder(source, self._expressions)
        self._reports = ReportBuilder(source, self._expressions)
        self._containers = JobContainersBuilder(source, self._expressions)

    def build(
        self, name: str, job: models.Job, names: WorkflowNames, needs: tuple[str, ...], scope: BlockScope
    ) -> JobPlan:
        """The plan of one job; `scope` is the scope that the workflow provides for the steps of all its jobs."""
        path: Path = ("jobs", name)
        # An unknown need is reported once, not again for each expression that uses it.
        needed = expr.Names(job.needs)
        if job.environment is not None:
            # The daemon's configuration may define more variables for the environment.
            names = replace(names, variables=None)
        self._expressions.condition((*path, "if"), job.if_, names.for_job_condition(needed))
        strategy, instances = self._strategies.build(path, job, names.for_strategy(needed))
        available = names.for_job(needed, instances)
        for key, value in (
            ("name", job.name),
            ("timeout-minutes", job.timeout_minutes),
            ("continue-on-error", job.continue_on_error),
        ):
            self._expressions.value((*path, key), value, available)
        plan = JobPlan(
            id=JobId(name),
            name=job.name or name,
            strategy=strategy,
            concurrency=self._placement.concurrency((*path, "concurrency"), job.concurrency, available),
            environment=self._placement.environment((*path, "environment"), job.environment, available),
            needs=tuple(JobId(need) for need in needs),
            condition=job.if_,
            continue_on_error=job.continue_on_error,
            line=self._source.key_line(path),
        )
        if job.uses is not None:
            return self._called(path, job, plan, names, instances)
        return self._with_steps(path, job, plan, names, instances, scope)

    def _with_steps(
        self,
        path: Path,
        job: models.Job,
        plan: JobPlan,
        names: WorkflowNames,
        instances: Instances,
        workflow_scope: BlockScope,
    ) -> JobPlan:
        for key, sentence in _CALL_KEYS.items():
            if key in job.present_keys():
                self._source.at_key(
                    (*path, key),
                    codes.EXCLUSIVE_KEYS,
                    f"{key} is only valid in a job that calls a workflow (uses)",
                    sentence,
                )
        self._check_required(path, job)
        needed = expr.Names(job.needs)
        available = names.for_job(needed, instances)
        env_available = replace(
            names.for_job(needed, instances, has_env=True), server_env=workflow_scope.available.server_env
        )
        self._expressions.value((*path, "env"), dict(job.env), env_available.with_secrets)
        check_variable_names((*path, "env"), job.env, self._source.document, self._source.report)
        self._defaults(path, job.defaults, env_available)
        target: TargetPlan | None = None
        if job.runs_on is not None:
            target = self._placement.target((*path, "runs-on"), job.runs_on, _with_declared_variables(job, available))
        in_steps = replace(
            names.for_steps(needed, instances),
            server_env=server_values.variables_with(job.env, workflow_scope.available.server_env),
        )
        checkouts = Checkouts(self._source)
        checkouts.add_job(path, job)
        inside = BlockScope(
            available=in_steps,
            checkouts=checkouts,
            secrets=tuple(dict.fromkeys((*workflow_scope.secrets, *secret_references.names_in(dict(job.env))))),
            defaults=workflow_scope.defaults.over(job.defaults),
            timeout_minutes=job.timeout_minutes,
            variables=workflow_scope.variables | job.env.keys(),
        )
        steps = self._steps.build((*path, "steps"), job.steps or [], inside)
        containers = self._containers.step(path, job, available, env_available, inside.secrets)
        after_steps = in_steps.within({"steps": expr.Names(step.id for step in job.steps or [] if step.id)})
        self._outputs(path, job, after_steps)
        report = None
        if job.report is not None:
            report = self._reports.build((*path, "report"), job.report, job.outputs, after_steps)
        before_steps = replace(
            _with_declared_env(available, workflow_scope.variables | job.env.keys()), server_env=in_steps.server_env
        )
        for at, text in checkouts.texts:
            self._expressions.value(at, text, before_steps)
        checkouts.check_users()
        checkout, several = checkouts.result()
        return msgspec.structs.replace(
            plan,
            group=job.runs_on.group if job.runs_on is not None else "",
            labels=dict(job.runs_on.labels) if job.runs_on is not None else {},
            target=target,
            retry=retry_policy(self._source, (*path, "retry"), job.retry),
            checkout=checkout,
            checkouts=several,
            user=job.user or "",
            env=dict(job.env),
            timeout_minutes=job.timeout_minutes,
            start_timeout_ms=round(job.start_timeout_minutes * 60_000),
            outputs=dict(job.outputs),
            report=report,
            steps=(containers, *steps) if containers is not None else with_setup(steps),
        )

    def _called(
        self, path: Path, job: models.Job, plan: JobPlan, names: WorkflowNames, instances: Instances
    ) -> JobPlan:
        for key, sentence in _STEP_JOB_KEYS.items():
            if key in job.present_keys():
                text = f"{key} is not valid in a job that calls a workflow (uses): {sentence}"
                self._source.at_key((*path, key), codes.EXCLUSIVE_KEYS, text, "remove it")
        sentence = "values under with are recorded; pass the secret under secrets of this job"
        available = names.for_job(expr.Names(job.needs), instances).without_secrets(sentence)
        self._expressions.value((*path, "with"), job.with_, available)
        callee = self._calls.called(self._source, path, job)
        if callee is None:
            return plan
        default = callee.minutes if callee.minutes is not None else CALL_MINUTES
        if plan.concurrency is not None and callee.concurrency is not None:
            text = f"both this job and the workflow {quote(callee.call.path)} have concurrency"
            self._source.at_key((*path, "concurrency"), codes.EXCLUSIVE_KEYS, text, "remove one of them")
        return msgspec.structs.replace(
            plan,
            call=callee.call,
            concurrency=plan.concurrency or callee.concurrency,
            timeout_minutes=job.timeout_minutes if job.has("timeout_minutes") else default,
        )

    def _check_required(self, path: Path, job: models.Job) -> None:
        node, _ = self._source.document.find(path)
        # A value that is not a mapping has been reported already.
        if not isinstance(node, Mapping):
            return
        for key in ("runs-on", "steps"):
            if key not in node.entries:
                at: Path = (*path, key)
                self._source.at_key(path, codes.MISSING_KEY, f"a job requires the key {quote(key)}", missing_hint(at))

    def _defaults(self, path: Path, defaults: models.Defaults, available: Availability) -> None:
        directory = defaults.run.working_directory
        at: Path = (*path, "defaults", "run", "working-directory")
        self._expressions.value(at, directory, available)
        check_working_directory(self._source, at, directory)
        at = (*path, "defaults", "run", "shell")
        self._expressions.value(at, defaults.run.shell, available)
        check_shell(self._source, at, defaults.run.shell, available)

    def _outputs(self, path: Path, job: models.Job, available: Availability) -> None:
        ids = Ids("output", self._source.report)
        for name in job.outputs:
            ids.take(name, self._source.document.key_start((*path, "outputs", name)))
        self._expressions.value((*path, "outputs"), dict(job.outputs), available)


def _with_declared_variables(job: models.Job, available: Availability) -> Availability:
    """For `runs-on`: without `vars` in the file there are none. In an environment, the daemon's configuration has more."""
    if job.environment is not None or available.contexts.get("vars") is not None:
        return available
    return available.within({"vars": expr.Names()})


def _with_declared_env(available: Availability, declared: frozenset[str]) -> Availability:
    """For checkouts: before the first step there are only the variables of the workflow and the job."""
    if ALL_VARIABLES in declared:
        return available.within({"env": None})

    def reason(context: str, name: str) -> str | None:
        return _NOT_DECLARED if context == "env" else None

    return available.within({"env": expr.Names(declared)}, reason)


def workflow_scope(workflow: models.Workflow, names: WorkflowNames) -> BlockScope:
    """The scope that a workflow provides for the steps of all its jobs."""
    return BlockScope(
        available=replace(names.for_workflow(), server_env=server_values.variables_with(workflow.env)),
        variables=frozenset(workflow.env),
        secrets=secret_references.names_in(dict(workflow.env)),
        defaults=ScriptDefaults().over(workflow.defaults),
    )


def warn_of_jobs_that_never_run(
    source: SourceFile, workflow: models.Workflow, needs: dict[str, tuple[str, ...]]
) -> None:
    """Warns of jobs that can never run."""
    never = [name for name, job in workflow.jobs.items() if lints.warn_never(source, ("jobs", name), "job", job.if_)]
    lints.warn_unreachable(source, needs, {name: job.if_ for name, job in workflow.jobs.items()}, never)
