"""Reads the declarative subset of Groovy: statements with a name, arguments and a block.

Rules of this file: nothing is evaluated. Strings and comments are recognised, and brackets are matched; everything else of a
statement stays text. Nesting is limited. A block whose content is a program (`script`, `expression`) is text, too.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field

from waterflowd.importers.origin import Unreadable

DEPTH_MAX = 50
STATEMENTS_MAX = 10_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_STRING = re.compile(
    r"'''(?:\\.|[^\\])*?'''|\"\"\"(?:\\.|[^\\])*?\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL
)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
#: Blocks that hold a program.
PROGRAMS = frozenset(("script", "expression"))
_PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass
class Statement:
    """One statement: `name arguments { block }`."""

    name: str
    #: What is between the name and the block, without parentheses around it.
    arguments: str
    line: int
    #: The text of the statement, comments in front of it not included.
    text: str
    comments: list[str] = field(default_factory=list)
    block: list[Statement] | None = None
    #: Content of the block as text.
    body: str = ""

    def find(self, name: str) -> Statement | None:
        """Return the first statement of this name in the block."""
        return next((each for each in self.block or () if each.name == name), None)

    def all(self, name: str) -> list[Statement]:
        """Return the statements of this name in the block."""
        return [each for each in self.block or () if each.name == name]


def parse(text: str, line: int = 1) -> list[Statement]:
    """Return the statements of a text; raises Unreadable where brackets or strings do not match."""
    return _Parser(text, line).statements(0, len(text), 0)


class _Parser:
    """Parses one text; positions are offsets in it."""

    def __init__(self, text: str, line: int) -> None:
        self._text = text
        self._line = line
        self._count = 0

    def _line_of(self, position: int) -> int:
        return self._line + self._text.count("\n", 0, position)

    def _fail(self, position: int, problem: str) -> Unreadable:
        return Unreadable(f"line {self._line_of(position)}: {problem}")

    def statements(self, start: int, end: int, depth: int) -> list[Statement]:
        """Return the statements between two positions."""
        if depth > DEPTH_MAX:
            raise self._fail(start, f"blocks are nested more than {DEPTH_MAX} levels deep")
        found: list[Statement] = []
        comments: list[str] = []
        position = start
        while position < end:
            character = self._text[position]
            comment = _COMMENT.match(self._text, position)
            if character.isspace() or character == ";":
                position += 1
            elif comment is not None:
                comments += _comment_lines(comment.group())
                position = comment.end()
            else:
                statement, position = self._statement(position, end, depth)
                statement.comments = [*comments, *statement.comments]
                comments = []
                found.append(statement)
        if comments and found:
            found[-1].comments += comments
        return found

    def _statement(self, start: int, end: int, depth: int) -> tuple[Statement, int]:
        self._count += 1
        if self._count > STATEMENTS_MAX:
            raise self._fail(start, f"more than {STATEMENTS_MAX:,} statements")
        position = start
        comments: list[str] = []
        head: list[str] = []
        while position < end:
            character = self._text[position]
            comment = _COMMENT.match(self._text, position)
            string = _STRING.match(self._text, position)
            if string is not None:
                head.append(string.group())
                position = string.end()
            elif comment is not None:
                comments += _comment_lines(comment.group())
                position = comment.end()
            elif character in "([":
                closing = self._closing(position, end)
                head.append(self._text[position : closing + 1])
                position = closing + 1
            elif character == "{":
                return self._with_block(start, position, end, "".join(head), comments, depth)
            elif character in ")]}'\"":
                raise self._fail(position, f"unexpected {character}")
            elif character in "\n;" and not self._continues(position, end, "".join(head)):
                break
            else:
                head.append(character)
                position += 1
        return self._made(start, position, "".join(head), comments), position

    def _continues(self, position: int, end: int, head: str) -> bool:
        """Whether a statement goes beyond the end of a line: after an operator, or before a brace or a dot."""
        following = self._text[position:end].lstrip()
        return head.rstrip().endswith((",", "=", "+", "&&", "||", "?", ":")) or following.startswith(
            ("{", ".", "&&", "||")
        )

    def _with_block(
        self, start: int, brace: int, end: int, head: str, comments: list[str], depth: int
    ) -> tuple[Statement, int]:
        closing = self._closing(brace, end)
        statement = self._made(start, closing + 1, head, comments)
        statement.body = self._text[brace + 1 : closing]
        if statement.name in PROGRAMS:
            statement.block = None
        else:
            statement.block = self.statements(brace + 1, closing, depth + 1)
        return statement, closing + 1

    def _made(self, start: int, end: int, head: str, comments: list[str]) -> Statement:
        found = _NAME.match(head.strip())
        name = found.group() if found else ""
        arguments = head.strip()[len(name) :].strip()
        if arguments.startswith("(") and _is_enclosed(arguments):
            arguments = arguments[1:-1].strip()
        first, newline, rest = self._text[start:end].rstrip().partition("\n")
        text = first + newline + textwrap.dedent(rest)
        return Statement(name=name, arguments=arguments, line=self._line_of(start), text=text, comments=comments)

    def _closing(self, opening: int, end: int) -> int:
        """Return the position of the bracket that closes the one at a position."""
        expected = [_PAIRS[self._text[opening]]]
        position = opening + 1
        while position < end:
            skipped = _STRING.match(self._text, position) or _COMMENT.match(self._text, position)
            if skipped is not None:
                position = skipped.end()
                continue
            character = self._text[position]
            if character in _PAIRS:
                expected.append(_PAIRS[character])
                if len(expected) > 4 * DEPTH_MAX:
                    raise self._fail(position, "brackets are nested too deeply")
            elif character in ")]}":
                if expected.pop() != character:
                    raise self._fail(position, f"unexpected {character}")
                if not expected:
                    return position
            position += 1
        raise self._fail(opening, f"{self._text[opening]} is not closed")


def _is_enclosed(text: str) -> bool:
    """Whether the first parenthesis is closed by the last character."""
    depth, position = 0, 0
    while position < len(text):
        string = _STRING.match(text, position)
        if string is not None:
            position = string.end()
            continue
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position == len(text) - 1
        position += 1
    return False


def _comment_lines(comment: str) -> list[str]:
    text = comment.removeprefix("//") if comment.startswith("//") else comment[2:-2]
    lines = (line.strip().removeprefix("*").strip() for line in text.splitlines())
    return [line for line in lines if line]
