"""Digests of what `hashFiles` chooses from the tree of a commit. The functions block.

Rules of this file: plain files only, as everywhere; links and submodules are nothing. Files are read one at a time, and what is
read has a bound: a digest of all of a huge repository is more likely a slip than a wish.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing

from waterflow_agent.errors import Stalled
from waterflowd.expr import file_hash
from waterflowd.gitsource import objects, reading, walk
from waterflowd.gitsource.objects import Objects
from waterflowd.reconcile import codes

#: Files of a tree, and bytes of those that are chosen.
FILES_MAX = 200_000
BYTES_MAX = 256 << 20
_PLAIN_MODES = frozenset({0o100644, 0o100755})


def digests(directory: str, commit_id: str, calls: Sequence[str]) -> dict[str, str]:
    """What each call gives; `calls` are the patterns of one call joined by line ends.

    Raises `Stalled` WF508 beyond a bound, `Retryable` WF506 when an object cannot be read.
    """
    with closing(Objects(directory)) as store:
        tree = reading.commit(store, commit_id).tree
        blobs = dict(_files(store, tree))
        known: dict[str, bytes] = {}
        left = BYTES_MAX

        def digest_of(path: str) -> bytes:
            nonlocal left
            blob = blobs[path]
            if blob not in known:
                try:
                    _, content = store.read(blob, left)
                except objects.TooLarge as error:
                    text = f"hashFiles chooses files of more than {BYTES_MAX >> 20} MiB; narrow its patterns"
                    raise Stalled(codes.LIMIT, text) from error
                left -= len(content)
                known[blob] = hashlib.sha256(content).digest()
            return known[blob]

        return {call: file_hash.hash_files([call], blobs, digest_of) for call in calls}


def _files(store: Objects, root: str) -> Iterator[tuple[str, str]]:
    """Path and blob of every plain file."""
    count = 0
    for prefix, entries in walk.folders(store, root):
        count += len(entries)
        if count > FILES_MAX:
            raise Stalled(codes.LIMIT, f"the commit has more than {FILES_MAX:,} files, too many for hashFiles")
        for name, mode, blob in entries:
            if mode in _PLAIN_MODES:
                yield (prefix + name).decode("utf-8", "surrogateescape"), blob
