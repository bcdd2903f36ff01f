"""Writes a pipeline of GitLab as one workflow: its events, and its jobs in the order of their stages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from waterflowd.importers import generated, writing
from waterflowd.importers.expressions import with_defaults
from waterflowd.importers.findings import Imported
from waterflowd.importers.gitlab import conditions, jobs, variables
from waterflowd.importers.gitlab.job_drafts import JobContext
from waterflowd.importers.gitlab.pipeline import DEFAULT_KEYS, Job, Pipeline, read
from waterflowd.importers.origin import Names, Origin, Unreadable, slug, stem_of
from waterflowd.importers.source_yaml import entries_of, texts_of, value_of
from waterflowd.model.plan import Json

_DEFAULT_STAGES = ["build", "test", "deploy"]
_SCHEDULES = "schedules are settings of the project on GitLab: write each of them under on.schedule"
_DEFAULT_BRANCH = "CI_DEFAULT_BRANCH"
_ORIGIN_HEAD = re.compile(r"ref: refs/remotes/origin/([A-Za-z0-9._/-]+)\s*$")
_UNDEFINED = (
    "nothing in the file sets {0}: for variables in the settings of the project, store them as secrets, and write"
    " NAME: ${{{{ secrets.NAME }}}} in env"
)

_NO_COUNTERPART = "GitLab sets {0}, and nothing does here: write the value in its place"


def import_files(paths: Sequence[str], origin: Origin) -> Imported:
    """Import pipelines."""
    imported, names = Imported(), Names()
    for path in paths:
        try:
            pipeline = read(path, origin, imported)
        except Unreadable as error:
            imported.refuse(path, str(error))
            continue
        if not pipeline.jobs:
            imported.refuse(path, "the file has no jobs")
            continue
        _Writer(pipeline, path, origin, imported).write(names.take(stem_of(path).lstrip("_")))
    return imported


class _Writer:
    """Writes one pipeline."""

    def __init__(self, pipeline: Pipeline, path: str, origin: Origin, imported: Imported) -> None:
        self._pipeline = pipeline
        self._path = path
        self._origin = origin
        self._imported = imported
        taken = Names()
        ids = {job.name: taken.take(slug(job.name)) for job in pipeline.jobs}
        values = variables.plain_values(pipeline.variables)
        #: The comment of the variable with the default branch.
        self._about_default_branch: list[str] = []
        if _DEFAULT_BRANCH not in values and any(source.mentions(_DEFAULT_BRANCH) for source in pipeline.sources):
            values[_DEFAULT_BRANCH] = self._default_branch()
        self._context = JobContext(imported=imported, group=origin.group, variables=values, ids=ids)

    def _default_branch(self) -> str:
        """The default branch of the clone; else a guess, which is a decision."""
        head = (self._origin.read(".git/refs/remotes/origin/HEAD") or b"").decode("utf-8", "replace")
        found = _ORIGIN_HEAD.match(head)
        if found:
            self._imported.change(self._path, 0, f"{_DEFAULT_BRANCH} is set in env: {found[1]}, as in this clone")
            return found[1]
        text = f"{_DEFAULT_BRANCH}, also in conditions, is main; change both if the default branch has another name"
        self._about_default_branch = [self._imported.decide(self._path, 0, text)]
        return "main"

    def write(self, name: str) -> None:
        pipeline, context = self._pipeline, self._context
        context.has_conditions = any(job.keys.keys() & {"rules", "only", "except", "when"} for job in pipeline.jobs)
        context.with_artifacts = {job.name for job in pipeline.jobs if _has_artifacts(job)}
        context.parallel = {job.name for job in pipeline.jobs if job.keys.get("parallel")}
        context.is_interruptible = all(job.keys.get("interruptible") is True for job in pipeline.jobs)
        written = writing.Block()
        for job in self._in_order():
            comments = job.source.comments_at(job.entry.key)
            written.set(context.ids[job.name], jobs.write(job, self._needs(job), context), *comments)
        workflow = writing.Block()
        workflow.set("name", name)
        schedule = self._imported.decide(self._path, 0, _SCHEDULES)
        inputs = variables.inputs(pipeline.variables)
        events = writing.Block()
        events.set("push", None)
        dispatch: writing.Value = None
        if inputs.entries:
            dispatch = writing.Block()
            dispatch.set("inputs", inputs)
        events.set("workflow_dispatch", dispatch)
        workflow.set("on", events, *self._about_workflow(), schedule)
        if context.is_interruptible:
            group = f"{name}-${{{{ github.ref_name }}}}"
            workflow.set("concurrency", {"group": group, "cancel-in-progress": True})
        env = self._environment()
        if env.entries:
            place = pipeline.top.get("variables")
            comments = [] if place is None else place.source.comments_at(place.entry.key)
            workflow.set("env", with_defaults(env, inputs), *comments)
        workflow.set("jobs", with_defaults(written, inputs))
        heading = [f"Imported from {', '.join(dict.fromkeys(source.path for source in pipeline.sources))}."]
        for key in ("spec", "stages", "include", "default"):
            if key in pipeline.top:
                heading += pipeline.top[key].source.comments_at(pipeline.top[key].entry.key)
        heading += [*pipeline.comments, *self._about_variables(), *self._hidden_parts()]
        workflow.closing += [comment for source in pipeline.sources for comment in source.left_over()]
        generated.add_workflow(self._imported, self._origin, name, self._path, workflow, heading)

    def _in_order(self) -> list[Job]:
        stages = [".pre", *self._stages(), ".post"]
        return sorted(
            self._pipeline.jobs, key=lambda job: stages.index(_stage(job)) if _stage(job) in stages else len(stages)
        )

    def _stages(self) -> list[str]:
        return self._pipeline.stages or _DEFAULT_STAGES

    def _needs(self, job: Job) -> list[str]:
        """Return the ids of the jobs that must complete first: those in `needs`, else those of the stage before."""
        ids = self._context.ids
        written = job.keys.get("needs")
        stages = [".pre", *self._stages(), ".post"]
        if _stage(job) not in stages:
            text = f"{job.name}: the stage {_stage(job)} does not exist; the job waits for no other stage"
            self._pipeline.comments.append(self._imported.decide(self._path, job.source.line(job.entry.key), text))
        if isinstance(written, list):
            return [ids[name] for item in written for name in [self._needed(job, item)] if name is not None]
        if _stage(job) not in stages:
            return []
        for stage in reversed(stages[: stages.index(_stage(job))]):
            found = [
                ids[each.name] for each in self._pipeline.jobs if _stage(each) == stage and not jobs.is_optional(each)
            ]
            if found:
                return found
        return []

    def _needed(self, job: Job, item: Json) -> str | None:
        name = item.get("job") if isinstance(item, dict) else item
        is_here = isinstance(name, str) and name in self._context.ids
        if isinstance(item, dict) and (set(item) - {"job", "artifacts", "optional"} or not is_here):
            text = f"{job.name}: needs {writing.flow_text(item)}: only jobs of this pipeline can be needed"
            self._pipeline.comments.append(self._imported.decide(self._path, job.places["needs"].line, text))
            return None
        if not is_here:
            text = f"{job.name}: needs {name}, which does not exist"
            self._pipeline.comments.append(self._imported.decide(self._path, job.places["needs"].line, text))
            return None
        return str(name)

    def _environment(self) -> writing.Block:
        place = self._pipeline.top.get("variables")
        entries = entries_of(place.entry.value) if place is not None else {}
        block = writing.Block()
        values = self._context.variables
        for name, text in values.items():
            others = {key: value for key, value in values.items() if key != name}
            is_here = place is not None and name in entries
            comments = place.source.comments_at(entries[name].key) if place is not None and is_here else []
            if name == _DEFAULT_BRANCH:
                comments = [*comments, *self._about_default_branch]
            block.set(name, variables.expanded(text, others, self._context.undefined), *comments)
        return block

    def _about_workflow(self) -> list[str]:
        place = self._pipeline.top.get("workflow")
        if place is None:
            return []
        value = value_of(place.entry.value)
        rules = value.get("rules") if isinstance(value, dict) else None
        texts: list[str] = []
        if isinstance(rules, list):
            notes: list[str] = []
            condition, _ = conditions.of_rules(rules, self._context.variables, notes.append)
            texts = [
                f"rules of workflow: a pipeline exists if {condition}; write it under on, with branches and tags",
                *notes,
            ]
        elif isinstance(value, dict):
            texts = [f"{', '.join(value)} of workflow have no counterpart"]
        return [*(self._imported.decide(place.source.path, place.line, text) for text in texts), place.text]

    def _about_variables(self) -> list[str]:
        names = sorted(self._context.undefined)
        of_gitlab = [name for name in names if name.startswith(("CI_", "GITLAB_"))]
        of_project = [name for name in names if name not in of_gitlab]
        return [
            self._imported.decide(self._path, 0, text.format(", ".join(each)))
            for text, each in ((_NO_COUNTERPART, of_gitlab), (_UNDEFINED, of_project))
            if each
        ]

    def _hidden_parts(self) -> list[str]:
        """Record keys at the top that are not settings of jobs; return comments about them."""
        comments = []
        known = {"stages", "variables", "include", "workflow", "default", *DEFAULT_KEYS}
        for name, place in self._pipeline.top.items():
            if name not in known:
                comments += [
                    self._imported.decide(place.source.path, place.line, f"{name} has no counterpart"),
                    place.text,
                ]
        if "stages" in self._pipeline.top:
            stages = ", ".join(texts_of(value_of(self._pipeline.top["stages"].entry.value)))
            self._imported.change(
                self._path, self._pipeline.top["stages"].line, f"stages {stages}: now needs of the jobs"
            )
        return comments


def _stage(job: Job) -> str:
    return str(job.keys.get("stage", "test"))


def _has_artifacts(job: Job) -> bool:
    artifacts = job.keys.get("artifacts")
    return isinstance(artifacts, dict) and bool(texts_of(artifacts.get("paths")))
