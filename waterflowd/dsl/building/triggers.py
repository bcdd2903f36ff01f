"""Triggers: `on`, and the inputs of manual starts and of calls."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building import inputs, secret_references
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.lints.patterns import warn_patterns
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.model.plan import (
    CatchUp,
    InputSpec,
    Overlap,
    PushTrigger,
    ScheduleTrigger,
    Triggers,
    WebhookTrigger,
    WorkflowRunTrigger,
)
from waterflowd.model.wording import did_you_mean

_DISPATCH = ("on", "workflow_dispatch")
_MANUAL = ("on", "manual")
_CALL = ("on", "workflow_call")

_HOOK_CHARACTERS_MAX = 100
_HOOK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def build_triggers(source: SourceFile, workflow: models.Workflow) -> Triggers:
    """What starts the workflow."""
    if not workflow.has("on"):
        return Triggers(on_change=True)
    on = workflow.on
    if on is None or not on.model_fields_set:
        node, _ = source.document.find(("on",))
        if not source.report.has_within(node.start, node.end + 1):
            hint = "name an event such as push, or remove the key to start the workflow when a push changes this file"
            source.at_key(("on",), codes.WRONG_VALUE, "on is empty", hint)
        return Triggers()
    return Triggers(
        push=_push(source, on.push),
        dispatch=is_dispatched(workflow),
        webhook=_webhook(source, on.webhook),
        workflow_run=_workflow_run(source, workflow, on.workflow_run),
        schedules=build_schedules(source, list(workflow.vars), on.schedule),
    )


def _push(source: SourceFile, push: models.Push | None) -> PushTrigger | None:
    if push is None:
        return None
    _check_patterns(source, "push", "branches", push.branches, push.branches_ignore)
    _check_patterns(source, "push", "tags", push.tags, push.tags_ignore)
    _check_patterns(source, "push", "paths", push.paths, push.paths_ignore)
    return PushTrigger(
        branches=tuple(push.branches),
        branches_ignore=tuple(push.branches_ignore),
        paths=tuple(push.paths),
        paths_ignore=tuple(push.paths_ignore),
        tags=tuple(push.tags),
        tags_ignore=tuple(push.tags_ignore),
    )


def _webhook(source: SourceFile, webhook: models.Webhook | None) -> WebhookTrigger | None:
    if webhook is None:
        return None
    at: Path = ("on", "webhook")
    name = webhook.name
    if name is None:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", PurePosixPath(source.path).stem).strip("-.")[:_HOOK_CHARACTERS_MAX]
    if not _HOOK.fullmatch(name):
        text = f"{quote(name)} is not a valid webhook name: use letters, digits, _, - and ., at most 100 characters"
        hint = "set a name" if webhook.name is None else ""
        source.at_value((*at, "name"), codes.WRONG_VALUE, text, hint)
    secret = secret_references.only_name(webhook.secret) or webhook.secret
    if not _SECRET.fullmatch(secret):
        text = "secret: expected the name of a secret"
        source.at_value(
            (*at, "secret"), codes.WRONG_SECRET, text, "write its name (letters, digits and _), never its value"
        )
    return WebhookTrigger(name=name, secret=secret)


def _workflow_run(
    source: SourceFile, workflow: models.Workflow, model: models.WorkflowRun | None
) -> WorkflowRunTrigger | None:
    if model is None:
        return None
    _check_patterns(source, "workflow_run", "branches", model.branches, model.branches_ignore)
    own = {source.path, workflow.name or PurePosixPath(source.path).stem}
    for position, name in enumerate(model.workflows):
        if name in own:
            text = "a workflow cannot start after itself: it would run forever"
            source.at_value(
                ("on", "workflow_run", "workflows", position), codes.WRONG_VALUE, text, "name another workflow"
            )
    return WorkflowRunTrigger(
        workflows=tuple(dict.fromkeys(model.workflows)),
        conclusions=tuple(dict.fromkeys(model.conclusions)),
        branches=tuple(model.branches),
        branches_ignore=tuple(model.branches_ignore),
    )


def _check_patterns(source: SourceFile, event: str, key: str, model: list[str], ignored: list[str]) -> None:
    if model and ignored:
        hint = f"list the exceptions under {key}, each with a leading !"
        text = f"{key} and {key}-ignore cannot be combined"
        source.at_key(("on", event, f"{key}-ignore"), codes.EXCLUSIVE_KEYS, text, hint)
    if model and all(pattern.startswith("!") for pattern in model):
        hint = f"add a pattern before them that matches something, or use {key}-ignore"
        text = f"{key} contains only exceptions, so nothing ever matches"
        source.at_key(("on", event, key), codes.WRONG_VALUE, text, hint)
    warn_patterns(source, ("on", event, key), key, model)
    warn_patterns(source, ("on", event, f"{key}-ignore"), key, ignored)


def build_inputs(source: SourceFile, workflow: models.Workflow) -> tuple[InputSpec, ...]:
    """The inputs of a manual start, wherever the file declares them."""
    on = workflow.on
    declarations: list[tuple[Path, dict[str, models.Input]]] = []
    if workflow.has("inputs"):
        declarations.append((("inputs",), workflow.inputs))
    if on is not None and on.workflow_dispatch is not None and on.workflow_dispatch.has("inputs"):
        declarations.append(((*_DISPATCH, "inputs"), on.workflow_dispatch.inputs))
    if on is not None and on.manual is not None and on.manual.has("inputs"):
        declarations.append(((*_MANUAL, "inputs"), on.manual.inputs))
    _check_declared_once(source, declarations)
    if on is not None and on.workflow_dispatch is not None and on.manual is not None:
        text = "manual is an alias of workflow_dispatch; only one of them may be given"
        source.at_key(_MANUAL, codes.EXCLUSIVE_KEYS, text, "remove one of them")
    return tuple(
        spec for path, declared in declarations for spec in inputs.specs(declared, path, source.document, source.report)
    )


def build_call_inputs(source: SourceFile, workflow: models.Workflow) -> tuple[InputSpec, ...] | None:
    """The inputs of a call: those of `workflow_call`, or the top-level ones; None for a workflow that cannot be called."""
    call = workflow.on.workflow_call if workflow.on is not None else None
    if call is None:
        return None
    path: Path = (*_CALL, "inputs")
    if not call.has("inputs"):
        return inputs.specs(workflow.inputs, ("inputs",), source.document, DiagnosticReport())
    if workflow.has("inputs"):
        _check_declared_once(source, [(("inputs",), workflow.inputs), (path, call.inputs)])
    return inputs.specs(call.inputs, path, source.document, source.report)


def started_inputs(source: SourceFile, workflow: models.Workflow) -> tuple[InputSpec, ...]:
    """The inputs of a run: those of a manual start, or those of a call if the file can only be called."""
    own = build_inputs(source, workflow)
    called_with = build_call_inputs(source, workflow)
    return own if called_with is None or is_dispatched(workflow) else called_with


def is_dispatched(workflow: models.Workflow) -> bool:
    """Whether the file declares manual starts."""
    on = workflow.on
    by_hand = on is not None and (on.workflow_dispatch is not None or on.manual is not None)
    return by_hand or bool(workflow.inputs)


def _check_declared_once(source: SourceFile, declarations: list[tuple[Path, dict[str, models.Input]]]) -> None:
    for path, _ in declarations[1:]:
        first = ".".join(map(str, declarations[0][0]))
        text = f"inputs are declared twice: here and at {first}"
        source.at_key(path, codes.EXCLUSIVE_KEYS, text, "declare all inputs in one place")


def build_schedules(
    source: SourceFile, variables: Sequence[str], schedules: Sequence[models.Schedule]
) -> tuple[ScheduleTrigger, ...]:
    """The schedules of a file that declares these `vars`."""
    known: dict[tuple[str, str], int] = {}
    for number, schedule in enumerate(schedules):
        path: Path = ("on", "schedule", number)
        _check_variables(source, variables, schedule, path)
        times = (schedule.cron, schedule.timezone)
        node, _ = source.document.find(path)
        if times in known and not source.report.has_within(node.start, node.end + 1):
            text = f"schedule[{number}] has the same times as schedule[{known[times]}]"
            source.report.add(node.start, codes.EXCLUSIVE_KEYS, text, "remove one of them: each instant starts one run")
        known.setdefault(times, number)
    return tuple(_trigger(schedule) for schedule in schedules)


def _trigger(schedule: models.Schedule) -> ScheduleTrigger:
    catch_up = CatchUp(schedule.catch_up)
    # Skipping overlaps would drop all missed runs but the first, although `catch-up: all` requests them.
    usual = Overlap.QUEUE if catch_up is CatchUp.ALL else Overlap.SKIP
    return ScheduleTrigger(
        cron=schedule.cron,
        timezone=schedule.timezone,
        overlap=Overlap(schedule.overlap) if schedule.overlap else usual,
        catch_up=catch_up,
        vars={name: plain(value) for name, value in schedule.vars.items()},
    )


def _check_variables(source: SourceFile, variables: Sequence[str], schedule: models.Schedule, path: Path) -> None:
    declared = {name.lower() for name in variables}
    for name, value in schedule.vars.items():
        at: Path = (*path, "vars", name)
        if not expr.is_static(value):
            text = f"vars of a schedule: {quote(name)} cannot contain an expression"
            source.at_key(
                at, codes.WRONG_VALUE, text, "write a plain value, or move the expression to the vars of the workflow"
            )
        if declared and name.lower() not in declared:
            text = f"vars of a schedule: the workflow has no variable {quote(name)}"
            hint = did_you_mean(name, variables) or "declare it in the vars of the workflow, with a default"
            source.at_key(at, codes.UNKNOWN_KEY, text, hint)
