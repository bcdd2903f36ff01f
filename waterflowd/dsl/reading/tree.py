"""The tree of a file: its values and their positions.

Rules of this file: a node has its position in the document's text (`start` and `end`, character offsets),
so that every check can point to it. An alias is the node of its anchor, so a node may occur several times in the
tree, with the position of the anchor. A path consists of the keys and list positions from the root; mappings have text
keys only.

Numbers remember how they were written, because `1.20` in an environment means `1.20` and `0755` means `0755`: they are
`WrittenInt` and `WrittenFloat` until `plain` converts them to JSON.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from waterflowd.model.plan import Json

Path = tuple[str | int, ...]

#: The line ends that editors recognize.
_LINE_END = re.compile(r"\r\n|\n|\r")


class WrittenInt(int):
    """An integer and its spelling in the file."""

    text: str


class WrittenFloat(float):
    """A number with a point or an exponent, and its spelling in the file."""

    text: str


class Entry(NamedTuple):
    """One key of a mapping, with its value."""

    key: Scalar
    value: Node


@dataclass(slots=True, eq=False)
class Scalar:
    """A text, number, boolean or null. `style` is empty for a plain scalar, else its quote, `|` or `>`."""

    start: int
    end: int
    value: Json
    text: str
    style: str = ""


@dataclass(slots=True, eq=False)
class Sequence:
    """A list."""

    start: int
    end: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Mapping:
    """A mapping in the order of the file, with merge keys resolved."""

    start: int
    end: int
    entries: dict[str, Entry] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping


def to_json(node: Node) -> Json:
    """The value of a node; numbers are still `WrittenInt` and `WrittenFloat`."""
    match node:
        case Scalar():
            return node.value
        case Sequence():
            return [to_json(item) for item in node.items]
        case Mapping():
            return {key: to_json(entry.value) for key, entry in node.entries.items()}


def plain(value: Json) -> Json:
    """The value with plain numbers, as a plan holds it."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case WrittenInt():
            return int(value)
        case WrittenFloat():
            return float(value)
    return value


class Lines:
    """The lines of a text: converts offsets to lines and columns, and returns the text of a line."""

    def __init__(self, text: str) -> None:
        self._text = text
        ends = list(_LINE_END.finditer(text))
        self._starts = [0, *(end.end() for end in ends)]
        self._ends = [*(end.start() for end in ends), len(text)]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1, columns in characters."""
        line = bisect.bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line without its end; empty for one that does not exist."""
        if not 1 <= number <= len(self._starts):
            return ""
        return self._text[self._starts[number - 1] : self._ends[number - 1]]

    def start(self, number: int) -> int:
        """Offset of the first character of a line."""
        return self._starts[min(number, len(self._starts)) - 1]

    def __len__(self) -> int:
        return len(self._starts)


@dataclass(slots=True, eq=False)
class Document:
    """A file that was read: its text, its lines and the root of its tree."""

    text: str
    lines: Lines
    root: Node

    def find(self, path: Path) -> tuple[Node, Scalar | None]:
        """The deepest node that exists along a path, and its key, if it is a mapping's value.

        A name below a text or a list is looked up among its texts, since `on: [push]` means `on: {push: }`.
        """
        node, key = self.root, None
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            node, key = found
        return node, key

    def value_start(self, path: Path) -> int:
        """Offset of the value at a path, or of the deepest existing value along the path."""
        return self.find(path)[0].start

    def key_start(self, path: Path) -> int:
        """Offset of the key of the value at a path; of the value itself if it has no key."""
        node, key = self.find(path)
        return key.start if key is not None else node.start

    def existing(self, path: Path) -> Path:
        """The part of a path that exists."""
        node = self.root
        for depth, part in enumerate(path):
            found = _child(node, part)
            if found is None:
                return path[:depth]
            node = found[0]
        return path


def _child(node: Node, part: str | int) -> tuple[Node, Scalar | None] | None:
    match node:
        case Mapping() if isinstance(part, str) and (entry := node.entries.get(part)):
            return entry.value, entry.key
        case Sequence() if isinstance(part, int) and 0 <= part < len(node.items):
            return node.items[part], None
        case Mapping() if part == 0:
            # A mapping may be written in place of a list with one entry: entry 0 is the mapping itself.
            return node, None
        case Sequence() if isinstance(part, str):
            named = (item for item in node.items if isinstance(item, Scalar) and item.text == part)
            return next(((item, None) for item in named), None)
    return None
