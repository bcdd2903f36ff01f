"""Maps an offset in a value to its offset in the file, through quotes, escapes and folding."""

from __future__ import annotations

from waterflowd.dsl.reading.tree import Document, Scalar

_OPEN = "${{"


def source_offset(document: Document, scalar: Scalar, value: str, offset: int) -> int:
    """The offset in the file of character `offset` of a scalar's value, as precisely as possible."""
    offset = max(0, min(offset, len(value)))
    source = document.text[scalar.start : scalar.end]
    opening = 0 if not scalar.style else 1
    if source[opening : opening + len(value)] == value:
        return scalar.start + opening + offset
    if scalar.style == "|" and value == scalar.value:
        return _in_literal_block(document, scalar, value, offset)
    if scalar.style in (None, "", ">") and not scalar.value.isspace():
        return _in_folded_text(scalar, source, value, offset)
    return _by_expression(scalar, source, value, offset)


def _in_folded_text(scalar: Scalar, source: str, value: str, offset: int) -> int:
    """Folding changes white space only, so the other characters before the offset are counted."""
    start = source.find("\n") + 1 if scalar.style == ">" else 0
    left = sum(not character.isspace() for character in value[:offset])
    for position in range(start, len(source)):
        if source[position].isspace():
            continue
        if left == 0:
            return scalar.start + position
        left -= 1
    return scalar.start + len(source)


def _in_literal_block(document: Document, scalar: Scalar, value: str, offset: int) -> int:
    """A literal block keeps its lines, each without the indentation."""
    header = document.lines.position(document.text.index("|", scalar.start))[0]
    row = value.count("\n", 0, offset)
    column = offset - (value.rfind("\n", 0, offset) + 1)
    line = value.split("\n")[row]
    source = document.lines.line(header + 1 + row)
    indentation = len(source) - len(line) if source.endswith(line) else 0
    return document.lines.start(header + 1 + row) + indentation + column


def _by_expression(scalar: Scalar, source: str, value: str, offset: int) -> int:
    """Quotes, escapes and folding change text but rarely expressions: counts the expressions before the offset."""
    before = value.count(_OPEN, 0, offset + len(_OPEN))
    start = opened = -1
    for _ in range(before):
        start, opened = source.find(_OPEN, start + 1), value.find(_OPEN, opened + 1)
        if start < 0:
            break
    if before == 0 or start < 0:
        return scalar.start
    return scalar.start + min(start + max(0, offset - opened), len(source))
