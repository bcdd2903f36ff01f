"""Text with `${{ }}`, whole values of such texts, and the conditions of `if`.

A text that is exactly one expression keeps the type of its value; any other text with expressions becomes a string.
The value of an expression is never parsed again, so a value that contains `${{` is unchanged. An expression ends at
the first `}}` outside its strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from waterflowd.expr.env import Env
from waterflowd.expr.errors import BOUND, SYNTAX, UNTERMINATED, ExpressionError
from waterflowd.expr.evaluation import compiled, evaluate
from waterflowd.expr.functions import STATUS_FUNCTIONS
from waterflowd.expr.json_text import VALUE_HEIGHT_MAX, Problem, joined
from waterflowd.expr.nodes import IMPLIED, Call, Logical, Node, walk
from waterflowd.expr.parser import parse_at
from waterflowd.expr.values import Value, to_text

OPEN = "${{"

_STATUS_NAMES = frozenset(name.lower() for name in STATUS_FUNCTIONS)

#: Texts up to this many characters are kept parsed; of longer ones, which are scripts, only the last.
_CACHED_CHARACTERS_MAX = 4096

_EXPRESSION = re.compile(r"\$\{\{((?:[^'}]|'[^']*'|\}(?!\}))*)\}\}")


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedExpression:
    """One `${{ }}` in a text: the parsed expression, its source without the braces, and its position."""

    node: Node
    source: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A parsed text: literal pieces and expressions in order. Offsets of its nodes count from the start of the text."""

    text: str
    parts: tuple[str | EmbeddedExpression, ...]

    @property
    def expressions(self) -> tuple[EmbeddedExpression, ...]:
        """The expressions of the text, in order."""
        return tuple(part for part in self.parts if isinstance(part, EmbeddedExpression))

    @property
    def single(self) -> Node | None:
        """The expression that is the whole text, so that its value keeps its type."""
        if len(self.parts) == 1 and isinstance(self.parts[0], EmbeddedExpression):
            return self.parts[0].node
        return None

    def render(self, env: Env) -> Value:
        """Return the value of the text; raises ExpressionError."""
        if self.single is not None:
            return evaluate(self.single, env)
        try:
            return joined(part if isinstance(part, str) else to_text(compiled(part.node)(env)) for part in self.parts)
        except Problem as problem:
            raise ExpressionError(problem.code, problem.text, 0) from None


def parse_template(text: str) -> Template:
    """Return the pieces of a text; raises ExpressionError at the first mistake, with the offset in `text`."""
    return _cached_template(text) if len(text) <= _CACHED_CHARACTERS_MAX else _last_long_template(text)


def _parse_template(text: str) -> Template:
    parts: list[str | EmbeddedExpression] = []
    position = 0
    while (start := text.find(OPEN, position)) >= 0:
        if start > position:
            parts.append(text[position:start])
        found = _EXPRESSION.match(text, start)
        if found is None:
            raise ExpressionError(UNTERMINATED, "this ${{ has no closing }}", start)
        node = parse_at(found.group(1), found.start(1))
        parts.append(EmbeddedExpression(node, found.group(1), start, found.end()))
        position = found.end()
    if position < len(text):
        parts.append(text[position:])
    return Template(text, tuple(parts))


_cached_template = lru_cache(maxsize=4096)(_parse_template)
_last_long_template = lru_cache(maxsize=1)(_parse_template)


def render(value: Value, env: Env) -> Value:
    """Return a JSON value with every text in it rendered; keys of objects stay as they are.

    Raises ExpressionError.
    """
    return _render(value, env, VALUE_HEIGHT_MAX)


def _render(value: Value, env: Env, height: int) -> Value:
    if isinstance(value, str):
        return parse_template(value).render(env) if OPEN in value else value
    if not isinstance(value, Mapping | list | tuple):
        return value
    if height == 0:
        raise ExpressionError(BOUND, f"the value is nested more than {VALUE_HEIGHT_MAX} levels deep", 0)
    if isinstance(value, Mapping):
        return {key: _render(item, env, height - 1) for key, item in value.items()}
    return [_render(item, env, height - 1) for item in value]


def is_static(value: Value) -> bool:
    """Return whether a JSON value holds no expression anywhere, so that rendering would not change it."""
    # This is called for the environment of each step, and most are empty.
    waiting = [value] if value else []
    while waiting:
        current = waiting.pop()
        if isinstance(current, str):
            if OPEN in current:
                return False
        elif isinstance(current, Mapping):
            waiting.extend(current.values())
        elif isinstance(current, list | tuple):
            waiting.extend(current)
    return True


@lru_cache(maxsize=4096)
def parse_condition(text: str) -> Node:
    """Return the tree of an `if`: the wrapper may be missing, and `success() &&` is implied.

    Nothing is implied when a status function is called anywhere. A text that mixes `${{ }}` with other text is an error,
    since it would be a string and so always true. Raises ExpressionError.
    """
    stripped = text.strip()
    if stripped.startswith(OPEN):
        template = _parse_template(text)
        expressions = template.expressions
        if len(expressions) > 1 or any(isinstance(part, str) and part.strip() for part in template.parts):
            raise ExpressionError(SYNTAX, "text around ${{ }} makes the condition always true", expressions[0].start)
        node = expressions[0].node
    else:
        node = parse_at(text, 0)
    if any(isinstance(part, Call) and part.name.lower() in _STATUS_NAMES for part, _ in walk(node)):
        return node
    return Logical("&&", (Call("success", (), IMPLIED), node), IMPLIED)


def is_success_implied(condition: Node) -> bool:
    """Return whether `parse_condition` put the `success() &&` in front, since no status function is called."""
    return isinstance(condition, Logical) and condition.offset == IMPLIED
