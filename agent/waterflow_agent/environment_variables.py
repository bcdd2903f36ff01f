"""Settings from environment variables, for the daemon and the agent: one rule for every key, lists and tables included.

The rule: a variable is the prefix and the path of the key in the file, in upper case, with `_` for dots and hyphens; the tables
of a list are numbered from 0. A list is separated by commas, a table is `key=value` pairs separated by commas, and either may
also be written as in the file (TOML), or as JSON.

So `WATERFLOWD_REPOSITORIES_0_REFS=main,tags/v*` is `refs` of the first of `[[repositories]]`. A list in the environment
replaces the one in the file. An unknown variable with the prefix is an error, like an unknown key in a file: only the
variables that Kubernetes adds for a service of this name are ignored.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
import tomllib
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.type_errors import located

#: More numbered tables are a mistake.
TABLES_MAX = 1000
#: Stands for the number of a table in the name of a variable.
NUMBER = "<N>"

#: What Kubernetes and Docker links add for a service called like the program.
_SERVICE_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z")


class Variable(NamedTuple):
    """A variable that sets one key."""

    #: With `<N>` for the number of a table.
    name: str
    #: The path of the key in the file; the tables of a list have no step of their own in it.
    path: tuple[str, ...]
    kind: Any
    #: None for a key without a default.
    default: Any


def variables(record: type[msgspec.Struct], prefix: str) -> Iterator[Variable]:
    """All variables of the keys of `record`, in the order of its fields."""
    yield from _variables(record, prefix, ())


def _variables(record: type[msgspec.Struct], prefix: str, path: tuple[str, ...]) -> Iterator[Variable]:
    for field in msgspec.structs.fields(record):
        name, here = _variable(prefix, field), (*path, field.encode_name)
        table, is_list = _table_of(field.type)
        if table is None or is_list:
            yield Variable(name, here, field.type, _default(field))
        if table is not None:
            yield from _variables(table, f"{name}_{NUMBER}_" if is_list else f"{name}_", here)


def _variable(prefix: str, field: Any) -> str:
    return f"{prefix}{field.encode_name.replace('-', '_').upper()}"


def _table_of(kind: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    """The record of a table, and whether the key is a list of them."""
    is_list = get_origin(kind) in (tuple, list)
    inner = get_args(kind)[0] if is_list else kind
    return (inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None), is_list


def _default(field: Any) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.default is msgspec.NODEFAULT else field.default


class EnvironmentSettings(NamedTuple):
    """Settings, nested like those of a file, and the variables that they are from."""

    settings: dict[str, Any]
    #: The variable of each key: by its dotted path as messages name it, in which a table of a list is named by its `name`.
    sources: dict[str, str]

    def name_source(self, text: str, *, overridden: Container[str] = ()) -> str:
        """A message about a key, which it starts with, preceded by the variable that set this key, if one did."""
        keys = [key for key in self.sources if re.match(rf"{re.escape(key)}(?![\w-])", text)]
        keys = [key for key in keys if key not in overridden]
        return f"{self.sources[max(keys, key=len)]}: {text}" if keys else text


def read(
    record: type[msgspec.Struct],
    prefix: str,
    environment: Mapping[str, str],
    *,
    aliases: Mapping[str, str] | None = None,
    others: Sequence[str] = (),
    separators: Mapping[str, str] | None = None,
) -> EnvironmentSettings:
    """The settings in `environment`. Raises `Rejected` WF620 that names the variable.

    `aliases` are other names of variables, which are used where the variable itself is not set. `others` are patterns of
    variables with the prefix that are not keys. `separators` are those of keys whose list is not separated by commas.
    """
    names = {name: name for name in environment if name.startswith(prefix)}
    names = {variable: alias for alias, variable in (aliases or {}).items() if alias in environment} | names
    reader = _Reader(environment, names, separators or {})
    settings = reader.read(record, prefix, "")
    for name in sorted(names.keys() - reader.used):
        if not _SERVICE_LINK.search(name) and not any(fnmatch.fnmatchcase(name, other) for other in others):
            raise Rejected("WF620", _unknown(name, record, prefix))
    return EnvironmentSettings(settings, reader.sources)


def _unknown(name: str, record: type[msgspec.Struct], prefix: str) -> str:
    number = re.search(r"_(\d+)_", name)
    known = [variable.name for variable in variables(record, prefix)]
    if number is not None:
        known = [each.replace(NUMBER, number[1]) for each in known]
    close = difflib.get_close_matches(name, known, n=1)
    return f"unknown variable {name}" + (f" (did you mean {close[0]}?)" if close else ": there is no such key")


class _Reader:
    """Reads variables into nested settings, and remembers which ones it has used."""

    def __init__(self, environment: Mapping[str, str], names: Mapping[str, str], separators: Mapping[str, str]) -> None:
        self._environment = environment
        #: The name in the environment of each variable.
        self._names = names
        self._separators = separators
        self.used: set[str] = set()
        self.sources: dict[str, str] = {}

    def read(self, record: type[msgspec.Struct], prefix: str, path: str) -> dict[str, Any]:
        """The settings of one table; only those that are set."""
        settings: dict[str, Any] = {}
        for field in msgspec.structs.fields(record):
            name, key = _variable(prefix, field), f"{path}{field.encode_name}"
            table, is_list = _table_of(field.type)
            if table is not None and is_list:
                found = self._tables(table, field, name, key)
            elif table is not None:
                found = self.read(table, f"{name}_", f"{key}.") or None
            else:
                found = self._value(field, name, key)
            if found is not None:
                settings[field.encode_name] = found
        return settings

    def _value(self, field: Any, variable: str, key: str) -> Any:
        name = self._names.get(variable)
        if name is None:
            return None
        self.used.add(variable)
        self.sources[key] = name
        return _parse(field.type, self._environment[name], name, self._separators.get(field.encode_name, ","))

    def _tables(self, table: type[msgspec.Struct], field: Any, name: str, key: str) -> Any:
        whole = self._value(field, name, key)
        item = re.compile(rf"{re.escape(name)}_(\d{{1,6}})_\w")
        numbers = sorted({int(found[1]) for found in map(item.match, self._names) if found})
        if not numbers:
            return whole
        if whole is not None:
            raise Rejected(
                "WF620", f"set either {name} or numbered variables such as {name}_{numbers[0]}_..., not both"
            )
        if len(numbers) > TABLES_MAX:
            raise Rejected("WF620", f"{name}_{numbers[-1]}_...: at most {TABLES_MAX} tables")
        if numbers != list(range(len(numbers))):
            missing = next(number for number in range(len(numbers)) if number not in numbers)
            text = f"{name}_{numbers[-1]}_... is set, but {name}_{missing}_... is not"
            raise Rejected("WF620", f"{text}; number the tables 0, 1, 2 and so on")
        return [self._numbered(table, name, key, number) for number in numbers]

    def _numbered(self, table: type[msgspec.Struct], name: str, key: str, number: int) -> dict[str, Any]:
        prefix = f"{name}_{number}_"
        title = self._environment.get(f"{prefix}NAME")
        path = f"{key}.{title}" if title else f"{key}, number {number + 1}"
        made = self.read(table, prefix, f"{path}.")
        self.sources[path] = f"{prefix}..."
        for field in msgspec.structs.fields(table):
            if made and field.required and field.encode_name not in made:
                raise Rejected("WF620", f"{_variable(prefix, field)} is required with the other variables {prefix}...")
        return made


def _parse(kind: Any, text: str, name: str, separator: str) -> Any:
    """The value of a variable, checked against the key's type."""
    origin = get_origin(kind)
    value: Any = text
    if origin in (tuple, list):
        is_written = text.lstrip().startswith("[")
        value = _written(text, name) if is_written else [part.strip() for part in text.split(separator) if part.strip()]
    elif origin is dict:
        is_written = text.lstrip().startswith("{")
        value = _written(text, name) if is_written else pairs(text.split(","), name)
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Rejected("WF620", f"{name}: {located(error)}") from error
    return value


def _written(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise Rejected("WF620", f"{name}: neither JSON nor a TOML value: {error}") from error


def pairs(texts: Sequence[str], source: str) -> dict[str, str]:
    """Reads `key=value` texts; raises `Rejected` WF620 that names `source`."""
    found: dict[str, str] = {}
    for text in texts:
        if not text.strip():
            continue
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise Rejected("WF620", f"{source}: expected key=value, found {text!r}")
        found[key.strip()] = value.strip()
    return found
