"""Text that fits the width of a terminal: wrapped cells of tables, and sentences. Pure.

Rules of this file: nothing is lost, except whole columns that a table marks as optional. Text is broken at spaces where there
are any, else after punctuation, else anywhere, but not inside the id of a run where the column has space for it. Columns with
ids have.
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
#: A word up to this length is broken only where nothing else makes the table fit.
_WORD_MAX = 24
#: Cells are not broken below this width to show an optional column.
_SHORT = 20
#: A cell of two lines of this width is still easy to read.
_LINE_MAX = 30
_GAP = 2
#: A long word is broken after one of these; where there is none, after a dot.
_BREAKS = frozenset("/,;:=-_@")
_PIECES = re.compile(r"[^ /,;:=\-_@]*[/,;:=\-_@]?")
#: Before the command at the end of a sentence.
_COMMAND = "; next: "
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


def kept_columns(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: int,
    whole: Collection[str],
    optional: Sequence[str],
) -> list[int]:
    """Return the indices of the columns to show: optional ones are left out, in order, until the others have enough space."""
    kept = list(range(len(headings)))
    needed = [_comfortable(heading, _column(rows, index), heading in whole) for index, heading in enumerate(headings)]
    for heading in optional:
        if _total([needed[index] for index in kept]) <= columns:
            break
        kept.remove(headings.index(heading))
    return kept


def column_widths(
    headings: Sequence[str], rows: Sequence[Sequence[str]], columns: int, whole: Collection[str]
) -> list[int]:
    """Return the widths of a table's columns, so that it fits `columns` where possible; those headed by `whole` keep theirs."""
    cells = [_column(rows, index) for index in range(len(headings))]
    whole_headings = [max(map(width, (heading, *column))) for heading, column in zip(headings, cells, strict=True)]
    if _total(whole_headings) <= columns:
        return whole_headings
    natural = [_natural(heading, column) for heading, column in zip(headings, cells, strict=True)]
    floors = [
        size if heading in whole else min(size, max(_floor(heading, column), _longest_word(column)))
        for heading, column, size in zip(headings, cells, natural, strict=True)
    ]
    if _total(floors) > columns:
        floors = [
            size if heading in whole else min(size, _floor(heading, column))
            for heading, column, size in zip(headings, cells, natural, strict=True)
        ]
    return _shrunk(natural, floors, columns)


def _shrunk(widths: Sequence[int], floors: Sequence[int], columns: int) -> list[int]:
    """Return narrower widths that fit, the widest columns first; none below its floor."""
    widths = list(widths)
    while _total(widths) > columns:
        index = max(range(len(widths)), key=lambda at: (widths[at] > floors[at], widths[at]))
        if widths[index] <= floors[index]:
            # It does not fit: the terminal breaks the lines.
            return widths
        widths[index] -= 1
    return widths


def _column(rows: Sequence[Sequence[str]], index: int) -> list[str]:
    return [row[index] for row in rows]


def _natural(heading: str, cells: Sequence[str]) -> int:
    """Return the width at which no cell is broken; the heading may be."""
    return max(map(width, (*heading.split(" "), *cells)))


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _comfortable(heading: str, cells: Sequence[str], is_whole: bool) -> int:
    """Return the width at which long cells have about two lines, and short cells and words are whole."""
    natural = _natural(heading, cells)
    if is_whole or natural <= _SHORT:
        return natural
    return min(
        natural, max(_floor(heading, cells), _longest_word(cells), min(_LINE_MAX, max(_SHORT, (natural + 1) // 2)))
    )


def _longest_word(cells: Sequence[str]) -> int:
    """Return the width of the longest piece of text that can only be broken anywhere; very long ones do not count."""
    words = (width(word) for cell in cells for word in _PIECES.findall(_SGR.sub("", cell)))
    return max((size for size in words if size <= _WORD_MAX), default=0)


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
    """Return a line as lines of at most `columns`, broken at spaces; further lines are indented. Longer words stay whole.

    So does a command at its end, which people copy.
    """
    if width(text) <= columns:
        return [text]
    text, mark, command = text.partition(_COMMAND)
    if mark:
        return [*broken(text, columns, indent), f"{' ' * indent}next: {command}"]
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
    places = range(end, end // 4, -1)
    # The dot of `.waterflow` belongs to what follows.
    dots = (at for at in places if word[at - 1] == "." and at > 1 and word[at - 2] not in _BREAKS)
    return word[: next((at for at in places if word[at - 1] in _BREAKS), next(dots, end))]
