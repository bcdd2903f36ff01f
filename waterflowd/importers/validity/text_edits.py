"""Edits of a workflow file that leave all other text, and so its comments, as they are.

Rules of this file: an edit replaces whole lines. In a block mapping or list, what is removed becomes a comment in its
place. In braces or brackets it cannot, so the outermost such collection is written anew, with the old one and the comment
around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterflowd.dsl.reading.tree import Document, Path, to_json
from waterflowd.importers import writing
from waterflowd.importers.validity import json_paths
from waterflowd.importers.validity.positions import Part, is_flow, lines_of, parts
from waterflowd.model.plan import Json


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Replaces the lines `first` to `last` (0-based, inclusive) by `lines`."""

    first: int
    last: int
    lines: tuple[str, ...]


class EditedText:
    """The text of a file, and the original line of each of its lines."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self._origins = list(range(1, len(self.lines) + 1))

    @property
    def text(self) -> str:
        """The text as it is now."""
        return "\n".join(self.lines) + "\n"

    def origin(self, line: int) -> int:
        """Return the original line (1-based) of a line (0-based)."""
        return self._origins[min(line, len(self._origins) - 1)] if self._origins else 0

    def apply(self, edits: Sequence[Edit]) -> None:
        """Apply edits of the same text; of two that overlap, only the first in the file."""
        chosen: list[Edit] = []
        for edit in sorted(edits, key=lambda each: each.first):
            if not chosen or edit.first > chosen[-1].last:
                chosen.append(edit)
        for edit in reversed(chosen):
            origin = self.origin(edit.first)
            self.lines[edit.first : edit.last + 1] = edit.lines
            self._origins[edit.first : edit.last + 1] = [origin] * len(edit.lines)


class Editor:
    """Makes edits of one document. Each method returns None where the text has no such part."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._lines = document.text.splitlines()
        self._parts = {part.path: part for part in parts(document.root)}

    def part(self, path: Path) -> Part | None:
        """The part with this path, if its text is in this place of the file."""
        return self._parts.get(path)

    def first_line(self, path: Path) -> int:
        """The line (0-based) in which a part begins."""
        part = self._parts.get(path)
        return lines_of(self._document, part)[0] if part is not None else 0

    def remove(self, path: Path, comment: str) -> Edit | None:
        """Comment out an entry of a mapping, or an item of a list."""
        flow = self._flow_around(path)
        if flow is not None:
            return self._rewritten(flow, json_paths.without(to_json(flow.node), path[len(flow.path) :]), comment)
        part = self.part(path)
        place = self._place(part) if part is not None else None
        if place is None or part is None:
            return None
        if part.key is not None and place.dash:
            return self._remove_first_entry(part, place, path, comment)
        lines = (*_comment(comment, place.margin), *self._commented(place))
        return Edit(first=place.first, last=place.last, lines=lines)

    def _remove_first_entry(self, part: Part, place: _Place, path: Path, comment: str) -> Edit | None:
        """Comment out the entry that follows the dash of an item; the next entry moves behind the dash."""
        following = range(place.last + 1, len(self._lines))
        margin = " " * place.column
        after = next((n for n in following if self._lines[n].strip() and not _is_comment(self._lines[n])), None)
        if after is None or len(self._lines[after]) - len(self._lines[after].lstrip()) != place.column:
            return self.remove(path[:-1], comment)
        moved = self._lines[place.first][: place.column] + self._lines[after][place.column :]
        gone = [
            _commented_line(margin + line[place.column :], margin) for line in self._lines[place.first : place.last + 1]
        ]
        lines = (*_comment(comment, place.margin), moved, *gone, *self._lines[place.last + 1 : after])
        return Edit(first=place.first, last=after, lines=lines)

    def replace_value(self, path: Path, value: Json, comment: str, *, is_old_kept: bool = True) -> Edit | None:
        """Write another value in the place of one; the old text stays as a comment below it."""
        flow = self._flow_around(path)
        if flow is not None:
            changed = json_paths.with_value(to_json(flow.node), path[len(flow.path) :], value)
            return self._rewritten(flow, changed, comment)
        part = self.part(path)
        place = self._place(part) if part is not None else None
        if place is None or part is None:
            return None
        margin = " " * place.column
        new = writing.entry_lines(part.key.text, value, margin) if part.key else writing.item_lines(value, margin)
        head = self._lines[place.first][: place.column]
        # Above the entry behind a dash there is no place for a comment but above the item.
        new = [head + new[0][place.column :], *new[1:]]
        gone = self._commented(place) if is_old_kept else []
        lines = (*_comment(comment, place.margin), *new, *gone)
        return Edit(first=place.first, last=place.last, lines=lines)

    def replace_text(self, path: Path, old: str, new: str, comment: str) -> Edit | None:
        """Replace text inside a value."""
        flow = self._flow_around(path)
        part = flow or self.part(path)
        place = self._place(part) if part is not None else None
        if place is None or part is None:
            return None
        whole = "\n".join(self._lines[place.first : place.last + 1])
        if old not in whole:
            return None
        lines = (*_comment(comment, place.margin), *whole.replace(old, new).split("\n"))
        return Edit(first=place.first, last=place.last, lines=lines)

    def add_beside(self, path: Path, key: str, value: Json, comment: str) -> Edit | None:
        """Add an entry behind the one at a path."""
        flow = self._flow_around(path)
        if flow is not None:
            changed = json_paths.with_value(to_json(flow.node), (*path[len(flow.path) : -1], key), value)
            return self._rewritten(flow, changed, comment)
        part = self.part(path)
        place = self._place(part) if part is not None else None
        if place is None:
            return None
        margin = " " * place.column
        new = [*_comment(comment, margin), *writing.entry_lines(key, value, margin)]
        return Edit(first=place.first, last=place.last, lines=(*self._lines[place.first : place.last + 1], *new))

    def add_item_before(self, path: Path, value: Json, comment: str) -> Edit | None:
        """Add an item to a list, before the one at a path."""
        flow = self._flow_around(path)
        if flow is not None:
            return self._rewritten(
                flow, json_paths.inserted(to_json(flow.node), path[len(flow.path) :], value), comment
            )
        part = self.part(path)
        place = self._place(part) if part is not None else None
        if place is None:
            return None
        margin = " " * place.column
        new = [*_comment(comment, margin), *writing.item_lines(value, margin)]
        return Edit(first=place.first, last=place.first, lines=(*new, self._lines[place.first]))

    def _flow_around(self, path: Path) -> Part | None:
        """The outermost collection in braces or brackets that contains the part at a path, without being it."""
        outer = (self.part(path[:length]) for length in range(len(path)))
        return next((part for part in outer if part is not None and is_flow(self._document, part.node)), None)

    def _rewritten(self, flow: Part, value: Json, comment: str) -> Edit | None:
        place = self._place(flow)
        if place is None:
            return None
        start = self._document.lines.start(place.first + 1)
        before = self._document.text[start : flow.node.start].replace("\n", " ").rstrip()
        last_start = self._document.lines.start(place.last + 1)
        after = self._lines[place.last][max(flow.node.end - last_start, 0) :]
        flow_start = self._document.text[flow.node.start]
        text = f"{before} {writing.flow_text(value)}{after}" if before.strip() else f"{writing.flow_text(value)}{after}"
        # What an earlier edit of the same collection has left as a comment is the original.
        following = self._lines[place.last + 1].strip() if place.last + 1 < len(self._lines) else ""
        is_known = following.startswith(f"# {before.strip()} {flow_start}".replace("#  ", "# "))
        gone = [] if is_known else self._commented(place)
        return Edit(first=place.first, last=place.last, lines=(*_comment(comment, place.margin), text, *gone))

    def _place(self, part: Part) -> _Place | None:
        first, last = lines_of(self._document, part)
        line = self._lines[first]
        column = self._document.lines.position(part.start)[1] - 1
        dash = line[:column].rstrip().endswith("-") and not line[:column].strip(" -")
        if part.key is None and part.path and isinstance(part.path[-1], int):
            if not dash:
                return self._place_below_dash(first, last)
            column = len(line[:column].rstrip()) - 1
        margin = line[: len(line) - len(line.lstrip())]
        return _Place(first=first, last=last, column=column, dash=dash, margin=margin)

    def _place_below_dash(self, first: int, last: int) -> _Place | None:
        """The place of an item whose dash has a line to itself."""
        for number in range(first - 1, -1, -1):
            line = self._lines[number]
            if line.strip() == "-":
                column = len(line) - len(line.lstrip())
                return _Place(first=number, last=last, column=column, dash=True, margin=" " * column)
            if line.strip() and not _is_comment(line):
                break
        return None

    def _commented(self, place: _Place) -> list[str]:
        return [_commented_line(line, place.margin) for line in self._lines[place.first : place.last + 1]]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """The lines of a part. `column` is that of its key or dash, `margin` the indentation of its first line."""

    first: int
    last: int
    column: int
    dash: bool
    margin: str


def _comment(text: str, margin: str) -> list[str]:
    return [f"{margin}# {line}" for line in writing.wrapped(text)] if text else []


def _commented_line(line: str, margin: str) -> str:
    rest = line[len(margin) :] if line.startswith(margin) else line.lstrip()
    return f"{margin}# {rest}".rstrip()


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")
