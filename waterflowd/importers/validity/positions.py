"""Finds the part of a workflow file that a diagnostic is about, and the lines that the part occupies.

Rules of this file: offsets count characters of the document's text, lines are 0-based. An alias has the position of its
anchor, so a part that contains one ends, for these purposes, where its own text ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from waterflowd.dsl.reading.tree import Document, Mapping, Node, Path, Scalar, Sequence
from waterflowd.dsl.reporting import codes


class Part(NamedTuple):
    """A value with its path, its key, and where its text begins and ends."""

    path: Path
    node: Node
    key: Scalar | None
    start: int
    end: int


def parts(node: Node, path: Path = (), key: Scalar | None = None) -> Iterator[Part]:
    """Yield a node and everything below it, outer parts first."""
    start = key.start if key is not None else node.start
    yield Part(path, node, key, start, max(end_of(node), key.end if key is not None else 0))
    if isinstance(node, Mapping):
        for name, entry in node.entries.items():
            if entry.key.start >= node.start:
                yield from parts(entry.value, (*path, name), entry.key)
    elif isinstance(node, Sequence):
        for position, item in enumerate(node.items):
            if item.start >= node.start:
                yield from parts(item, (*path, position))


def end_of(node: Node) -> int:
    """Return the offset behind the text of a node, without the comments and blank lines that follow it."""
    if isinstance(node, Scalar) or not children(node):
        return node.end
    last = max((end_of(child) for child in children(node) if child.start >= node.start), default=node.end)
    return min(last, node.end) if node.end > node.start else last


def children(node: Node) -> list[Node]:
    """Return the values directly below a node."""
    match node:
        case Mapping():
            return [entry.value for entry in node.entries.values()]
        case Sequence():
            return list(node.items)
    return []


def is_flow(document: Document, node: Node) -> bool:
    """Whether a collection is written in brackets or braces."""
    return not isinstance(node, Scalar) and document.text[node.start : node.start + 1] in ("{", "[")


def part_at(document: Document, line: int, column: int, code: str) -> Part:
    """Return the innermost part at a position of a diagnostic (1-based); for a missing key the mapping that lacks it."""
    offset = document.lines.start(line) + column - 1
    found = [part for part in parts(document.root) if part.start <= offset <= max(part.end, part.start)]
    if code == codes.MISSING_KEY:
        mappings = [part for part in found if isinstance(part.node, Mapping)]
        # A mapping begins with its first key, and so does the mapping below that key.
        return next((part for part in mappings if part.node.start == offset or part.start == offset), mappings[-1])
    return found[-1] if found else next(parts(document.root))


def lines_of(document: Document, part: Part) -> tuple[int, int]:
    """Return the first and last line of a part, 0-based."""
    text = document.text[part.start : part.end].rstrip()
    first = document.lines.position(part.start)[0] - 1
    last = document.lines.position(part.start + max(len(text) - 1, 0))[0] - 1
    return first, last
