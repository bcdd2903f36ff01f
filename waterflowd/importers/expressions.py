"""Expressions in imported workflows: literals, and inputs with their defaults."""

from __future__ import annotations

import re
from dataclasses import replace

from waterflowd.importers import writing
from waterflowd.model.plan import Json

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


def quoted(text: str) -> str:
    """Return text as a literal of an expression."""
    return "'" + text.replace("'", "''") + "'"


def with_defaults(value: writing.Value, inputs: writing.Block) -> writing.Value:
    """Return a part of a workflow whose expressions use the default of an input that has no value.

    Jenkins and Rundeck use the defaults in every run; here a run that a push or a schedule starts has no inputs.
    """
    defaults = {entry.key: default for entry in inputs.entries if (default := _default(entry)) is not None}
    return _replaced(value, defaults, is_condition=False) if defaults else value


def _default(entry: writing.Entry) -> str | None:
    """The expression of an input, with its default; None for a default that is as good as no value."""
    assert isinstance(entry.value, writing.Block)
    keys = {each.key: each.value for each in entry.value.entries}
    options = keys.get("options")
    default = keys.get("default", options[0] if isinstance(options, list) and options else None)
    name = f"inputs.{entry.key}"
    if default is True:
        # `false` of a person must stay false.
        return f"github.event_name != 'workflow_dispatch' || {name}"
    if not isinstance(default, str) or not default or "${{" in default:
        return None
    return f"{name} || {quoted(default)}"


def _replaced(value: writing.Value, defaults: dict[str, str], *, is_condition: bool) -> writing.Value:
    match value:
        case writing.Block():
            return replace(value, entries=[_entry(each, defaults) for each in value.entries])
        case writing.Items():
            items = [(_replaced(item, defaults, is_condition=False), comments) for item, comments in value.items]
            return replace(value, items=items)
        case dict() | list():
            return _json(value, defaults)
        case str() if is_condition and "${{" not in value:
            return _expression(value, defaults)
        case str():
            return _EXPRESSION.sub(lambda found: f"${{{{ {_expression(found[1].strip(), defaults)} }}}}", value)
    return value


def _entry(entry: writing.Entry, defaults: dict[str, str]) -> writing.Entry:
    return replace(entry, value=_replaced(entry.value, defaults, is_condition=entry.key == "if"))


def _json(value: Json, defaults: dict[str, str]) -> Json:
    match value:
        case dict():
            return {key: _json(item, defaults) for key, item in value.items()}
        case list():
            return [_json(item, defaults) for item in value]
        case str():
            replaced = _replaced(value, defaults, is_condition=False)
            return replaced if isinstance(replaced, str) else value
    return value


def _expression(source: str, defaults: dict[str, str]) -> str:
    """Return an expression with the defaults of its inputs."""
    whole = re.fullmatch(r"inputs\.([\w-]+)", source)
    if whole is not None:
        return defaults.get(whole[1], source)
    return re.sub(
        r"\binputs\.([\w-]+)", lambda found: f"({defaults[found[1]]})" if found[1] in defaults else found[0], source
    )
