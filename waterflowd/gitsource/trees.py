"""Trees: the workflow files below some folders, and what differs between two of them.

Rules of this file: only plain files are files. Whatever else is named like a workflow becomes a problem of that one file,
and is neither followed nor entered; so nothing outside the repository can be read. Work is bounded by counts, and a bound
that is passed has a name.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

from dulwich.objects import parse_tree

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.gitsource import objects
from waterflowd.gitsource.objects import Objects
from waterflowd.reconcile import codes
from waterflowd.reconcile.source import CHANGED_PATHS_MAX, DEPTH_MAX, FILES_MAX, Changes, TreeFile

#: A directory of 100,000 files is about 4 MiB.
_TREE_BYTES_MAX = 16 << 20
#: Trees that are read for one listing or comparison.
_TREES_MAX = 20_000
#: Trees that are in memory at a time while single paths are looked up.
_TREES_KEPT = 100
#: Nested directories of a comparison; Linux takes paths of 4,096 bytes.
_COMPARE_DEPTH_MAX = 256
_PATH_BYTES_MAX = 1_024
_SUFFIXES = (b".yml", b".yaml")
_GITLINK = 0o160000
_PLAIN_MODES = frozenset({0o100644, 0o100755})
_UNSAFE_NAMES = frozenset({b"", b".", b"..", b".git"})

#: Name, mode, object id.
Entry = tuple[bytes, int, str]


class Trees:
    """Reads trees of one repository, within bounds that hold for the life of this object."""

    def __init__(self, store: Objects) -> None:
        self._store = store
        self._count = 0
        self._read: dict[str, dict[bytes, Entry]] = {}

    def files(self, root: str, folders: Sequence[str]) -> tuple[TreeFile, ...]:
        """The workflow files below the folders, by path; `Stalled` WF508 when they are too many or too deep."""
        found: dict[str, TreeFile] = {}
        for folder in folders:
            parts = [part for part in folder.encode().split(b"/") if part not in (b"", b".")]
            try:
                self._enter(root, parts, found)
            except objects.TooLarge as error:
                raise _past_limit(
                    f"a folder on the way to or below {escape_for_display(folder)} is too large to read"
                ) from error
        return tuple(found[path] for path in sorted(found))

    def find(self, root: str, path: str) -> TreeFile | None:
        """What stands at the path; None for nothing. A link or a submodule on the way is a problem of that path."""
        try:
            parts = path.encode().split(b"/")
        except UnicodeEncodeError:
            return None
        if not _UNSAFE_NAMES.isdisjoint(parts):
            return None
        try:
            return self._find(root, parts)
        except objects.TooLarge:
            message = "a folder on the way to it is too large to read"
            return TreeFile(path=path, blob="", problem=_problem(path, codes.LIMIT, message))

    def _find(self, root: str, parts: list[bytes]) -> TreeFile | None:
        tree = root
        for index, part in enumerate(parts):
            entry = self._by_name(tree).get(part)
            if entry is None:
                return None
            _, mode, tree = entry
            is_last = index == len(parts) - 1
            if is_last or (not stat.S_ISDIR(mode) and mode not in _PLAIN_MODES):
                text, problem = _path_text(b"/".join(parts), parts[-1])
                return TreeFile(path=text, blob=tree, problem=problem or _mode_problem(text, mode))
            if not stat.S_ISDIR(mode):
                return None
        return None

    def _by_name(self, tree: str) -> dict[bytes, Entry]:
        """The entries of a tree that many paths may lead through; of a name that stands there twice, the first."""
        if tree not in self._read:
            if len(self._read) >= _TREES_KEPT:
                self._read.clear()
            self._read[tree] = {entry[0]: entry for entry in reversed(self._entries(tree))}
        return self._read[tree]

    def changes(self, before: str | None, after: str) -> Changes:
        """The paths that differ, sorted; incomplete when they are too many, or `before` is gone."""
        paths: list[bytes] = []
        try:
            is_complete = self._compare(before, after, b"", paths, 0)
        except (objects.TooLarge, Retryable):
            # The old tree may be gone for good, after a forced push and a clean-up. What is needed of the new one has been
            # read already.
            is_complete = False
        names = sorted(path.decode("utf-8", "backslashreplace") for path in paths[:CHANGED_PATHS_MAX])
        return Changes(paths=tuple(names), is_complete=is_complete)

    def _entries(self, tree: str) -> list[Entry]:
        self._count += 1
        if self._count > _TREES_MAX:
            raise objects.TooLarge(tree)
        kind, content = self._store.read(tree, _TREE_BYTES_MAX)
        if kind != objects.TREE:
            raise objects.unreadable(tree, "is no tree")
        try:
            return [(name, mode, object_id.decode("ascii")) for name, mode, object_id in parse_tree(content, 20)]
        except objects.DAMAGE as error:
            raise objects.unreadable(tree, "is damaged") from error

    def _enter(self, root: str, parts: list[bytes], found: dict[str, TreeFile]) -> None:
        """Walks down to a folder and lists it. A link or a submodule on the way is no folder."""
        tree = root
        for index, part in enumerate(parts):
            entry = next((entry for entry in self._entries(tree) if entry[0] == part), None)
            if entry is None:
                return
            _, mode, tree = entry
            if not stat.S_ISDIR(mode):
                if mode not in _PLAIN_MODES:
                    self._add(found, b"/".join(parts[: index + 1]), (part, mode, tree))
                return
        self._list(tree, b"".join(part + b"/" for part in parts), 0, found)

    def _list(self, tree: str, prefix: bytes, depth: int, found: dict[str, TreeFile]) -> None:
        for entry in self._entries(tree):
            name, mode, child = entry
            if name.endswith(_SUFFIXES):
                self._add(found, prefix + name, entry)
            elif stat.S_ISDIR(mode) and name not in _UNSAFE_NAMES and b"/" not in name:
                if depth >= DEPTH_MAX:
                    raise _past_limit(f"folders are nested deeper than {DEPTH_MAX} below a workflow folder")
                self._list(child, prefix + name + b"/", depth + 1, found)

    def _add(self, found: dict[str, TreeFile], path: bytes, entry: Entry) -> None:
        name, mode, blob = entry
        text, problem = _path_text(path, name)
        if problem is None:
            problem = _mode_problem(text, mode)
        found.setdefault(text, TreeFile(path=text, blob=blob, problem=problem))
        if len(found) > FILES_MAX:
            raise _past_limit(f"there are more than {FILES_MAX:,} workflow files")

    def _compare(self, before: str | None, after: str | None, prefix: bytes, paths: list[bytes], depth: int) -> bool:
        """Adds what differs to `paths`; False when it stopped early. None stands for an empty tree."""
        if before == after:
            return True
        if depth > _COMPARE_DEPTH_MAX:
            return False
        old = {name: (mode, child) for name, mode, child in self._entries(before)} if before else {}
        new = {name: (mode, child) for name, mode, child in self._entries(after)} if after else {}
        for name in _names(old, new):
            left, right = old.get(name), new.get(name)
            if left == right:
                continue
            old_tree = left[1] if left is not None and stat.S_ISDIR(left[0]) else None
            new_tree = right[1] if right is not None and stat.S_ISDIR(right[0]) else None
            if any(entry is not None and not stat.S_ISDIR(entry[0]) for entry in (left, right)):
                if len(paths) >= CHANGED_PATHS_MAX:
                    return False
                paths.append(prefix + name)
            if not self._compare(old_tree, new_tree, prefix + name + b"/", paths, depth + 1):
                return False
        return True


def _names(old: dict[bytes, tuple[int, str]], new: dict[bytes, tuple[int, str]]) -> Iterator[bytes]:
    yield from old
    yield from (name for name in new if name not in old)


def _path_text(path: bytes, name: bytes) -> tuple[str, Diagnostic | None]:
    """The path as text, and what is wrong with it as an identity."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        text = path.decode("utf-8", "backslashreplace")
        return _shown_path(text), _problem(_shown_path(text), codes.UNSAFE_NAME, "the file's name is not UTF-8 text")
    if not text.isprintable():
        message = "the file's name holds a newline, a control character or another one that does not print"
        return _shown_path(text), _problem(_shown_path(text), codes.UNSAFE_NAME, message)
    if len(path) > _PATH_BYTES_MAX:
        message = f"the file's path is longer than {_PATH_BYTES_MAX:,} bytes"
        return _shown_path(text), _problem(_shown_path(text), codes.UNSAFE_NAME, message)
    if b"/" in name or name in _UNSAFE_NAMES:
        return text, _problem(text, codes.UNSAFE_NAME, "the file's name is none that Git would make")
    return text, None


def _shown_path(text: str) -> str:
    return escape_for_display(text, _PATH_BYTES_MAX)


def _mode_problem(path: str, mode: int) -> Diagnostic | None:
    if stat.S_ISLNK(mode):
        message = "it is a symbolic link, which is never followed"
        return _problem(path, codes.SYMLINK, message, "commit the file itself")
    if mode == _GITLINK:
        message = "it is a submodule, which is never read"
        return _problem(path, codes.SUBMODULE, message, "watch that repository by itself")
    if stat.S_ISDIR(mode):
        message = "it is a directory with the name of a workflow file"
        return _problem(path, codes.DIRECTORY, message, "give the directory a name without .yml or .yaml")
    if mode not in _PLAIN_MODES:
        return _problem(path, codes.UNKNOWN_MODE, f"its mode is {mode:o}, expected 100644 or 100755")
    return None


def _problem(path: str, code: str, message: str, suggestion: str = "") -> Diagnostic:
    return Diagnostic(code=code, path=path, line=1, column=1, message=message, suggestion=suggestion)


def _past_limit(text: str) -> Stalled:
    return Stalled(codes.LIMIT, text)
