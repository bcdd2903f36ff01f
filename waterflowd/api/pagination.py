"""Keyset pages: a page says where the next one begins, by its last row's key, so rows that come meanwhile shift nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from waterflow_agent.errors import Rejected

#: So that rendering one page never holds the loop for long.
ROWS_MAX = 100
CURSOR_LENGTH_MAX = 300

Limit = Annotated[int, Query(ge=1, le=ROWS_MAX, description="rows in the page")]
PageCursor = Annotated[str | None, Query(max_length=CURSOR_LENGTH_MAX, description="`next` of the page before")]

_Row = TypeVar("_Row")


def page(
    name: str,
    rows: Sequence[_Row],
    key: Callable[[_Row], str],
    render: Callable[[_Row], dict[str, Any]],
    *,
    limit: int,
    cursor: str | None,
) -> dict[str, Any]:
    """One page of rows that are all in memory, in the order of their keys."""
    ordered = sorted((row for row in rows if cursor is None or key(row) > cursor), key=key)
    shown = ordered[:limit]
    following = key(shown[-1]) if len(ordered) > limit else None
    return {name: [render(row) for row in shown], "next": following}


def one_of(text: str, allowed: Sequence[str], where: str) -> str:
    """`text` when it is allowed; `Rejected` 400 with the list otherwise."""
    if text in allowed:
        return text
    raise Rejected("WF605", f"{where} is one of {', '.join(allowed)}", where=where)
