"""What has to change so that the applied files of a ref equal those of a tree.

Rules of this file: files are compared by path and object, and by the other files of the revision that they use, never by
commits in between; so merges, forced pushes and history that is gone make no difference.
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
        """Everything that is new at its path."""
        return self.added + self.changed


def stamp(seen: TreeFile | None) -> str:
    """What stands at a path, as one word; see `FileApplied.used`."""
    if seen is None:
        return ""
    return seen.blob if seen.problem is None else f"{seen.problem.code}:{seen.blob}"


def stands_in(found: Mapping[str, TreeFile]) -> Callable[[FileApplied], bool]:
    """Tells whether all that a file uses is as it was when it was compiled; `found` is what the tree has there now."""
    return lambda file: all(stamp(found.get(path)) == was for path, was in file.used.items())


def difference(
    applied: Mapping[str, FileState],
    desired: Iterable[TreeFile],
    stands: Callable[[FileApplied], bool] = lambda file: True,
) -> Difference:
    """The difference between what is applied and what a tree holds; `stands` says whether what a file uses is the same."""
    added: list[TreeFile] = []
    changed: list[TreeFile] = []
    seen: set[str] = set()
    for file in desired:
        if file.path in seen:
            # Only a damaged tree holds a name twice, or two undecodable names that are shown alike; the first one counts.
            continue
        seen.add(file.path)
        before = applied.get(file.path)
        if before is None:
            added.append(file)
        elif before.newest.blob != file.blob or not stands(before.newest):
            changed.append(file)
    removed = sorted(path for path in applied if path not in seen)
    return Difference(added=tuple(added), changed=tuple(changed), removed=tuple(removed))
