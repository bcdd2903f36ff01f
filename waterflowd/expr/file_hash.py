"""The pure part of `hashFiles`: which files of a tree match the patterns, and their digest.

As in GitHub: a pattern is relative to the root of the repository; `*`, `?` and `[...]` stay within one part of a
path, `**` is any number of parts; a pattern that matches a folder includes everything below it; names that start with a dot
are not special; one text may contain several patterns, one per line; a line that starts with `#` is a comment, one
that starts with `!` excludes files, and the last matching pattern decides. Names are case-sensitive. The digest is
SHA-256 over the SHA-256 of each matching file in the order of their paths, so it depends on the contents of the files
and not on their times; it is '' if no file matches.

The caller provides the tree, and records the result, since the value must be the same at every replay. Matching takes time
proportional to pattern times path for every pattern.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from waterflowd.expr.errors import BOUND, WRONG_VALUE
from waterflowd.expr.json_text import Problem

#: Maximum number of lines in all patterns of one call; typical are three.
PATTERNS_MAX = 255

#: Represents `**` among the parts of a path, and `*` among the characters of a part.
_MANY = None


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern: its parts, and whether it excludes files."""

    parts: tuple[str | None, ...]
    is_exclusion: bool

    def matches(self, path: str) -> bool:
        """Return whether a file's path, or a folder above it, matches."""
        # The `**` at the end includes everything below a folder.
        return _matches((*self.parts, _MANY), path.split("/"), _part_matches)


def hash_files(texts: Iterable[str], paths: Iterable[str], digest_of: Callable[[str], bytes]) -> str:
    """Return the digest of the files of `paths` that match the patterns; `digest_of` returns a file's SHA-256.

    Raises Problem if a pattern leads out of the tree, or if there are too many patterns.
    """
    chosen = matching(patterns_of(texts), paths)
    if not chosen:
        return ""
    whole = hashlib.sha256()
    for path in chosen:
        whole.update(digest_of(path))
    return whole.hexdigest()


def patterns_of(texts: Iterable[str]) -> list[Pattern]:
    """Return the patterns in the arguments of a call; raises Problem."""
    patterns: list[Pattern] = []
    for line in (line.strip() for text in texts for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        bangs = len(line) - len(line.lstrip("!"))
        parts = [part for part in line[bangs:].strip().split("/") if part not in ("", ".")]
        if ".." in parts:
            raise Problem(WRONG_VALUE, f"hashFiles: the pattern leads out of the repository: {line[:60]}")
        patterns.append(Pattern(tuple(_MANY if part == "**" else part for part in parts), bangs % 2 == 1))
        if len(patterns) > PATTERNS_MAX:
            raise Problem(BOUND, f"hashFiles: at most {PATTERNS_MAX} patterns")
    return patterns


def matching(patterns: Sequence[Pattern], paths: Iterable[str]) -> list[str]:
    """Return the matching paths in the order of their bytes."""
    chosen = []
    for path in paths:
        last = next((pattern for pattern in reversed(patterns) if pattern.matches(path)), None)
        if last is not None and not last.is_exclusion:
            chosen.append(path)
    return sorted(chosen, key=lambda path: path.encode("utf-8", "surrogateescape"))


def _part_matches(pattern: str, part: str) -> bool:
    return pattern == part or _matches(_symbols(pattern), part, _symbol_matches)


def _symbols(pattern: str) -> tuple[str | None, ...]:
    """Return the symbols of one part: a character (also `?`), an escaped one, a class in brackets, or `_MANY`."""
    symbols: list[str | None] = []
    position = 0
    while position < len(pattern):
        end = position + 1
        if pattern[position] == "\\" and end < len(pattern):
            end += 1
        elif pattern[position] == "[" and (closing := pattern.find("]", position + 2)) > 0:
            end = closing + 1
        symbol = pattern[position:end]
        if symbol != "*":
            symbols.append(symbol)
        elif not symbols or symbols[-1] is not _MANY:
            symbols.append(_MANY)
        position = end
    return tuple(symbols)


def _symbol_matches(symbol: str, character: str) -> bool:
    if symbol == "?":
        return True
    if len(symbol) == 1:
        return symbol == character
    if symbol[0] == "\\":
        return symbol[1] == character
    inside = symbol[1:-1]
    is_negated = inside[0] in "!^" and len(inside) > 1
    inside = inside[1:] if is_negated else inside
    return _is_in_class(inside, character) is not is_negated


def _is_in_class(inside: str, character: str) -> bool:
    position = 0
    while position < len(inside):
        if inside[position + 1 : position + 2] == "-" and position + 2 < len(inside):
            if inside[position] <= character <= inside[position + 2]:
                return True
            position += 3
        elif inside[position] == character:
            return True
        else:
            position += 1
    return False


def _matches(pattern: Sequence[str | None], things: Sequence[str], one_matches: Callable[[str, str], bool]) -> bool:
    """Return whether things match symbols, of which `_MANY` matches any number of things.

    Backtracking to the last `_MANY` is enough, since an earlier one could only skip what this one may skip as well.
    """
    at, thing, after_many, resume = 0, 0, -1, 0
    while thing < len(things):
        symbol = pattern[at] if at < len(pattern) else ""
        if at < len(pattern) and symbol is _MANY:
            at += 1
            after_many, resume = at, thing
        elif symbol and one_matches(symbol, things[thing]):
            at, thing = at + 1, thing + 1
        elif after_many >= 0:
            resume += 1
            at, thing = after_many, resume
        else:
            return False
    return all(symbol is _MANY for symbol in pattern[at:])
