"""From a document to a model: pydantic's errors become diagnostics with positions.

Rules of this file: one invalid key must not hide errors elsewhere. An invalid value is reported and removed from a copy of the
document (a required one is replaced by a harmless stand-in), and the copy is validated again. Later checks therefore see a
complete workflow, and they do not repeat what has been reported.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.models.field_types import READY
from waterflowd.dsl.models.model import LanguageModel, keys, model_at, named
from waterflowd.dsl.reading.tree import Document, Path, Sequence, to_json
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.dsl.reporting.values import describe
from waterflowd.model.wording import did_you_mean

#: Each repair can reveal errors one level deeper; the models are not nested more deeply than this.
_ROUNDS_MAX = 8

#: Replacements for invalid required values, so that later checks see a complete workflow.
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
    "columns": {"unknown": "unknown"},
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

#: Keys that take several forms.
_EXPECTED_AT: dict[str | int, str] = {
    "on": "an event such as push, a list of events, or a mapping of them",
    "needs": "the id of a job, or a list of them",
}

#: What other systems call our keys.
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


Model = TypeVar("Model", bound=LanguageModel)


def validate(document: Document, report: DiagnosticReport, model: type[Model], base: Path = ()) -> Model | None:
    """The mapping at `base` of the document as a model; None if it cannot be repaired. Errors are reported."""
    content = to_json(document.find(base)[0])
    reporter = _ErrorReporter(document, report, model, base)
    for number in range(_ROUNDS_MAX):
        try:
            return model.model_validate(content)
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            # A list that is empty after a repair was not empty in the file.
            if number == 0 or detail["type"] != "too_short":
                reporter.report(detail)
        # From the end, so that earlier list positions stay valid.
        for detail in reversed(details):
            if not _repair(content, detail):
                return None
    return None


class _ErrorReporter:
    """Reports pydantic's errors about one mapping of a document."""

    def __init__(self, document: Document, report: DiagnosticReport, model: type[LanguageModel], base: Path) -> None:
        self._document = document
        self._report = report
        self._model = model
        self._base = base

    def report(self, detail: ErrorDetails) -> None:
        whole: Path = (*self._base, *detail["loc"])
        path = self._document.existing(whole) if detail["type"] == READY else whole
        kind = detail["type"]
        start = self._document.value_start(path)
        if path and isinstance(path[-1], int) and not isinstance(self._document.find(path[:-1])[0], Sequence):
            # A single value is short for a list of it.
            path = path[:-1]
        if kind == "extra_forbidden":
            self._unknown_key(detail["loc"])
        elif kind == "missing":
            offset = self._document.key_start(path[:-1])
            title = model_at(self._model, detail["loc"][:-1]).TITLE
            hint = missing_hint(whole)
            self._report.add(offset, codes.MISSING_KEY, f"{title} needs the key {quote(str(path[-1]))}", hint)
        elif kind == READY:
            self._report.add(start, codes.WRONG_VALUE, f"{_subject(path)}: {detail['ctx']['message']}")
        elif kind == "literal_error":
            expected = detail["ctx"]["expected"].replace("'", "")
            text = f"{_subject(path)}: expected {expected}, not {describe(detail['input'])}"
            names = expected.replace(" or ", ", ").split(", ")
            self._report.add(start, codes.WRONG_VALUE, text, did_you_mean(str(detail["input"]), names))
        elif kind in ("too_short", "too_long"):
            offset = self._document.key_start(path)
            limits = detail["ctx"]
            bound = "at least one entry" if kind == "too_short" else f"at most {limits['max_length']} entries"
            self._report.add(offset, codes.WRONG_VALUE, f"{_subject(path)}: expected {bound}")
        else:
            expected = _EXPECTED_AT.get(path[-1] if path else "") or _EXPECTED.get(kind, "something else")
            text = f"{_subject(path)}: expected {expected}, not {describe(detail['input'])}"
            self._report.add(start, codes.WRONG_VALUE, text, _step_hint(path, detail["input"]))

    def _unknown_key(self, path: Path) -> None:
        offset = self._document.key_start((*self._base, *path))
        model, name = model_at(self._model, path[:-1]), str(path[-1])
        is_trigger = model is models.Triggers
        what = f"the event {quote(name)}" if is_trigger else named(model, name)
        known = keys(model)
        if name in model.INSTEAD:
            self._report.add(offset, codes.GITHUB_ONLY, f"{what} does not exist here", model.INSTEAD[name])
        elif is_trigger:
            hint = did_you_mean(name, known) or f"known events: {', '.join(known)}"
            self._report.add(offset, codes.UNKNOWN_TRIGGER, f"unknown event {quote(name)} in on", hint)
        else:
            other = _OTHER_NAMES.get(name)
            hint = did_you_mean(name, known) or (f'did you mean "{other}"?' if other in known else "")
            hint = hint or f"known keys: {', '.join(known)}"
            self._report.add(offset, codes.UNKNOWN_KEY, f"unknown key {quote(name)} in {model.TITLE}", hint)


def _step_hint(path: Path, value: object) -> str:
    """What to write instead of a text in a list of steps."""
    is_step = len(path) > 1 and isinstance(path[-1], int) and _holds_steps(path[:-1])
    return f"write it as - run: {value}" if is_step and isinstance(value, str) and value.isprintable() else ""


def _subject(path: Path) -> str:
    """How an error names its subject: the last key of the path, with the position in a list."""
    if not path:
        return "the file"
    last = path[-1]
    if isinstance(last, int):
        above = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
        return f"{above}[{last}]"
    return last if last.isprintable() and len(last) <= 60 else quote(last)


def missing_hint(path: Path) -> str:
    """What to add if the key at `path` is missing."""
    match path:
        case ("jobs",):
            return "add jobs, with at least one job that has runs-on and steps"
        case ("jobs", _, "runs-on"):
            return "add runs-on with the name of a group of servers"
        case ("jobs", _, "steps"):
            return "add steps, a list with at least one entry such as `- run: echo hello`"
        case ("jobs", _, "report", "columns"):
            return "add columns: headings and values, or a list of outputs of the job"
        case ("on", "schedule", _, "cron"):
            return "add cron, such as `cron: '0 3 * * *'` for every day at three"
    return ""


def _repair(content: Any, detail: ErrorDetails) -> bool:
    """Removes an invalid value from `content`; false if nothing would be left to check."""
    path: Path = detail["loc"]
    while path:
        parent = _at(content, path[:-1])
        name = path[-1]
        if isinstance(parent, dict) and isinstance(name, str):
            return _repair_key(parent, path, detail)
        if isinstance(parent, list) and isinstance(name, int) and _holds_steps(path[:-1]):
            # The list is shorter if an earlier repair replaced it as a whole.
            if name < len(parent):
                parent[name] = {"run": ":"}
            return True
        # An entry of a plain list, or a key below a text: remove the key above it as a whole.
        path = path[:-1]
    return False


def _holds_steps(path: Path) -> bool:
    return path[-1] in _STEP_LISTS or path[-2:-1] == ("branches",)


def _repair_key(parent: dict[str, Any], path: Path, detail: ErrorDetails) -> bool:
    name = str(path[-1])
    if name in _STAND_INS and (detail["type"] == "missing" or name in parent):
        was_replaced = parent.get(name) == _STAND_INS[name]
        parent[name] = _copy(_STAND_INS[name])
        return not was_replaced
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
