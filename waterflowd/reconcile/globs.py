"""GitHub's filter patterns for branches and paths, matched in linear time.

Rules of this file: `*` matches any text without `/`, `**` any text; `?` and `+` mean "at most once" and "once or more" for the
character before them; `[a-z0-9_]` matches one of those characters; `\\` escapes the next character; and a pattern that begins
with `!` excludes what earlier patterns selected. In a list the last matching pattern decides. `**/` at the beginning of a path
component may be empty, so `**/README.md` matches `README.md` too.

Theory: everyone who may push controls the patterns and the paths. A backtracking matcher is exponential in the number of
wildcards, so a pattern becomes a nondeterministic automaton, which is made deterministic lazily, as texts need it (Thompson's
construction). A text costs one lookup per character.
Source of the rules: "Filter pattern cheat sheet" of the GitHub Actions documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

#: The length of the longest Linux path; a longer pattern matches nothing.
PATTERN_LENGTH_MAX = 4_096
#: Cached moves of one automaton, about a megabyte; then the cache is cleared.
_MOVES_MAX = 10_000

_Test = Callable[[str], bool]
_States = frozenset[int]


def is_match(pattern: str, text: str) -> bool:
    """Whether the whole `text` matches one pattern without its `!`."""
    return len(pattern) <= PATTERN_LENGTH_MAX and _automaton(pattern).accepts(text)


def selects(patterns: Sequence[str], text: str) -> bool:
    """Whether a list of patterns selects `text`: the last matching one decides, and `!` excludes."""
    for pattern in reversed(patterns):
        is_negative = pattern.startswith("!")
        if is_match(pattern[1:] if is_negative else pattern, text):
            return not is_negative
    return False


def selects_any(patterns: Sequence[str], texts: Iterable[str]) -> bool:
    """Whether the list selects at least one of the texts."""
    return any(selects(patterns, text) for text in texts)


class _Automaton:
    """A pattern as states and moves; the last state accepts."""

    def __init__(self, pattern: str) -> None:
        self._moves: list[list[tuple[_Test, int]]] = [[]]
        self._empty: list[list[int]] = [[]]
        self._build(pattern)
        self._start = self._closure({0})
        self._final = len(self._moves) - 1
        self._known: dict[_States, dict[str, _States]] = {}
        self._known_count = 0

    def accepts(self, text: str) -> bool:
        states = self._start
        for character in text:
            known = self._known.setdefault(states, {})
            following = known.get(character)
            if following is None:
                following = self._step(states, character)
                self._remember(known, character, following)
            if not following:
                return False
            states = following
        return self._final in states

    def _remember(self, known: dict[str, _States], character: str, following: _States) -> None:
        if self._known_count >= _MOVES_MAX:
            self._known.clear()
            self._known_count = 0
        known[character] = following
        self._known_count += 1

    def _step(self, states: _States, character: str) -> _States:
        return self._closure({target for s in states for test, target in self._moves[s] if test(character)})

    def _closure(self, states: set[int]) -> _States:
        pending = list(states)
        while pending:
            for target in self._empty[pending.pop()]:
                if target not in states:
                    states.add(target)
                    pending.append(target)
        return frozenset(states)

    def _build(self, pattern: str) -> None:
        at = 0
        state = 0
        while at < len(pattern):
            if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
                state = self._add_folders(state)
                at += 3
                continue
            if pattern[at] == "*":
                end = at + len(pattern[at:]) - len(pattern[at:].lstrip("*"))
                state = self._add_loop(state, _is_any if end - at > 1 else _is_no_slash)
                # A quantifier after a wildcard adds nothing to it.
                at = end + (pattern[end : end + 1] in ("?", "+") and end < len(pattern))
                continue
            test, at = _atom(pattern, at)
            quantifier = pattern[at : at + 1]
            state = self._add_atom(state, test, quantifier)
            at += quantifier in ("?", "+") and quantifier != ""

    def _new_state(self) -> int:
        self._moves.append([])
        self._empty.append([])
        return len(self._moves) - 1

    def _add_atom(self, state: int, test: _Test, quantifier: str) -> int:
        middle = self._new_state()
        self._moves[state].append((test, middle))
        if quantifier == "+":
            self._moves[middle].append((test, middle))
            # The loop needs a separate state, or the next atom's moves would join it.
            end = self._new_state()
            self._empty[middle].append(end)
            return end
        if quantifier == "?":
            self._empty[state].append(middle)
        return middle

    def _add_loop(self, state: int, test: _Test) -> int:
        loop = self._new_state()
        end = self._new_state()
        self._empty[state].append(loop)
        self._moves[loop].append((test, loop))
        self._empty[loop].append(end)
        return end

    def _add_folders(self, state: int) -> int:
        """`**/`: empty, or any text that ends with a slash."""
        loop = self._new_state()
        end = self._new_state()
        self._empty[state] += [loop, end]
        self._moves[loop] += [(_is_any, loop), (_is_slash, end)]
        return end


@lru_cache(maxsize=1_024)
def _automaton(pattern: str) -> _Automaton:
    return _Automaton(pattern)


def _is_any(character: str) -> bool:
    return True


def _is_slash(character: str) -> bool:
    return character == "/"


def _is_no_slash(character: str) -> bool:
    return character != "/"


def _atom(pattern: str, at: int) -> tuple[_Test, int]:
    """The test of the one-character atom at `at`, and the position after it."""
    character = pattern[at]
    if character == "\\" and at + 1 < len(pattern):
        return pattern[at + 1].__eq__, at + 2
    if character == "[":
        end = pattern.find("]", at + 2)
        if end > 0:
            return _members(pattern[at + 1 : end]).__contains__, end + 1
    return character.__eq__, at + 1


def _members(body: str) -> frozenset[str]:
    """The characters of a bracket: single ones and ranges of letters or digits."""
    members: set[str] = set()
    at = 0
    while at < len(body):
        if body[at + 1 : at + 2] == "-" and at + 2 < len(body) and body[at].isascii() and body[at + 2].isascii():
            members.update(chr(code) for code in range(ord(body[at]), ord(body[at + 2]) + 1))
            at += 3
        else:
            members.add(body[at])
            at += 1
    return frozenset(members)
