"""The inputs that a file declares: each default, option and pattern fits its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.models import ids
from waterflowd.dsl.reading.tree import Document, Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import Report
from waterflowd.dsl.reporting.values import as_text, has_expression
from waterflowd.model import inputs
from waterflowd.model.plan import InputSpec, InputType, Json

PATTERN_CHARACTERS_MAX = 500


def specs(
    declared: Mapping[str, models.Input], base: Path, document: Document, report: Report
) -> tuple[InputSpec, ...]:
    """The inputs that a file declares under the path `base`; what is wrong with them is reported."""
    checked = _Declarations(base, document, report)
    return tuple(checked.spec(name, wanted) for name, wanted in declared.items())


def converted(spec: InputSpec, value: object) -> Json:
    """A value of the file as the input holds it; raises ValueError. Text inputs take numbers as they are written."""
    is_text = spec.type in (InputType.STRING, InputType.CHOICE)
    return inputs.convert(spec, as_text(value) if is_text else plain(value))


class _Declarations:
    """Checks the declarations of one file."""

    def __init__(self, base: Path, document: Document, report: Report) -> None:
        self._base = base
        self._document = document
        self._report = report
        self._ids = ids.Ids("input", report)

    def spec(self, name: str, wanted: models.Input) -> InputSpec:
        self._ids.take(name, self._document.key_start((*self._base, name)))
        spec = InputSpec(
            name=name,
            type=InputType(wanted.type),
            description=wanted.description,
            required=wanted.required,
            options=tuple(wanted.options),
            pattern=wanted.pattern,
        )
        is_choice = spec.type is InputType.CHOICE
        if is_choice and not spec.options:
            self._add(name, "options", "a choice needs options, a list of texts")
            spec = _replaced(spec, options=("",))
        if not is_choice and spec.options:
            self._add(name, "options", f"options belong to the type choice, not to {wanted.type}")
        if spec.pattern is not None and not self._is_pattern(name, spec):
            spec = _replaced(spec, pattern=None)
        if wanted.default is None:
            return spec
        if has_expression(wanted.default):
            self._add(name, "default", "a default is a value, not an expression")
            return spec
        try:
            return _replaced(spec, default=converted(spec, wanted.default))
        except ValueError as error:
            self._add(name, "default", str(error))
            return spec

    def _is_pattern(self, name: str, spec: InputSpec) -> bool:
        assert spec.pattern is not None
        if spec.type is not InputType.STRING:
            self._add(name, "pattern", f"a pattern belongs to the type string, not to {spec.type.value}")
            return False
        if len(spec.pattern) > PATTERN_CHARACTERS_MAX:
            self._add(name, "pattern", f"a pattern may have {PATTERN_CHARACTERS_MAX} characters")
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
