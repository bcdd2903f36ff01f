"""Pages of the jobs or steps of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from waterflowd.api.pagination import one_of
from waterflowd.api.runs.run_lookup import STATUSES
from waterflowd.api.streaming.streams import parse_position
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job

_Part = TypeVar("_Part", Job, Step)


def page(parts: Iterable[_Part], status: str | None, limit: int, cursor: str | None) -> tuple[list[_Part], str | None]:
    """Rows of a list that only grows at its end: the cursor is the number of rows before the page."""
    word = one_of(status, STATUSES, "status") if status is not None else None
    begin = parse_position(cursor) if cursor is not None else 0
    matching = _matching(parts, word, begin)
    found = list(islice(matching, limit))
    following = next(matching, None)
    return [part for _, part in found], str(following[0]) if following is not None else None


def _matching(parts: Iterable[_Part], word: str | None, begin: int) -> Iterator[tuple[int, _Part]]:
    for number, part in enumerate(islice(parts, begin, None), begin):
        conclusion = part.conclusion.value if part.conclusion is not None else None
        if word is None or word in (part.status.value, conclusion):
            yield number, part
