"""Splits source text into tokens, by the rules of GitHub's lexer plus the arithmetic operators.

A hyphen inside a name belongs to the name, as in GitHub: `a-b` is one name, so a subtraction of names needs spaces
(`a - b`) or parentheses. `+` and `-` where a value may start are the sign of a number literal; anywhere else they
are operators, so `1 -2` subtracts. A `*` right after `.` or `[` is a filter, any other one multiplies. After a `.`
the words `true`, `false`, `null`, `NaN` and `Infinity` are ordinary property names.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from waterflow_agent.display import quote
from waterflowd.expr.errors import BOUND, SYNTAX, ExpressionError
from waterflowd.expr.values import number_from_text

#: GitHub allows 21,000 characters, far more than people can read.
SOURCE_BYTES_MAX = 8 * 1024

NAME = "name"
LITERAL = "literal"
FILTER = ".*"
END = "end"


class Token(NamedTuple):
    """`kind` is NAME, LITERAL, FILTER, END, or the operator's own text."""

    kind: str
    text: str
    offset: int
    value: bool | int | float | str | None = None


_SPACE = re.compile(r"[ \t\r\n]+")
#: Names of contexts, and names after a dot.
NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NUMBER = re.compile(
    r"0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+"
    r"|[+-]?(?:Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
)
_STRING = re.compile(r"'((?:[^']|'')*)'")
_OPERATOR = re.compile(r"&&|\|\||[=!<>]=|[()\[\],.!<>+\-*/%]")
_WORD = re.compile(r"[^\s()\[\],!<>=&|+*/%]+")
_BOUNDARY = frozenset(" \t\r\n\v\f()[],!<>=&|+-*/%")

_KEYWORDS: dict[str, bool | float | None] = {
    "true": True,
    "false": False,
    "null": None,
    "NaN": float("nan"),
    "Infinity": float("inf"),
}

#: After these a value has ended, so that `+ - * .` are operators.
_OPERAND_ENDS = frozenset({NAME, LITERAL, FILTER, ")", "]"})

_HINTS = {
    '"': "use single quotes for strings",
    "=": "use == to compare",
    "&": "use && for and",
    "|": "use || for or",
    "$": "expressions cannot be nested; remove the inner ${{ }}",
}


def tokenize(source: str) -> list[Token]:
    """Return the tokens of `source` with an END at the end; raises ExpressionError at the first illegal symbol."""
    try:
        is_too_long = len(source) > SOURCE_BYTES_MAX or len(source.encode()) > SOURCE_BYTES_MAX
    except UnicodeEncodeError as error:
        # Text that contains it could not be stored.
        raise ExpressionError(SYNTAX, "half of a surrogate pair is not a character", error.start) from None
    if is_too_long:
        raise ExpressionError(BOUND, f"the expression is longer than {SOURCE_BYTES_MAX} bytes", 0)
    tokens: list[Token] = []
    offset, length = 0, len(source)
    while offset < length:
        if space := _SPACE.match(source, offset):
            offset = space.end()
            continue
        token, offset = _next_token(source, offset, tokens[-1].kind if tokens else END)
        tokens.append(token)
    tokens.append(Token(END, "", length))
    return tokens


def _next_token(source: str, offset: int, previous: str) -> tuple[Token, int]:
    character = source[offset]
    if name := NAME_PATTERN.match(source, offset):
        word = name.group()
        if previous != "." and word in _KEYWORDS:
            return Token(LITERAL, word, offset, _KEYWORDS[word]), name.end()
        return Token(NAME, word, offset), name.end()
    if character == "'":
        string = _STRING.match(source, offset)
        if string is None:
            raise ExpressionError(SYNTAX, "the string has no closing quote", offset)
        return Token(LITERAL, string.group(), offset, string.group(1).replace("''", "'")), string.end()
    if character.isdecimal() or (character in "+-." and previous not in _OPERAND_ENDS and previous != "."):
        return _number(source, offset)
    if operator := _OPERATOR.match(source, offset):
        text = operator.group()
        kind = FILTER if text == "*" and previous in (".", "[") else text
        return Token(kind, text, offset), operator.end()
    raise _unexpected(source, offset)


def _number(source: str, offset: int) -> tuple[Token, int]:
    number = _NUMBER.match(source, offset)
    if number is None or (number.end() < len(source) and source[number.end()] not in _BOUNDARY):
        raise _unexpected(source, offset)
    return Token(LITERAL, number.group(), offset, number_from_text(number.group())), number.end()


def _unexpected(source: str, offset: int) -> ExpressionError:
    character = source[offset]
    word = _WORD.match(source, offset)
    hint = _HINTS.get(character)
    if character in "+-":
        hint = "a sign must be followed by a number; to negate a value, write 0 - value"
    text = f"unexpected {quote(word.group() if word else character)}"
    return ExpressionError(SYNTAX, f"{text}: {hint}" if hint else text, offset)
