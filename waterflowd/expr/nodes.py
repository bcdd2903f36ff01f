"""The syntax tree of an expression.

Nodes are compared by identity, because `Literal(True)` and `Literal(1)` must not be equal and because the compiled
form of a node is cached by it. `offset` is the position of the node in its text; for an operator it is the operator's
position, which an error about its operands should point to. An implied node (the `success() &&` of an `if`)
has the offset `IMPLIED`.

`&&` and `||` are one node for a whole chain, so a long condition is flat. All other nodes add to the height of the
tree, which the parser bounds; a recursive walk over a tree therefore needs at most `HEIGHT_MAX` nested calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Deeper than any expression a person writes (GitHub allows 50), shallow enough for recursion.
HEIGHT_MAX = 64

#: Offset of a node that the source does not contain.
IMPLIED = -1


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """null, true, false, a number or a string, as the Python value."""

    value: bool | int | float | str | None
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """A context by its name, as written; names are compared without case."""

    name: str
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """`target.name` or `target[key]`."""

    target: Node
    key: Node
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """`target.*` or `target[*]`: every value of an array or object; what follows applies to each."""

    target: Node
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A function call; the name as written."""

    name: str
    arguments: tuple[Node, ...]
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Not:
    """`!operand`."""

    operand: Node
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Binary:
    """A comparison or an arithmetic operation."""

    operator: str
    left: Node
    right: Node
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Logical:
    """A chain of `&&` or of `||`: the value of the operand that decides."""

    operator: str
    operands: tuple[Node, ...]
    offset: int


Node = Literal | Context | Index | Filter | Call | Not | Binary | Logical


def children(node: Node) -> tuple[Node, ...]:
    """Return the direct parts of a node, in source order."""
    match node:
        case Index(target, key):
            return (target, key)
        case Filter(target):
            return (target,)
        case Call(_, arguments):
            return arguments
        case Not(operand):
            return (operand,)
        case Binary(_, left, right):
            return (left, right)
        case Logical(_, operands):
            return operands
    return ()


def walk(node: Node) -> Iterator[tuple[Node, int]]:
    """Yield every node of the tree with its depth, the root first at depth 1, parts in source order."""
    waiting = [(node, 1)]
    while waiting:
        current, depth = waiting.pop()
        yield current, depth
        waiting.extend((child, depth + 1) for child in reversed(children(current)))
