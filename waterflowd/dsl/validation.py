"""From a tree to the models of `schema`: pydantic's findings become errors with places.

Rules of this file: one broken key must not hide what is wrong elsewhere. So what is broken is reported, taken out of
a copy (a required one is replaced by something harmless), and the copy is validated again: the later checks see a
whole workflow, and never speak about what was taken out, because the report holds it already.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from waterflowd.dsl import codes, schema
from waterflowd.dsl.places import quoted
from waterflowd.dsl.report import Report, did_you_mean
from waterflowd.dsl.tree import Document, Mapping, Path, to_json
from waterflowd.dsl.values import describe
from waterflowd.dsl.written import READY

#: A repair can uncover one more layer of errors; more rounds than layers of models find nothing.
_ROUNDS_MAX = 8

#: Stand-ins for required values, so that the checks after this one have a whole workflow.
_STAND_INS: dict[str, Any] = {
    "runs-on": "unknown",
    "steps": [{"run": ":"}],
    "max-attempts": 1,
    "group": "unknown",
    "cron": "0 0 1 1 *",
}

_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

#: How people who know other systems call our keys.
_OTHER_NAMES = {
    "stages": "jobs",
    "script": "run",
    "command": "run",
    "commands": "run",
    "depends-on": "needs",
    "depends_on": "needs",
    "environment": "env",
    "when": "if",
    "triggers": "on",
    "timeout": "timeout-minutes",
    "node": "uses",
    "group": "runs-on",
    "image": "uses",
    "variables": "vars",
    "workingDirectory": "working-directory",
    "cwd": "working-directory",
    "retries": "retry",
}


def validate(document: Document, report: Report) -> schema.Workflow | None:
    """The workflow that the document says, repaired where it is broken; None when nothing can be made of it."""
    content = to_json(document.root)
    for number in range(_ROUNDS_MAX):
        try:
            return schema.Workflow.model_validate(content)
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            # What a repair has emptied was not empty in the file.
            if number == 0 or detail["type"] != "too_short":
                _report(document, detail, report)
        # From the back, so that positions in lists still hold.
        for detail in reversed(details):
            if not _repair(content, detail):
                return None
    return None


def _report(document: Document, detail: ErrorDetails, report: Report) -> None:
    path = document.existing(detail["loc"]) if detail["type"] == READY else detail["loc"]
    kind = detail["type"]
    start = document.value_start(path)
    if kind == "extra_forbidden":
        _report_unknown_key(document, path, report)
    elif kind == "missing" and _calls_workflow(document, path[:-1]):
        return
    elif kind == "missing":
        place = document.key_start(path[:-1])
        title = schema.concept_at(path[:-1]).TITLE
        report.add(place, codes.MISSING_KEY, f"{title} needs the key {quoted(str(path[-1]))}", _missing_hint(path))
    elif kind == READY:
        report.add(start, codes.WRONG_VALUE, f"{_subject(path)}: {detail['ctx']['message']}")
    elif kind == "literal_error":
        expected = detail["ctx"]["expected"].replace("'", "")
        text = f"{_subject(path)}: expected {expected}, not {describe(detail['input'])}"
        names = expected.replace(" or ", ", ").split(", ")
        report.add(start, codes.WRONG_VALUE, text, did_you_mean(str(detail["input"]), names))
    elif kind in ("too_short", "too_long"):
        place = document.key_start(path)
        limits = detail["ctx"]
        bound = "at least one entry" if kind == "too_short" else f"at most {limits['max_length']} entries"
        report.add(place, codes.WRONG_VALUE, f"{_subject(path)}: expected {bound}")
    else:
        expected = _EXPECTED.get(kind, "something else")
        text = f"{_subject(path)}: expected {expected}, not {describe(detail['input'])}"
        report.add(start, codes.WRONG_VALUE, text)


def _calls_workflow(document: Document, path: Path) -> bool:
    """Whether this is a job that calls a reusable workflow: it is reported as not built, and needs nothing else."""
    node, _ = document.find(path)
    return schema.concept_at(path) is schema.Job and isinstance(node, Mapping) and "uses" in node.entries


def _subject(path: Path) -> str:
    """What an error is about: the last key of the path, with the position in a list."""
    if not path:
        return "the file"
    last = path[-1]
    if isinstance(last, int):
        above = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
        return f"{above}[{last}]"
    return last if last.isprintable() and len(last) <= 60 else quoted(last)


def _missing_hint(path: Path) -> str:
    match path:
        case ("jobs",):
            return "add jobs, with at least one job that has runs-on and steps"
        case ("jobs", _, "runs-on"):
            return "add runs-on with the name of a group of servers"
        case ("jobs", _, "steps"):
            return "add steps, a list with at least one entry such as `- run: echo hello`"
        case ("on", "schedule", _, "cron"):
            return "add cron, such as `cron: '0 3 * * *'` for every day at three"
    return ""


def _report_unknown_key(document: Document, path: Path, report: Report) -> None:
    place = document.key_start(path)
    concept, name = schema.concept_at(path[:-1]), str(path[-1])
    is_trigger = concept is schema.Triggers
    what = f"the event {quoted(name)}" if is_trigger else schema.named(concept, name)
    known = schema.keys(concept)
    if name in concept.NOT_BUILT:
        report.add(place, codes.NOT_BUILT, f"{what} is known, not built yet", "remove it for now")
    elif name in concept.INSTEAD:
        report.add(place, codes.GITHUB_ONLY, f"{what} does not exist here", concept.INSTEAD[name])
    elif is_trigger:
        hint = did_you_mean(name, [*known, *concept.NOT_BUILT]) or f"known events: {', '.join(known)}"
        report.add(place, codes.UNKNOWN_TRIGGER, f"unknown event {quoted(name)} in on", hint)
    else:
        other = _OTHER_NAMES.get(name)
        hint = did_you_mean(name, [*known, *concept.NOT_BUILT]) or (
            f'did you mean "{other}"?' if other in known else ""
        )
        hint = hint or f"known keys: {', '.join(known)}"
        report.add(place, codes.UNKNOWN_KEY, f"unknown key {quoted(name)} in {concept.TITLE}", hint)


def _repair(content: Any, detail: ErrorDetails) -> bool:
    """Takes what is broken out of `content`; false when nothing would be left to check."""
    path: Path = detail["loc"]
    while path:
        parent = _at(content, path[:-1])
        name = path[-1]
        if isinstance(parent, dict) and isinstance(name, str):
            return _repair_key(parent, path, detail)
        if isinstance(parent, list) and isinstance(name, int) and path[-2:-1] == ("steps",):
            parent[name] = {"run": ":"}
            return True
        # An entry of a plain list, or a name below a text: the key that holds it goes as a whole.
        path = path[:-1]
    return False


def _repair_key(parent: dict[str, Any], path: Path, detail: ErrorDetails) -> bool:
    name = str(path[-1])
    if name in _STAND_INS and (detail["type"] == "missing" or name in parent):
        is_again = parent.get(name) == _STAND_INS[name]
        parent[name] = _copy(_STAND_INS[name])
        return not is_again
    if name == "jobs" and len(path) == 1:
        return False
    parent.pop(name, None)
    return detail["type"] != "missing"


def _copy(value: Any) -> Any:
    return [dict(item) for item in value] if isinstance(value, list) else value


def _at(content: Any, path: Path) -> Any:
    for part in path:
        match content:
            case dict() if isinstance(part, str):
                content = content.get(part)
            case list() if isinstance(part, int) and part < len(content):
                content = content[part]
            case _:
                return None
    return content
