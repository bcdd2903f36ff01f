"""`on` and the inputs of a start by hand."""

from __future__ import annotations

from waterflowd.dsl import codes, declarations, schema
from waterflowd.dsl.report import Report
from waterflowd.dsl.tree import Document, Path
from waterflowd.model.plan import InputSpec, PushTrigger, Triggers

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
    is_by_hand = on.workflow_dispatch is not None or on.manual is not None or bool(workflow.inputs)
    push = on.push
    if push is None:
        return Triggers(dispatch=is_by_hand)
    _check_patterns("branches", push.branches, push.branches_ignore, document, report)
    _check_patterns("paths", push.paths, push.paths_ignore, document, report)
    trigger = PushTrigger(
        branches=tuple(push.branches),
        branches_ignore=tuple(push.branches_ignore),
        paths=tuple(push.paths),
        paths_ignore=tuple(push.paths_ignore),
    )
    return Triggers(push=trigger, dispatch=is_by_hand)


def _check_patterns(key: str, wanted: list[str], ignored: list[str], document: Document, report: Report) -> None:
    if wanted and ignored:
        place = document.key_start(("on", "push", f"{key}-ignore"))
        hint = f"write the exceptions under {key}, each with a ! in front"
        report.add(place, codes.EXCLUSIVE_KEYS, f"{key} and {key}-ignore exclude each other", hint)
    if wanted and all(pattern.startswith("!") for pattern in wanted):
        place = document.key_start(("on", "push", key))
        hint = f"put what they are exceptions of in front, or use {key}-ignore"
        report.add(place, codes.WRONG_VALUE, f"{key} holds exceptions only, so nothing ever matches", hint)


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
