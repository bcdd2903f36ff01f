"""The difference between the applied files of a ref and those of a tree.

Rules of this file: files are compared by path and object, and by the objects of the other files that they use, never by the
commits in between. So merges, forced pushes and lost history make no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.source import TreeFile
from waterflowd.reconcile.state import FileState


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Files to apply, in the order of the tree, and paths to remove, sorted."""

    added: tuple[TreeFile, ...] = ()
    changed: tuple[TreeFile, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[TreeFile, ...]:
        """The files to apply."""
        return self.added + self.changed


def object_key(file: TreeFile | None) -> str:
    """The object at a path as one word, as it is recorded in `FileApplied.used`."""
    if file is None:
        return ""
    return file.blob if file.problem is None else f"{file.problem.code}:{file.blob}"


def unchanged_in(found: Mapping[str, TreeFile]) -> Callable[[FileApplied], bool]:
    """A test whether everything that a file used when it was compiled is the same in a tree, which has `found` there."""
    return lambda file: all(object_key(found.get(path)) == key for path, key in file.used.items())


def difference(
    applied: Mapping[str, FileState],
    desired: Iterable[TreeFile],
    is_unchanged: Callable[[FileApplied], bool] = lambda file: True,
) -> Difference:
    """The difference; `is_unchanged` tells whether the other files that a file used are the same."""
    added: list[TreeFile] = []
    changed: list[TreeFile] = []
    paths: set[str] = set()
    for file in desired:
        if file.path in paths:
            # Only a damaged tree holds a name twice, or two undecodable names that are displayed alike; the first one counts.
            continue
        paths.add(file.path)
        before = applied.get(file.path)
        if before is None:
            added.append(file)
        elif before.newest.blob != file.blob or not is_unchanged(before.newest):
            changed.append(file)
    removed = sorted(path for path in applied if path not in paths)
    return Difference(added=tuple(added), changed=tuple(changed), removed=tuple(removed))
