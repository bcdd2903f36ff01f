"""The files that the `path` of an upload selects, with the meaning that it has in GitHub's action.

Rules of this file:

- One pattern per line: a file, a folder (all files in it), or a pattern of `*`, `?`, `[...]` and `**`. `!` excludes what an
  earlier line has selected. Empty lines and lines that begin with `#` have no meaning.
- Paths in the artifact are relative to the deepest folder that all searched places have in common: for `dist/` and `dist/**`
  that is `dist`, for a single file the folder that contains it.
- Links are followed, as GitHub does: what they point to is stored. A folder is not searched inside itself.
- Hidden files and folders, whose name begins with a dot, are left out unless they are wanted. A folder that is searched may
  have such a name.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

_GLOB = re.compile(r"[*?\[]")
#: What would be an operator, or an escape, in a set of a regular expression.
_SPECIAL_IN_SETS = re.compile(r"[\\\[&~|]")


class Selected(msgspec.Struct, frozen=True, kw_only=True):
    """The files that were found: the folder that paths are relative to, and relative paths in order."""

    root: str
    paths: list[str]

    def below(self, root: str) -> Selected:
        """The same files with paths that begin below another folder. Raises `ValueError` for a file outside it."""
        found = [os.path.join(self.root, path) for path in self.paths]
        outside = next((path for path in found if not _is_inside(path, root)), None)
        if outside is not None:
            raise ValueError(outside)
        return Selected(root=root, paths=sorted(os.path.relpath(path, root) for path in found))


class Pattern:
    """One line: where the search begins, and what it selects."""

    def __init__(self, text: str, directory: str, home: str) -> None:
        self.is_exclusion = text.startswith("!")
        text = text[1:].strip() if self.is_exclusion else text
        if text == "~" or text.startswith("~/"):
            text = home + text[1:]
        self.is_folder_only = text.endswith("/")
        parts = os.path.normpath(os.path.join(directory, text)).split("/")
        # The names of these folders are not patterns, whatever is in them.
        fixed = max(_common_parts(parts, folder.split("/")) for folder in (directory, home))
        first = next(
            (number for number, part in enumerate(parts) if number >= fixed and _GLOB.search(part)), len(parts)
        )
        #: Where the search begins: the path without its first part with a wildcard.
        self.base = "/".join(parts[:first]) or "/"
        self.is_literal = first == len(parts)
        rest = "" if self.is_literal else f"/{_translate('/'.join(parts[first:]))}"
        self._expression = re.compile(re.escape("/".join(parts[:first])) + rest, re.DOTALL)

    def matches(self, path: str) -> bool:
        """Whether the pattern selects the path itself."""
        return self._expression.fullmatch(path) is not None

    def selects(self, path: str) -> bool:
        """Whether the pattern selects the file, or a folder that contains it."""
        expression = self._expression
        if expression.fullmatch(path) is not None:
            return not self.is_folder_only
        end = path.rfind("/")
        while end > 0:
            if expression.fullmatch(path, 0, end) is not None:
                return True
            end = path.rfind("/", 0, end)
        return False


def select(text: str, directory: Path, *, home: str, includes_hidden: bool = False) -> Selected:
    """The files that the patterns select. Raises `OSError` for a folder that cannot be read."""
    patterns = parse(text, directory, home=home)
    included = [pattern for pattern in patterns if not pattern.is_exclusion]
    found: dict[str, None] = {}
    for base in _bases(included):
        for path in _files(base, includes_hidden=includes_hidden):
            if is_selected(path, patterns):
                found[path] = None
    root = _root(included, list(found))
    cut = len(root.rstrip("/")) + 1
    return Selected(root=root, paths=sorted(path[cut:] for path in found))


def parse(text: str, directory: Path, *, home: str) -> list[Pattern]:
    """The patterns of all lines."""
    return [Pattern(line, os.fspath(directory), home) for line in lines(text)]


def lines(text: str) -> list[str]:
    """The lines that have a meaning."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def is_selected(path: str, patterns: Sequence[Pattern]) -> bool:
    """Whether the patterns select a path: the last one that matches decides."""
    found = False
    for pattern in patterns:
        if found == pattern.is_exclusion and pattern.selects(path):
            found = not pattern.is_exclusion
    return found


def _bases(patterns: list[Pattern]) -> list[str]:
    """The places to search, without those inside others."""
    bases: list[str] = []
    for base in sorted({pattern.base for pattern in patterns}, key=len):
        if not any(_is_inside(base, other) for other in bases):
            bases.append(base)
    return bases


def _common_parts(first: Sequence[str], second: Sequence[str]) -> int:
    """How many parts both paths begin with."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _root(patterns: list[Pattern], found: list[str]) -> str:
    places = {pattern.base for pattern in patterns}
    if len(places) == 1:
        (place,) = places
        # A single file is searched for by its own path.
        return os.path.dirname(place) if found == [place] else place
    folders = [os.path.dirname(place) if place in found else place for place in places]
    return os.path.commonpath(folders) if folders else "/"


def _files(base: str, *, includes_hidden: bool) -> Iterator[str]:
    try:
        status = os.stat(base)
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISREG(status.st_mode):
        yield base
    elif stat.S_ISDIR(status.st_mode):
        yield from _walk(base, [(status.st_dev, status.st_ino)], includes_hidden=includes_hidden)


def _walk(folder: str, above: list[tuple[int, int]], *, includes_hidden: bool) -> Iterator[str]:
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and not includes_hidden:
                continue
            try:
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.is_file():
                    yield entry.path
            except OSError:
                # A link to itself.
                continue
    for path in folders:
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity not in above:
            yield from _walk(path, [*above, identity], includes_hidden=includes_hidden)


def matches_name(name: str, pattern: str) -> bool:
    """Whether the name of an artifact matches a pattern."""
    return re.fullmatch(_translate(pattern), name, re.DOTALL) is not None


def _translate(pattern: str) -> str:
    """The regular expression of a pattern: `*` and `?` within one part of a path, `**` for any number of parts."""
    result: list[str] = []
    parts = pattern.split("/")
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if part == "**":
            result.append(".*" if is_last else "(?:[^/]+/)*")
            continue
        result.append(_translate_part(part) + ("" if is_last else "/"))
    return "".join(result)


def _translate_part(part: str) -> str:
    result: list[str] = []
    position = 0
    while position < len(part):
        character = part[position]
        position += 1
        if character == "*":
            result.append("[^/]*")
        elif character == "?":
            result.append("[^/]")
        elif character == "[" and (end := part.find("]", position + 1)) > 0:
            inside = _SPECIAL_IN_SETS.sub(r"\\\g<0>", part[position:end])
            position = end + 1
            if inside[0] in "!^":
                inside = "^" + inside[1:]
            # A slash separates parts, so no set contains it.
            result.append(f"(?!/)[{inside}]")
        else:
            result.append(re.escape(character))
    return "".join(result)
