"""The workflow files in some folders of a tree, and the differences between two trees.

Rules of this file: only regular files are read. Anything else that is named like a workflow is reported as a problem of that
path, and is neither followed nor entered; so nothing outside the repository can be read. All work is bounded, and exceeding a
limit is a separate error.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Retryable, Stalled
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.gitsource import objects
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.gitsource.tree_walk import FILE_MODES, TREE_BYTES_MAX, TreeEntry, read_tree
from waterflowd.reconcile import codes
from waterflowd.reconcile.source import CHANGED_PATHS_MAX, DEPTH_MAX, FILES_MAX, Changes, TreeFile

#: Folders read for one listing, and for one comparison. Reading one takes about 0.1 ms.
_LISTED_TREES_MAX = 200_000
_COMPARED_TREES_MAX = 20_000
#: Trees cached while single paths are looked up.
_TREES_KEPT = 100
#: Nested directories of a comparison; Linux takes paths of 4,096 bytes.
_COMPARE_DEPTH_MAX = 256
_PATH_BYTES_MAX = 1_024
_SUFFIXES = (b".yml", b".yaml")
_GITLINK = 0o160000
_UNSAFE_NAMES = frozenset({b"", b".", b"..", b".git"})


class TreeReader:
    """Reads trees of one repository. The bounds apply to the lifetime of this object, and to each comparison."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._count = 0
        self._count_max = _LISTED_TREES_MAX
        self._read: dict[str, dict[bytes, TreeEntry]] = {}

    def files(self, root: str, folders: Sequence[str]) -> tuple[TreeFile, ...]:
        """The workflow files below the folders, by path; `Stalled` WF508 if they are too many or too deep."""
        found: dict[str, TreeFile] = {}
        for folder in folders:
            parts = [part for part in folder.encode().split(b"/") if part not in (b"", b".")]
            try:
                self._enter(root, parts, found)
            except objects.TooLarge as error:
                text = f"a folder above or below {escape_for_display(folder)} is larger than {TREE_BYTES_MAX >> 20} MiB"
                if self._count > self._count_max:
                    text = f"there are more than {self._count_max:,} folders below {escape_for_display(folder)}"
                raise _past_limit(f"{text}; let `paths` of the repository name folders with less in them") from error
        return tuple(found[path] for path in sorted(found))

    def find(self, root: str, path: str) -> TreeFile | None:
        """The file at the path; None if there is none. A link or submodule in the path is reported as its problem."""
        try:
            parts = path.encode().split(b"/")
        except UnicodeEncodeError:
            return None
        if not _UNSAFE_NAMES.isdisjoint(parts):
            return None
        try:
            return self._find(root, parts)
        except objects.TooLarge:
            message = "a folder above it is too large to read"
            return TreeFile(path=path, blob="", problem=_problem(path, codes.LIMIT, message))

    def _find(self, root: str, parts: list[bytes]) -> TreeFile | None:
        tree = root
        for index, part in enumerate(parts):
            entry = self._by_name(tree).get(part)
            if entry is None:
                return None
            _, mode, tree = entry
            is_last = index == len(parts) - 1
            if is_last or (not stat.S_ISDIR(mode) and mode not in FILE_MODES):
                text, problem = _path_text(b"/".join(parts), parts[-1])
                return TreeFile(path=text, blob=tree, problem=problem or _mode_problem(text, mode))
            if not stat.S_ISDIR(mode):
                return None
        return None

    def _by_name(self, tree: str) -> dict[bytes, TreeEntry]:
        """The entries of a tree by name, cached because many paths may lead through it; the first of a duplicate name."""
        if tree not in self._read:
            if len(self._read) >= _TREES_KEPT:
                self._read.clear()
            self._read[tree] = {entry[0]: entry for entry in reversed(self._entries(tree))}
        return self._read[tree]

    def changes(self, before: str | None, after: str) -> Changes:
        """The paths that differ, sorted; incomplete if they are too many, or `before` no longer exists."""
        paths: list[bytes] = []
        self._count, self._count_max = 0, _COMPARED_TREES_MAX
        try:
            is_complete = self._compare(before, after, b"", paths, 0)
        except (objects.TooLarge, Retryable):
            # The old tree may be gone for good, after a forced push and a cleanup. What is needed of the new tree has been
            # read already.
            is_complete = False
        names = sorted(path.decode("utf-8", "backslashreplace") for path in paths[:CHANGED_PATHS_MAX])
        return Changes(paths=tuple(names), is_complete=is_complete)

    def _entries(self, tree: str) -> list[TreeEntry]:
        self._count += 1
        if self._count > self._count_max:
            raise objects.TooLarge(tree)
        return read_tree(self._store, tree)

    def _enter(self, root: str, parts: list[bytes], found: dict[str, TreeFile]) -> None:
        """Walks down to a folder and lists it. A link or submodule in the path is not a folder."""
        tree = root
        for index, part in enumerate(parts):
            entry = next((entry for entry in self._entries(tree) if entry[0] == part), None)
            if entry is None:
                return
            _, mode, tree = entry
            if not stat.S_ISDIR(mode):
                if mode not in FILE_MODES:
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

    def _add(self, found: dict[str, TreeFile], path: bytes, entry: TreeEntry) -> None:
        name, mode, blob = entry
        text, problem = _path_text(path, name)
        if problem is None:
            problem = _mode_problem(text, mode)
        found.setdefault(text, TreeFile(path=text, blob=blob, problem=problem))
        if len(found) > FILES_MAX:
            raise _past_limit(f"there are more than {FILES_MAX:,} workflow files; narrow `paths` of the repository")

    def _compare(self, before: str | None, after: str | None, prefix: bytes, paths: list[bytes], depth: int) -> bool:
        """Adds the differences to `paths`; False if it stopped early. None is an empty tree."""
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
    """The path as text, and the problem that makes it unusable as an identity."""
    try:
        text = path.decode("utf-8")
    except UnicodeDecodeError:
        text = path.decode("utf-8", "backslashreplace")
        return _displayed(text), _problem(_displayed(text), codes.UNSAFE_NAME, "the file name is not UTF-8 text")
    if not text.isprintable():
        message = "the file name contains a control character or another character that is not printable"
        return _displayed(text), _problem(_displayed(text), codes.UNSAFE_NAME, message)
    if len(path) > _PATH_BYTES_MAX:
        message = f"the file path is longer than {_PATH_BYTES_MAX:,} bytes"
        return _displayed(text), _problem(_displayed(text), codes.UNSAFE_NAME, message)
    if b"/" in name or name in _UNSAFE_NAMES:
        return text, _problem(text, codes.UNSAFE_NAME, "Git would not create a file with this name")
    return text, None


def _displayed(text: str) -> str:
    return escape_for_display(text, _PATH_BYTES_MAX)


def _mode_problem(path: str, mode: int) -> Diagnostic | None:
    if stat.S_ISLNK(mode):
        message = "symbolic links are never followed"
        return _problem(path, codes.SYMLINK, message, "commit the file itself")
    if mode == _GITLINK:
        message = "submodules are never read"
        return _problem(path, codes.SUBMODULE, message, "add that repository to the configuration")
    if stat.S_ISDIR(mode):
        message = "a directory is named like a workflow file"
        return _problem(path, codes.DIRECTORY, message, "rename the directory so that it does not end in .yml or .yaml")
    if mode not in FILE_MODES:
        return _problem(path, codes.UNKNOWN_MODE, f"its mode is {mode:o}, expected 100644 or 100755")
    return None


def _problem(path: str, code: str, message: str, suggestion: str = "") -> Diagnostic:
    return Diagnostic(code=code, path=path, line=1, column=1, message=message, suggestion=suggestion)


def _past_limit(text: str) -> Stalled:
    return Stalled(codes.LIMIT, text)
