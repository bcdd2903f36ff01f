"""Keyset pagination: a page names the key of its last row, so that rows which are added meanwhile shift nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from waterflow_agent.errors import Rejected

#: Keeps the time to encode one page short.
ROWS_MAX = 100
CURSOR_LENGTH_MAX = 300

Limit = Annotated[int, Query(ge=1, le=ROWS_MAX, description="Maximum number of rows in the page.")]
PageCursor = Annotated[str | None, Query(max_length=CURSOR_LENGTH_MAX, description="`next` of the previous page.")]

_Row = TypeVar("_Row")


def page(
    rows: Sequence[_Row], key: Callable[[_Row], str], limit: int, cursor: str | None
) -> tuple[list[_Row], str | None]:
    """One page of rows that are all in memory, in the order of their keys; and the cursor of the next page."""
    ordered = sorted((row for row in rows if cursor is None or key(row) > cursor), key=key)
    rows = ordered[:limit]
    return rows, key(rows[-1]) if len(ordered) > limit else None


def one_of(text: str, allowed: Sequence[str], where: str) -> str:
    """`text` when it is allowed; `Rejected` 400 with the list otherwise."""
    if text in allowed:
        return text
    raise Rejected("WF605", f"{where} must be one of {', '.join(allowed)}", where=where)
