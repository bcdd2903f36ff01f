"""What is given to a reusable workflow, a composite step or a run, held against the inputs that it declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl.building import secret_references
from waterflowd.dsl.building.input_declarations import converted
from waterflowd.dsl.building.source import Source
from waterflowd.dsl.reading.tree import Path, plain
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.values import EXPRESSION
from waterflowd.model.inputs import check_secret, known_inputs
from waterflowd.model.plan import InputSpec, Json
from waterflowd.model.wording import did_you_mean


def given_inputs(
    source: Source, path: Path, specs: Sequence[InputSpec], given: Mapping[str, Json], what: str
) -> dict[str, Json]:
    """The values in the mapping at `path` for the declared inputs, typed where they are static; what is wrong is reported."""
    known = {spec.name.lower(): spec for spec in specs}
    found: dict[str, Json] = {}
    for name, value in given.items():
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
            source.at_key(path, codes.WRONG_INPUT, f"{what} needs the input {quote(spec.name)}", hint)
    return found


def _check_secrets(source: Source, at: Path, spec: InputSpec, value: Json) -> None:
    node, _ = source.document.find(at)
    if secret_references.names_in(value) and not source.report.has_within(node.start, node.end):
        try:
            check_secret(spec, value)
        except ValueError as error:
            source.at_value(at, codes.WRONG_INPUT, f"input {quote(spec.name)}: {error}")


def _typed(source: Source, at: Path, spec: InputSpec, value: Json) -> Json:
    try:
        typed = converted(spec, value)
    except ValueError as error:
        source.at_value(at, codes.WRONG_INPUT, f"input {quote(spec.name)}: {error}")
        return plain(value)
    # A text inside of JSON that looks like an expression would be taken for one by whoever renders the plan.
    if not expr.is_static(typed):
        text = f"input {quote(spec.name)}: {quote(EXPRESSION)} stands inside of a JSON text"
        source.at_value(at, codes.WRONG_INPUT, text, "write the value out as YAML")
    return typed
