"""Writes one job of GitLab as a job of a workflow.

Rules of this file: each key of the job is translated, or it is a decision with the key's text as a comment in the job. The
scripts stay as they are; the predefined variables that they read are set in `env`.
"""

from __future__ import annotations

from collections.abc import Mapping

from waterflowd.importers import writing
from waterflowd.importers.generated import as_literal
from waterflowd.importers.gitlab import conditions, job_keys, variables
from waterflowd.importers.gitlab.job_drafts import JobContext, JobDraft, own_variables
from waterflowd.importers.gitlab.pipeline import Job
from waterflowd.importers.source_yaml import items_of, texts_of

#: Keys that `write` handles outside of the table of handlers.
_HANDLED = frozenset(
    ("stage", "needs", "script", "before_script", "after_script", "rules", "only", "except", "when", "start_in")
)
_UNLESS_FAILED = "!failure() && !cancelled()"
_MANUAL = "a person starts this job on GitLab; here it waits for an approval, and the run is not complete before it"


def write(job: Job, needs: list[str], context: JobContext) -> writing.Block:
    """Return the job as a mapping; the ids of the jobs in `needs` must complete first."""
    draft = JobDraft(job=job, context=context, needs=needs)
    block = draft.block
    if context.ids[job.name] != job.name:
        block.set("name", as_literal(job.name))
    block.set("runs-on", context.group)
    if needs:
        block.set("needs", list(needs))
    _condition(draft)
    for key in job.keys:
        if key in job_keys.HANDLERS:
            job_keys.HANDLERS[key](draft, job.keys[key])
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


def _condition(draft: JobDraft) -> None:
    keys = draft.job.keys
    values: Mapping[str, str] = {**draft.context.variables, **own_variables(draft.job)}
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


def _delay(draft: JobDraft) -> None:
    rules = draft.job.keys.get("rules")
    found = [rule.get("start_in") for rule in rules if isinstance(rule, dict)] if isinstance(rules, list) else []
    text = next((str(each) for each in [*found, draft.job.keys.get("start_in")] if each), "")
    seconds = job_keys.seconds_of(text)
    if seconds is None:
        draft.note("start_in", f"start_in {text} is not a duration")
    else:
        draft.steps.add({"uses": "sleep", "with": {"duration": f"{seconds}s"}})


def _scripts(draft: JobDraft) -> None:
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


def _script_lines(draft: JobDraft, key: str) -> list[str]:
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


def _environment(draft: JobDraft, script: str) -> None:
    names = variables.predefined_in(script)
    known = set(own_variables(draft.job)) | set(draft.context.variables)
    missing = []
    for each in names:
        if each in variables.PREDEFINED:
            draft.env.set(each, f"${{{{ {variables.PREDEFINED[each]} }}}}")
        elif each in draft.literals:
            draft.env.set(each, draft.expand(f"${each}"))
        elif each not in known and not draft.env.has(each):
            missing.append(each)
    if missing:
        draft.notes.append(
            draft.decide("script", f"the script reads {', '.join(missing)}, which nothing sets here: set them in env")
        )
    draft.context.undefined |= variables.undefined_in(script, known | {entry.key for entry in draft.env.entries})


def _download(draft: JobDraft) -> None:
    """Fetch the artifacts of the jobs that this one waits for, as GitLab does: those that exist.

    A pattern takes what there is, where a name would fail for a job that was skipped or has stored nothing.
    """
    by_id = {id_: name for name, id_ in draft.context.ids.items()}
    wanted = draft.job.keys.get("dependencies")
    for need in draft.needs:
        name = by_id[need]
        if name in draft.context.with_artifacts and (not isinstance(wanted, list) or name in wanted):
            pattern = draft.context.artifact_of(name, "*")
            draft.steps.add({"uses": "artifact/download", "with": {"pattern": pattern, "merge-multiple": True}})
