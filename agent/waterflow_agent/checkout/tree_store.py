"""What checkouts have on the disk: kept files, directories in the making, and spare ones. Blocking; one call at a time.

    <data-dir>/trees/blobs/      files by their Git id, up to a bound
    <data-dir>/trees/made/       directories that are written, or are spare

Theory: a job's directory is the job's own, so it can be no hard link to kept files. Writing ten thousand files takes a second,
renaming a directory microseconds. So of a large tree that was checked out a spare directory is written afterwards, when nobody
waits; the next checkout of the repository takes it and changes what differs. A spare one is used once, and nobody else ever
sees it. A process of the agent begins without any: what a power cut has left is not known.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from waterflow_agent.checkout.blob_cache import BlobCache, blob_id
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.checkout.tree_writer import TreeWriter
from waterflow_agent.errors import Rejected
from waterflow_agent.wire.messages import Tree

#: A tree of fewer files is written in a few hundredths of a second.
SPARE_FILES_MIN = 500
#: Spare directories of one agent, each of another repository or other patterns.
SPARES_MAX = 4
_Files = dict[bytes, FileEntry]


class PartialTree(msgspec.Struct):
    """A directory in the making."""

    path: Path
    writer: TreeWriter
    #: The files that are not here yet, by their Git id; in the order in which they should come.
    missing: dict[bytes, list[FileEntry]]
    files: _Files


class _Spare(msgspec.Struct, frozen=True):
    path: Path
    files: _Files


class TreeStore:
    """All of it for one agent."""

    def __init__(self, root: Path, bytes_max: int, discard: Callable[[Path], None]) -> None:
        """`bytes_max` bounds the kept files. `discard` moves a directory out of the way and has it removed later."""
        self._blobs = BlobCache(root / "blobs", bytes_max)
        self._made = root / "made"
        self._discard = discard
        self._spares: OrderedDict[tuple[str, tuple[str, ...]], _Spare] = OrderedDict()
        self._numbers = itertools.count(1)
        self._made.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in os.listdir(self._made):
            discard(self._made / left)

    def begin(self, tree: Tree, entries: Iterable[FileEntry]) -> PartialTree:
        """A directory with all of the tree that is on this disk. Raises `OSError`."""
        spare = self._spares.pop(_name(tree), None)
        return self._changed(spare or self._empty(), {entry.path: entry for entry in entries})

    def add(self, making: PartialTree, arrived: Iterable[tuple[bytes, bytes]]) -> None:
        """Takes files that were missing, as Git id and content. Raises `Rejected` WF752 for one that is another, `OSError`."""
        for blob, content in arrived:
            if blob_id(content) != blob:
                raise Rejected("WF752", f"the server sent another file than {blob.hex()}")
            self._blobs.put(blob, content)
            for entry in making.missing.pop(blob, ()):
                making.writer.write(entry, content)

    def finish(self, making: PartialTree) -> None:
        """Nothing is missing any more: the directory is as it should be. Raises `OSError`."""
        assert not making.missing, "a checkout ends with all of its files"
        making.writer.finish()

    def drop(self, making: PartialTree) -> None:
        """Nobody wants the directory any more."""
        self._discard(making.path)

    def prepare_spare(self, tree: Tree, files: Mapping[bytes, FileEntry]) -> None:
        """Writes a spare directory for the next checkout like this one, if that is worth it and its files are all kept."""
        if len(files) < SPARE_FILES_MIN or _name(tree) in self._spares:
            return
        try:
            making = self._changed(self._empty(), dict(files))
            making.writer.finish()
        except OSError:
            # A full disk, most likely, which needs no spare directories.
            return
        if making.missing:
            self.drop(making)
            return
        self._spares[_name(tree)] = _Spare(making.path, making.files)
        if len(self._spares) > SPARES_MAX:
            _, oldest = self._spares.popitem(last=False)
            self._discard(oldest.path)

    def _empty(self) -> _Spare:
        path = self._made / str(next(self._numbers))
        path.mkdir(mode=0o700)
        return _Spare(path, {})

    def _changed(self, there: _Spare, files: _Files) -> PartialTree:
        """Makes of a directory what the kept files allow."""
        making = PartialTree(there.path, TreeWriter(os.fspath(there.path)), {}, files)
        try:
            making.writer.remove(entry for path, entry in there.files.items() if files.get(path) != entry)
            for path, entry in files.items():
                if there.files.get(path) != entry:
                    self._bring(making, entry)
        except OSError:
            self.drop(making)
            raise
        return making

    def _bring(self, making: PartialTree, entry: FileEntry) -> None:
        if entry.kind is FileKind.SUBMODULE:
            making.writer.write(entry, b"")
            return
        content = None if entry.blob in making.missing else self._blobs.get(entry.blob)
        if content is None:
            making.missing.setdefault(entry.blob, []).append(entry)
        else:
            making.writer.write(entry, content)


def _name(tree: Tree) -> tuple[str, tuple[str, ...]]:
    return tree.repository, tuple(tree.patterns)
