"""From a tree to the models of the language: pydantic's findings become errors with places.

Rules of this file: one broken key must not hide what is wrong elsewhere. So what is broken is reported, taken out of
a copy (a required one is replaced by something harmless), and the copy is validated again: the later checks see a
whole workflow, and never speak about what was taken out, because the report holds it already.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.models.field_types import READY
from waterflowd.dsl.models.model import LanguageModel, keys, model_at, named
from waterflowd.dsl.reading.tree import Document, Path, to_json
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import Report
from waterflowd.dsl.reporting.values import describe
from waterflowd.model.wording import did_you_mean

#: A repair can uncover one more layer of errors; more rounds than layers of models find nothing.
_ROUNDS_MAX = 8

#: Stand-ins for required values, so that the checks after this one have a whole workflow.
_STAND_INS: dict[str, Any] = {
    "runs-on": "unknown",
    "steps": [{"run": ":"}],
    "then": [{"run": ":"}],
    "branches": [[{"run": ":"}]],
    "max-attempts": 1,
    "group": "unknown",
    "if": "true",
    "secret": "unknown",
    "workflows": ["unknown"],
    "using": "composite",
    "cron": "0 0 1 1 *",
}
#: Keys whose lists hold steps.
_STEP_LISTS = ("steps", "then", "else")

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
    "variables": "vars",
    "workingDirectory": "working-directory",
    "cwd": "working-directory",
    "retries": "retry",
}


Found = TypeVar("Found", bound=LanguageModel)


def validate(document: Document, report: Report, concept: type[Found], base: Path = ()) -> Found | None:
    """What the document says at `base`, repaired where it is broken; None when nothing can be made of it."""
    content = to_json(document.find(base)[0])
    part = _Part(document, report, concept, base)
    for number in range(_ROUNDS_MAX):
        try:
            return concept.model_validate(content)
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            # What a repair has emptied was not empty in the file.
            if number == 0 or detail["type"] != "too_short":
                part.report(detail)
        # From the back, so that positions in lists still hold.
        for detail in reversed(details):
            if not _repair(content, detail):
                return None
    return None


class _Part:
    """A part of a document that is one concept; reports what pydantic found in it."""

    def __init__(self, document: Document, report: Report, concept: type[LanguageModel], base: Path) -> None:
        self._document = document
        self._report = report
        self._concept = concept
        self._base = base

    def report(self, detail: ErrorDetails) -> None:
        whole: Path = (*self._base, *detail["loc"])
        path = self._document.existing(whole) if detail["type"] == READY else whole
        kind = detail["type"]
        start = self._document.value_start(path)
        if kind == "extra_forbidden":
            self._unknown_key(detail["loc"])
        elif kind == "missing":
            place = self._document.key_start(path[:-1])
            title = model_at(self._concept, detail["loc"][:-1]).TITLE
            hint = missing_hint(whole)
            self._report.add(place, codes.MISSING_KEY, f"{title} needs the key {quote(str(path[-1]))}", hint)
        elif kind == READY:
            self._report.add(start, codes.WRONG_VALUE, f"{_subject(path)}: {detail['ctx']['message']}")
        elif kind == "literal_error":
            expected = detail["ctx"]["expected"].replace("'", "")
            text = f"{_subject(path)}: expected {expected}, not {describe(detail['input'])}"
            names = expected.replace(" or ", ", ").split(", ")
            self._report.add(start, codes.WRONG_VALUE, text, did_you_mean(str(detail["input"]), names))
        elif kind in ("too_short", "too_long"):
            place = self._document.key_start(path)
            limits = detail["ctx"]
            bound = "at least one entry" if kind == "too_short" else f"at most {limits['max_length']} entries"
            self._report.add(place, codes.WRONG_VALUE, f"{_subject(path)}: expected {bound}")
        else:
            expected = _EXPECTED.get(kind, "something else")
            text = f"{_subject(path)}: expected {expected}, not {describe(detail['input'])}"
            self._report.add(start, codes.WRONG_VALUE, text)

    def _unknown_key(self, path: Path) -> None:
        place = self._document.key_start((*self._base, *path))
        concept, name = model_at(self._concept, path[:-1]), str(path[-1])
        is_trigger = concept is models.Triggers
        what = f"the event {quote(name)}" if is_trigger else named(concept, name)
        known = keys(concept)
        if name in concept.INSTEAD:
            self._report.add(place, codes.GITHUB_ONLY, f"{what} does not exist here", concept.INSTEAD[name])
        elif is_trigger:
            hint = did_you_mean(name, known) or f"known events: {', '.join(known)}"
            self._report.add(place, codes.UNKNOWN_TRIGGER, f"unknown event {quote(name)} in on", hint)
        else:
            other = _OTHER_NAMES.get(name)
            hint = did_you_mean(name, known) or (f'did you mean "{other}"?' if other in known else "")
            hint = hint or f"known keys: {', '.join(known)}"
            self._report.add(place, codes.UNKNOWN_KEY, f"unknown key {quote(name)} in {concept.TITLE}", hint)


def _subject(path: Path) -> str:
    """What an error is about: the last key of the path, with the position in a list."""
    if not path:
        return "the file"
    last = path[-1]
    if isinstance(last, int):
        above = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
        return f"{above}[{last}]"
    return last if last.isprintable() and len(last) <= 60 else quote(last)


def missing_hint(path: Path) -> str:
    """What to write where the key at `path` is missing."""
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


def _repair(content: Any, detail: ErrorDetails) -> bool:
    """Takes what is broken out of `content`; false when nothing would be left to check."""
    path: Path = detail["loc"]
    while path:
        parent = _at(content, path[:-1])
        name = path[-1]
        if isinstance(parent, dict) and isinstance(name, str):
            return _repair_key(parent, path, detail)
        if isinstance(parent, list) and isinstance(name, int) and _holds_steps(path[:-1]):
            # A list that is shorter by now stands in for one that was repaired as a whole.
            if name < len(parent):
                parent[name] = {"run": ":"}
            return True
        # An entry of a plain list, or a name below a text: the key that holds it goes as a whole.
        path = path[:-1]
    return False


def _holds_steps(path: Path) -> bool:
    return path[-1] in _STEP_LISTS or path[-2:-1] == ("branches",)


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
    match value:
        case list():
            return [_copy(item) for item in value]
        case dict():
            return dict(value)
    return value


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
