"""The folders and files of trees, for the packs of shallow checkouts. Blocking.

Theory: a shallow commit is cut off from its parents, so Git's way of finding what two commits share (their common ancestors)
finds nothing. The trees themselves are compared instead: equal folders have equal ids, so each is read once.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress

from dulwich.objects import ObjectID
from dulwich.pack import PackHint

from waterflow_agent.errors import Retryable
from waterflowd.gitsource import objects, tree_walk
from waterflowd.gitsource.objects import ObjectStore

_SUBMODULE = 0o160000


def missing(
    store: ObjectStore, trees: Iterable[str], packed: Iterable[str]
) -> Iterator[tuple[ObjectID, PackHint | None]]:
    """What is in `trees` and not in the trees `packed`, which may no longer exist: ids, and what groups similar objects.

    Raises `TooLarge`, and `Retryable` WF506 for a folder that cannot be read.
    """
    known: set[str] = set()
    for tree in packed:
        with suppress(Retryable, objects.TooLarge):
            for _ in _walk(store, tree, known):
                pass
    for tree in trees:
        for object_id, kind, name in _walk(store, tree, known):
            yield ObjectID(object_id.encode("ascii")), (kind, name)


def _walk(store: ObjectStore, root: str, known: set[str]) -> Iterator[tuple[str, int, bytes]]:
    """The objects of a tree that are not known, which become known: id, kind, name. The caller bounds the walk."""
    pending = [(root, b"")] if root not in known else []
    while pending:
        tree, name = pending.pop()
        if tree in known:
            continue
        entries = tree_walk.read_tree(store, tree)
        known.add(tree)
        yield tree, objects.TREE, name
        for entry_name, mode, object_id in entries:
            if stat.S_ISDIR(mode):
                pending.append((object_id, entry_name))
            elif mode != _SUBMODULE and object_id not in known:
                known.add(object_id)
                yield object_id, objects.BLOB, entry_name
