"""Reads trees, and walks through all folders of one, in no particular order. Blocking.

Names are returned as they are in the tree, hostile ones included; the caller checks them.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from dulwich.objects import parse_tree

from waterflow_agent.errors import Stalled
from waterflowd.gitsource import objects
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.reconcile import codes

#: A directory of 100,000 files is about 4 MiB.
TREE_BYTES_MAX = 16 << 20
#: The modes of regular files.
FILE_MODES = frozenset({0o100644, 0o100755})

#: Name, mode, object id.
TreeEntry = tuple[bytes, int, str]


def read_tree(store: ObjectStore, tree: str) -> list[TreeEntry]:
    """The entries of a tree; `TooLarge` beyond the bound, `Retryable` WF506 if it cannot be read."""
    kind, content = store.read(tree, TREE_BYTES_MAX)
    if kind != objects.TREE:
        raise objects.unreadable(tree, "is not a tree")
    try:
        return [(name, mode, object_id.decode("ascii")) for name, mode, object_id in parse_tree(content, 20)]
    except objects.DAMAGE as error:
        raise objects.unreadable(tree, "is damaged") from error


def folders(store: ObjectStore, root: str) -> Iterator[tuple[bytes, list[TreeEntry]]]:
    """Each folder's path with a trailing slash (empty for the root), and its entries.

    Raises `Stalled` WF508 for a folder that is too large, `Retryable` WF506 for one that cannot be read. A hostile tree may be
    endless, so the caller bounds the walk.
    """
    pending = [(b"", root)]
    while pending:
        prefix, tree = pending.pop()
        try:
            entries = read_tree(store, tree)
        except objects.TooLarge as error:
            raise Stalled(codes.LIMIT, "a folder of the commit is too large to read") from error
        yield prefix, entries
        pending += [(prefix + name + b"/", child) for name, mode, child in entries if stat.S_ISDIR(mode)]
