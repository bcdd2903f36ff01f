"""Inputs: the declarations of a file, and the arguments that a caller passes for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl import models
from waterflowd.dsl.building import secret_references
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.models import ids
from waterflowd.dsl.reading.tree import Document, Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.dsl.reporting.values import as_text, has_expression
from waterflowd.model import inputs
from waterflowd.model.inputs import check_secret, known_inputs
from waterflowd.model.plan import InputSpec, InputType, Json
from waterflowd.model.wording import did_you_mean

PATTERN_CHARACTERS_MAX = 500


def specs(
    declared: Mapping[str, models.Input], base: Path, document: Document, report: DiagnosticReport
) -> tuple[InputSpec, ...]:
    """The inputs that a file declares under the path `base`; errors in them are reported."""
    checked = _Declarations(base, document, report)
    return tuple(checked.spec(name, model) for name, model in declared.items())


def converted(spec: InputSpec, value: object) -> Json:
    """A value of the file, converted for the input; raises ValueError. Text inputs take numbers as they are written."""
    is_text = spec.type in (InputType.STRING, InputType.CHOICE)
    return inputs.convert(spec, as_text(value) if is_text else plain(value))


class _Declarations:
    """Checks the declarations of one file."""

    def __init__(self, base: Path, document: Document, report: DiagnosticReport) -> None:
        self._base = base
        self._document = document
        self._report = report
        self._ids = ids.Ids("input", report)

    def spec(self, name: str, model: models.Input) -> InputSpec:
        self._ids.take(name, self._document.key_start((*self._base, name)))
        spec = InputSpec(
            name=name,
            type=InputType.STRING if model.type == "environment" else InputType(model.type),
            description=model.description,
            required=model.required,
            options=tuple(model.options),
            pattern=model.pattern,
        )
        is_choice = spec.type is InputType.CHOICE
        if is_choice and not spec.options:
            self._add(name, "options", "type choice requires options, a list with at least one text")
            spec = _replaced(spec, options=("",))
        if not is_choice and spec.options:
            self._add(name, "options", f"options is only valid for type choice, not for {model.type}")
        if spec.pattern is not None and not self._is_pattern(name, spec):
            spec = _replaced(spec, pattern=None)
        if model.default is None:
            return spec
        if has_expression(model.default):
            self._add(name, "default", "a default must be a plain value, not an expression")
            return spec
        try:
            return _replaced(spec, default=converted(spec, model.default))
        except ValueError as error:
            self._add(name, "default", str(error))
            return spec

    def _is_pattern(self, name: str, spec: InputSpec) -> bool:
        assert spec.pattern is not None
        if spec.type is not InputType.STRING:
            self._add(name, "pattern", f"pattern is only valid for type string, not for {spec.type.value}")
            return False
        if len(spec.pattern) > PATTERN_CHARACTERS_MAX:
            self._add(
                name,
                "pattern",
                f"the pattern has {len(spec.pattern):,} characters; the limit is {PATTERN_CHARACTERS_MAX}",
            )
            return False
        try:
            inputs.matches(spec.pattern, "")
        except ValueError as error:
            self._add(name, "pattern", str(error))
            return False
        return True

    def _add(self, name: str, key: str, text: str) -> None:
        self._report.add(
            self._document.value_start((*self._base, name, key)), codes.WRONG_INPUT, f"input {quote(name)}: {text}"
        )


def _replaced(spec: InputSpec, **changes: Any) -> InputSpec:
    fields: dict[str, Any] = {name: getattr(spec, name) for name in InputSpec.__struct_fields__}
    return InputSpec(**(fields | changes))


def check_arguments(
    source: SourceFile, path: Path, specs: Sequence[InputSpec], arguments: Mapping[str, Json], what: str
) -> dict[str, Json]:
    """The arguments in the mapping at `path` by input, converted where they are static; errors are reported."""
    known = {spec.name.lower(): spec for spec in specs}
    found: dict[str, Json] = {}
    for name, value in arguments.items():
        at: Path = (*path, name)
        spec = known.get(name.lower())
        if spec is None:
            names = [spec.name for spec in specs]
            hint = did_you_mean(name, names) or known_inputs(specs)
            source.at_key(at, codes.WRONG_INPUT, f"{what} has no input {quote(name)}", hint)
        elif expr.is_static(value):
            found[spec.name] = _typed(source, at, spec, value)
        else:
            found[spec.name] = plain(value)
            _check_secrets(source, at, spec, value)
    for spec in specs:
        if spec.required and spec.default is None and spec.name not in found:
            hint = f"add it under {path[-1]}: {spec.name}: ..."
            source.at_key(path, codes.WRONG_INPUT, f"{what} requires the input {quote(spec.name)}", hint)
    return found


def _check_secrets(source: SourceFile, at: Path, spec: InputSpec, value: Json) -> None:
    node, _ = source.document.find(at)
    if secret_references.names_in(value) and not source.report.has_within(node.start, node.end):
        try:
            check_secret(spec, value)
        except ValueError as error:
            source.at_value(at, codes.WRONG_INPUT, f"input {quote(spec.name)}: {error}")


def _typed(source: SourceFile, at: Path, spec: InputSpec, value: Json) -> Json:
    try:
        typed = converted(spec, value)
    except ValueError as error:
        source.at_value(at, codes.WRONG_INPUT, f"input {quote(spec.name)}: {error}")
        return plain(value)
    # Text inside JSON that looks like an expression would be evaluated when the plan is rendered.
    if not expr.is_static(typed):
        text = f"input {quote(spec.name)}: expressions inside JSON text are not evaluated"
        source.at_value(at, codes.WRONG_INPUT, text, "write the value as YAML instead")
    return typed
