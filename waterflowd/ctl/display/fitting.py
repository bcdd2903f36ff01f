"""Text that fits the width of a terminal: wrapped cells of tables, and sentences. Pure.

Rules of this file: nothing is lost. Text is broken at spaces where there are any, else after punctuation, else anywhere, but
not inside the id of a run where the column has space for it. Columns with ids have.
Colours around a text are kept on each of its lines.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

_SGR = re.compile(r"\x1b\[[0-9;:]{0,40}m")
_STYLED = re.compile(rf"((?:{_SGR.pattern})*)([^\x1b]*)((?:{_SGR.pattern})*)")
#: A column is not made narrower than this, or than a word of its heading.
_COLUMN_MIN = 8
_GAP = 2
#: A long word is broken after one of these.
_BREAKS = frozenset("/,;:=-_.@")
#: The id of a run, which people copy.
_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b")


def width(text: str) -> int:
    """Return the number of columns of the text, without colours."""
    plain = _SGR.sub("", text)
    if plain.isascii():
        return len(plain)
    return sum(map(_character_width, plain))


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: int, whole: Collection[str]
) -> list[int]:
    """Return the widths of a table's columns, so that it fits `columns` where possible; those headed by `whole` keep theirs."""
    natural = [max(width(row[index]) for row in (headings, *rows)) for index in range(len(headings))]
    widths = list(natural)
    floors = [
        natural[index] if heading in whole else min(natural[index], _floor(heading, [row[index] for row in rows]))
        for index, heading in enumerate(headings)
    ]
    while sum(widths) + _GAP * (len(widths) - 1) > columns:
        index = max(range(len(widths)), key=lambda at: (widths[at] > floors[at], widths[at]))
        if widths[index] <= floors[index]:
            # It does not fit: the terminal breaks the lines.
            return widths
        widths[index] -= 1
    return widths


def _floor(heading: str, cells: Sequence[str]) -> int:
    ids = (len(found[0]) for cell in cells for found in _ID.finditer(cell))
    return max(_COLUMN_MIN, *map(width, heading.split(" ")), max(ids, default=0))


def row_lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Return the lines of a table's row, in columns of these widths."""
    cells = [wrapped_cell(cell, size) for cell, size in zip(row, widths, strict=True)]
    lines = []
    for number in range(max(map(len, cells))):
        texts = [cell[number] if number < len(cell) else "" for cell in cells]
        padded = [text + " " * (size - width(text)) for text, size in zip(texts, widths, strict=True)]
        lines.append((" " * _GAP).join(padded).rstrip())
    return lines


def broken(text: str, columns: int, indent: int) -> list[str]:
    """Return a line as lines of at most `columns`, broken at spaces; further lines are indented. Longer words stay whole."""
    if width(text) <= columns:
        return [text]
    lines: list[str] = []
    line, *words = text.split(" ")
    for word in words:
        if line.strip() and width(line) + 1 + width(word) > columns:
            lines.append(line.rstrip())
            line = " " * indent + word
        else:
            line += " " + word
    return [*lines, line]


def wrapped_cell(text: str, columns: int) -> list[str]:
    """Return the lines of a text, each of at most `columns`, with the colours around it."""
    if width(text) <= columns:
        return [text]
    styled = _STYLED.fullmatch(text)
    if styled is None:
        # Colours inside of a text would have to be followed from line to line.
        return _lines(_SGR.sub("", text), columns)
    return [f"{styled[1]}{line}{styled[3]}" for line in _lines(styled[2], columns)]


def _lines(text: str, columns: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and width(line) + 1 + width(word) <= columns:
            line += f" {word}"
            continue
        if line:
            lines.append(line)
        line = word
        while width(line) > columns:
            head = _head(line, columns)
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line] if line else lines


def _head(word: str, columns: int) -> str:
    """Return the beginning of a word that fits, up to a good place to break it if there is one after its first quarter."""
    end = used = 0
    while end < len(word) and (not end or used + _character_width(word[end]) <= columns):
        used += _character_width(word[end])
        end += 1
    for found in _ID.finditer(word):
        if 0 < found.start() < end < found.end():
            return word[: found.start()]
    for at in range(end, end // 4, -1):
        # The dot of `.waterflow` belongs to what follows.
        if word[at - 1] in _BREAKS and not (word[at - 1] == "." and (at == 1 or word[at - 2] in _BREAKS)):
            return word[:at]
    return word[:end]
