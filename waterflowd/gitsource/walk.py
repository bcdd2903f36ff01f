"""Walks through all of a tree, folder by folder, in no particular order. Blocking.

Names come as they are in the tree, hostile ones included: whoever takes them looks at them.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from dulwich.objects import parse_tree

from waterflow_agent.errors import Stalled
from waterflowd.gitsource import objects
from waterflowd.gitsource.objects import Objects
from waterflowd.reconcile import codes

#: A directory of 100,000 files is about 4 MiB.
_TREE_BYTES_MAX = 16 << 20


def folders(store: Objects, root: str) -> Iterator[tuple[bytes, list[tuple[bytes, int, str]]]]:
    """Each folder's path with a slash behind it (empty for the root), and its entries: name, mode, object id.

    Raises `Stalled` WF508 for a folder that is too large, `Retryable` WF506 for one that cannot be read. A tree may be endless,
    so the caller bounds the walk.
    """
    waiting = [(b"", root)]
    while waiting:
        prefix, tree = waiting.pop()
        entries = _entries(store, tree)
        yield prefix, entries
        waiting += [(prefix + name + b"/", child) for name, mode, child in entries if stat.S_ISDIR(mode)]


def _entries(store: Objects, tree: str) -> list[tuple[bytes, int, str]]:
    try:
        kind, content = store.read(tree, _TREE_BYTES_MAX)
    except objects.TooLarge as error:
        raise Stalled(codes.LIMIT, "a folder of the commit is too large to read") from error
    if kind != objects.TREE:
        raise objects.unreadable(tree, "is no tree")
    try:
        return [(name, mode, object_id.decode("ascii")) for name, mode, object_id in parse_tree(content, 20)]
    except objects.DAMAGE as error:
        raise objects.unreadable(tree, "is damaged") from error
