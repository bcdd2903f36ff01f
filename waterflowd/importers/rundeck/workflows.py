"""Writes each job of Rundeck as a workflow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from waterflowd.importers import generated, writing
from waterflowd.importers.expressions import with_defaults
from waterflowd.importers.findings import Imported
from waterflowd.importers.generated import as_literal
from waterflowd.importers.origin import Names, Origin, Unreadable, slug
from waterflowd.importers.rundeck import definitions, schedules
from waterflowd.importers.rundeck.definitions import Definition
from waterflowd.importers.rundeck.options import Options, is_true
from waterflowd.importers.rundeck.steps import StepWriter
from waterflowd.importers.writing import flow_text
from waterflowd.model.plan import Json

#: Keys that are translated, or that only Rundeck itself uses.
_TRANSLATED = frozenset(
    (
        *("name", "description", "options", "sequence", "schedule", "timeZone", "nodefilters", "timeout", "retry"),
        *("multipleExecutions", "scheduleEnabled", "executionEnabled"),
    )
)
_ONLY_RUNDECK = frozenset(
    (
        *("id", "uuid", "group", "loglevel", "loglimit", "loglimitAction", "loglimitStatus", "defaultTab"),
        *("nodeFilterEditable", "nodesSelectedByDefault", "schedules", "maxMultipleExecutions", "project"),
    )
)
_UNITS = {"s": 1 / 60, "m": 1, "h": 60, "d": 1440}


def import_files(paths: Sequence[str], origin: Origin) -> Imported:
    """Import files with job definitions."""
    imported, names = Imported(), Names()
    found: list[tuple[str, Definition]] = []
    for path in paths:
        try:
            jobs = definitions.read(origin.text(path), path, imported)
        except Unreadable as error:
            imported.refuse(path, str(error))
            continue
        if not jobs:
            imported.refuse(path, "the file has no jobs")
        found += [(path, job) for job in jobs]
    files = {id(job): names.take(slug(str(job.keys["name"]))) for _, job in found}
    by_name = {
        str(job.keys[key]): files[id(job)] for _, job in found for key in ("uuid", "id", "name") if key in job.keys
    }
    for path, job in _callees_first(found):
        _Writer(path, job, by_name, origin, imported).write(files[id(job)])
    return imported


def _callees_first(found: list[tuple[str, Definition]]) -> Iterator[tuple[str, Definition]]:
    """Yield the jobs that others start before these, so that each can be checked; a cycle is left as it is."""
    by_name = {str(job.keys["name"]): (path, job) for path, job in found}
    done: set[int] = set()
    pending = [(each, False) for each in reversed(found)]
    while pending:
        (path, job), is_ready = pending.pop()
        if is_ready:
            yield path, job
        elif id(job) not in done:
            done.add(id(job))
            pending.append(((path, job), True))
            pending += [
                (by_name[name], False) for name in _started(job) if name in by_name and id(by_name[name][1]) not in done
            ]


def _started(job: Definition) -> list[str]:
    references = [command.get("jobref") for command in _commands(job) if isinstance(command, dict)]
    return [str(each.get("name")) for each in references if isinstance(each, dict)]


def _commands(job: Definition) -> list[Json]:
    sequence = job.keys.get("sequence")
    commands = sequence.get("commands") if isinstance(sequence, dict) else None
    return commands if isinstance(commands, list) else []


class _Writer:
    """Writes one job."""

    def __init__(self, path: str, job: Definition, files: dict[str, str], origin: Origin, imported: Imported) -> None:
        self._path = path
        self._job = job
        self._files = files
        self._origin = origin
        self._imported = imported
        self._options = Options()
        self._notes: list[str] = []

    def write(self, file: str) -> None:
        keys = self._job.keys
        name = str(keys["name"])
        options = keys.get("options")
        for option in options if isinstance(options, list) else []:
            self._options.add(option, self._decide)
        workflow = writing.Block()
        workflow.set("name", as_literal(name))
        if keys.get("description"):
            workflow.set("description", as_literal(str(keys["description"])))
        events, comments = self._events()
        workflow.set("on", events, *comments)
        if not is_true(keys.get("multipleExecutions")):
            # Rundeck refuses to start a job that is running.
            workflow.set("concurrency", {"group": file, "queue": "reject"})
        env = self._options.environment()
        jobs = writing.Block()
        jobs.set(slug(name, "job"), self._written_job())
        # Without a schedule, only people start the job, and their runs have the defaults.
        inputs = self._options.inputs if "schedule" in keys else writing.Block()
        if env:
            workflow.set("env", with_defaults(env, inputs), *self._options.secrets)
        workflow.set("jobs", with_defaults(jobs, inputs))
        heading = [
            f"Imported from line {self._job.line} of {self._path}.",
            *self._job.comments,
            *self._others(),
            *self._notes,
        ]
        generated.add_workflow(self._imported, self._origin, file, self._path, workflow, heading)

    def _decide(self, text: str) -> str:
        return self._imported.decide(self._path, self._job.line, f"{self._job.keys['name']}: {text}")

    def _note(self, text: str) -> None:
        self._notes.append(self._decide(text))

    def _written_job(self) -> writing.Block:
        keys = self._job.keys
        sequence = keys.get("sequence")
        sequence = sequence if isinstance(sequence, dict) else {}
        job = writing.Block()
        runs_on, comments = self._runs_on()
        job.set("runs-on", runs_on, *comments)
        self._bounds(job)
        writer = StepWriter(self._options, self._noted, self._files, is_true(sequence.get("keepgoing")))
        steps = writer.write(_commands(self._job))
        if not steps.items:
            steps.add(
                {"uses": "fail", "with": {"message": "this job has no steps to import"}},
                self._decide("there are no steps"),
            )
        strategy = str(sequence.get("strategy", "node-first"))
        if strategy not in ("node-first", "parallel") and "nodefilters" in keys:
            self._note(
                f"the strategy {strategy} runs each step on all servers before the next: write a job for each step"
            )
        elif strategy == "parallel":
            self._note("the strategy parallel runs all steps at the same time: see the node parallel")
        left = {key: value for key, value in sequence.items() if key not in ("keepgoing", "strategy", "commands")}
        if left:
            self._note(f"no counterpart: sequence: {flow_text(left)}")
        job.set("steps", steps)
        return job

    def _noted(self, text: str) -> str:
        """Record a decision of a step. It is also in the heading, since a step has no place for some of them."""
        comment = self._decide(text)
        self._notes.append(comment)
        return comment

    def _runs_on(self) -> tuple[Json, list[str]]:
        filters = self._job.keys.get("nodefilters")
        if not isinstance(filters, dict):
            self._imported.change(
                self._path,
                self._job.line,
                f"{self._job.keys['name']}: ran on the Rundeck server; now on {self._origin.group}",
            )
            return self._origin.group, []
        dispatch = filters.get("dispatch")
        dispatch = dispatch if isinstance(dispatch, dict) else {}
        runs_on: dict[str, Json] = {"group": self._origin.group, "target": "each"}
        count = str(dispatch.get("threadcount", "1"))
        runs_on["max-parallel"] = int(count) if count.isdecimal() and int(count) else 1
        if not is_true(dispatch.get("keepgoing")):
            runs_on["max-failures"] = 0
        written = {key: value for key, value in filters.items() if key != "dispatch"}
        left = {key: value for key, value in dispatch.items() if key not in ("threadcount", "keepgoing")}
        comments = [self._decide(f"Rundeck chose the servers by {flow_text(written)}: choose a group, or labels")]
        if left:
            comments.append(self._decide(f"no counterpart: dispatch: {flow_text(left)}"))
        return runs_on, comments

    def _bounds(self, job: writing.Block) -> None:
        timeout, retry = self._job.keys.get("timeout"), self._job.keys.get("retry")
        if timeout:
            minutes = _minutes(str(timeout))
            if minutes is None:
                self._note(f"the timeout {timeout} is not a duration")
            else:
                job.set("timeout-minutes", minutes)
        if retry:
            count = retry.get("retry") if isinstance(retry, dict) else retry
            delay = retry.get("delay") if isinstance(retry, dict) else None
            if str(count).isdecimal():
                attempts: dict[str, Json] = {"max-attempts": int(str(count)) + 1}
                if delay:
                    attempts["initial-interval"] = str(delay)
                job.set("retry", attempts)
            else:
                self._note(f"the number of retries is not known here: {flow_text(retry)}")

    def _events(self) -> tuple[writing.Block, list[str]]:
        keys = self._job.keys
        events = writing.Block()
        comments: list[str] = []
        dispatch: writing.Value = None
        if self._options.inputs.entries:
            dispatch = writing.Block()
            dispatch.set("inputs", self._options.inputs)
        events.set("workflow_dispatch", dispatch)
        schedule = keys.get("schedule")
        if schedule is None:
            return events, comments
        try:
            expression, notes = schedules.expression_of(schedule)
        except schedules.Untranslatable as error:
            return events, [self._decide(f"the schedule {flow_text(schedule)} has no counterpart: {error}")]
        comments += [self._decide(f"schedule {flow_text(schedule)}: {note}") for note in notes]
        zone = keys.get("timeZone") or self._origin.timezone
        if zone is None:
            comments.append(self._decide("Rundeck uses the time zone of its server; name it here, or keep UTC"))
        if (
            str(keys.get("scheduleEnabled", "true")).lower() == "false"
            or str(keys.get("executionEnabled", "true")).lower() == "false"
        ):
            comments.append(self._decide(f"the schedule is disabled on Rundeck: {expression}"))
        else:
            items = writing.Items()
            items.add({"cron": expression, "timezone": str(zone or "UTC")})
            events.set("schedule", items)
        return events, comments

    def _others(self) -> list[str]:
        """Record the keys that have no counterpart; return comments about them."""
        comments = []
        name = self._job.keys["name"]
        for key, value in self._job.keys.items():
            if key in _ONLY_RUNDECK:
                self._imported.change(self._path, self._job.line, f"{name}: {key} is left out: {flow_text(value)}")
            elif key == "notification":
                comments.append(
                    self._decide(f"notification: see notices in the daemon's configuration: {flow_text(value)}")
                )
            elif key not in _TRANSLATED:
                comments.append(self._decide(f"no counterpart: {key}: {flow_text(value)}"))
        return comments


def _minutes(text: str) -> float | int | None:
    if re.fullmatch(r"\d{1,9}", text):
        return max(1, round(int(text) / 60))
    parts = re.findall(r"(\d+)\s*([smhd])", text)
    if not parts or "".join(f"{n}{u}" for n, u in parts) != text.replace(" ", ""):
        return None
    total = sum(int(number) * _UNITS[unit] for number, unit in parts)
    return generated.written_minutes(total)
