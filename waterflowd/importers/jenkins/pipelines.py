"""Writes a declarative pipeline as one workflow.

Theory: the stages of a pipeline share one workspace on one agent, as the steps of a job do. So stages in a row become one
job, and parallel stages a step `parallel` in it. A stage with its own agent, or with a matrix, is a job of its own, after
the jobs in front of it; the stages behind it are another job, with a new directory.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from waterflowd.importers import generated, writing
from waterflowd.importers.expressions import with_defaults
from waterflowd.importers.findings import Imported
from waterflowd.importers.jenkins import conditions, groovy, settings
from waterflowd.importers.jenkins.groovy import Statement
from waterflowd.importers.jenkins.steps import Around, StepWriter
from waterflowd.importers.jenkins.values import ENVIRONMENT, NotLiteral, split, text_of
from waterflowd.importers.origin import Names, Origin, Unreadable, slug, stem_of
from waterflowd.model.plan import Json

_PARTS = frozenset(("agent", "environment", "parameters", "triggers", "options", "stages", "post"))
_STAGE_PARTS = frozenset(
    ("agent", "environment", "options", "steps", "post", "when", "stages", "parallel", "matrix", "failFast", "input")
)
#: `def NAME = TEXT`, with or without `def`.
_CONSTANT = re.compile(r"(?:(?:def|final|String)\s+)*([A-Za-z_]\w*)\s*=\s*(.+)", re.DOTALL)
_SCRIPTED = "this is a scripted pipeline, which is a program: only declarative ones (pipeline { ... }) can be imported"
#: Conditions of `post` inside a job, and those of a job behind all others.
_POST = {
    "always": "always()",
    "cleanup": "always()",
    "success": "success()",
    "failure": "failure()",
    "aborted": "cancelled()",
}
_FAILED = "contains(needs.*.result, 'failure')"
_POST_JOB = {"always": "", "cleanup": "", "success": f"!{_FAILED}", "failure": _FAILED, "unsuccessful": _FAILED}


def import_files(paths: Sequence[str], origin: Origin) -> Imported:
    """Import Jenkinsfiles."""
    imported, names = Imported(), Names()
    for path in paths:
        try:
            text = origin.text(path)
            statements = groovy.parse(text)
            pipeline = next((each for each in statements if each.name == "pipeline" and each.block is not None), None)
            if pipeline is None:
                raise Unreadable(_SCRIPTED)
            stages = pipeline.find("stages")
            if stages is None or not stages.all("stage"):
                raise Unreadable("the pipeline has no stages")
        except Unreadable as error:
            imported.refuse(path, str(error))
            continue
        others = [each for each in statements if each is not pipeline]
        _Writer(path, pipeline, others, text, origin, imported).write(names.take(slug(stem_of(path).lower())))
    return imported


@dataclass
class _Job:
    """A job that is being written."""

    id: str
    needs: list[str]
    block: writing.Block = field(default_factory=writing.Block)
    steps: writing.Items = field(default_factory=writing.Items)
    comments: list[str] = field(default_factory=list)


class _Writer:
    """Writes one pipeline."""

    def __init__(
        self, path: str, pipeline: Statement, others: list[Statement], text: str, origin: Origin, imported: Imported
    ) -> None:
        self._path = path
        self._pipeline = pipeline
        self._others = others
        self._text = text
        self._origin = origin
        self._imported = imported
        self._names = Names()
        #: How often each job is tried; None: once.
        self._attempts: int | None = None
        self._archives = Names()
        self._jobs: list[_Job] = []
        #: Ids of the jobs that the next one waits for.
        self._last: list[str] = []

    def write(self, name: str) -> None:
        pipeline = self._pipeline
        workflow = writing.Block()
        workflow.set("name", name)
        events = writing.Block()
        events.set("push", None)
        inputs = settings.parameters(pipeline.find("parameters"), self._decide)
        dispatch: writing.Value = None
        if inputs.entries or inputs.closing:
            dispatch = writing.Block()
            dispatch.set("inputs", inputs)
        events.set("workflow_dispatch", dispatch)
        trigger_comments = settings.triggers(
            pipeline.find("triggers"), events, name, self._origin.timezone, self._decide
        )
        workflow.set("on", events, *trigger_comments)
        options = pipeline.find("options")
        if options is not None and options.find("disableConcurrentBuilds") is not None:
            workflow.set("concurrency", {"group": f"{name}-${{{{ github.ref_name }}}}"})
        self._attempts = settings.options(options, workflow, self._decide, self._change)
        env = self._environment()
        if env.entries or env.closing:
            workflow.set("env", with_defaults(env, inputs))
        # Jenkins calls sh.
        workflow.set("defaults", {"run": {"shell": "sh"}})
        stages = pipeline.find("stages")
        assert stages is not None
        self._stages(stages.all("stage"))
        self._post()
        workflow.set("jobs", with_defaults(self._written_jobs(), inputs))
        heading = [f"Imported from {self._path}.", *pipeline.comments, *self._left()]
        generated.add_workflow(self._imported, self._origin, name, self._path, workflow, heading)

    def _decide(self, line: int, text: str) -> str:
        return self._imported.decide(self._path, line, text)

    def _change(self, line: int, text: str) -> str:
        self._imported.change(self._path, line, text)
        return ""

    def _environment(self) -> writing.Block:
        env = settings.environment(self._pipeline.find("environment"), self._decide, self._change, self._constants())
        for name, expression in ENVIRONMENT.items():
            is_known = expression.startswith(("agent.", "github.workspace"))
            if re.search(rf"\b{name}\b", self._text) and not env.has(name) and not is_known:
                env.set(name, f"${{{{ {expression} }}}}")
        return env

    def _constants(self) -> writing.Block:
        """Return the texts that the file gives a name in front of the pipeline; steps and other variables may use them."""
        env = writing.Block()
        for each in list(self._others):
            found = _CONSTANT.fullmatch(each.text)
            try:
                value = text_of(found[2]) if found else ""
            except NotLiteral:
                continue
            if found and "${{" not in value:
                env.set(found[1], value, *each.comments)
                self._change(each.line, f"{found[1]}: now a variable in env")
                self._others.remove(each)
        return env

    def _left(self) -> list[str]:
        """Return comments about what is outside of the known parts."""
        comments: list[str] = []
        for each in [*self._others, *(part for part in self._pipeline.block or [] if part.name not in _PARTS)]:
            comments += [
                *each.comments,
                self._decide(each.line, f"{each.name or each.text.split('(')[0]} has no counterpart"),
                each.text,
            ]
        for name in ("stages", "agent", "options", "environment", "parameters", "triggers"):
            part = self._pipeline.find(name)
            comments += part.comments if part is not None else []
        return comments

    def _written_jobs(self) -> writing.Block:
        jobs = writing.Block()
        for job in self._jobs:
            if not job.steps.items:
                job.steps.add({"uses": "log", "with": {"message": "this stage has no steps"}})
            job.block.set("steps", job.steps)
            jobs.set(job.id, job.block, *job.comments)
        return jobs

    def _new_job(self, name: str, agent: Statement | None, needs: list[str]) -> _Job:
        job = _Job(id=self._names.take(slug(name, "job")), needs=needs)
        if job.id != name:
            job.block.set("name", generated.as_literal(name))
        settings.agent(job.block, agent, self._origin.group, self._decide, self._change)
        if needs:
            job.block.set("needs", list(needs))
        if self._attempts is not None:
            job.block.set("retry", {"max-attempts": self._attempts})
        self._jobs.append(job)
        return job

    def _stages(self, stages: list[Statement]) -> None:
        """Write stages in a row: those without an agent of their own share a job."""
        shared: _Job | None = None
        agent = self._pipeline.find("agent")
        has_agent = agent is not None and agent.arguments != "none"
        for stage in stages:
            parallel = stage.find("parallel")
            inner = parallel.all("stage") if parallel is not None else []
            if inner and any(self._is_separate(each) for each in inner):
                self._last = [id_ for each in inner for id_ in self._separate(each, self._last)]
                first = next(job for job in self._jobs if job.id == self._last[0])
                first.comments += [f"The parallel stages of {_name_of(stage)}.", *stage.comments]
                shared = None
            elif self._is_separate(stage) or not has_agent:
                self._last = self._separate(stage, self._last)
                shared = None
            else:
                if shared is None:
                    is_all = all(not self._is_separate(each) for each in stages)
                    name = "build" if is_all else _name_of(stage)
                    shared = self._new_job(name, agent, self._last)
                    self._last = [shared.id]
                self._stage(stage, shared.steps, Around())
        if len(self._jobs) > 1 and has_agent:
            text = "these jobs have directories of their own; on Jenkins the stages shared a workspace: pass files as artifacts"
            self._jobs[0].comments.append(self._decide(self._pipeline.line, text))

    def _is_separate(self, stage: Statement) -> bool:
        return stage.find("agent") is not None or stage.find("matrix") is not None

    def _separate(self, stage: Statement, needs: list[str]) -> list[str]:
        """Write a stage as a job; return its id."""
        job = self._new_job(_name_of(stage), stage.find("agent") or self._pipeline.find("agent"), needs)
        matrix = stage.find("matrix")
        if matrix is not None:
            self._matrix(matrix, job)
            for each in (matrix.find("stages") or matrix).all("stage"):
                self._stage(each, job.steps, Around(instance="${{ strategy.job-index }}"))
        self._stage(stage, job.steps, Around())
        return [job.id]

    def _matrix(self, matrix: Statement, job: _Job) -> None:
        axes: dict[str, Json] = {}
        env: dict[str, Json] = {}
        for axis in (matrix.find("axes") or matrix).all("axis"):
            name, values = axis.find("name"), axis.find("values")
            if name is not None and values is not None:
                key = text_of(name.arguments)
                axes[key] = [text_of(value) for value in split(values.arguments, ",")]
                env[key] = f"${{{{ matrix.{key} }}}}"
        job.block.set("strategy", {"fail-fast": False, "matrix": axes})
        job.block.set("env", env)
        excluded = [pair for each in matrix.all("excludes") for pair in self._excluded(each, job)]
        if excluded:
            axes["exclude"] = excluded
        for each in matrix.block or []:
            if each.name not in ("axes", "stages", "agent", "excludes"):
                job.comments += [self._decide(each.line, f"{each.name} of matrix has no counterpart"), each.text]

    def _excluded(self, excludes: Statement, job: _Job) -> list[Json]:
        """Return the combinations that do not run."""
        found: list[Json] = []
        for each in excludes.all("exclude"):
            axes = {}
            for axis in each.all("axis"):
                name, values = axis.find("name"), axis.find("values")
                if name is not None and values is not None:
                    axes[text_of(name.arguments)] = [text_of(value) for value in split(values.arguments, ",")]
            if len(axes) < len(each.all("axis")) or not axes:
                job.comments += [self._decide(each.line, "this exclude of matrix has no counterpart"), each.text]
                continue
            found += [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        return found

    def _stage(self, stage: Statement, steps: writing.Items, outer: Around) -> None:
        """Add the steps of a stage."""
        name = _name_of(stage)
        comments: list[str] = list(stage.comments)
        condition = outer.condition
        when = stage.find("when")
        if when is not None:
            own = conditions.of_when(when, lambda text: comments.append(self._decide(when.line, text)))
            condition = f"({condition}) && ({own})" if condition else own
            comments += [line for each in [when, *(when.block or [])] for line in each.comments]
            if any(comment.startswith("DECIDE") for comment in comments):
                comments.append(when.text)
        env = settings.environment(stage.find("environment"), self._decide, self._change)
        comments += env.closing
        pairs = tuple((each.key, str(each.value)) for each in env.entries)
        around = Around(name=name, condition=condition, env=(*outer.env, *pairs), instance=outer.instance)
        for part in stage.block or []:
            if part.name not in _STAGE_PARTS:
                comments += [
                    self._decide(part.line, f"{part.name or 'this'} of the stage {name} has no counterpart"),
                    part.text,
                ]
            if part.name in ("options", "failFast"):
                comments += [
                    self._decide(part.line, f"{part.name} of the stage {name}: write it at the steps"),
                    part.text,
                ]
        before = len(steps.items)
        self._content(stage, steps, around)
        self._post_of_stage(stage, steps, around)
        if comments and len(steps.items) > before:
            value, others = steps.items[before]
            steps.items[before] = (value, (*comments, *others))
        elif comments:
            steps.closing += comments

    def _content(self, stage: Statement, steps: writing.Items, around: Around) -> None:
        question = stage.find("input")
        if question is not None:
            named = [f"{each.name}: {each.arguments}" for each in question.block or []]
            source = ", ".join(named) if named else question.arguments
            asked = Statement(name="input", arguments=source, line=question.line, text=question.text)
            self._step_writer(steps).write([asked], around)
        parallel = stage.find("parallel")
        if parallel is not None and not any(self._is_separate(each) for each in parallel.all("stage")):
            branches = []
            for each in parallel.all("stage"):
                branch = writing.Items()
                self._stage(each, branch, Around(env=around.env, instance=around.instance))
                branches.append(branch)
            block = writing.Block()
            block.set("name", around.name)
            if around.condition:
                block.set("if", around.condition)
            block.set("uses", "parallel")
            inner = writing.Block()
            inner.set("branches", writing.Items([(branch, ()) for branch in branches]))
            block.set("with", inner)
            steps.add(block)
        nested = stage.find("stages")
        for each in nested.all("stage") if nested is not None else []:
            self._stage(each, steps, replace(around, name=""))
        own = stage.find("steps")
        if own is not None:
            self._step_writer(steps).write(own.block or [], around)

    def _step_writer(self, steps: writing.Items) -> StepWriter:
        return StepWriter(self._decide, self._change_only, steps, self._archives)

    def _change_only(self, line: int, text: str) -> None:
        self._imported.change(self._path, line, text)

    def _post_of_stage(self, stage: Statement, steps: writing.Items, around: Around) -> None:
        post = stage.find("post")
        for each in post.block or [] if post is not None else []:
            status = _POST.get(each.name)
            if status is None:
                comment = self._decide(each.line, f"post {each.name} has no counterpart")
                steps.closing += [comment, each.text]
                continue
            condition = f"{status} && ({around.condition})" if around.condition else status
            inside = replace(around, name=f"{around.name}: {each.name}", condition=condition)
            self._step_writer(steps).write(each.block or [], inside)

    def _post(self) -> None:
        """Add the steps of the pipeline's `post`: to the only job, or as a job behind all others."""
        post = self._pipeline.find("post")
        if post is None:
            return
        is_single = len(self._jobs) == 1
        if is_single:
            job = self._jobs[0]
        else:
            job = self._new_job("post", None, [each.id for each in self._jobs])
            job.block.set("if", "always()")
        job.comments += post.comments
        for each in post.block or []:
            known = _POST if is_single else _POST_JOB
            if each.name not in known:
                job.comments += [self._decide(each.line, f"post {each.name} has no counterpart"), each.text]
                continue
            around = Around(name=f"post: {each.name}", condition=known[each.name])
            before = len(job.steps.items)
            self._step_writer(job.steps).write(each.block or [], around)
            if each.comments and len(job.steps.items) > before:
                value, others = job.steps.items[before]
                job.steps.items[before] = (value, (*each.comments, *others))


def _name_of(stage: Statement) -> str:
    try:
        return text_of(stage.arguments)
    except NotLiteral:
        return "stage"
