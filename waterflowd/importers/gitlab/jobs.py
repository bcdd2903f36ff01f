"""Writes one job of GitLab as a job of a workflow.

Rules of this file: each key of the job is translated, or it is a decision with the key's text as a comment in the job. The
scripts stay as they are; the predefined variables that they read are set in `env`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from waterflow_agent import durations
from waterflowd.importers import writing
from waterflowd.importers.findings import Imported
from waterflowd.importers.generated import as_literal
from waterflowd.importers.gitlab import conditions, variables
from waterflowd.importers.gitlab.pipeline import Job
from waterflowd.importers.origin import slug
from waterflowd.importers.source_yaml import items_of, texts_of
from waterflowd.model.plan import Json

#: Keys that `write` handles outside of the table of handlers.
_HANDLED = frozenset(
    ("stage", "needs", "script", "before_script", "after_script", "rules", "only", "except", "when", "start_in")
)
_UNLESS_FAILED = "!failure() && !cancelled()"
_MANUAL = "a person starts this job on GitLab; here it waits for an approval, and the run is not complete before it"


@dataclass
class JobContext:
    """What the jobs of a pipeline share."""

    imported: Imported
    group: str
    #: Variables of the whole file, as texts.
    variables: dict[str, str]
    #: Id of each job by its name on GitLab.
    ids: dict[str, str]
    #: Whether some jobs run under conditions only.
    has_conditions: bool = False
    #: Names of the jobs that store artifacts.
    with_artifacts: set[str] = field(default_factory=set)
    #: Variables that scripts read and nothing defines.
    undefined: set[str] = field(default_factory=set)


@dataclass
class _Draft:
    """A job that is being written."""

    job: Job
    context: JobContext
    needs: list[str]
    block: writing.Block = field(default_factory=writing.Block)
    env: writing.Block = field(default_factory=writing.Block)
    steps: writing.Items = field(default_factory=writing.Items)
    #: Steps behind those of the script.
    last_steps: list[tuple[writing.Block, tuple[str, ...]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: Keys whose text is among the notes.
    noted: set[str] = field(default_factory=set)

    def decide(self, key: str, text: str) -> str:
        """Record a decision about a key of the job."""
        place = self.job.places.get(key)
        path = place.source.path if place else self.job.source.path
        return self.context.imported.decide(path, place.line if place else 0, f"{self.job.name}: {text}")

    def note(self, key: str, text: str) -> None:
        """Record a decision, with the comment and the text of the key in the job."""
        self.notes.append(self.decide(key, text))
        if key in self.job.places and key not in self.noted:
            self.noted.add(key)
            self.notes.append(self.job.places[key].text)

    def change(self, key: str, text: str) -> None:
        """Record a change of a key of the job."""
        place = self.job.places.get(key)
        path = place.source.path if place else self.job.source.path
        self.context.imported.change(path, place.line if place else 0, f"{self.job.name}: {text}")

    def expand(self, text: object) -> str:
        """Return a text with GitLab's variables replaced."""
        return variables.expanded(
            str(text), {**self.context.variables, **_own_variables(self.job)}, self.context.undefined
        )


def write(job: Job, needs: list[str], context: JobContext) -> writing.Block:
    """Return the job as a mapping; the ids of the jobs in `needs` must complete first."""
    draft = _Draft(job=job, context=context, needs=needs)
    block = draft.block
    if context.ids[job.name] != job.name:
        block.set("name", as_literal(job.name))
    block.set("runs-on", context.group)
    if needs:
        block.set("needs", list(needs))
    _condition(draft)
    for key in job.keys:
        if key in _HANDLERS:
            _HANDLERS[key](draft, job.keys[key])
        elif key not in _HANDLED:
            draft.note(key, f"{key} has no counterpart")
    _scripts(draft)
    if draft.env.entries:
        block.set("env", draft.env)
    if not draft.steps.items:
        draft.steps.add(
            {"uses": "fail", "with": {"message": draft.decide("script", "this job has no script to import")[8:]}}
        )
    block.set("steps", draft.steps, *draft.notes)
    return block


def is_optional(job: Job) -> bool:
    """Whether later stages do not wait for this job: a person may start it."""
    rules = job.keys.get("rules")
    whens = [rule.get("when") for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    is_manual = job.keys.get("when") == "manual" or (bool(whens) and all(when in ("manual", "never") for when in whens))
    return is_manual and job.keys.get("allow_failure") is not False


def _own_variables(job: Job) -> dict[str, str]:
    own = job.keys.get("variables")
    return variables.plain_values(own) if isinstance(own, dict) else {}


def _condition(draft: _Draft) -> None:
    keys = draft.job.keys
    values: Mapping[str, str] = {**draft.context.variables, **_own_variables(draft.job)}
    condition, whens = "true", [str(keys.get("when", "on_success"))]
    rules = keys.get("rules")
    if isinstance(rules, list):
        flat = [each for rule in rules for each in (rule if isinstance(rule, list) else [rule])]
        condition, whens = conditions.of_rules(flat, values, lambda text: draft.note("rules", text))
    elif "only" in keys or "except" in keys:
        if "only" in keys:
            condition = conditions.of_only(keys["only"], values, lambda text: draft.note("only", text))
        if "except" in keys:
            other = conditions.of_only(keys["except"], values, lambda text: draft.note("except", text), "false")
            condition = conditions.all_of(condition, conditions.negated(other))
    # A job that is not in GitLab's pipeline holds up no other job; here a skipped one would.
    usual = _UNLESS_FAILED if draft.needs and draft.context.has_conditions else "true"
    status = {"always": "always()", "on_failure": "failure()"}.get(whens[0] if whens else "", usual)
    condition = "false" if "never" in whens else conditions.all_of(status, condition)
    if condition != "true":
        draft.block.set("if", condition)
    if len(set(whens)) > 1:
        draft.note("rules", f"several values of when in rules ({', '.join(sorted(set(whens)))}); the first one applies")
    if "manual" in whens:
        draft.steps.add(
            {"uses": "approval", "with": {"message": f"Start {draft.job.name}?"}}, draft.decide("when", _MANUAL)
        )
    if "delayed" in whens:
        _delay(draft)


def _delay(draft: _Draft) -> None:
    rules = draft.job.keys.get("rules")
    found = [rule.get("start_in") for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    text = next((str(each) for each in [*found, draft.job.keys.get("start_in")] if each), "")
    seconds = seconds_of(text)
    if seconds is None:
        draft.note("start_in", f"start_in {text} is not a duration")
    else:
        draft.steps.add({"uses": "sleep", "with": {"duration": f"{seconds}s"}})


def _scripts(draft: _Draft) -> None:
    keys = draft.job.keys
    script = [*_script_lines(draft, "before_script"), *_script_lines(draft, "script")]
    after = _script_lines(draft, "after_script")
    _download(draft)
    if texts_of(keys.get("script")):
        step = writing.Block()
        step.set("run", _script_text(script))
        comments = [
            comment
            for key in ("before_script", "script")
            if key in draft.job.places
            for comment in draft.job.places[key].source.comments_at(draft.job.places[key].entry.key)
        ]
        draft.steps.add(step, *comments)
    for step, comments_of_step in draft.last_steps:
        draft.steps.add(step, *comments_of_step)
    if after:
        step = writing.Block()
        step.set("name", "after_script")
        step.set("if", "always()")
        step.set("continue-on-error", True)
        step.set("run", _script_text(after))
        draft.steps.add(step)
    _environment(draft, "\n".join([*script, *after]))


def _script_lines(draft: _Draft, key: str) -> list[str]:
    """Return the commands of a script, with the comments between them."""
    lines = texts_of(draft.job.keys.get(key))
    place = draft.job.places.get(key)
    items = items_of(place.entry.value) if place is not None else []
    if place is None or len(items) != len(lines):
        return lines
    commented = [
        [*(f"# {comment}" for comment in place.source.comments_at(item)), line]
        for item, line in zip(items, lines, strict=True)
    ]
    return [line for each in commented for line in each]


def _script_text(lines: list[str]) -> str:
    text = "\n".join(line.rstrip("\n") for line in lines)
    return as_literal(text + "\n" if "\n" in text else text)


def _environment(draft: _Draft, script: str) -> None:
    names = variables.predefined_in(script)
    known = set(_own_variables(draft.job)) | set(draft.context.variables)
    literal = {"CI_JOB_NAME": draft.job.name, "CI_JOB_STAGE": str(draft.job.keys.get("stage", "test"))}
    environment = draft.job.keys.get("environment")
    name = environment.get("name") if isinstance(environment, dict) else environment
    if name:
        literal["CI_ENVIRONMENT_NAME"] = draft.expand(name)
    missing = []
    for each in names:
        if each in variables.PREDEFINED:
            draft.env.set(each, f"${{{{ {variables.PREDEFINED[each]} }}}}")
        elif each in literal:
            draft.env.set(each, literal[each] if each == "CI_ENVIRONMENT_NAME" else as_literal(literal[each]))
        elif each not in known and not draft.env.has(each):
            missing.append(each)
    if missing:
        draft.notes.append(
            draft.decide("script", f"the script reads {', '.join(missing)}, which nothing sets here: set them in env")
        )
    draft.context.undefined |= variables.undefined_in(script, known | {entry.key for entry in draft.env.entries})


def _download(draft: _Draft) -> None:
    """Fetch the artifacts of the jobs that this one waits for, as GitLab does."""
    by_id = {id_: name for name, id_ in draft.context.ids.items()}
    wanted = draft.job.keys.get("dependencies")
    for need in draft.needs:
        name = by_id[need]
        if name in draft.context.with_artifacts and (not isinstance(wanted, list) or name in wanted):
            draft.steps.add({"uses": "actions/download-artifact@v4", "with": {"name": need}})


def _variables(draft: _Draft, value: Json) -> None:
    for name, text in variables.plain_values(value if isinstance(value, dict) else {}).items():
        draft.env.set(name, draft.expand(text))


def _image(draft: _Draft, value: Json) -> None:
    name = value.get("name") if isinstance(value, dict) else value
    container = writing.Block()
    container.set("image", draft.expand(name))
    draft.block.set("container", container)
    if isinstance(value, dict) and set(value) - {"name"}:
        draft.note("image", "of image only the name is imported")


def _services(draft: _Draft, value: Json) -> None:
    services = writing.Block()
    for item in value if isinstance(value, list) else []:
        name = str(item.get("name") if isinstance(item, dict) else item)
        alias = item.get("alias") if isinstance(item, dict) else None
        services.set(slug(str(alias or name.split(":")[0].replace("/", "-"))), {"image": draft.expand(name)})
        if isinstance(item, dict) and set(item) - {"name", "alias"}:
            draft.note("services", "of services only name and alias are imported")
    if services.entries:
        draft.block.set("services", services)


def _artifacts(draft: _Draft, value: Json) -> None:
    if not isinstance(value, dict):
        return
    paths = [draft.expand(path) for path in texts_of(value.get("paths"))]
    if paths:
        excluded = [f"!{draft.expand(path)}" for path in texts_of(value.get("exclude"))]
        parameters: dict[str, Json] = {
            "name": draft.context.ids[draft.job.name],
            "path": "\n".join([*paths, *excluded]),
        }
        seconds = seconds_of(str(value.get("expire_in", "")))
        if seconds is not None:
            parameters["retention-days"] = max(1, round(seconds / 86_400))
        step = writing.Block()
        if value.get("when") in ("always", "on_failure"):
            step.set("if", "always()" if value["when"] == "always" else "failure()")
        step.set("uses", "actions/upload-artifact@v4")
        step.set("with", parameters)
        draft.last_steps.append((step, ()))
    left = set(value) - {"paths", "exclude", "expire_in", "when", "name"}
    if left:
        draft.note("artifacts", f"{', '.join(sorted(left))} of artifacts: no counterpart")
    if "name" in value:
        draft.change("artifacts", f"the artifact is called {draft.context.ids[draft.job.name]}, not {value['name']}")


def _cache(draft: _Draft, value: Json) -> None:
    caches = value if isinstance(value, list) else [value]
    for cache in caches:
        key = cache.get("key", "default") if isinstance(cache, dict) else None
        paths = texts_of(cache.get("paths")) if isinstance(cache, dict) else []
        if not paths:
            continue
        if isinstance(key, dict):
            files = ", ".join(conditions.quoted(path) for path in texts_of(key.get("files")))
            key = f"{key.get('prefix', 'files')}-${{{{ hashFiles({files}) }}}}" if files else "default"
        else:
            key = draft.expand(key)
        step = {
            "uses": "actions/cache@v4",
            "with": {"key": key, "path": "\n".join(draft.expand(path) for path in paths)},
        }
        draft.steps.add(step)
    if any(isinstance(cache, dict) and set(cache) - {"key", "paths"} for cache in caches):
        draft.note("cache", "of cache only key and paths are imported")


def _deployment(draft: _Draft, value: Json) -> None:
    name = value.get("name") if isinstance(value, dict) else value
    if name:
        draft.block.set("environment", draft.expand(name))
    if isinstance(value, dict) and set(value) - {"name"}:
        draft.note("environment", f"{', '.join(sorted(set(value) - {'name'}))} of environment: no counterpart")


def _parallel(draft: _Draft, value: Json) -> None:
    if isinstance(value, int):
        draft.block.set("strategy", {"fail-fast": False, "matrix": {"index": list(range(1, value + 1))}})
        draft.env.set("CI_NODE_INDEX", "${{ matrix.index }}")
        draft.env.set("CI_NODE_TOTAL", str(value))
        return
    rows = value.get("matrix") if isinstance(value, dict) else None
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    lists = [{name: texts_of(item) for name, item in row.items()} for row in rows]
    if len(lists) == 1:
        matrix: Json = dict(lists[0])
    else:
        matrix = {"include": [pair for row in lists for pair in _combinations(row)]}
    draft.block.set("strategy", {"fail-fast": False, "matrix": matrix})
    for name in dict.fromkeys(name for row in lists for name in row):
        draft.env.set(name, f"${{{{ matrix.{name} }}}}")


def _combinations(row: dict[str, list[str]]) -> list[Json]:
    found: list[dict[str, Json]] = [{}]
    for name, values in row.items():
        found = [{**pair, name: value} for pair in found for value in values][:256]
    return list(found)


def _retry(draft: _Draft, value: Json) -> None:
    count = value.get("max") if isinstance(value, dict) else value
    draft.block.set("retry", {"max-attempts": (count if isinstance(count, int) else 0) + 1})
    if isinstance(value, dict) and set(value) - {"max"}:
        draft.note("retry", "when of retry has no counterpart; see on of retry")


def _timeout(draft: _Draft, value: Json) -> None:
    seconds = seconds_of(str(value))
    if seconds is None:
        draft.note("timeout", f"timeout {value} is not a duration")
    else:
        minutes = seconds / 60
        draft.block.set("timeout-minutes", int(minutes) if minutes == int(minutes) else round(minutes, 2))


def _allow_failure(draft: _Draft, value: Json) -> None:
    if value is True or isinstance(value, dict):
        draft.block.set("continue-on-error", True)
    if isinstance(value, dict):
        draft.note(
            "allow_failure",
            f"allow_failure for some exit codes only: every failure is allowed now: {writing.flow_text(value)}",
        )


def _resource_group(draft: _Draft, value: Json) -> None:
    draft.block.set("concurrency", {"group": draft.expand(value)})


def _tags(draft: _Draft, value: Json) -> None:
    draft.change("tags", f"runner tags {', '.join(texts_of(value))}: now the group {draft.context.group}")


def _dependencies(draft: _Draft, value: Json) -> None:
    draft.change("dependencies", f"the artifacts of {', '.join(texts_of(value)) or 'no job'} are fetched")


def _interruptible(draft: _Draft, value: Json) -> None:
    draft.note(
        "interruptible", "to cancel a run that a newer push replaces, write concurrency with cancel-in-progress: true"
    )


def _trigger(draft: _Draft, value: Json) -> None:
    sentence = draft.decide(
        "trigger", f"trigger starts another pipeline: use workflow/run, or a job with uses: {writing.flow_text(value)}"
    )
    draft.steps.add({"uses": "fail", "with": {"message": sentence.partition(": ")[2].replace("${{", "$ {{")}}, sentence)


_HANDLERS: dict[str, Callable[[_Draft, Json], None]] = {
    "variables": _variables,
    "image": _image,
    "services": _services,
    "artifacts": _artifacts,
    "cache": _cache,
    "environment": _deployment,
    "parallel": _parallel,
    "retry": _retry,
    "timeout": _timeout,
    "allow_failure": _allow_failure,
    "resource_group": _resource_group,
    "tags": _tags,
    "dependencies": _dependencies,
    "interruptible": _interruptible,
    "trigger": _trigger,
}

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "mo": 2_592_000, "y": 31_536_000}


def seconds_of(text: str) -> int | None:
    """Return a duration as GitLab writes it (`1h 30m`, `2 days`, `3 mins 4 sec`, a number of seconds) in seconds."""
    try:
        return int(durations.parse(text) // 1000)
    except ValueError:
        pass
    total = 0
    rest = re.sub(r"\band\b|,", " ", text.lower()).strip()
    if not rest:
        return None
    while rest:
        found = re.match(r"(\d+)\s*(mo|[a-z])?[a-z]*\s*", rest)
        if not found or (found[2] or "s") not in _UNITS:
            return None
        total += int(found[1]) * _UNITS[found[2] or "s"]
        rest = rest[found.end() :]
    return total
