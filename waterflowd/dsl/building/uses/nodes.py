"""Built-in nodes: finds the node that a step uses, and checks its `with`.

Rules of this file: the record of a node's parameters defines what is valid. Names are always checked, values where they
contain no expression; all are checked again, with the same record, before the node runs. Where the record expects text, a
number is taken as it is written.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping

import msgspec

from waterflow_agent.display import quote
from waterflow_agent.nodes import schema as node_schema
from waterflow_agent.type_errors import explain
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.reading.tree import Document, Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.dsl.reporting.values import as_text, describe, has_expression
from waterflowd.expr.errors import UNSAFE_EXPRESSION
from waterflowd.model import durations
from waterflowd.model.plan import Json
from waterflowd.model.wording import did_you_mean, nearest

_GITHUB_ACTION = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._/-]+@[A-Za-z0-9._/-]+")

#: What to do instead of the actions that most pasted workflows begin with.
_ACTION_HINTS = {
    "actions/github-script": "do the same in a run script",
}
#: Parameters of GitHub's actions that have no counterpart.
_PARAMETER_HINTS = {
    (
        "artifact/download",
        name,
    ): "only artifacts of the same run can be fetched; remove it, or use file/transfer with s3://"
    for name in ("run-id", "repository", "github-token", "artifact-ids")
} | {
    (
        "cache/restore",
        "save-always",
    ): "remove it; for files of failed jobs, use cache/restore, and cache/save with if: always()"
}
#: The same for all `actions/setup-*`.
_SETUP, _SETUP_HINT = (
    "actions/setup-",
    "servers keep their tools: install it there once, or run its installer in a run script",
)

#: Parameters that take lines of text.
_LINES = frozenset(("path", "restore-keys"))

#: Keys of a step, which are often written among a node's parameters by mistake.
_STEP_KEYS = frozenset(models.keys(models.Step))


class NodeChecker:
    """Checks the nodes of one file."""

    def __init__(self, document: Document, report: DiagnosticReport) -> None:
        self._document = document
        self._report = report

    def find(self, path: Path, name: str) -> node_schema.NodeSchema | None:
        """The node called `name` in the `uses` at `path`; None when it does not exist, which is reported."""
        found = node_schema.find(name)
        if found is None or found.is_internal:
            code, message, suggestion = _unknown(name)
            self._report.add(self._document.value_start(path), code, message, suggestion)
            return None
        return found

    def parameters(self, path: Path, node: node_schema.NodeSchema, parameters: Mapping[str, Json]) -> dict[str, Json]:
        """The parameters as the plan holds them, checked against the node's record."""
        fields = {field.encode_name: field for field in msgspec.structs.fields(node.parameters)}
        result: dict[str, Json] = {}
        for name, value in parameters.items():
            field = fields.get(name)
            if field is None:
                self._unknown_parameter((*path, name), node, name, list(fields))
                continue
            result[name] = self._parameter((*path, name), name, value, field.type)
        missing = [name for name, field in fields.items() if field.required and name not in parameters]
        for name in missing:
            text = f"{node.name} requires the parameter {quote(name)}"
            self._add(path, codes.WRONG_PARAMETER, text, f"add it under with: {name}: ...", on_key=True)
        if node.name == "sleep" and len(result) == len(parameters):
            self._sleep(path, result)
        elif node.name == "script":
            self._script(path, result)
        return result

    def _parameter(self, path: Path, name: str, value: Json, expected_type: object) -> Json:
        written = plain(value)
        if isinstance(written, str) and not expr.is_static(written):
            return written
        try:
            msgspec.convert(_static_part(written), expected_type)
        except msgspec.ValidationError as error:
            text = as_text(value)
            if isinstance(text, str) and text is not value and _fits(text, expected_type):
                return text
            reason, within = explain(error)
            # A path into the static part is not a path in the file.
            place = _place(within) if expr.is_static(written) else ()
            choices = _choices(expected_type)
            if isinstance(written, str) and choices:
                reason = f"expected one of {', '.join(choices)}, found {describe(value)}"
            hint = did_you_mean(written, choices) if isinstance(written, str) else ""
            if isinstance(written, list) and name in _LINES:
                hint = f"write one per line, below {name}: |"
            self._add((*path, *place), codes.WRONG_PARAMETER, f"{name}: {reason}", hint)
        return written

    def _unknown_parameter(self, path: Path, node: node_schema.NodeSchema, name: str, known: list[str]) -> None:
        text = f"{node.name} has no parameter {quote(name)}"
        hint = did_you_mean(name, known)
        hint = _PARAMETER_HINTS.get((node.name, name), hint)
        if not hint and name in _STEP_KEYS:
            hint = f"{name} is a key of the step: write it next to uses"
        self._add(path, codes.WRONG_PARAMETER, text, hint or f"known parameters: {', '.join(known)}", on_key=True)

    def _sleep(self, path: Path, parameters: Mapping[str, Json]) -> None:
        if len(parameters) != 1:
            self._add(path, codes.WRONG_PARAMETER, "sleep requires either duration or until", on_key=True)
        for name, value in parameters.items():
            if not expr.is_static(value) or not isinstance(value, str):
                continue
            try:
                if name == "duration":
                    durations.parse(value)
                else:
                    durations.instant(value)
            except ValueError as error:
                self._add((*path, name), codes.WRONG_PARAMETER, f"{name}: {error}")

    def _script(self, path: Path, parameters: Mapping[str, Json]) -> None:
        if ("path" in parameters) == ("content" in parameters):
            self._add(path, codes.WRONG_PARAMETER, "script requires either path or content", on_key=True)
        for name in ("content", "interpreter"):
            if not expr.is_static(parameters.get(name)):
                text = f"{name} cannot contain expressions, because their values would become code"
                self._add((*path, name), UNSAFE_EXPRESSION, text, "pass values to the script through args or env")

    def _add(self, path: Path, code: str, message: str, suggestion: str = "", *, on_key: bool = False) -> None:
        offset = self._document.key_start(path) if on_key else self._document.value_start(path)
        self._report.add(offset, code, message, suggestion)


def _static_part(value: Json) -> Json:
    """The static part of a value: without the texts that contain expressions."""
    match value:
        case dict():
            return {key: _static_part(item) for key, item in value.items() if not has_expression(item)}
        case list():
            return [_static_part(item) for item in value if not has_expression(item)]
    return value


def _place(within: str) -> Path:
    """The keys and positions in a path of msgspec, up to the first that it does not name."""
    found: list[str | int] = []
    for key, position in re.findall(r"([^.\[\]]+)|\[(\d*)", within.replace("...", "")):
        if not key and not position:
            break
        found.append(key or int(position))
    return tuple(found)


def _choices(expected_type: object) -> list[str]:
    """The words that a parameter takes; empty if it takes other text too, or none."""
    return [word for word in _literals(expected_type) if word]


def _literals(expected_type: object) -> list[str]:
    if typing.get_origin(expected_type) is typing.Literal:
        return [word for word in typing.get_args(expected_type) if isinstance(word, str)]
    if typing.get_origin(expected_type) is list:
        return []
    return [word for part in typing.get_args(expected_type) for word in _literals(part)]


def _fits(value: Json, expected_type: object) -> bool:
    try:
        msgspec.convert(value, expected_type)
    except msgspec.ValidationError:
        return False
    return True


def _unknown(name: str) -> tuple[str, str, str]:
    """Code, message and suggestion for a `uses` that names no node."""
    plain_name, _, version = name.partition("@")
    if name.startswith("docker://"):
        return (
            codes.GITHUB_ONLY,
            "a step cannot use a Docker image directly",
            "use the node docker/run, or write run: docker run ...",
        )
    if version and node_schema.find(plain_name) is not None:
        return (
            codes.UNKNOWN_NODE,
            f"the node {quote(plain_name)} has no version {quote(version)}",
            f"write {plain_name}",
        )
    hint = did_you_mean(plain_name, node_schema.BUILT_IN)
    is_action = plain_name.startswith("actions/") or "action" in plain_name or version not in ("", "v1")
    if _GITHUB_ACTION.fullmatch(name) and (is_action or not hint):
        text = f"{quote(name)} is a GitHub action; Waterflow does not run actions"
        usual = _SETUP_HINT if plain_name.startswith(_SETUP) else "do the same in a run script, or use a node"
        return codes.GITHUB_ONLY, text, _ACTION_HINTS.get(plain_name, usual)
    similar = nearest(plain_name, node_schema.BUILT_IN)
    hint = hint or f"similar names: {similar}; waterflowctl nodes lists all"
    return codes.UNKNOWN_NODE, f"unknown node {quote(name)}", hint
