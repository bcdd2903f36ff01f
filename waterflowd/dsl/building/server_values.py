"""Values that only the server of a step knows: secrets, paths of the job, and variables that contain them.

The daemon has a reference in their place, which is filled in when the step is sent or started. So they may be used alone, in
text and as an argument of `format`, in what is sent to the server. Nothing can be computed with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from waterflowd import expr
from waterflowd.dsl.building.contexts import SECRETS, ServerValue
from waterflowd.dsl.models import github_names
from waterflowd.expr.nodes import walk

#: Paths by context and name, and the variable that has the path in scripts.
PATHS = {
    ("github", "workspace"): "$GITHUB_WORKSPACE",
    ("github", github_names.ACTION_PATH_FIELD): f"${github_names.ACTION_PATH_VARIABLE}",
    ("runner", "temp"): "$RUNNER_TEMP",
    ("runner", "workspace"): "$GITHUB_WORKSPACE/..",
}
_ENV = "env"
_INPUTS = "inputs"

#: The names of contexts that contain such values, by context; in lower case.
_Known = Mapping[str, Mapping[str, ServerValue]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A use of such a value in an expression."""

    kind: ServerValue
    offset: int
    #: The context and the name; the name is empty for all names of the context, or for a computed one.
    context: str
    name: str
    #: Whether the expression computes with it.
    is_computed: bool


def uses(
    node: expr.Node, variables: Mapping[str, ServerValue], inputs: Mapping[str, ServerValue] | None = None
) -> list[Use]:
    """The uses in an expression; `variables` of `env` and `inputs` contain such values, by name in lower case."""
    return list(_uses(node, {_ENV: variables, _INPUTS: inputs or {}}, is_computed=False))


def _uses(node: expr.Node, known: _Known, *, is_computed: bool) -> Iterator[Use]:
    if found := _reference(node, known, is_computed=is_computed):
        yield found
        return
    if not is_computed and isinstance(node, expr.Call) and node.name.lower() == "format":
        for argument in node.arguments:
            yield from _uses(argument, known, is_computed=False)
        return
    named: set[int] = set()
    for part, _ in walk(node):
        if (
            isinstance(part, expr.Index)
            and isinstance(part.target, expr.Context)
            and isinstance(part.key, expr.Literal)
        ):
            named.add(id(part.target))
            if found := _reference(part, known, is_computed=True):
                yield found
        elif isinstance(part, expr.Context) and id(part) not in named:
            context = part.name.lower()
            if context == SECRETS:
                yield Use(kind=ServerValue.SECRET, offset=part.offset, context=context, name="", is_computed=True)
            elif names := known.get(context):
                kind = next(iter(names.values()))
                yield Use(kind=kind, offset=part.offset, context=context, name="", is_computed=True)


def _reference(node: expr.Node, known: _Known, *, is_computed: bool) -> Use | None:
    match node:
        case expr.Index(expr.Context(name, offset=offset), expr.Literal(str(key))):
            context, lowered = name.lower(), key.lower()
        case _:
            return None
    kind: ServerValue | None = None
    if context == SECRETS:
        kind = ServerValue.SECRET
    elif (context, lowered) in PATHS:
        kind = ServerValue.PATH
    else:
        kind = known.get(context, {}).get(lowered)
    if kind is None:
        return None
    return Use(kind=kind, offset=offset, context=context, name=key, is_computed=is_computed)


def variables_with(env: Mapping[str, str], outer: Mapping[str, ServerValue] | None = None) -> Mapping[str, ServerValue]:
    """The variables that contain such values, by name in lower case, of a layer of `env` over the outer ones."""
    before = outer or {}
    found = dict(before)
    for name, text in env.items():
        kind = _kind_in(text, before)
        if kind is not None:
            found[name.lower()] = kind
        else:
            found.pop(name.lower(), None)
    return found


def _kind_in(text: str, variables: Mapping[str, ServerValue]) -> ServerValue | None:
    if "${{" not in text:
        return None
    try:
        template = expr.parse_template(text)
    except expr.ExpressionError:
        return None
    kinds = {use.kind for expression in template.expressions for use in uses(expression.node, variables)}
    return ServerValue.SECRET if ServerValue.SECRET in kinds else next(iter(kinds), None)
