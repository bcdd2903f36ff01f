"""YAML of other systems: values with their lines, and the comments around them.

Rules of this file: the reader of the language reads the text, with its limits, so hostile files are refused in the same
way. What it reports without refusing the file (a tag, a duplicate key) becomes a finding. Every comment is used once: the
importers take those above a line, and what is left at the end belongs to the file as a whole.
"""

from __future__ import annotations

import re

from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import Document, Entry, Lines, Mapping, Node, Scalar, Sequence, plain, to_json
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.importers.findings import Imported
from waterflowd.importers.origin import Unreadable
from waterflowd.importers.validity.positions import end_of
from waterflowd.model.plan import Json

#: Tags that importers handle themselves.
_KNOWN_TAGS = ("!reference", "!vault", "!unsafe")
_LIST_KEY = "list"


class YamlSource:
    """One YAML file of another system."""

    def __init__(self, text: str, path: str, imported: Imported) -> None:
        self.path = path
        self._lines = text.splitlines()
        self._is_list = _is_list(text)
        # The reader expects a mapping at the top. A list is read as the value of a key on a line in front of it.
        self._offset = 1 if self._is_list else 0
        self._text = _as_mapping(text) if self._is_list else text
        self._document = _read(self._text, self._offset)
        self._used: set[int] = set()
        self._report(imported)

    def _report(self, imported: Imported) -> None:
        report = DiagnosticReport()
        reader.read(self._text, report)
        for each in report.diagnostics(self.path, self._document.lines):
            is_known = each.code == codes.UNSUPPORTED_YAML and any(tag in each.snippet for tag in _KNOWN_TAGS)
            if not is_known:
                imported.decide(self.path, each.line - self._offset, each.message)

    @property
    def root(self) -> Node:
        """The mapping or list at the top."""
        root = self._document.root
        assert isinstance(root, Mapping)
        return root.entries[_LIST_KEY].value if self._is_list else root

    def mentions(self, word: str) -> bool:
        """Return whether the text contains a word."""
        return re.search(rf"\b{re.escape(word)}\b", self._text) is not None

    def tag_of(self, node: Node) -> str:
        """Return the tag that is written in front of a value, such as `!reference`."""
        found = re.compile(r"![A-Za-z0-9_/:.-]+").match(self._document.text, node.start)
        return found.group() if found else ""

    def line(self, node: Node) -> int:
        """Return the line of a value, from 1."""
        return self._document.lines.position(node.start)[0] - self._offset

    def source_of(self, entry: Entry) -> str:
        """Return the text of an entry as it is in the file."""
        first = self.line(entry.key)
        last = self._document.lines.position(max(end_of(entry.value), entry.key.end) - 1)[0] - self._offset
        self._used.update(range(first, last + 1))
        column = self._document.lines.position(entry.key.start)[1] - 1
        rest = self._lines[first:last]
        return "\n".join(
            [
                self._lines[first - 1][column:],
                *(line[column:] if not line[:column].strip() else line.lstrip() for line in rest),
            ]
        )

    def comments_at(self, node: Node) -> list[str]:
        """Return the comments directly above the line of a key or item, and the one behind it on the same line."""
        line = self.line(node)
        found: list[str] = []
        number = line - 1
        while number >= 1 and self._lines[number - 1].lstrip().startswith("#"):
            if number not in self._used:
                found.insert(0, self._take(number))
            number -= 1
        return [*found, *self._trailing(line)]

    def _trailing(self, line: int) -> list[str]:
        text = self._lines[line - 1] if 0 < line <= len(self._lines) else ""
        found = re.search(r"\s#\s?(.*)$", text)
        # A hash inside quotes or a block is text; what is ahead of a comment has balanced quotes.
        if not found or line in self._used or any(text[: found.start()].count(quote) % 2 for quote in "'\""):
            return []
        self._used.add(line)
        return [found.group(1)] if found.group(1).strip() else []

    def left_over(self) -> list[str]:
        """Return the comments on lines of their own that nothing has used."""
        scalars = self._block_scalar_lines(self._document.root)
        numbers = [
            number
            for number, line in enumerate(self._lines, 1)
            if line.lstrip().startswith("#") and number not in self._used and number not in scalars
        ]
        return [self._take(number) for number in numbers]

    def _take(self, number: int) -> str:
        self._used.add(number)
        return self._lines[number - 1].strip().removeprefix("#").removeprefix(" ")

    def _block_scalar_lines(self, node: Node) -> set[int]:
        lines: set[int] = set()
        pending = [node]
        while pending:
            current = pending.pop()
            if isinstance(current, Scalar):
                if current.style in ("|", ">"):
                    last = self._document.lines.position(max(current.end - 1, current.start))[0] - self._offset
                    lines.update(range(self.line(current) + 1, last + 1))
            elif isinstance(current, Mapping):
                pending += [entry.value for entry in current.entries.values()]
            else:
                pending += current.items
        return lines


def _is_list(text: str) -> bool:
    content = (line for line in text.splitlines() if line.strip() and not line.startswith(("#", "---", "%")))
    return next(content, "").startswith(("- ", "-\n", "[")) or next(iter(text.splitlines()), "") == "-"


def _as_mapping(text: str) -> str:
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith("-") and line.rstrip() != "---"), 0)
    # A document start behind the added key would begin a second document.
    head = ["" if line.rstrip() == "---" else line for line in lines[:first]]
    return "\n".join([f"{_LIST_KEY}:", *head, *lines[first:]]) + "\n"


def _read(text: str, offset: int) -> Document:
    """Read the text; raises Unreadable with the first error."""
    report = DiagnosticReport()
    try:
        return reader.read(text, report)
    except reader.Unreadable:
        first = report.diagnostics("", Lines(text))[0]
        hint = f"; {first.suggestion}" if first.suggestion else ""
        raise Unreadable(f"line {max(first.line - offset, 1)}: {first.message}{hint}") from None


def value_of(node: Node) -> Json:
    """Return a value with plain numbers."""
    return plain(to_json(node))


def texts_of(value: object) -> list[str]:
    """Return a text, or the texts of a list, as lists of texts; nested lists are flattened."""
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item)]
    if value is None or isinstance(value, dict):
        return []
    return [("true" if value else "false") if isinstance(value, bool) else str(value)]


def entries_of(node: Node | None) -> dict[str, Entry]:
    """Return the entries of a mapping; none for anything else."""
    return node.entries if isinstance(node, Mapping) else {}


def items_of(node: Node | None) -> list[Node]:
    """Return the items of a list; a single value is a list of one, nothing is none."""
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return []
    return node.items if isinstance(node, Sequence) else [node]
