"""`on` and the inputs of a start by hand."""

from __future__ import annotations

from waterflowd import expr
from waterflowd.dsl import codes, declarations, schema
from waterflowd.dsl.places import quoted
from waterflowd.dsl.report import Report, did_you_mean
from waterflowd.dsl.tree import Document, Path, plain
from waterflowd.model.plan import CatchUp, InputSpec, Overlap, PushTrigger, ScheduleTrigger, Triggers

_DISPATCH = ("on", "workflow_dispatch")
_MANUAL = ("on", "manual")


def build_triggers(workflow: schema.Workflow, document: Document, report: Report) -> Triggers:
    """What starts the workflow."""
    if not workflow.has("on"):
        return Triggers(on_change=True)
    on = workflow.on
    if on is None or not on.model_fields_set:
        node, _ = document.find(("on",))
        if not report.has_within(node.start, node.end + 1):
            hint = "name an event such as push, or remove the key: then pushes that change the file start it"
            report.add(document.key_start(("on",)), codes.WRONG_VALUE, "on is empty", hint)
        return Triggers()
    return Triggers(
        push=_push(on.push, document, report) if on.push is not None else None,
        dispatch=on.workflow_dispatch is not None or on.manual is not None or bool(workflow.inputs),
        schedules=_schedules(workflow, on.schedule, document, report),
    )


def _push(push: schema.Push, document: Document, report: Report) -> PushTrigger:
    _check_patterns("branches", push.branches, push.branches_ignore, document, report)
    _check_patterns("tags", push.tags, push.tags_ignore, document, report)
    _check_patterns("paths", push.paths, push.paths_ignore, document, report)
    return PushTrigger(
        branches=tuple(push.branches),
        branches_ignore=tuple(push.branches_ignore),
        paths=tuple(push.paths),
        paths_ignore=tuple(push.paths_ignore),
        tags=tuple(push.tags),
        tags_ignore=tuple(push.tags_ignore),
    )


def _check_patterns(key: str, wanted: list[str], ignored: list[str], document: Document, report: Report) -> None:
    if wanted and ignored:
        place = document.key_start(("on", "push", f"{key}-ignore"))
        hint = f"write the exceptions under {key}, each with a ! in front"
        report.add(place, codes.EXCLUSIVE_KEYS, f"{key} and {key}-ignore exclude each other", hint)
    if wanted and all(pattern.startswith("!") for pattern in wanted):
        place = document.key_start(("on", "push", key))
        hint = f"put what they are exceptions of in front, or use {key}-ignore"
        report.add(place, codes.WRONG_VALUE, f"{key} holds exceptions only, so nothing ever matches", hint)


def _schedules(
    workflow: schema.Workflow, written: list[schema.Schedule], document: Document, report: Report
) -> tuple[ScheduleTrigger, ...]:
    known: dict[tuple[str, str], int] = {}
    for number, schedule in enumerate(written):
        path: Path = ("on", "schedule", number)
        _check_variables(workflow, schedule, path, document, report)
        times = (schedule.cron, schedule.timezone)
        node, _ = document.find(path)
        if times in known and not report.has_within(node.start, node.end + 1):
            text = f"schedule[{number}] says the same times as schedule[{known[times]}]"
            report.add(node.start, codes.EXCLUSIVE_KEYS, text, "remove one of the two: an instant starts one run")
        known.setdefault(times, number)
    return tuple(_schedule(schedule) for schedule in written)


def _schedule(schedule: schema.Schedule) -> ScheduleTrigger:
    catch_up = CatchUp(schedule.catch_up)
    # Whoever wants a run for each instant would lose all but the first of them by skipping what overlaps.
    usual = Overlap.QUEUE if catch_up is CatchUp.ALL else Overlap.SKIP
    return ScheduleTrigger(
        cron=schedule.cron,
        timezone=schedule.timezone,
        overlap=Overlap(schedule.overlap) if schedule.overlap else usual,
        catch_up=catch_up,
        vars={name: plain(value) for name, value in schedule.vars.items()},
    )


def _check_variables(
    workflow: schema.Workflow, schedule: schema.Schedule, path: Path, document: Document, report: Report
) -> None:
    declared = {name.lower() for name in workflow.vars}
    for name, value in schedule.vars.items():
        place = document.key_start((*path, "vars", name))
        if not expr.is_static(value):
            text = f"vars of a schedule: {quoted(name)} holds an expression, and nothing is known yet that it could use"
            report.add(place, codes.WRONG_VALUE, text, "write a value, or the expression in the vars of the file")
        if declared and name.lower() not in declared:
            text = f"vars of a schedule: the file has no variable {quoted(name)}"
            hint = did_you_mean(name, workflow.vars) or "declare it in the vars of the file, with what a push shall see"
            report.add(place, codes.UNKNOWN_KEY, text, hint)


def build_inputs(workflow: schema.Workflow, document: Document, report: Report) -> tuple[InputSpec, ...]:
    """The inputs, from the one place where the file declares them."""
    on = workflow.on
    places: list[tuple[Path, dict[str, schema.Input]]] = []
    if workflow.has("inputs"):
        places.append((("inputs",), workflow.inputs))
    if on is not None and on.workflow_dispatch is not None and on.workflow_dispatch.has("inputs"):
        places.append(((*_DISPATCH, "inputs"), on.workflow_dispatch.inputs))
    if on is not None and on.manual is not None and on.manual.has("inputs"):
        places.append(((*_MANUAL, "inputs"), on.manual.inputs))
    for path, _ in places[1:]:
        first = ".".join(map(str, places[0][0]))
        text = f"inputs are declared twice: here and at {first}"
        report.add(document.key_start(path), codes.EXCLUSIVE_KEYS, text, "move all of them to one place")
    if on is not None and on.workflow_dispatch is not None and on.manual is not None:
        text = "manual is another name of workflow_dispatch; both are given"
        report.add(document.key_start(_MANUAL), codes.EXCLUSIVE_KEYS, text, "remove one of the two")
    return tuple(spec for path, declared in places for spec in declarations.specs(declared, path, document, report))
