"""Reads the configuration: the file, overridden by the environment and the command line. Errors have the line in the file."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent import environment_variables
from waterflow_agent.environment_variables import EnvironmentSettings
from waterflow_agent.errors import Rejected
from waterflow_agent.type_errors import located
from waterflowd.app.config import checks
from waterflowd.app.config.tables import (
    DEFAULT_FILE,
    ENVIRONMENT_PREFIX,
    OTHER_VARIABLES,
    Config,
    EnvironmentTable,
    GrantTable,
    NotifyTable,
    RepositoryTable,
    Table,
    fields_of,
)


def file_in_use(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Path | None:
    """The file that `load` reads; None if there is none."""
    environment = os.environ if environment is None else environment
    named = file or (Path(environment["WATERFLOWD_CONFIG"]) if environment.get("WATERFLOWD_CONFIG") else None)
    return named or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def load(
    file: Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The effective configuration. Raises `Rejected` WF620 with the source, the key, and the line in the file.

    `overrides` come from the command line, by dotted key. Without `file`, the default file is read if it exists.
    """
    environment = os.environ if environment is None else environment
    path = file_in_use(file, environment)
    settings = _read(path) if path is not None else {}
    found = _from_environment(environment, settings)
    _override(settings, found.settings)
    overrides = {key: value for key, value in (overrides or {}).items() if value is not None}
    for key, value in overrides.items():
        _set(settings, key, value)
    try:
        return checks.checked(msgspec.convert(settings, Config, strict=False))
    except msgspec.ValidationError as error:
        raise Rejected("WF620", f"invalid configuration: {located(error)}") from error
    except Rejected as error:
        text = found.name_source(error.text, overridden=overrides)
        is_from_file = text == error.text and not any(text.startswith(key) for key in overrides)
        place = _place_in(path, text, settings) if path is not None and is_from_file else ""
        raise Rejected(error.code, f"{place}{text}") from error


def _place_in(path: Path, message: str, settings: Mapping[str, Any]) -> str:
    """File and line of the key with which a message begins, such as `log.level` or `repositories.NAME.interval`."""
    written = re.match(r"[\w.-]*", message)
    assert written is not None, "it may be empty"
    table, *names = written[0].rstrip(".").split(".")
    if table not in settings:
        return f"{path}: "
    number, key = 0, names[0] if names else table
    if table in _LISTS and names:
        numbers = [index for index, item in enumerate(settings[table]) if item.get("name") == names[0]]
        number, key = (numbers[0] if numbers else 0), names[1] if len(names) > 1 else "name"
    line = _line_of(path.read_text(encoding="utf-8"), (table,) if names else (), number, key)
    return f"{path}:{line}: "


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        settings = tomllib.loads(text)
    except OSError as error:
        raise Rejected("WF620", f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected("WF620", f"{path}: {error}") from error
    for table_path, number, key, known in _unknown(settings, Config, ()):
        line = _line_of(text, table_path, number, key)
        close = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else f"; known here: {', '.join(known)}"
        raise Rejected("WF620", f'{path}:{line}: unknown key "{key}"{hint}')
    try:
        msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        line_text = f":{_line_of(text, *_error_location(error))}" if "`$." in str(error) else ""
        raise Rejected("WF620", f"{path}{line_text}: {located(error)}") from error
    return settings


#: Keys that are arrays of tables.
_LISTS: dict[str, type] = {
    "repositories": RepositoryTable,
    "environments": EnvironmentTable,
    "grants": GrantTable,
    "notify": NotifyTable,
}


def _unknown(
    settings: dict[str, Any], table: type, table_path: tuple[str, ...], number: int = 0
) -> Iterator[tuple[tuple[str, ...], int, str, list[str]]]:
    """The table, its index in an array of tables, the unknown key, and the known keys of the table."""
    fields = fields_of(table)
    for key, value in settings.items():
        if key not in fields:
            yield table_path, number, key, list(fields)
            continue
        inner = _LISTS.get(key, fields[key])
        for position, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, dict) and isinstance(inner, type) and issubclass(inner, Table):
                yield from _unknown(item, inner, (*table_path, key), position)


def _error_location(error: msgspec.ValidationError) -> tuple[tuple[str, ...], int, str]:
    """The table, its index in an array of tables, and the key in an error of msgspec; the key is empty for the table itself."""
    found = re.search(r"`\$\.([a-z-]+)(?:\[(\d+|\.\.\.)\])?(?:\.([a-z-]+))?", str(error))
    if found is None:
        return (), 0, ""
    first, number, second = found.groups()
    if number is None and second is None:
        return (), 0, first
    return (first,), int(number) if number and number.isdigit() else 0, second or ""


def line_of_item(text: str, key: str, number: int) -> int:
    """The line of the `number`-th table of an array of tables, such as `[[repositories]]`."""
    return _line_of(text, (key,), number, "")


def _line_of(text: str, table_path: tuple[str, ...], number: int, key: str) -> int:
    """The line of a key in the `number`-th table of that name, or the line of the table, or 1."""
    name = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[.=]""")
    dotted = re.compile(rf"""\s*{re.escape(".".join((*table_path, key)))}\s*[.=]""")
    inline = re.compile(rf"""\s*{re.escape(".".join(table_path))}\s*=""") if table_path else None
    header = re.compile(r"\s*\[{1,2}\s*([^\]]+?)\s*\]{1,2}")
    table: tuple[str, ...] = ()
    fallback, tables_seen = 1, 0
    for line, content in enumerate(text.splitlines(), 1):
        found = header.match(content)
        if found:
            table = tuple(part.strip(" \"'") for part in found.group(1).split("."))
            if table == (*table_path, key):
                return line
            tables_seen += table == table_path
            fallback = line if table == table_path and tables_seen == number + 1 else fallback
        elif (table == table_path and tables_seen in (0, number + 1) and name.match(content)) or (
            not table and dotted.match(content)
        ):
            return line
        elif not table and inline is not None and inline.match(content):
            fallback = line
    return fallback


def _from_environment(environment: Mapping[str, str], file: Mapping[str, Any]) -> EnvironmentSettings:
    prefix = environment.get("WATERFLOWD_SECRETS_ENV_PREFIX") or file.get("secrets", {}).get("env-prefix")
    secrets = (f"{prefix}*",) if prefix else ()
    return environment_variables.read(Config, ENVIRONMENT_PREFIX, environment, others=(*OTHER_VARIABLES, *secrets))


def _override(settings: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Overrides the keys of tables one by one, and everything else as a whole."""
    for key, value in found.items():
        is_table = key in settings and isinstance(value, dict)
        settings[key] = settings[key] | value if is_table else value


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        settings = settings.setdefault(table, {})
    settings[last] = value
