"""References to secrets, which are found but never evaluated.

`${{ secrets.NAME }}` becomes a reference that is filled in when the step is sent to the agent. So it may be used alone, in text
and as an argument of `format`; nothing can be computed with it, since the daemon does not evaluate its value.
"""

from __future__ import annotations

from waterflowd import expr
from waterflowd.dsl.building.contexts import SECRETS
from waterflowd.dsl.building.embedded_expressions import embedded
from waterflowd.model.plan import Json

#: The secret that GitHub makes for each job, in lower case; and the message and the hint where a file uses it.
GITHUB_TOKEN = "github_token"
NO_GITHUB_TOKEN = ("Waterflow has no GITHUB_TOKEN", "create a token at the forge, and store it as a secret")


def names_in(value: Json) -> tuple[str, ...]:
    """The names of the secrets that the texts of a value refer to, without duplicates; malformed templates are ignored."""
    found: dict[str, None] = {}
    for node in embedded(value):
        for path, _ in expr.references(node):
            if path[0] == SECRETS and len(path) > 1:
                found.setdefault(path[1])
    return tuple(found)


def only_name(text: str) -> str | None:
    """The name in a text that is exactly `${{ secrets.NAME }}`; None for any other."""
    try:
        node = expr.parse_template(text).single
    except expr.ExpressionError:
        return None
    return _name(node) if node is not None and _is_reference(node) else None


def _is_reference(node: expr.Node) -> bool:
    match node:
        case expr.Index(expr.Context(name), expr.Literal(str())):
            return name.lower() == SECRETS
    return False


def _name(node: expr.Node) -> str:
    assert isinstance(node, expr.Index)
    assert isinstance(node.key, expr.Literal)
    return str(node.key.value)
