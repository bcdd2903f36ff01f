"""In-memory `ports.RevisionFiles`, which pass the same contract tests as `gitsource.contents`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.blob_cache import blob_id
from waterflow_agent.checkout.file_list import FileEntry, FileKind
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire.messages import FileChunk
from waterflowd.model.records import Checkout, FilesListed
from waterflowd.reconcile import codes, globs

#: The files of a revision, by path; None if it does not exist.
Trees = Callable[[str, str], Mapping[str, bytes] | None]


def no_trees(repository: str, revision: str) -> None:
    """For a host without repositories."""


class MemoryFiles:
    """Implements `ports.RevisionFiles`. Plain files only."""

    def __init__(self, trees: Trees = no_trees) -> None:
        self._trees = trees
        self._contents: dict[tuple[str, bytes], bytes] = {}

    async def listed(self, checkout: Checkout) -> FilesListed:
        """See `ports.RevisionFiles`."""
        files = self._trees(checkout.repository, checkout.revision)
        if files is None:
            raise Rejected(codes.NOT_FOUND, f"there is no {checkout.revision} in {checkout.repository}")
        entries = []
        for path, content in sorted(files.items()):
            if not checkout.patterns or globs.selects(checkout.patterns, path):
                entry = FileEntry(path.encode(), FileKind.FILE, blob_id(content))
                self._contents[checkout.repository, entry.blob] = content
                entries.append(entry)
        return FilesListed(content=file_list.encode(entries), blobs=frozenset(entry.blob for entry in entries))

    async def pieces(
        self, repository: str, listed: FilesListed, blobs: Sequence[bytes], offset: int, bytes_max: int
    ) -> list[FileChunk]:
        """See `ports.RevisionFiles`."""
        pieces: list[FileChunk] = []
        for blob in blobs:
            content = self._contents.get((repository, blob))
            if content is None:
                if pieces:
                    break
                raise Retryable(codes.OBJECT_UNREADABLE, f"object {blob.hex()[:12]} is missing", after_s=5)
            part = content[offset : offset + bytes_max]
            pieces.append(FileChunk(len(content), part))
            bytes_max -= len(part)
            if bytes_max <= 0 or offset + len(part) < len(content):
                break
            offset = 0
        return pieces
