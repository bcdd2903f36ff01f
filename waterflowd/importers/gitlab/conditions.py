"""GitLab's `rules`, `only` and `except` as one condition of a job.

Theory: the first rule that matches decides. From the last rule to the first, a rule that runs the job adds `its condition
|| rest`, and one with `when: never` adds `!its condition && rest`. What cannot be computed here (changed files, regular
expressions beyond a prefix or suffix) counts in favour of running the job, so that it is not silently skipped, and is a
decision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from waterflowd.importers.expressions import quoted
from waterflowd.importers.gitlab import variables
from waterflowd.importers.source_yaml import texts_of
from waterflowd.importers.writing import flow_text
from waterflowd.model.plan import Json

#: GitLab's sources of a pipeline that exist here.
_SOURCES = {
    "push": "push",
    "schedule": "schedule",
    "web": "workflow_dispatch",
    "api": "workflow_dispatch",
    "trigger": "workflow_dispatch",
}
_ONLY = {
    "branches": "git.branch != ''",
    "tags": "git.tag != ''",
    "pushes": "github.event_name == 'push'",
    "schedules": "github.event_name == 'schedule'",
    "web": "github.event_name == 'workflow_dispatch'",
    "api": "github.event_name == 'workflow_dispatch'",
    "triggers": "github.event_name == 'workflow_dispatch'",
    "merge_requests": "false",
    "external_pull_requests": "false",
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<op>==|!=|=~|!~|&&|\|\||\(|\))|(?P<regex>/(?:\\.|[^/\\])*/i?)|"(?P<double>[^"]*)"|'(?P<single>[^']*)'"""
    r"""|\$\{?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}?|(?P<null>null)\b)"""
)
Decide = Callable[[str], None]


class Untranslatable(Exception):
    """A condition has no counterpart; the text says which part."""


def of_rules(rules: list[Json], values: Mapping[str, str], decide: Decide) -> tuple[str, list[str]]:
    """Return the condition of `rules`, and the values of `when` of the rules that may run the job."""
    condition = "false"
    whens: list[str] = []
    for rule in reversed(rules):
        if not isinstance(rule, dict):
            decide(f"the rule {flow_text(rule)} is not imported")
            continue
        when = str(rule.get("when", "on_success"))
        own = _of_rule(rule, values, decide, "false" if when == "never" else "true")
        if when == "never":
            condition = all_of(negated(own), condition)
        else:
            condition = any_of(own, condition)
            whens.insert(0, when)
    return condition, whens


def _of_rule(rule: dict[str, Json], values: Mapping[str, str], decide: Decide, unknown: str) -> str:
    how = _how(unknown)
    left = {key: value for key, value in rule.items() if key not in ("if", "when", "start_in")}
    for key, value in left.items():
        decide(f"{key} of a rule has no counterpart, and the rule counts as if it {how}: {key}: {flow_text(value)}")
    text = rule.get("if")
    if not isinstance(text, str):
        return unknown if left.keys() & {"changes", "exists"} else "true"
    try:
        condition = translated(text, values)
    except Untranslatable as error:
        decide(f"the rule {text} counts as if it {how}: {error}")
        return unknown
    return unknown if unknown == "false" and left.keys() & {"changes", "exists"} else condition


def of_only(value: Json, values: Mapping[str, str], decide: Decide, unknown: str = "true") -> str:
    """Return the condition of `only` or `except`; `unknown` is the value of what cannot be computed here."""
    refs = value.get("refs") if isinstance(value, dict) else value
    condition = "true" if refs is None else "false"
    for ref in texts_of(refs):
        condition = any_of(condition, _of_ref(ref, decide, unknown))
    if isinstance(value, dict):
        for text in texts_of(value.get("variables")):
            try:
                condition = all_of(condition, translated(text, values))
            except Untranslatable as error:
                decide(f"the condition {text} counts as if it {_how(unknown)}: {error}")
                condition = all_of(condition, unknown)
        for key in value:
            if key not in ("refs", "variables"):
                decide(
                    f"{key} counts as if it {_how(unknown)}: it has no counterpart for a job: {flow_text(value[key])}"
                )
                condition = all_of(condition, unknown)
    return condition


def _of_ref(ref: str, decide: Decide, unknown: str) -> str:
    if ref in _ONLY:
        return _ONLY[ref]
    if ref.startswith("/"):
        try:
            return _matches("github.ref_name", ref)
        except Untranslatable as error:
            decide(f"the pattern {ref} counts as if it {_how(unknown)}: {error}")
            return unknown
    return f"github.ref_name == {quoted(ref)}"


def _how(unknown: str) -> str:
    return "matched" if unknown == "true" else "did not match"


def translated(text: str, values: Mapping[str, str]) -> str:
    """Return an expression of GitLab as one of this language; raises Untranslatable."""
    return _Parser(text, values).parse()


class _Parser:
    """Translates one expression, token by token; the operators have the same precedence in both languages."""

    def __init__(self, text: str, values: Mapping[str, str]) -> None:
        self._values = values
        self._tokens: list[re.Match[str]] = []
        position = 0
        while position < len(text.rstrip()):
            found = _TOKEN.match(text, position)
            if found is None:
                raise Untranslatable(f"it has no counterpart from {text[position:].strip()[:40]} on")
            self._tokens.append(found)
            position = found.end()
        self._position = 0

    def parse(self) -> str:
        result = self._or()
        if self._position < len(self._tokens):
            raise Untranslatable(f"it has no counterpart from {self._tokens[self._position][0].strip()} on")
        return result

    def _operator(self) -> str | None:
        return self._tokens[self._position]["op"] if self._position < len(self._tokens) else None

    def _or(self) -> str:
        result = self._and()
        while self._operator() == "||":
            self._position += 1
            result = any_of(result, self._and())
        return result

    def _and(self) -> str:
        result = self._comparison()
        while self._operator() == "&&":
            self._position += 1
            result = all_of(result, self._comparison())
        return result

    def _comparison(self) -> str:
        if self._operator() == "(":
            self._position += 1
            inner = self._or()
            if self._operator() != ")":
                raise Untranslatable("a parenthesis is not closed")
            self._position += 1
            return f"({inner})"
        name, left = self._operand()
        operator = self._operator()
        if operator in ("==", "!="):
            self._position += 1
            return _compared(name, left, operator, self._operand()[1])
        if operator in ("=~", "!~"):
            self._position += 1
            pattern = self._next()["regex"]
            if not pattern:
                raise Untranslatable("a pattern in a variable has no counterpart")
            return _matches(left, pattern) if operator == "=~" else negated(_matches(left, pattern))
        return f"{left} != ''"

    def _next(self) -> re.Match[str]:
        if self._position >= len(self._tokens):
            raise Untranslatable("it ends too early")
        self._position += 1
        return self._tokens[self._position - 1]

    def _operand(self) -> tuple[str, str]:
        token = self._next()
        if token["null"]:
            return "", "''"
        if token["double"] is not None or token["single"] is not None:
            return "", quoted(token["double"] if token["double"] is not None else token["single"])
        name = token["name"]
        if name is None:
            raise Untranslatable(f"{token[0].strip()} is not expected here")
        if name in variables.PREDEFINED:
            return name, variables.PREDEFINED[name]
        value = self._values.get(name)
        if isinstance(value, variables.Expression):
            return name, value.removeprefix("${{ ").removesuffix(" }}")
        if value is not None and "$" not in value:
            return name, quoted(value)
        raise Untranslatable(f"${name} has no counterpart here")


def _compared(name: str, left: str, operator: str, right: str) -> str:
    if name == "CI_PIPELINE_SOURCE":
        source = right.strip("'")
        if source not in _SOURCES:
            return "false" if operator == "==" else "true"
        right = quoted(_SOURCES[source])
    return f"{left} {operator} {right}"


def _matches(left: str, pattern: str) -> str:
    body = pattern[1 : pattern.rindex("/")]
    is_start, is_end = body.startswith("^"), body.endswith("$") and not body.endswith("\\$")
    inner = body[is_start : len(body) - is_end]
    if is_start and is_end and re.fullmatch(r"\([\w/-]+(?:\|[\w/-]+)*\)", inner):
        return "(" + " || ".join(f"{left} == {quoted(each)}" for each in inner.strip("()").split("|")) + ")"
    if re.search(r"(?<!\\)\.[*+]$", inner):
        inner, is_end = inner[:-2], False
    if inner.startswith((".*", ".+")):
        inner, is_start = inner[2:], False
    if re.search(r"(?<!\\)[\^$.*+?()\[\]{}|]|\\[A-Za-z0-9]", inner):
        raise Untranslatable(
            f"the regular expression {pattern} has no counterpart: write startsWith, endsWith or contains"
        )
    text = re.sub(r"\\(.)", r"\1", inner)
    if is_start and is_end:
        return f"{left} == {quoted(text)}"
    function = "startsWith" if is_start else "endsWith" if is_end else "contains"
    return f"{function}({left}, {quoted(text)})"


def negated(condition: str) -> str:
    """Return the opposite of a condition."""
    return {"true": "false", "false": "true"}.get(condition, f"!({condition})")


def any_of(left: str, right: str) -> str:
    """Return the condition that one of two is true."""
    if "true" in (left, right):
        return "true"
    return right if left == "false" else left if right == "false" else f"{left} || {right}"


def all_of(left: str, right: str) -> str:
    """Return the condition that both of two are true."""
    if "false" in (left, right):
        return "false"
    if left == "true" or right == "true":
        return right if left == "true" else left
    return f"{_in_parentheses(left)} && {_in_parentheses(right)}"


def _in_parentheses(condition: str) -> str:
    return f"({condition})" if " || " in condition else condition
