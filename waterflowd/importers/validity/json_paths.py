"""Changes of a value at a path inside another value; the value itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable

from waterflowd.dsl.reading.tree import Path
from waterflowd.model.plan import Json


def without(value: Json, path: Path) -> Json:
    """Return the value without the entry or item at a path. In a list, a text names an item that is this text."""
    if len(path) > 1:
        return _descended(value, path, without)
    if isinstance(value, dict):
        return {name: item for name, item in value.items() if name != path[0]}
    assert isinstance(value, list)
    return [item for position, item in enumerate(value) if path[0] not in (position, item)]


def with_value(value: Json, path: Path, new: Json) -> Json:
    """Return the value with another value at a path; a missing entry is added."""
    if not path:
        return new
    if isinstance(value, dict) and path[0] not in value:
        return {**value, str(path[0]): with_value({}, path[1:], new)}
    return _descended(value, path, lambda item, rest: with_value(item, rest, new))


def inserted(value: Json, path: Path, new: Json) -> Json:
    """Return the value with a new item in front of the one at a path."""
    if len(path) > 1:
        return _descended(value, path, lambda item, rest: inserted(item, rest, new))
    assert isinstance(value, list)
    position = int(path[0])
    return [*value[:position], new, *value[position:]]


def _descended(value: Json, path: Path, change: Callable[[Json, Path], Json]) -> Json:
    if isinstance(value, dict):
        return {name: change(item, path[1:]) if name == path[0] else item for name, item in value.items()}
    assert isinstance(value, list)
    return [change(item, path[1:]) if position == path[0] else item for position, item in enumerate(value)]
