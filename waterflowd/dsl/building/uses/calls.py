"""Reusable workflows: `uses: ./path.yml` of a job is the jobs of another file of the same revision.

Rules of this file: a callee is compiled once for all its callers, since it sees only inputs and secrets of its
caller. Its errors are in its own report. Calls nest, without cycles, at most `DEPTH_MAX` levels deep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.building import secret_references
from waterflowd.dsl.building.compilation import Compilation, SourceFile, local_path
from waterflowd.dsl.building.inputs import check_arguments
from waterflowd.dsl.models.validation import validate
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.model.plan import CallPlan, ConcurrencyPlan, JobPlan, StepPlan
from waterflowd.model.wording import did_you_mean, listed

#: Nesting of calls below the workflow that is started.
DEPTH_MAX = 4

_ENDINGS = (".yml", ".yaml")
_REMOTE = "copy the workflow into this repository, and write ./ and its path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Callee:
    """A called workflow: its call without arguments, and what its callers must pass."""

    call: CallPlan
    declared_secrets: dict[str, models.CallSecret]
    used_secrets: tuple[str, ...]
    minutes: float | None
    #: Levels of calls below it, itself included.
    height: int
    jobs: int
    steps: int
    #: Applies to the calling job.
    concurrency: ConcurrencyPlan | None = None


#: Compiles a file as a callee; None when its errors prevent that.
BuildCallee = Callable[[SourceFile, models.Workflow], Callee | None]


class WorkflowCalls:
    """The calls of one compilation."""

    def __init__(self, compilation: Compilation, first: str, build: BuildCallee) -> None:
        self._compilation = compilation
        self._build = build
        self._callees: dict[str, Callee | None] = {}
        self._open: list[str] = [first]

    def called(self, source: SourceFile, path: Path, job: models.Job) -> Callee | None:
        """What the job at `path` calls, with its arguments; None when errors prevent the call."""
        assert job.uses is not None
        callee = self._callee(source, path, job.uses)
        if callee is None:
            return None
        what = f"the workflow {quote(job.uses)}"
        arguments = check_arguments(source, (*path, "with"), callee.call.inputs, job.with_, what)
        secrets = self._secrets(source, path, job, callee)
        call = msgspec.structs.replace(callee.call, arguments=arguments, secrets=secrets)
        return replace(callee, call=call)

    def _callee(self, source: SourceFile, path: Path, uses: str) -> Callee | None:
        at: Path = (*path, "uses")
        file = self._file(source, at, uses)
        if file is None:
            return None
        if file in self._open:
            cycle = " -> ".join([*self._open[self._open.index(file) :], file])
            source.at_value(at, codes.WRONG_CALL, f"workflows call each other in a cycle: {cycle}")
            return None
        known = file in self._callees
        if not known and len(self._open) <= DEPTH_MAX:
            self._callees[file] = self._compilation.build_file(file, self._open, self._compile)
        callee = self._callees.get(file)
        if len(self._open) > DEPTH_MAX or (callee is not None and len(self._open) - 1 + callee.height > DEPTH_MAX):
            text = f"workflow calls are nested more than {DEPTH_MAX} levels deep"
            source.at_value(at, codes.WRONG_CALL, text, "move jobs into the workflow that calls them")
            return None
        if callee is not None and known:
            self._compilation.count(source, path, steps=callee.steps, jobs=callee.jobs, used_again=file)
        if callee is not None and not callee.call.jobs:
            return None
        return callee

    def _file(self, source: SourceFile, at: Path, uses: str) -> str | None:
        file = local_path(uses)
        if file is None or not file.endswith(_ENDINGS):
            is_remote = "@" in uses
            text = (
                f"{quote(uses)} is not a workflow of this repository: expected ./ and the path of a .yml or .yaml file"
            )
            code = codes.GITHUB_ONLY if is_remote else codes.WRONG_CALL
            source.at_value(at, code, text, _REMOTE if is_remote else "write the path from the root of the repository")
            return None
        if self._compilation.read is None:
            text = f"cannot find the workflow {quote(uses)}: this file was compiled without its repository"
            source.at_value(at, codes.WRONG_CALL, text, "push it to a watched repository")
            return None
        if file not in self._open and self._compilation.find(file) is None:
            text = f"the file {quote(file)} does not exist in this revision"
            source.at_value(at, codes.WRONG_CALL, text, "paths are relative to the root of the repository")
            return None
        return file

    def _compile(self, source: SourceFile) -> Callee | None:
        workflow = validate(source.document, source.report, models.Workflow)
        return self._build(source, workflow) if workflow is not None else None

    def _secrets(self, source: SourceFile, path: Path, job: models.Job, callee: Callee) -> dict[str, str] | None:
        """The callee's names of secrets and the caller's; None for all of them."""
        if isinstance(job.secrets, str):
            return None
        names: dict[str, str] = {}
        for name, value in job.secrets.items():
            at: Path = (*path, "secrets", name)
            theirs = secret_references.only_name(value)
            if name not in callee.declared_secrets:
                known = list(callee.declared_secrets)
                hint = did_you_mean(name, known) or (
                    f"declared secrets: {listed(known)}" if known else "it declares no secrets"
                )
                text = f"the workflow {quote(callee.call.path)} does not declare the secret {quote(name)}"
                source.at_key(at, codes.WRONG_SECRET, text, f"{hint}; declare secrets under on.workflow_call.secrets")
            elif theirs is None:
                hint = f"write {name}: ${{{{ secrets.NAME }}}}"
                source.at_value(at, codes.WRONG_SECRET, "expected a reference to one secret of this workflow", hint)
            elif theirs.lower() == secret_references.GITHUB_TOKEN:
                source.at_value(at, codes.GITHUB_ONLY, *secret_references.NO_GITHUB_TOKEN)
            else:
                names[name] = theirs
        for name, declared in callee.declared_secrets.items():
            if declared.required and name not in job.secrets:
                hint = f"add it under secrets of this job: {name}: ${{{{ secrets.{name} }}}}, or write secrets: inherit"
                self._report_missing(source, path, callee, f"requires the secret {quote(name)}", hint)
        for name in callee.used_secrets:
            if name not in job.secrets and name not in callee.declared_secrets:
                hint = "declare it there under on.workflow_call.secrets, and pass it under secrets of this job"
                self._report_missing(source, path, callee, f"uses the undeclared secret {quote(name)}", hint)
        return names

    def _report_missing(self, source: SourceFile, path: Path, callee: Callee, what: str, hint: str) -> None:
        text = f"the workflow {quote(callee.call.path)} {what}, which this job does not pass"
        source.at_key((*path, "uses"), codes.WRONG_SECRET, text, hint)


def used_secrets(jobs: tuple[JobPlan, ...]) -> tuple[str, ...]:
    """The secrets that jobs use or pass on, under the names that their workflow uses."""
    found: dict[str, None] = {}

    def of_steps(steps: tuple[StepPlan, ...]) -> None:
        for step in steps:
            found.update(dict.fromkeys(step.secrets))
            for block in step.blocks:
                of_steps(block.steps)

    for job in jobs:
        of_steps(job.steps)
        if job.call is not None:
            handed_on = job.call.secrets
            found.update(dict.fromkeys(used_secrets(job.call.jobs) if handed_on is None else handed_on.values()))
    return tuple(found)


def call_height(jobs: tuple[JobPlan, ...]) -> int:
    """Levels of calls, including the workflow of these jobs."""
    return 1 + max((call_height(job.call.jobs) for job in jobs if job.call is not None), default=0)


def size_of(jobs: tuple[JobPlan, ...]) -> tuple[int, int]:
    """The number of jobs and steps, including those of called workflows and of blocks."""
    job_count, step_count = len(jobs), 0
    for job in jobs:
        step_count += _steps_in(job.steps)
        if job.call is not None:
            inner = size_of(job.call.jobs)
            job_count, step_count = job_count + inner[0], step_count + inner[1]
    return job_count, step_count


def _steps_in(steps: tuple[StepPlan, ...]) -> int:
    return len(steps) + sum(_steps_in(block.steps) for step in steps for block in step.blocks)
