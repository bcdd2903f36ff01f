"""`when` of a stage as a condition. What cannot be computed here makes the condition false, and is a decision."""

from __future__ import annotations

import re
from collections.abc import Callable

from waterflowd.importers.expressions import quoted
from waterflowd.importers.jenkins.groovy import Statement
from waterflowd.importers.jenkins.values import ENVIRONMENT, NotLiteral, arguments_of, split, text_of

_TRIGGERS = {"TimerTrigger": "schedule", "UserIdCause": "workflow_dispatch", "SCMTrigger": "push"}
#: Settings of `when` about the moment of its evaluation.
_MOMENTS = ("beforeAgent", "beforeInput", "beforeOptions")
_ONE_WILDCARD = re.compile(r"([^*?\[{]*)(\*{1,2})([^*?\[{]*)")
_COMPARISON = re.compile(r"(?P<left>.+?)\s*(?P<operator>==|!=)\s*(?P<right>.+)", re.DOTALL)


def of_when(when: Statement, decide: Callable[[str], None]) -> str:
    """Return the condition of a `when` block."""
    return _all(when.block or [], " && ", decide)


def _all(statements: list[Statement], operator: str, decide: Callable[[str], None]) -> str:
    parts = [_of(each, decide) for each in statements if each.name not in _MOMENTS]
    return operator.join(f"({part})" if len(parts) > 1 and " || " in part else part for part in parts) or "true"


def _of(statement: Statement, decide: Callable[[str], None]) -> str:
    match statement.name:
        case "not":
            return _not(statement.block or [], decide)
        case "allOf":
            return _all(statement.block or [], " && ", decide)
        case "anyOf":
            return _all(statement.block or [], " || ", decide)
    try:
        return _simple(statement)
    except NotLiteral as error:
        decide(f"when has no counterpart for {error}, so it is false")
        return "false"


def _not(statements: list[Statement], decide: Callable[[str], None]) -> str:
    undecided: list[str] = []
    negated = _all(statements, " && ", undecided.append)
    for text in undecided:
        decide(text)
    # What cannot be computed must not run a stage.
    return "false" if undecided else f"!({negated})"


def _simple(statement: Statement) -> str:
    positional, named = arguments_of(statement.arguments)
    match statement.name:
        case "branch" | "tag":
            field = "git.branch" if statement.name == "branch" else "git.tag"
            if "comparator" in named:
                raise NotLiteral(statement.text)
            return _pattern(field, text_of(named.get("pattern") or (positional or [""])[0]))
        case "buildingTag":
            return "git.tag != ''"
        case "changeRequest":
            return "false"
        case "environment":
            name, value = text_of(named.get("name", "")), text_of(named.get("value", ""))
            return f"{ENVIRONMENT.get(name, f'env.{name}')} == {_literal(value)}"
        case "triggeredBy":
            trigger = text_of((positional or [named.get("cause", "")])[0])
            if trigger in _TRIGGERS:
                return f"github.event_name == '{_TRIGGERS[trigger]}'"
        case "expression":
            return translated(statement.body.strip().removeprefix("return ").strip().rstrip(";"))
    raise NotLiteral(statement.text)


def _pattern(field: str, pattern: str) -> str:
    """A pattern as in Ant: `*` is within one part of a path, `**` in the place of a part is any number of parts."""
    if not re.search(r"[*?\[{]", pattern):
        return f"{field} == {_literal(pattern)}"
    found = _ONE_WILDCARD.fullmatch(pattern)
    if not found or (found[1] and found[3]):
        raise NotLiteral(pattern)
    head, stars, tail = found.groups()
    if stars == "**" and not tail and (not head or head.endswith("/")):
        return f"startsWith({field}, {_literal(head)})" if head else f"{field} != ''"
    if stars == "**" and tail.startswith("/"):
        raise NotLiteral(pattern)
    parts = [f"startsWith({field}, {_literal(head)})"] if head else []
    parts += [f"endsWith({field}, {_literal(tail)})"] if tail else []
    return " && ".join([*parts, f"len(split({field}, '/')) == {pattern.count('/') + 1}"])


def translated(source: str) -> str:
    """Return a simple expression of Groovy as one of this language; raises NotLiteral."""
    source = source.strip()
    for operator in ("||", "&&"):
        parts = split(source, operator)
        if len(parts) > 1:
            return f" {operator} ".join(_grouped(translated(part)) for part in parts)
    if source.startswith("(") and source.endswith(")"):
        return f"({translated(source[1:-1])})"
    if source.startswith("!") and not source.startswith("!="):
        return f"!({translated(source[1:])})"
    found = _COMPARISON.fullmatch(source)
    if found and len(split(source, "==")) + len(split(source, "!=")) == 3:
        return f"{_operand(found['left'])} {found['operator']} {_operand(found['right'])}"
    return _operand(source)


def _grouped(condition: str) -> str:
    return f"({condition})" if " || " in condition and not condition.startswith("(") else condition


def _operand(source: str) -> str:
    source = source.strip()
    found = re.fullmatch(r"(?:(params|env)\.)?([A-Za-z_][A-Za-z0-9_]*)", source)
    if found and found[1] == "params":
        return f"inputs.{found[2]}"
    if found and source not in ("true", "false", "null"):
        return ENVIRONMENT.get(found[2], f"env.{found[2]}")
    if source == "null":
        return "''"
    text = text_of(source)
    return text if source in ("true", "false") or source.isdecimal() else _literal(text)


def _literal(text: str) -> str:
    """Return text as a literal of an expression; raises NotLiteral if it contains expressions itself."""
    if "${{" in text:
        raise NotLiteral(text)
    return quoted(text)
