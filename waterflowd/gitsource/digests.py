"""Digests of the files that `hashFiles` selects from the tree of a commit. The functions block.

Rules of this file: regular files only; links and submodules are ignored. Files are read one at a time, up to a bound in all,
because a digest of a whole huge repository is more likely a mistake than an intention.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing

from waterflow_agent.errors import Stalled
from waterflowd.expr import file_hash
from waterflowd.gitsource import objects, reading, tree_walk
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.reconcile import codes

#: Limits: files in the tree, and bytes of the selected ones.
FILES_MAX = 200_000
BYTES_MAX = 256 << 20


def digests(directory: str, commit_id: str, calls: Sequence[str]) -> dict[str, str]:
    """The digest of each call; a call is its patterns joined by newlines.

    Raises `Stalled` WF508 beyond a bound, `Retryable` WF506 if an object cannot be read.
    """
    with closing(ObjectStore(directory)) as store:
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
                    text = f"hashFiles selects more than {BYTES_MAX >> 20} MiB of files; narrow its patterns"
                    raise Stalled(codes.LIMIT, text) from error
                left -= len(content)
                known[blob] = hashlib.sha256(content).digest()
            return known[blob]

        return {call: file_hash.hash_files([call], blobs, digest_of) for call in calls}


def _files(store: ObjectStore, root: str) -> Iterator[tuple[str, str]]:
    """Path and blob of every regular file."""
    count = 0
    for prefix, entries in tree_walk.folders(store, root):
        count += len(entries)
        if count > FILES_MAX:
            raise Stalled(codes.LIMIT, f"the commit has more than {FILES_MAX:,} files, which is too many for hashFiles")
        for name, mode, blob in entries:
            if mode in tree_walk.FILE_MODES:
                yield (prefix + name).decode("utf-8", "surrogateescape"), blob
