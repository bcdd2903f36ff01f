"""Builds a tree from tokens: operator precedence within one function, recursion only where the source nests.

From lowest to highest precedence: `||`, `&&`, `== !=`, `< <= > >=`, `+ -`, `* / %`, `!`, then `.` and `[ ]`. All of them group
to the left. As in GitHub only a context, a call and a parenthesised expression can be indexed.

Nesting is counted while parsing and the height of the finished tree is checked as well, since a chain of left-grouping
operators is deep without being nested. Neither ever reaches Python's recursion limit.
"""

from __future__ import annotations

from functools import lru_cache

from waterflow_agent.display import quote
from waterflowd.expr.errors import BOUND, SYNTAX, ExpressionError
from waterflowd.expr.lexer import END, FILTER, LITERAL, NAME, Token, tokenize
from waterflowd.expr.nodes import (
    HEIGHT_MAX,
    Binary,
    Call,
    Context,
    Filter,
    Index,
    Literal,
    Logical,
    Node,
    Not,
    walk,
)

#: Precedence of the operators; a higher number binds more tightly.
PRECEDENCE = {
    "||": 1,
    "&&": 2,
    "==": 3,
    "!=": 3,
    "<": 4,
    "<=": 4,
    ">": 4,
    ">=": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "%": 6,
    "!": 7,
}


@lru_cache(maxsize=4096)
def parse(source: str) -> Node:
    """Return the tree of one expression, without `${{ }}`; raises ExpressionError at the first mistake."""
    return parse_at(source, 0)


def parse_at(source: str, base: int) -> Node:
    """Parse a source that starts `base` characters into its text; offsets of nodes and errors count from the text."""
    try:
        return _Parser(tokenize(source), base).whole()
    except ExpressionError as error:
        raise error.moved(base) from None


class _Parser:
    """One parse; errors have offsets in the source, nodes in the text around it."""

    def __init__(self, tokens: list[Token], base: int) -> None:
        self._tokens = tokens
        self._base = base
        self._position = 0
        self._nesting = 0

    def whole(self) -> Node:
        node = self._expression()
        if self._current.kind != END:
            raise self._unexpected()
        for part, depth in walk(node):
            if depth > HEIGHT_MAX:
                raise _too_deep(part.offset - self._base)
        return node

    @property
    def _current(self) -> Token:
        return self._tokens[self._position]

    def _advance(self) -> Token:
        token = self._current
        self._position += 1
        return token

    def _take(self, kind: str) -> Token | None:
        return self._advance() if self._current.kind == kind else None

    def _expect(self, kind: str) -> None:
        if self._take(kind) is None:
            raise self._unexpected(kind)

    def _unexpected(self, expected: str | None = None) -> ExpressionError:
        token = self._current
        expected_text = f', expected "{expected}"' if expected else ""
        if token.kind != END:
            return ExpressionError(SYNTAX, f"unexpected {quote(token.text)}{expected_text}", token.offset)
        if self._position == 0:
            return ExpressionError(SYNTAX, "expected an expression, found nothing", token.offset)
        return ExpressionError(SYNTAX, f"the expression is incomplete{expected_text}", token.offset)

    def _expression(self) -> Node:
        self._nesting += 1
        if self._nesting > HEIGHT_MAX:
            raise _too_deep(self._current.offset)
        operands: list[Node] = []
        operators: list[Token] = []
        while True:
            while bang := self._take("!"):
                operators.append(bang)
            operands.append(self._operand())
            precedence = PRECEDENCE.get(self._current.kind)
            if precedence is None or self._current.kind == "!":
                break
            self._reduce(operands, operators, precedence)
            operators.append(self._advance())
        self._reduce(operands, operators, 0)
        self._nesting -= 1
        return operands[0]

    def _reduce(self, operands: list[Node], operators: list[Token], precedence: int) -> None:
        """Apply the waiting operators that bind at least as tightly as `precedence`."""
        while operators and PRECEDENCE[operators[-1].kind] >= precedence:
            operator = operators.pop()
            kind, offset = operator.kind, operator.offset + self._base
            right = operands.pop()
            if kind == "!":
                operands.append(Not(right, offset))
                continue
            left = operands.pop()
            if kind not in ("&&", "||"):
                operands.append(Binary(kind, left, right, offset))
            elif isinstance(left, Logical) and left.operator == kind:
                operands.append(Logical(kind, (*left.operands, right), left.offset))
            else:
                operands.append(Logical(kind, (left, right), offset))

    def _operand(self) -> Node:
        token = self._current
        offset = token.offset + self._base
        if self._take(LITERAL):
            return Literal(token.value, offset)
        if self._take(NAME):
            if self._take("("):
                return self._indexes(Call(token.text, self._arguments(), offset))
            return self._indexes(Context(token.text, offset))
        if self._take("("):
            node = self._expression()
            self._expect(")")
            return self._indexes(node)
        raise self._unexpected()

    def _arguments(self) -> tuple[Node, ...]:
        if self._take(")"):
            return ()
        arguments = [self._expression()]
        while self._take(","):
            arguments.append(self._expression())
        self._expect(")")
        return tuple(arguments)

    def _indexes(self, node: Node) -> Node:
        while token := (self._take(".") or self._take("[")):
            offset = token.offset + self._base
            if token.kind == "[":
                node = Filter(node, offset) if self._take(FILTER) else Index(node, self._expression(), offset)
                self._expect("]")
            elif self._take(FILTER):
                node = Filter(node, offset)
            elif name := self._take(NAME):
                node = Index(node, Literal(name.text, name.offset + self._base), offset)
            else:
                raise self._unexpected("a property name")
        return node


def _too_deep(offset: int) -> ExpressionError:
    return ExpressionError(BOUND, f"the expression is nested more than {HEIGHT_MAX} levels deep", offset)
