"""`nodes/<category>/<name>.schema.json`: the schema of an own node's parameters.

Rules of this file: this supports the keywords of JSON Schema in `KEYWORDS`, which are those that records need, and ignores
others, as the standard requires. The node's own record checks all parameters again before it runs. Text with an expression is
always valid, since its value is not known yet. The work is bounded; what exceeds the bound is not checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import msgspec

from waterflowd import expr
from waterflowd.dsl.reporting.values import describe
from waterflowd.model.plan import Json

SCHEMA_BYTES_MAX = 64 << 10
#: Comparisons for one `with`; a schema that refers to itself could require any number.
_STEPS_MAX = 20_000
_DEPTH_MAX = 64
_DEFINITIONS = "#/$defs/"

UNKNOWN_KEY = "unknown parameter"
#: The key or position of an error, and what is wrong.
ParameterError = tuple[tuple[str | int, ...], str]

_KINDS: dict[str, Callable[[Json], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "boolean": "true or false",
    "null": "nothing",
    "integer": "a whole number",
    "number": "a number",
}
_BOUNDS: dict[str, tuple[Callable[[Json, Json], bool], str]] = {
    "minimum": (lambda value, bound: value >= bound, "at least"),
    "maximum": (lambda value, bound: value <= bound, "at most"),
    "exclusiveMinimum": (lambda value, bound: value > bound, "more than"),
    "exclusiveMaximum": (lambda value, bound: value < bound, "less than"),
}
_LENGTHS = {
    "minLength": (str, "characters"),
    "maxLength": (str, "characters"),
    "minItems": (list, "entries"),
    "maxItems": (list, "entries"),
}
#: The supported keywords.
KEYWORDS = frozenset(
    (
        "$ref",
        "$defs",
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "properties",
        "required",
        "additionalProperties",
        "items",
        *_BOUNDS,
        *_LENGTHS,
    )
)


class UnusableSchema(Exception):
    """The file is not a usable schema; the text is one sentence."""


class ParameterSchema:
    """The schema of one node's parameters."""

    def __init__(self, content: bytes) -> None:
        """Raises `Unusable`."""
        if len(content) > SCHEMA_BYTES_MAX:
            raise UnusableSchema(f"it is larger than {SCHEMA_BYTES_MAX:,} bytes")
        try:
            root = msgspec.json.decode(content)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise UnusableSchema(f"it is not JSON: {error}") from error
        if not isinstance(root, dict):
            raise UnusableSchema("expected a JSON object")
        self._root: dict[str, Json] = root
        self._left = _STEPS_MAX

    @property
    def names(self) -> list[str]:
        """The names of the declared parameters."""
        root = self._resolved(self._root)
        properties = root.get("properties")
        return list(properties) if isinstance(properties, dict) else []

    def faults(self, parameters: Mapping[str, Json]) -> list[ParameterError]:
        """The errors of these parameters."""
        self._left = _STEPS_MAX
        return list(self._faults(self._root, dict(parameters), (), 0))

    def _resolved(self, schema: Json) -> dict[str, Json]:
        for _ in range(_DEPTH_MAX):
            reference = schema.get("$ref") if isinstance(schema, dict) else None
            if not isinstance(reference, str):
                break
            known = self._root.get("$defs")
            name = reference.removeprefix(_DEFINITIONS)
            # References to other files are ignored.
            schema = known.get(name, {}) if isinstance(known, dict) and reference.startswith(_DEFINITIONS) else {}
        return schema if isinstance(schema, dict) else {}

    def _faults(self, schema: Json, value: Json, path: tuple[str | int, ...], depth: int) -> Iterator[ParameterError]:
        self._left -= 1
        if self._left < 0 or depth > _DEPTH_MAX or (isinstance(value, str) and not expr.is_static(value)):
            return
        if schema is False:
            yield path, "no value is allowed here"
            return
        known = self._resolved(schema)
        if fault := _own_fault(known, value):
            yield path, fault
            return
        yield from self._of_alternatives(known, value, path, depth)
        if isinstance(value, dict):
            yield from self._of_mapping(known, value, path, depth)
        if isinstance(value, list) and "items" in known:
            for position, item in enumerate(value):
                yield from self._faults(known["items"], item, (*path, position), depth + 1)

    def _of_alternatives(
        self, known: Mapping[str, Json], value: Json, path: tuple[str | int, ...], depth: int
    ) -> Iterator[ParameterError]:
        for schema in _list(known.get("allOf")):
            yield from self._faults(schema, value, path, depth + 1)
        for keyword in ("anyOf", "oneOf"):
            found = [list(self._faults(one, value, path, depth + 1)) for one in _list(known.get(keyword))]
            if found and all(found):
                # The alternative that matched furthest is probably the intended one.
                yield max((faults[0] for faults in found), key=lambda fault: len(fault[0]))

    def _of_mapping(
        self, known: Mapping[str, Json], value: dict[str, Json], path: tuple[str | int, ...], depth: int
    ) -> Iterator[ParameterError]:
        properties = known.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        others = known.get("additionalProperties", True)
        for name, item in value.items():
            if name in properties:
                yield from self._faults(properties[name], item, (*path, name), depth + 1)
            elif others is False:
                yield (*path, name), UNKNOWN_KEY
            else:
                yield from self._faults(others, item, (*path, name), depth + 1)
        for name in _list(known.get("required")):
            if isinstance(name, str) and name not in value:
                yield path, f'requires "{name}"'


def _own_fault(known: Mapping[str, Json], value: Json) -> str:
    """What is wrong with the value itself, without its items."""
    kinds = [kind for kind in _list(known.get("type"), alone=True) if kind in _KINDS]
    if kinds and not any(_KINDS[kind](value) for kind in kinds):
        return f"expected {' or '.join(_WORDS[kind] for kind in kinds)}, found {describe(value)}"
    if "enum" in known and value not in _list(known["enum"]):
        return f"expected one of {', '.join(map(str, _list(known['enum'])[:20]))}, found {describe(value)}"
    if "const" in known and value != known["const"]:
        return f"expected {known['const']}, found {describe(value)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        for keyword, (holds, words) in _BOUNDS.items():
            bound = known.get(keyword)
            if isinstance(bound, int | float) and not holds(value, bound):
                return f"expected {words} {bound}, found {value}"
    for keyword, (kind, noun) in _LENGTHS.items():
        bound = known.get(keyword)
        if isinstance(value, kind) and isinstance(bound, int):
            is_least = keyword.startswith("min")
            if len(value) < bound if is_least else len(value) > bound:
                return f"expected at {'least' if is_least else 'most'} {bound} {noun}, found {len(value)}"
    return ""


def _list(value: Json, *, alone: bool = False) -> list[Json]:
    if alone and isinstance(value, str):
        return [value]
    return value if isinstance(value, list) else []
