"""What a script says about its variables, found by a search over its whole text: attributes and assigned values.

The search does not follow the order of execution. It may find more than a variable ever is, and it does not know variables from
outside the script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

#: Flags of declarations: integers and name references, whose values are evaluated, and arrays.
CALCULATED_FLAGS = frozenset("in")
ARRAY_FLAGS = frozenset("aA")

#: Values that are remembered for one variable. A variable that is used as a command rarely has more than two.
_VALUES_MAX = 8
#: Variables in the value of a variable are replaced this many times.
_DEPTH_MAX = 3
#: Words of a value; real commands in variables have about five.
_WORDS_MAX = 100

_DECLARATION = re.compile(
    r"\b(?:declare|typeset|local|readonly)[ \t]((?:[ \t]*[-+]\w+[ \t])*[ \t]*-\w+)[ \t]([^;&|\n#]*)"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_ARRAY = re.compile(r"\b([A-Za-z_]\w*)(?:\+?=\(|\[[^\]\n]{0,200}\]\+?=)")
_ASSIGNED = re.compile(
    r"(?<![\w$./-])([A-Za-z_]\w*)\+?="
    r"(\([^()]{0,2000}\)|(?:\"(?:[^\"\\]|\\.){0,2000}\"|'[^']{0,2000}'|[^\s;&|()<>'\"`])+)",
    re.DOTALL,
)
_DEFAULT = re.compile(r"\$\{([A-Za-z_]\w*):?[-=]([^{}\s\"']{1,200})\}")
_REFERENCE = re.compile(r"\$\{?([A-Za-z_]\w*)(?:\[[@*]\]\})?\}?")
_QUOTES = re.compile(r"[\"'()\\]")


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of a script.

    `evaluated` are integers and name references, whose values bash evaluates, and `arrays` are arrays. `values` has the words
    of the values that the script assigns to a variable.
    """

    evaluated: frozenset[str]
    arrays: frozenset[str]
    values: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

    def words_of(self, text: str, number: int) -> tuple[str, ...] | None:
        """Return the words of the given value of the variable that a word refers to; None if it refers to none.

        Values are numbered from 0; after the last one, the last one is returned again.
        """
        found = _REFERENCE.fullmatch(text)
        values = self.values.get(found.group(1)) if found else None
        return values[min(number, len(values) - 1)] if values else None

    def value_count(self, texts: Iterator[str]) -> int:
        """Return the largest number of values of the variables that the words refer to."""
        references = (found.group(1) for text in texts if (found := _REFERENCE.fullmatch(text)))
        return max((len(self.values.get(name, ())) for name in references), default=0)


def variables_of(script: str) -> Variables:
    """Return what a script says about its variables."""
    evaluated, arrays = set(), {found.group(1) for found in _ARRAY.finditer(script)}
    for found in _DECLARATION.finditer(script):
        flags, names = found.group(1), _NAME.findall(found.group(2))
        if not CALCULATED_FLAGS.isdisjoint(flags):
            evaluated.update(names)
        if not ARRAY_FLAGS.isdisjoint(flags):
            arrays.update(names)
    return Variables(frozenset(evaluated), frozenset(arrays), _values(script))


def _values(script: str) -> dict[str, tuple[tuple[str, ...], ...]]:
    assigned: dict[str, list[str]] = {}
    for pattern in (_ASSIGNED, _DEFAULT):
        for found in pattern.finditer(script):
            texts = assigned.setdefault(found.group(1), [])
            if len(texts) < _VALUES_MAX and found.group(2) not in texts:
                texts.append(found.group(2))
    return {name: tuple(_words(text, assigned) for text in texts) for name, texts in assigned.items()}


def _words(text: str, assigned: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Return the words of a value, with the first value of each variable in it."""

    def first_value(found: re.Match[str]) -> str:
        return assigned.get(found.group(1), [found.group()])[0][:200]

    for _ in range(_DEPTH_MAX):
        replaced = _REFERENCE.sub(first_value, text)[:2000]
        if replaced == text:
            break
        text = replaced
    return tuple(_QUOTES.sub("", text).split()[:_WORDS_MAX])
