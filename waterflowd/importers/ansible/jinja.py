"""Simple templates and conditions of Jinja as expressions.

Rules of this file: names, attributes, literals, comparisons, `and`, `or`, `not`, `is defined` and `default` are translated.
Anything else raises Untranslatable: a wrong value would be worse than none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from waterflowd.importers.expressions import quoted
from waterflowd.importers.generated import as_literal
from waterflowd.model.plan import Json

#: Facts and magic variables with a counterpart.
_FACTS = {
    "inventory_hostname": "agent.name",
    "inventory_hostname_short": "agent.name",
    "ansible_hostname": "agent.hostname",
    "ansible_nodename": "agent.hostname",
    "ansible_fqdn": "agent.hostname",
    "ansible_system": "runner.os",
}
_EXPRESSION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\")|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<operator>==|!=|<=|>=|<|>|\||\(|\)|\[|\]|\.|,))"
)
_WORDS = {"and": "&&", "or": "||"}
_RESULTS = {"rc": "exit-code", "failed": "failed", "changed": "changed"}


class Untranslatable(Exception):
    """A template has no counterpart; the text says which part."""


@dataclass
class Names:
    """The names that templates may refer to, and their expressions."""

    variables: set[str] = field(default_factory=set)
    #: Names that tasks registered; the value says whether the step has the output `changed`.
    registered: dict[str, bool] = field(default_factory=dict)
    loop_names: set[str] = field(default_factory=set)

    def expression(self, path: list[str]) -> str:
        """Return the expression for a dotted name; raises Untranslatable."""
        name, rest = path[0], path[1:]
        if name == "ansible_facts" and rest:
            name, rest = f"ansible_{rest[0]}", rest[1:]
        if name in self.loop_names:
            return ".".join([name, *rest])
        if name in self.registered:
            return self._of_result(name, rest)
        if name in self.variables:
            return ".".join([f"vars.{name}", *rest])
        if name in _FACTS and not rest:
            return _FACTS[name]
        if name in ("true", "false", "True", "False", "none", "None"):
            return {"true": "true", "false": "false", "none": "null"}[name.lower()]
        raise Untranslatable(f"{'.'.join(path)} has no value here")

    def _of_result(self, name: str, rest: list[str]) -> str:
        if rest == ["rc"]:
            return f"steps.{name}.exit-code"
        if rest in (["failed"], ["failed", "bool"]):
            return f"steps.{name}.outcome == 'failure'"
        if rest == ["changed"]:
            return changed(name, self.registered[name])
        raise Untranslatable(f"{'.'.join([name, *rest])}: write what the script prints to $WATERFLOW_OUTPUT")


def changed(step: str, has_output: bool) -> str:
    """Return the condition that a step changed something; a command always counts as a change."""
    return f"steps.{step}.outputs.changed" if has_output else f"steps.{step}.outcome == 'success'"


def text(template: object, names: Names) -> str:
    """Return a template as text with expressions; raises Untranslatable."""
    source = ("true" if template else "false") if isinstance(template, bool) else str(template)
    if "{%" in source or "{#" in source:
        raise Untranslatable("statements of Jinja")
    position, parts = 0, []
    for found in _EXPRESSION.finditer(source):
        parts.append(as_literal(source[position : found.start()]))
        position = found.end()
        parts.append(f"${{{{ {condition(found[1], names)} }}}}")
    return "".join([*parts, as_literal(source[position:])])


def expanded(value: Json, names: Names) -> Json:
    """Return a value with the templates of its texts as expressions; raises Untranslatable."""
    match value:
        case dict():
            return {key: expanded(item, names) for key, item in value.items()}
        case list():
            return [expanded(item, names) for item in value]
        case str():
            return text(value, names)
    return value


def condition(source: object, names: Names) -> str:
    """Return an expression of Jinja, such as that of `when`; raises Untranslatable."""
    if isinstance(source, list):
        parts = [condition(each, names) for each in source]
        return " && ".join(f"({part})" if len(parts) > 1 and "||" in part else part for part in parts)
    written = str(source).strip()
    whole = _EXPRESSION.fullmatch(written)
    return _Parser(whole[1] if whole else written, names).parse()


class _Parser:
    """Translates one expression."""

    def __init__(self, source: str, names: Names) -> None:
        self._names = names
        self._tokens: list[re.Match[str]] = []
        self._position = 0
        position = 0
        while position < len(source.rstrip()):
            found = _TOKEN.match(source, position)
            if found is None:
                raise Untranslatable(source[position:].strip()[:60])
            self._tokens.append(found)
            position = found.end()

    def parse(self) -> str:
        result = self._or()
        if self._position < len(self._tokens):
            raise Untranslatable(self._tokens[self._position].group().strip())
        return result

    def _peek(self) -> str:
        return self._tokens[self._position].group().strip() if self._position < len(self._tokens) else ""

    def _accept(self, *words: str) -> str:
        if self._peek() in words and self._position < len(self._tokens):
            self._position += 1
            return self._tokens[self._position - 1].group().strip()
        return ""

    def _or(self) -> str:
        parts = [self._and()]
        while self._accept("or"):
            parts.append(self._and())
        return " || ".join(parts)

    def _and(self) -> str:
        parts = [self._not()]
        while self._accept("and"):
            parts.append(self._not())
        return " && ".join(f"({part})" if len(parts) > 1 and "||" in part else part for part in parts)

    def _not(self) -> str:
        if self._accept("not"):
            return f"!({self._not()})"
        return self._comparison()

    def _comparison(self) -> str:
        left = self._filtered()
        if self._accept("is"):
            return self._test(left)
        operator = self._accept("==", "!=", "<", "<=", ">", ">=")
        if operator:
            return f"{left} {operator} {self._filtered()}"
        if self._accept("in"):
            return f"contains({self._filtered()}, {left})"
        return left

    def _test(self, left: str) -> str:
        is_negated = bool(self._accept("not"))
        word = self._peek()
        self._position += 1
        tests = {
            "defined": f"{left} != null",
            "undefined": f"{left} == null",
            "failed": f"{left} == 'failure'",
            "succeeded": f"{left} == 'success'",
            "success": f"{left} == 'success'",
            "skipped": f"{left} == 'skipped'",
        }
        if left.startswith("steps.") and word == "changed":
            return f"!({left})" if is_negated else left
        if word not in tests or (word not in ("defined", "undefined") and not left.startswith("steps.")):
            raise Untranslatable(f"is {word}")
        return f"!({tests[word]})" if is_negated else tests[word]

    def _filtered(self) -> str:
        value = self._value()
        while self._accept("|"):
            name = self._peek()
            self._position += 1
            if name in ("bool", "string", "int", "trim", "lower", "upper"):
                value = f"{name}({value})" if name in ("trim", "lower", "upper") else value
            elif name in ("default", "d") and self._accept("("):
                other = self._or()
                while self._accept(","):
                    self._or()
                self._expect(")")
                value = f"default({value}, {other})"
            else:
                raise Untranslatable(f"the filter {name}")
        return value

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise Untranslatable(f"{self._peek() or 'the end'}, where {word} is expected")

    def _value(self) -> str:
        if self._accept("("):
            inner = self._or()
            self._expect(")")
            return f"({inner})"
        if self._position >= len(self._tokens):
            raise Untranslatable("an expression that ends too early")
        token = self._tokens[self._position]
        self._position += 1
        if token["text"] is not None:
            return quoted(re.sub(r"\\(.)", r"\1", token["text"][1:-1]))
        if token["number"] is not None:
            return token["number"]
        if token["name"] is None or token["name"] in _WORDS:
            raise Untranslatable(token.group().strip())
        return self._path(token["name"])

    def _path(self, name: str) -> str:
        path = [name]
        while True:
            if self._accept("."):
                path.append(self._peek())
                self._position += 1
            elif self._peek() == "[":
                self._position += 1
                key = self._peek().strip("'\"")
                self._position += 1
                self._expect("]")
                path.append(key)
            else:
                break
        if path[0] in self._names.registered and len(path) == 1 and self._peek() == "is":
            following = [token.group().strip() for token in self._tokens[self._position + 1 : self._position + 3]]
            if "changed" in following:
                return changed(name, self._names.registered[name])
            return f"steps.{name}.outcome"
        return self._names.expression(path)
