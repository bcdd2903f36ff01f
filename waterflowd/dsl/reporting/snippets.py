"""Snippets: a part of a source line, with the column of a caret below it.

Rules of this file: a snippet is one line of bounded length that is safe to display: control characters and marks of writing
direction are escaped.
"""

from __future__ import annotations

import unicodedata

from waterflow_agent.display import ELLIPSIS, escape_for_display

#: A line of a terminal, less the number in front of it.
SNIPPET_CHARACTERS_MAX = 120

_BEFORE_CARET = 60


def snippet(line: str, column: int) -> tuple[str, int]:
    """The part of `line` around `column` (from 1), escaped, and the column of the same character in it."""
    index = max(0, min(column - 1, len(line)))
    first, last = 0, len(line)
    if len(line) > SNIPPET_CHARACTERS_MAX:
        first = max(0, min(index - _BEFORE_CARET, len(line) - SNIPPET_CHARACTERS_MAX))
        last = first + SNIPPET_CHARACTERS_MAX
    before = (ELLIPSIS if first else "") + escape_for_display(line[first:index])
    after = escape_for_display(line[index:last]) + (ELLIPSIS if last < len(line) else "")
    return before + after, len(before) + 1


def width(text: str) -> int:
    """Columns that a terminal needs for `text`: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
