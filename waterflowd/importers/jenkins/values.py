"""Literals and arguments of Groovy, and the variables of Jenkins as expressions."""

from __future__ import annotations

import math
import re

from waterflowd.importers.generated import as_literal

#: Environment variables that Jenkins sets, and the expression with the same value.
ENVIRONMENT = {
    "BRANCH_NAME": "github.ref_name",
    "BUILD_ID": "run.number",
    "BUILD_NUMBER": "run.number",
    "BUILD_TAG": "run.id",
    "BUILD_URL": "run.url",
    "GIT_BRANCH": "github.ref_name",
    "GIT_COMMIT": "git.sha",
    "JOB_NAME": "run.workflow",
    "JOB_BASE_NAME": "run.workflow",
    "NODE_NAME": "agent.name",
    "TAG_NAME": "git.tag",
    "WORKSPACE": "github.workspace",
}
_INTERPOLATED = re.compile(r"\\\$|\$\{([^{}]*)\}|\$([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_MINUTES = {"SECONDS": 1 / 60, "MINUTES": 1.0, "HOURS": 60.0, "DAYS": 1440.0, "MILLISECONDS": 1 / 60_000}
_NAMED = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*:\s*(?!:)")


class NotLiteral(Exception):
    """A value is computed by a program; the text is its source."""


def secret_name(credentials: str) -> str:
    """Return the name of the secret for the credentials with an id."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", credentials).upper()
    return name if not name[:1].isdigit() else f"_{name}"


def text_of(source: str, *, is_script: bool = False) -> str:
    """Return the text of a string literal, with `${...}` as expressions; raises NotLiteral.

    In a script, variables of the environment stay variables of the shell.
    """
    source = source.strip()
    for quote in ("'''", '"""', "'", '"'):
        if source.startswith(quote) and source.endswith(quote) and len(source) >= 2 * len(quote):
            inner = source[len(quote) : -len(quote)]
            if re.search(r"(?<!\\)" + re.escape(quote), inner):
                raise NotLiteral(source)
            return _interpolated(inner, is_script) if quote[0] == '"' else as_literal(_unescaped(inner))
    if re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?|true|false", source):
        return source
    if re.fullmatch(r"(?:params|env)\.[A-Za-z_][A-Za-z0-9_]*", source):
        return _variable(source, is_script)
    raise NotLiteral(source)


def number_of(source: str) -> float:
    """Return the value of a number; raises NotLiteral."""
    try:
        number = float(text_of(source))
    except ValueError:
        raise NotLiteral(source) from None
    if not math.isfinite(number):
        raise NotLiteral(source)
    return number


def whole_number_of(source: str) -> int:
    """Return the value of a whole number; raises NotLiteral."""
    number = number_of(source)
    if not number.is_integer():
        raise NotLiteral(source)
    return int(number)


def minutes_of(time: str, unit: str | None, default: str) -> float:
    """Return a time in a unit, or in the default one, in minutes; raises NotLiteral."""
    name = default if unit is None else text_of(unit).upper()
    return number_of(time) * _MINUTES.get(name, _MINUTES[default])


def _interpolated(text: str, is_script: bool) -> str:
    position, parts = 0, []
    for found in _INTERPOLATED.finditer(text):
        parts.append(as_literal(_unescaped(text[position : found.start()])))
        position = found.end()
        name = found[1] if found[1] is not None else found[2]
        parts.append("$" if name is None else _variable(name.strip(), is_script))
    return "".join([*parts, as_literal(_unescaped(text[position:]))])


def _variable(name: str, is_script: bool) -> str:
    kind, _, rest = name.rpartition(".")
    if not re.fullmatch(r"(?:(?:params|env)\.)?[A-Za-z_][A-Za-z0-9_]*", name):
        raise NotLiteral(f"${{{name}}}")
    if kind == "params":
        return f"${{{{ inputs.{rest} }}}}"
    if is_script:
        return f"${{{rest}}}"
    return f"${{{{ {ENVIRONMENT.get(rest, f'env.{rest}')} }}}}"


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text, flags=re.DOTALL)


def arguments_of(source: str) -> tuple[list[str], dict[str, str]]:
    """Return the positional and the named arguments of a call, as sources."""
    positional: list[str] = []
    named: dict[str, str] = {}
    for part in split(source, ","):
        found = _NAMED.match(part)
        if found:
            named[found[1]] = part[found.end() :].strip()
        elif part.strip():
            positional.append(part.strip())
    return positional, named


def list_of(source: str) -> list[str]:
    """Return the sources of the items of a list literal; of anything else a list with it."""
    source = source.strip()
    if source.startswith("[") and source.endswith("]"):
        return [part.strip() for part in split(source[1:-1], ",") if part.strip()]
    return [source] if source else []


def split(source: str, separator: str) -> list[str]:
    """Return the parts of a source between separators outside of strings and brackets."""
    parts, depth, start, position = [], 0, 0, 0
    while position < len(source):
        string = re.compile(r"'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL).match(
            source, position
        )
        if string is not None:
            position = string.end()
            continue
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(source[position], 0)
        if depth == 0 and source.startswith(separator, position):
            parts.append(source[start:position])
            position += len(separator)
            start = position
            continue
        position += 1
    return [*parts, source[start:]]
