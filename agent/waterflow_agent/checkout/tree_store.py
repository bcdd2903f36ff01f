"""The files of checkouts on disk: cached files, partial trees, and spare directories. Blocking; one call at a time.

    <data-dir>/trees/blobs/      files by their Git id, up to a limit
    <data-dir>/trees/made/       partial trees and spare directories
    <data-dir>/trees/incoming/   see `incoming_files`

Theory: jobs may change their files, so these cannot be hard links to cached ones. Writing ten thousand files takes a second,
renaming a directory takes microseconds. So after the checkout of a large tree a spare directory is written in the background.
The next checkout of the repository takes it and updates the files that differ. A spare directory is used once. A new process of
the agent starts without any, because their state after a power cut is unknown.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from waterflow_agent.checkout import git_index
from waterflow_agent.checkout.blob_cache import BlobCache, blob_id
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.checkout.incoming_files import IncomingFile, IncomingFiles
from waterflow_agent.checkout.tree_writer import TreeWriter
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflow_agent.wire.messages import Tree, TreePart

#: Smaller trees are written in a few hundredths of a second.
SPARE_FILES_MIN = 500
#: Spare directories of one agent, each for another repository or other patterns.
SPARES_MAX = 4
_Files = dict[bytes, FileEntry]
#: What the next checkout must have in common: all but the revision.
_SpareKey = tuple[str, tuple[str, ...], tuple[TreePart, ...]]


class PartialTree(msgspec.Struct):
    """A directory that is being written."""

    path: Path
    writer: TreeWriter
    #: Missing files by their Git id, in the order in which to request them.
    missing: dict[bytes, list[FileEntry]]
    files: _Files
    #: The folders of the checkout's parts.
    folders: tuple[str, ...] = ()


class _Spare(msgspec.Struct, frozen=True):
    path: Path
    files: _Files


class TreeStore:
    """The files of all checkouts of one agent."""

    def __init__(self, root: Path, bytes_max: int, discard: Callable[[Path], None]) -> None:
        """`bytes_max` limits the cached files. `discard` moves a directory to the trash."""
        self._blobs = BlobCache(root / "blobs", bytes_max)
        self._incoming = IncomingFiles(root / "incoming")
        self._made = root / "made"
        self._discard = discard
        self._spares: OrderedDict[_SpareKey, _Spare] = OrderedDict()
        self._numbers = itertools.count(1)
        self._made.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in os.listdir(self._made):
            discard(self._made / leftover)

    def begin(self, tree: Tree, entries: Iterable[FileEntry]) -> PartialTree:
        """Starts a directory with all cached files of the tree. Raises `OSError`."""
        spare = self._spares.pop(_spare_key(tree), None)
        partial = self._updated(spare or self._empty(), {entry.path: entry for entry in entries})
        partial.folders = tuple(part.path for part in tree.parts)
        return partial

    def add(self, partial: PartialTree, arrived: Iterable[tuple[bytes, bytes]]) -> None:
        """Adds missing files, as Git id and content. Raises `Rejected` WF752 when a content does not match, and `OSError`."""
        for blob, content in arrived:
            if blob_id(content) != blob:
                raise Rejected("WF752", f"the server sent the wrong content for file {blob.hex()}")
            self._blobs.put(blob, content)
            for entry in partial.missing.pop(blob, ()):
                partial.writer.write(entry, content)

    def has_added(self, partial: PartialTree, blob: bytes) -> bool:
        """Adds a missing file if another checkout has fetched it meanwhile. Raises `OSError`."""
        content = self._blobs.get(blob)
        if content is None:
            return False
        for entry in partial.missing.pop(blob, ()):
            partial.writer.write(entry, content)
        return True

    def begin_file(self, partial: PartialTree, blob: bytes, size: int) -> IncomingFile:
        """Begins or continues a missing file that is larger than a response; see `IncomingFiles.begin`."""
        entries = partial.missing[blob]
        copies = len(entries) if self._blobs.has_room(size) else len(entries) - 1
        name = escape_for_display(os.fsdecode(entries[0].path))
        return self._incoming.begin(name, blob, size, copies)

    def add_file(self, partial: PartialTree, file: IncomingFile) -> None:
        """Adds a missing file that has arrived and has its Git id. Raises `OSError`."""
        cached = self._blobs.adopt(file.blob, file.path)
        *others, last = partial.missing.pop(file.blob)
        for entry in others:
            partial.writer.write(entry, cached or file.path)
        if cached is not None:
            partial.writer.write(last, cached)
        else:
            partial.writer.move(last, file.path)

    def end_file(self, file: IncomingFile, *, keep: bool) -> None:
        """Ends the work on a file that was begun; `keep` is for another attempt. Raises `OSError`."""
        self._incoming.end(file, keep=keep)

    def finish(self, partial: PartialTree) -> None:
        """Completes a directory from which no file is missing. Raises `OSError`."""
        assert not partial.missing, "a checkout ends with all of its files"
        partial.writer.finish()
        git_index.complete(partial.path, partial.files, partial.folders)

    def drop(self, partial: PartialTree) -> None:
        """Discards a directory."""
        self._discard(partial.path)

    def prepare_spare(self, tree: Tree, files: Mapping[bytes, FileEntry]) -> None:
        """Writes a spare directory for the next checkout like this one, if the tree is large and all of its files cached."""
        if len(files) < SPARE_FILES_MIN or _spare_key(tree) in self._spares:
            return
        try:
            partial = self._updated(self._empty(), dict(files))
            partial.writer.finish()
        except OSError:
            # Probably the disk is full; then a spare directory would only waste space.
            return
        if partial.missing:
            self.drop(partial)
            return
        self._spares[_spare_key(tree)] = _Spare(partial.path, partial.files)
        if len(self._spares) > SPARES_MAX:
            _, oldest = self._spares.popitem(last=False)
            self._discard(oldest.path)

    def _empty(self) -> _Spare:
        path = self._made / str(next(self._numbers))
        path.mkdir(mode=0o700)
        return _Spare(path, {})

    def _updated(self, spare: _Spare, files: _Files) -> PartialTree:
        """Updates a directory as far as the files are cached."""
        partial = PartialTree(spare.path, TreeWriter(os.fspath(spare.path)), {}, files)
        try:
            partial.writer.remove(entry for path, entry in spare.files.items() if files.get(path) != entry)
            for path, entry in files.items():
                if spare.files.get(path) != entry:
                    self._write(partial, entry)
        except OSError:
            self.drop(partial)
            raise
        return partial

    def _write(self, partial: PartialTree, entry: FileEntry) -> None:
        if entry.kind is FileKind.SUBMODULE:
            partial.writer.write(entry, b"")
            return
        content = None if entry.blob in partial.missing else self._blobs.get(entry.blob)
        if content is None:
            partial.missing.setdefault(entry.blob, []).append(entry)
        else:
            partial.writer.write(entry, content)


def _spare_key(tree: Tree) -> _SpareKey:
    return tree.repository, tuple(tree.patterns), tree.parts
