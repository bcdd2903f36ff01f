"""Constants in scripts: matrix values, which the file determines, and what the daemon chooses, such as the run's id.

Rules of this file: a constant is pasted into the script, so nobody but the author of the file may choose its characters. A
matrix that an expression defines is not constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.dsl.building.contexts import Availability
from waterflowd.expr.nodes import Call, walk
from waterflowd.model import matrix
from waterflowd.model.plan import Json, MatrixPlan

#: Values of letters, digits and -, which the daemon or Git chooses.
_HARMLESS = frozenset(
    [
        *(("run", name) for name in ("id", "number", "attempt")),
        *(("git", name) for name in ("sha", "short-sha")),
        *(("strategy", name) for name in ("job-index", "job-total", "fail-fast", "max-parallel")),
        ("job", "id"),
    ]
)
_MATRIX = "matrix"
#: Functions whose value depends on the run.
_NOT_CONSTANT = frozenset(["now", "hashfiles", "success", "failure", "cancelled", "always"])
#: Characters of all texts of one constant.
_CHARACTERS_MAX = 1 << 20


def find_constants(available: Availability) -> expr.FindConstant:
    """Return what tells the constants among the expressions of a script."""

    def find(node: expr.Node) -> expr.Constant | None:
        paths = [path for path, _ in expr.references(node)]
        if not paths or any(isinstance(part, Call) and part.name.lower() in _NOT_CONSTANT for part, _ in walk(node)):
            return None
        if isinstance(node, expr.Index) and tuple(part.lower() for part in paths[0]) in _HARMLESS:
            return expr.Constant() if paths[0][0] in available.contexts else None
        if available.matrix is None or any(path[0] != _MATRIX for path in paths):
            return None
        return _of_matrix(node, available.matrix)

    return find


def constant_texts(text: str, available: Availability) -> tuple[str, ...] | None:
    """Every text that a value may have, as far as the file determines them; None if only the run knows them."""
    try:
        template = expr.parse_template(text)
    except expr.ExpressionError:
        return None
    if not template.expressions:
        return (text,)
    if template.single is None:
        return None
    found = find_constants(available)(template.single)
    return found.texts if found is not None else None


def _of_matrix(node: expr.Node, plan: MatrixPlan) -> expr.Constant | None:
    texts: dict[str, None] = {}
    size = 0
    for values in combinations(plan):
        try:
            text = expr.to_text(expr.evaluate(node, expr.Env(contexts={_MATRIX: values})))
        except expr.ExpressionError:
            return None
        size += len(text)
        if size > _CHARACTERS_MAX:
            return None
        texts.setdefault(text)
    return expr.Constant(tuple(texts)) if texts else None


def combinations(plan: MatrixPlan) -> tuple[dict[str, Any], ...]:
    """The values of each instance; none when they are known only in the run, or when the matrix is wrong."""
    return _combinations(msgspec.json.encode(plan))


def value_at(values: Json, names: Sequence[str]) -> Json:
    """The value at a path of names and numbers, as expressions find it; None if there is none."""
    node: expr.Node = expr.Context(_MATRIX, 0)
    for name in names:
        node = expr.Index(node, expr.Literal(name, 0), 0)
    return expr.evaluate(node, expr.Env(contexts={_MATRIX: values}))


@lru_cache(maxsize=8)
def _combinations(encoded: bytes) -> tuple[dict[str, Any], ...]:
    plan = msgspec.json.decode(encoded, type=MatrixPlan)
    if plan.expression is not None or not expr.is_static([plan.dimensions, plan.include, plan.exclude]):
        return ()
    try:
        return tuple(matrix.instances(plan.dimensions, plan.include, plan.exclude))
    except Rejected:
        return ()
