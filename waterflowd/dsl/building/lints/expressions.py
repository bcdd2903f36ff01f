"""Lints of expressions: calls of constants that cannot work, and comparisons that are false in every run.

Rules of this file: warn only of certain mistakes, never of what depends on data or may be intended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from waterflow_agent.display import quote
from waterflowd import expr
from waterflowd.dsl.reporting import codes
from waterflowd.expr import errors as expression_errors
from waterflowd.expr.nodes import walk
from waterflowd.model.wording import did_you_mean

_RESULTS = ("success", "failure", "cancelled", "skipped")
_CONCLUSIONS = (*_RESULTS, "timed-out", "lost")
#: The texts that a property of a job or step may be.
_WORDS = {
    ("needs", "result"): _RESULTS,
    ("jobs", "result"): _RESULTS,
    ("needs", "conclusion"): _CONCLUSIONS,
    ("jobs", "conclusion"): _CONCLUSIONS,
    ("steps", "outcome"): _RESULTS,
    ("steps", "conclusion"): _RESULTS,
}
#: Contexts that are mappings, and how many names deep.
_MAPPINGS = frozenset(
    (
        *((name, 1) for name in ("github", "git", "run", "inputs", "vars", "env", "matrix", "needs", "steps", "jobs")),
        *((name, 1) for name in ("event", "job", "strategy", "agent", "runner")),
        *(("steps", 2), ("needs", 2), ("jobs", 2)),
    )
)
_JOB_STATUSES = ("success", "failure", "cancelled")
_MISSPELLED = {"failed": "failure", "succeeded": "success", "canceled": "cancelled", "error": "failure"}


@dataclass(frozen=True, slots=True)
class Lint:
    """A mistake in an expression."""

    offset: int
    code: str
    message: str
    hint: str


def lints(node: expr.Node, booleans: Collection[str]) -> Iterator[Lint]:
    """The mistakes in an expression; `booleans` are the names of the boolean inputs, in lower case."""
    for part, _ in walk(node):
        match part:
            case expr.Call():
                yield from _impossible_call(part)
            case expr.Binary(operator, left, right) if operator in ("==", "!="):
                yield from _impossible_comparison(left, right, operator, booleans)
                yield from _impossible_comparison(right, left, operator, booleans)


def mapping_as_text(node: expr.Node) -> Iterator[Lint]:
    """The mistake of writing a whole mapping into a text, where it becomes the word Object."""
    found = list(expr.references(node))
    if len(found) != 1 or not isinstance(node, expr.Context | expr.Index):
        return
    path, offset = found[0]
    is_outputs = len(path) == 3 and path[0] in ("steps", "needs", "jobs") and path[2].lower() == "outputs"
    if (path[0], len(path)) in _MAPPINGS or is_outputs or [name.lower() for name in path] == ["github", "event"]:
        name = ".".join(path)
        yield Lint(
            offset, codes.NO_EFFECT, f"{name} is a mapping, which becomes the text Object", f"write toJSON({name})"
        )


def _impossible_call(call: expr.Call) -> Iterator[Lint]:
    name = call.name.lower()
    if name not in ("format", "fromjson") or not call.arguments or not isinstance(call.arguments[0], expr.Literal):
        return
    if isinstance(call.arguments[0].value, str):
        # Which values format gets makes no difference.
        others = [expr.Literal("", argument_offset) for argument_offset in range(len(call.arguments) - 1)]
        try:
            expr.evaluate(expr.Call(call.name, (call.arguments[0], *others), call.offset), expr.Env())
        except expr.ExpressionError as error:
            if error.code != expression_errors.WRONG_ARITY:
                yield Lint(
                    call.offset, expression_errors.WRONG_VALUE, f"this call fails in every run: {error.text}", ""
                )


def _impossible_comparison(
    value: expr.Node, other: expr.Node, operator: str, booleans: Collection[str]
) -> Iterator[Lint]:
    if not isinstance(other, expr.Literal):
        return
    path = [name.lower() for name in _path(value)]
    is_event_input = path[:3] == ["github", "event", "inputs"] and len(path) == 4
    always = "always true" if operator == "!=" else "never true"
    if isinstance(other.value, str):
        words = _JOB_STATUSES if path == ["job", "status"] else _words(path)
        if words and other.value.lower() not in words:
            text = f"this comparison is {always}: {'.'.join(path)} is one of {', '.join(words)}"
            better = _MISSPELLED.get(other.value.lower())
            hint = f"write '{better}'" if better else did_you_mean(other.value, words)
            yield Lint(other.offset, codes.NO_EFFECT, text, hint)
        elif len(path) == 2 and path[0] == "inputs" and path[1] in booleans:
            text = f"this comparison is {always}: the input {quote(path[1])} is a boolean, and {quote(other.value)} is text"
            yield Lint(
                other.offset, codes.NO_EFFECT, text, f"write inputs.{path[1]}, or compare with true without quotes"
            )
    elif isinstance(other.value, bool) and is_event_input and path[3] in booleans:
        text = f"this comparison is {always}: inputs below github.event are text"
        yield Lint(other.offset, codes.NO_EFFECT, text, f"write inputs.{path[3]}")


def _words(path: list[str]) -> tuple[str, ...]:
    return _WORDS.get((path[0], path[2]), ()) if len(path) == 3 else ()


def _path(node: expr.Node) -> tuple[str, ...]:
    if not isinstance(node, expr.Index):
        return ()
    found = list(expr.references(node))
    return found[0][0] if len(found) == 1 else ()
