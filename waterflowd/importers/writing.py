"""YAML with comments, for workflow files that are written from scratch.

Rules of this file: text that any version of YAML could read as something else is quoted; text of several lines is a literal
block where it can be. Comments are above what they explain, and no line of them is longer than `WIDTH`.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field

from waterflow_agent.display import escape_for_display
from waterflowd.dsl.reading.tree import WrittenFloat, WrittenInt
from waterflowd.model.plan import Json

WIDTH = 110
#: Plain text that neither YAML 1.1 nor YAML 1.2 reads as a number, boolean, null or date, and that has no indicators.
_PLAIN = re.compile(r"(?:[A-Za-z_/$]|\./)(?:[A-Za-z0-9_./@%+=,;()$'\"~^!?*&<>{}\[\]| -]|:(?! |$))*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_FLOW_INDICATORS = re.compile(r"[,\[\]{}:]")
_NOT_PRINTABLE = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a mapping, and the comments above it."""

    key: str
    value: Value
    comments: tuple[str, ...] = ()


@dataclass
class Block:
    """A mapping whose entries have comments above them."""

    entries: list[Entry] = field(default_factory=list)
    #: Comments below the last entry.
    closing: list[str] = field(default_factory=list)

    def set(self, key: str, value: Value, *comments: str) -> None:
        """Add an entry, with comments above it."""
        self.entries.append(Entry(key=key, value=value, comments=comments))

    def has(self, key: str) -> bool:
        """Whether there is an entry of this name."""
        return any(entry.key == key for entry in self.entries)


@dataclass
class Items:
    """A list whose items have comments above them."""

    items: list[tuple[Value, tuple[str, ...]]] = field(default_factory=list)
    closing: list[str] = field(default_factory=list)

    def add(self, value: Value, *comments: str) -> None:
        """Add an item, with comments above it."""
        self.items.append((value, comments))


Value = Block | Items | Json


def document_text(block: Block, heading: Iterable[str] = ()) -> str:
    """Return the text of a file, with comments at its beginning."""
    lines = [f"# {line}".rstrip() for text in heading for line in wrapped(text)]
    return "\n".join([*lines, *_block_lines(block, "")]) + "\n"


def entry_lines(key: str, value: Value, margin: str) -> list[str]:
    """Return the lines of one entry of a mapping at an indentation."""
    name = _key_text(key)
    match value:
        case Block() if value.entries or value.closing:
            return [f"{margin}{name}:", *_block_lines(value, margin + "  ")]
        case Items() if value.items or value.closing:
            return [f"{margin}{name}:", *_items_lines(value, margin + "  ")]
        case Block() | Items():
            return [f"{margin}{name}: {'{}' if isinstance(value, Block) else '[]'}"]
        case dict() if value:
            return [f"{margin}{name}:", *_block_lines(_as_block(value), margin + "  ")]
        case list() if value and all(_is_short(item) for item in value):
            return [f"{margin}{name}: {flow_text(value)}"]
        case list() if value:
            return [f"{margin}{name}:", *_items_lines(Items([(item, ()) for item in value]), margin + "  ")]
        case str() if is_literal(value):
            return [f"{margin}{name}: {_literal_head(value)}", *_literal_lines(value, margin + "  ")]
        case None:
            return [f"{margin}{name}:"]
    return [f"{margin}{name}: {flow_text(value)}"]


def item_lines(value: Value, margin: str) -> list[str]:
    """Return the lines of one item of a list at an indentation."""
    if isinstance(value, dict) and value:
        value = _as_block(value)
    if isinstance(value, Block) and value.entries:
        lines = _block_lines(value, margin + "  ")
        position = next(n for n, line in enumerate(lines) if not line.lstrip().startswith("#"))
        lines[position] = f"{margin}- {lines[position][len(margin) + 2 :]}"
        return [*(margin + line.lstrip() for line in lines[:position]), *lines[position:]]
    if isinstance(value, Items) and value.items:
        lines = _items_lines(value, margin + "  ")
        position = next(n for n, line in enumerate(lines) if not line.lstrip().startswith("#"))
        lines[position] = f"{margin}- {lines[position][len(margin) + 2 :]}"
        return [*(margin + line.lstrip() for line in lines[:position]), *lines[position:]]
    if isinstance(value, str) and is_literal(value):
        return [f"{margin}- {_literal_head(value)}", *_literal_lines(value, margin + "  ")]
    assert not isinstance(value, Block | Items)
    return [f"{margin}- {flow_text(value)}"]


def flow_text(value: Json) -> str:
    """Return a value on one line."""
    match value:
        case dict():
            return "{" + ", ".join(f"{_key_text(key)}: {flow_text(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(flow_text(item) for item in value) + "]"
        case str():
            return scalar_text(value, True)
        case WrittenInt() | WrittenFloat():
            return value.text
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
    return str(value)


def _key_text(key: str) -> str:
    # YAML 1.2 reads `on` as text, and everyone writes it without quotes.
    return key if key == "on" else scalar_text(key, True)


def scalar_text(text: str, is_in_flow: bool = False) -> str:
    """Return text as one scalar on one line, quoted where necessary."""
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS and text == text.strip() and " #" not in text
    if is_plain and not (is_in_flow and _FLOW_INDICATORS.search(text)):
        return text
    if text.isprintable() and "'" not in text:
        return f"'{text}'"
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else json.dumps(text).replace("\x7f", "\\x7f")


def is_literal(text: str) -> bool:
    """Whether text is written as a literal block: it has several lines, and nothing that a block cannot hold."""
    return "\n" in text.rstrip("\n") and not _NOT_PRINTABLE.search(text) and bool(text.strip())


def wrapped(text: str) -> list[str]:
    """Return the lines of a comment."""
    lines: list[str] = []
    for line in text.splitlines():
        shown = escape_for_display(line)
        lines += textwrap.wrap(shown, WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
    return lines


def _as_block(value: dict[str, Json]) -> Block:
    return Block([Entry(key=str(key), value=item, comments=()) for key, item in value.items()])


def _is_short(value: Json) -> bool:
    return not isinstance(value, dict | list) and not (isinstance(value, str) and (len(value) > 60 or "\n" in value))


def _literal_head(text: str) -> str:
    first = next(line for line in text.split("\n") if line)
    indicator = "2" if first.startswith(" ") or text.startswith("\n") else ""
    chomping = "-" if not text.endswith("\n") else "+" if text.endswith("\n\n") else ""
    return f"|{indicator}{chomping}"


def _literal_lines(text: str, margin: str) -> list[str]:
    body = text[:-1] if text.endswith("\n") else text
    return [margin + line if line else "" for line in body.split("\n")]


def _block_lines(block: Block, margin: str) -> list[str]:
    lines: list[str] = []
    for entry in block.entries:
        lines += _comment_lines(entry.comments, margin)
        lines += entry_lines(entry.key, entry.value, margin)
    return [*lines, *_comment_lines(block.closing, margin)]


def _items_lines(items: Items, margin: str) -> list[str]:
    lines: list[str] = []
    for value, comments in items.items:
        lines += _comment_lines(comments, margin)
        lines += item_lines(value, margin)
    return [*lines, *_comment_lines(items.closing, margin)]


def _comment_lines(comments: Iterable[str], margin: str) -> list[str]:
    return [f"{margin}# {line}".rstrip() for text in comments for line in wrapped(text)]
