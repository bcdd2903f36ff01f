"""Reads a file's bytes into a tree with positions, within limits.

Rules of this file: libyaml's event parser parses the YAML; the tree is built from its events in one loop without
recursion, so a hostile file reaches a limit before it uses much memory (libyaml's own composer recurses and crashes
at 30,000 levels). Aliases share their anchor's nodes and are counted as if they were written out, so the same limits
apply to alias bombs. Errors that leave the rest readable (a duplicate key, a tag) are reported, and reading
continues. Only this module imports `yaml`.

The supported language is YAML 1.2's core schema (`scalars`), plus merge keys (`<<`), one document, text keys only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml
from yaml._yaml import CParser

from waterflow_agent.display import quote
from waterflowd.dsl.reading.lost_newlines import lost_newlines
from waterflowd.dsl.reading.scalars import CORE_TAG, ScalarError, TagError, plain_value, tagged_value
from waterflowd.dsl.reading.size_limit import CONTENT_BYTES_MAX
from waterflowd.dsl.reading.tree import Document, Entry, Lines, Mapping, Node, Scalar, Sequence
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.report import DiagnosticReport

NODES_MAX = 50_000
ALIASES_MAX = 100
DEPTH_MAX = 64
#: Characters of all scalars with aliases written out.
SCALAR_CHARACTERS_MAX = 1024 * 1024
#: `${{` in all scalars with aliases written out. Each expression costs about 0.1 ms: more than anything else of its length.
EXPRESSIONS_MAX = 10_000
_EXPRESSION = "${{"

#: Characters that YAML 1.2 does not allow in a file (5.1), except surrogates, which UTF-8 cannot encode.
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BOM = "\ufeff"
_MERGE = "<<"


class Unreadable(Exception):
    """The file is unreadable; the report says why."""


def decode(content: bytes, report: DiagnosticReport) -> str:
    """The file's text without a byte order mark; reports and raises Unreadable when it is not text.

    Offsets in the report refer to the part of the text that could be decoded, which `prefix` returns.
    """
    if content.startswith(_UTF16_MARKS) or b"\x00" in content[:4]:
        report.add(0, codes.ENCODING, "the file is UTF-16 or UTF-32, expected UTF-8", "save it as UTF-8")
        raise Unreadable
    try:
        text = content.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        offset = len(prefix(content))
        byte = content[error.start]
        report.add(offset, codes.ENCODING, f"byte 0x{byte:02x} is not valid UTF-8", "save the file as UTF-8")
        raise Unreadable from None
    if found := _NOT_PRINTABLE.search(text):
        name = "NUL" if found.group() == "\0" else f"U+{ord(found.group()):04X}"
        report.add(found.start(), codes.ENCODING, f"the control character {name} is not allowed", "remove it")
        raise Unreadable
    return text


def prefix(content: bytes) -> str:
    """The part of the content that can be decoded, for snippets."""
    head = content[:CONTENT_BYTES_MAX]
    try:
        return head.decode("utf-8").removeprefix(_BOM)
    except UnicodeDecodeError as error:
        return head[: error.start].decode("utf-8").removeprefix(_BOM)


def read(text: str, report: DiagnosticReport) -> Document:
    """The tree of a text; reports errors, and raises Unreadable if the text has no tree."""
    lines = Lines(text)
    try:
        root = _Builder(text, lines, report).build()
    except yaml.MarkedYAMLError as error:
        _report_syntax(text, lines, error, report)
        raise Unreadable from None
    except yaml.YAMLError as error:
        report.add(0, codes.SYNTAX, f"invalid YAML: {_first_line(error)}")
        raise Unreadable from None
    if not isinstance(root, Mapping):
        _report_no_mapping(text, root, report)
        raise Unreadable
    return Document(text=text, lines=lines, root=root)


def _report_syntax(text: str, lines: Lines, error: yaml.MarkedYAMLError, report: DiagnosticReport) -> None:
    mark: Any = error.problem_mark or error.context_mark
    offset = min(mark.index, len(text)) if mark is not None else 0
    if hint := lost_newlines(text):
        report.add(0, codes.LOST_NEWLINES, *hint)
        return
    line, _ = lines.position(offset)
    source = lines.line(line)
    margin = source[: len(source) - len(source.lstrip())]
    if "\t" in margin:
        offset = lines.start(line) + margin.index("\t")
        report.add(
            offset,
            codes.TAB,
            "this line is indented with a tab; YAML allows only spaces",
            "replace each tab with spaces",
        )
        return
    problem = str(error.problem or error.context or "syntax error")
    context = f" ({error.context})" if error.problem and error.context else ""
    report.add(offset, codes.SYNTAX, f"invalid YAML: {problem}{context}", _syntax_hint(problem, source))


def _syntax_hint(problem: str, source: str) -> str:
    if "mapping values are not allowed" in problem:
        return 'check the indentation of this line, and quote text that contains ": "'
    if "cannot start any token" in problem and re.search(r"[:\-]\s+[@`%]", source):
        return "quote text that begins with @, ` or %"
    if "did not find expected key" in problem or "did not find expected '-'" in problem:
        return "check that the lines of one mapping or list begin in the same column"
    if "unexpected end of stream" in problem or "did not find expected ',' or" in problem:
        return "close the quote or bracket"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["syntax error"])[0]


def _report_no_mapping(text: str, root: Node | None, report: DiagnosticReport) -> None:
    if hint := lost_newlines(text):
        report.add(0, codes.LOST_NEWLINES, *hint)
        return
    found = (
        "is empty" if root is None else "contains a list" if isinstance(root, Sequence) else "contains a single value"
    )
    offset = root.start if root is not None else 0
    report.add(
        offset,
        codes.SYNTAX,
        f"the file {found}; expected a mapping with the key jobs",
        'begin with "name:" and "jobs:"',
    )


def _span(event: Any) -> tuple[int, int]:
    return event.start_mark.index, event.end_mark.index


@dataclass(slots=True)
class _Anchor:
    """An anchored node, and the counts that each alias of it adds."""

    node: Node
    is_open: bool
    nodes: int = 0
    characters: int = 0
    expressions: int = 0
    height: int = 0


@dataclass(slots=True)
class _Open:
    """A collection that is being read; the counts are those at its start."""

    node: Sequence | Mapping
    anchor: _Anchor | None
    nodes: int
    characters: int
    expressions: int
    height: int = 1
    key: Node | None = None
    merges: list[Node] | None = None


class _Builder:
    """Builds a tree from the parser's events."""

    def __init__(self, text: str, lines: Lines, report: DiagnosticReport) -> None:
        self._text = text
        self._lines = lines
        self._report = report
        self._root: Node | None = None
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = self._characters = self._expressions = self._aliases = self._documents = 0

    def build(self) -> Node | None:
        """The root of the only document, None for a file without content."""
        parser = CParser(self._text)
        try:
            while not isinstance(event := parser.get_event(), yaml.StreamEndEvent):
                self._take(event)
        finally:
            parser.dispose()
        return self._root

    def _take(self, event: Any) -> None:
        match event:
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._close(event)
            case yaml.MappingStartEvent():
                self._start(event, Mapping(*_span(event)))
            case yaml.SequenceStartEvent():
                self._start(event, Sequence(*_span(event)))
            case yaml.AliasEvent():
                self._alias(event)
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    text = "the file contains several YAML documents; expected one"
                    self._fail(event, codes.UNSUPPORTED_YAML, text, "put each workflow into its own file")

    def _fail(self, event: Any, code: str, message: str, suggestion: str = "") -> None:
        self._report.add(event.start_mark.index, code, message, suggestion)
        raise Unreadable

    def _count(self, event: Any, nodes: int, characters: int, expressions: int, height: int) -> None:
        self._nodes += nodes
        self._characters += characters
        self._expressions += expressions
        if self._nodes > NODES_MAX:
            what = f"{NODES_MAX:,} values (with aliases expanded)"
        elif self._characters > SCALAR_CHARACTERS_MAX:
            what = f"{SCALAR_CHARACTERS_MAX:,} characters of text (with aliases expanded)"
        elif self._expressions > EXPRESSIONS_MAX:
            what = f"{EXPRESSIONS_MAX:,} expressions (with aliases expanded)"
        elif len(self._open) + height > DEPTH_MAX:
            what = f"{DEPTH_MAX} levels of nesting"
        else:
            return
        self._fail(event, codes.BOUND, f"the file has more than {what}", "split it into several workflows")

    def _scalar(self, event: Any) -> None:
        expressions = event.value.count(_EXPRESSION)
        self._count(event, 1, len(event.value), expressions, 1)
        text, start = event.value, event.start_mark.index
        value: Any = text
        try:
            if event.tag is not None:
                value = tagged_value(event.tag, text)
            elif event.implicit[0]:
                value = plain_value(text)
        except ScalarError as error:
            code = codes.UNSUPPORTED_YAML if isinstance(error, TagError) else codes.WRONG_VALUE
            self._report.add(start, code, str(error))
        if "\0" in text:
            self._report.add(start, codes.ENCODING, "text must not contain NUL characters", "remove the \\0")
        node = Scalar(start, event.end_mark.index, value, text, event.style or "")
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchor(node, False, 1, len(text), expressions, 1)
        self._attach(node, 1)

    def _start(self, event: Any, node: Sequence | Mapping) -> None:
        nodes, characters, expressions = self._nodes, self._characters, self._expressions
        self._count(event, 1, 0, 0, 1)
        if event.tag not in (None, "!", f"{CORE_TAG}map", f"{CORE_TAG}seq"):
            text = "workflow files cannot contain YAML tags; remove it"
            self._report.add(event.start_mark.index, codes.UNSUPPORTED_YAML, text)
        anchor = None
        if event.anchor is not None:
            anchor = self._anchors[event.anchor] = _Anchor(node, True)
        self._open.append(_Open(node, anchor, nodes, characters, expressions))

    def _close(self, event: Any) -> None:
        closed = self._open.pop()
        closed.node.end = event.end_mark.index
        if isinstance(closed.node, Mapping) and closed.merges:
            self._merge(closed.node, closed.merges)
        if closed.anchor is not None:
            closed.anchor.is_open = False
            closed.anchor.nodes = self._nodes - closed.nodes
            closed.anchor.characters = self._characters - closed.characters
            closed.anchor.expressions = self._expressions - closed.expressions
            closed.anchor.height = closed.height
        self._attach(closed.node, closed.height)

    def _alias(self, event: Any) -> None:
        self._aliases += 1
        if self._aliases > ALIASES_MAX:
            self._fail(event, codes.BOUND, f"more than {ALIASES_MAX} aliases", "write out some of the values")
        anchor = self._anchors.get(event.anchor)
        if anchor is None:
            self._fail(event, codes.SYNTAX, f"the anchor {quote('&' + event.anchor)} is not defined before this alias")
        elif anchor.is_open:
            self._fail(event, codes.UNSUPPORTED_YAML, "the alias is inside its own anchor")
        else:
            self._count(event, anchor.nodes, anchor.characters, anchor.expressions, anchor.height)
            self._attach(anchor.node, anchor.height)

    def _attach(self, node: Node, height: int) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        parent.height = max(parent.height, height + 1)
        if isinstance(parent.node, Sequence):
            parent.node.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            key, parent.key = parent.key, None
            self._entry(parent, parent.node, key, node)

    def _entry(self, parent: _Open, mapping: Mapping, key: Node, value: Node) -> None:
        if not isinstance(key, Scalar) or not isinstance(key.value, str):
            found = (
                quote(key.text) if isinstance(key, Scalar) else "a list" if isinstance(key, Sequence) else "a mapping"
            )
            hint = f"quote it: '{key.text}'" if isinstance(key, Scalar) and key.text else ""
            self._report.add(key.start, codes.UNSUPPORTED_YAML, f"a key must be text, found {found}", hint)
        elif key.value == _MERGE and not key.style:
            parent.merges = [*(parent.merges or ()), value]
        elif (first := mapping.entries.get(key.value)) is not None:
            line, column = self._lines.position(first.key.start)
            text = f"duplicate key {quote(key.text)}, first used in line {line}, column {column}"
            self._report.add(key.start, codes.DUPLICATE_KEY, text, "remove one of them")
        else:
            mapping.entries[key.value] = Entry(key, value)

    def _merge(self, mapping: Mapping, merges: list[Node]) -> None:
        """Adds the keys of the mappings under `<<` before the mapping's own; own keys win, then those of earlier mappings."""
        merged: dict[str, Entry] = {}
        for value in merges:
            for source in value.items if isinstance(value, Sequence) else [value]:
                if not isinstance(source, Mapping):
                    text = "<< requires an alias of a mapping, or a list of them"
                    self._report.add(source.start, codes.UNSUPPORTED_YAML, text)
                    continue
                for name, entry in source.entries.items():
                    merged.setdefault(name, entry)
        own = mapping.entries
        mapping.entries = {**{name: entry for name, entry in merged.items() if name not in own}, **own}
