"""How a place in a file is shown: a piece of its line, and a caret below it.

Rules of this file: whatever a file holds, what is shown is one line of bounded length without anything that a
terminal or a page could take for more than text: control characters and marks of writing direction are shown escaped.
"""

from __future__ import annotations

import unicodedata

#: A line of a terminal, less the number in front of it.
SNIPPET_CHARACTERS_MAX = 120

_BEFORE_CARET = 60
_CUT = "..."


def snippet(line: str, column: int) -> tuple[str, int]:
    """The piece of `line` around `column` (from 1), escaped, and the column of the same character in it."""
    index = max(0, min(column - 1, len(line)))
    first, last = 0, len(line)
    if len(line) > SNIPPET_CHARACTERS_MAX:
        first = max(0, min(index - _BEFORE_CARET, len(line) - SNIPPET_CHARACTERS_MAX))
        last = first + SNIPPET_CHARACTERS_MAX
    before = (_CUT if first else "") + escaped(line[first:index])
    after = escaped(line[index:last]) + (_CUT if last < len(line) else "")
    return before + after, len(before) + 1


def escaped(text: str) -> str:
    """The text with everything that is not printable spelled out, such as `\\t` and `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(text: str, characters_max: int = 60) -> str:
    """A name from a file as it may stand in a message: short, printable, in double quotes."""
    shown = text if len(text) <= characters_max else text[: characters_max - len(_CUT)] + _CUT
    return f'"{escaped(shown)}"'


def width(text: str) -> int:
    """Columns that a terminal needs for `text`: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
