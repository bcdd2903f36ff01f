"""Static analysis of an expression: the names it may use, and the names it does use.

`check` reports every problem at once. It knows names, not types: the properties of data are only known at run time,
and one that does not exist is null.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from waterflow_agent.display import quote
from waterflowd.expr.errors import UNKNOWN_CONTEXT, UNKNOWN_FUNCTION, UNKNOWN_NAME, ExpressionError
from waterflowd.expr.evaluation import find_function
from waterflowd.expr.functions import FUNCTIONS, PLAIN_FUNCTIONS, STATUS_FUNCTIONS
from waterflowd.expr.nodes import Call, Context, Filter, Index, Literal, Node, children, walk
from waterflowd.expr.values import to_text
from waterflowd.model.wording import closest

#: More errors of one expression are not helpful, and each costs a search for a suggestion.
ERRORS_MAX = 50

#: Part of a reference's path that is only known in a run.
ANY = "*"

#: Nouns for the names below a context.
_NOUNS = {
    "steps": "step",
    "needs": "job in needs",
    "jobs": "job",
    "inputs": "input",
    "vars": "variable",
    "secrets": "secret",
    "matrix": "matrix dimension",
}


class Names(Collection[str]):
    """Names below a context, compared without case, and those of an outer scope; a lookup costs the same for any number."""

    __slots__ = ("_outer", "_spelled")

    def __init__(self, names: Iterable[str] = (), outer: Names | None = None) -> None:
        self._spelled = {name.lower(): name for name in names}
        self._outer = outer

    def add(self, name: str) -> None:
        """Adds a name, for expressions that are checked afterwards."""
        self._spelled[name.lower()] = name

    def get(self, name: str) -> str | None:
        """The name as it was declared; None if there is none."""
        found = self._spelled.get(name.lower())
        return self._outer.get(name) if found is None and self._outer is not None else found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        yield from self._outer or ()
        yield from self._spelled.values()

    def __len__(self) -> int:
        return len(self._spelled) + len(self._outer or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The contexts and functions that an expression may use.

    `contexts` maps each allowed context (lower case) to the names that exist below it, or to None where they are not
    known or where an unknown one is null; where many expressions use one collection, it should be `Names`. `functions`
    are names as documented; add STATUS_FUNCTIONS in an `if`.
    """

    contexts: Mapping[str, Collection[str] | None] = field(default_factory=dict)
    functions: Collection[str] = PLAIN_FUNCTIONS


def check(node: Node, scope: Scope) -> list[ExpressionError]:
    """Return the errors of an expression in source order, at most ERRORS_MAX."""
    functions = _lowered(frozenset(scope.functions))
    errors: list[ExpressionError] = []
    for part, _ in walk(node):
        match part:
            case Call():
                error = _call_error(part, functions, scope)
            case Context():
                error = _context_error(part, scope)
            case Index(Context(), Literal()):
                error = _name_error(part, scope)
            case _:
                error = None
        if error is not None:
            errors.append(error)
        if len(errors) == ERRORS_MAX:
            break
    return sorted(errors, key=lambda error: error.offset)


@lru_cache(maxsize=64)
def _lowered(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _call_error(call: Call, functions: Collection[str], scope: Scope) -> ExpressionError | None:
    lowered = call.name.lower()
    if lowered in functions or lowered not in FUNCTIONS:
        try:
            find_function(call)
        except ExpressionError as error:
            if error.code == UNKNOWN_FUNCTION:
                error.suggestion = closest(call.name, scope.functions)
            return error
        return None
    name = FUNCTIONS[lowered].name
    where = " outside of `if`" if name in STATUS_FUNCTIONS else " here"
    return ExpressionError(UNKNOWN_FUNCTION, f"{name}() cannot be used{where}", call.offset)


def _context_error(context: Context, scope: Scope) -> ExpressionError | None:
    lowered = context.name.lower()
    if lowered in scope.contexts:
        return None
    text = f"unknown context {quote(context.name)}"
    first, hyphen, _ = lowered.partition("-")
    if hyphen and first in scope.contexts:
        text += "; a hyphen is part of a name, so put spaces around - to subtract"
    elif scope.contexts:
        text += f"; available here: {', '.join(sorted(scope.contexts))}"
    return ExpressionError(UNKNOWN_CONTEXT, text, context.offset, suggestion=closest(context.name, scope.contexts))


def _name_error(index: Index, scope: Scope) -> ExpressionError | None:
    assert isinstance(index.target, Context)
    assert isinstance(index.key, Literal)
    lowered = index.target.name.lower()
    known = scope.contexts.get(lowered)
    if known is None:
        return None
    name = to_text(index.key.value)
    if name in (known if isinstance(known, Names) else Names(known)):
        return None
    text = f"unknown {_NOUNS.get(lowered, f'name in {lowered}')} {quote(name)}"
    if not known:
        text += "; there are none"
    return ExpressionError(UNKNOWN_NAME, text, index.key.offset, suggestion=closest(name, known))


def references(node: Node) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the path and position of every use of a context, in source order, including duplicates.

    The context's name is in lower case, the rest as written. A filter or a computed index is ANY in the path;
    contexts that compute the index are yielded as well.
    """
    waiting = [node]
    while waiting:
        current = waiting.pop()
        path, root, computed = _path(current)
        if isinstance(root, Context):
            yield (root.name.lower(), *path), root.offset
            waiting.extend(reversed(computed))
        else:
            waiting.extend(reversed(children(current)))


def _path(node: Node) -> tuple[list[str], Node, list[Node]]:
    """Return the names along a chain of indexes, where it starts, and the indexes that are computed."""
    names: list[str] = []
    computed: list[Node] = []
    while isinstance(node, Index | Filter):
        if isinstance(node, Index) and isinstance(node.key, Literal):
            names.append(to_text(node.key.value))
        else:
            names.append(ANY)
            if isinstance(node, Index):
                computed.append(node.key)
        node = node.target
    return names[::-1], node, computed[::-1]
