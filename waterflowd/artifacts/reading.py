"""Artifacts for the API: lists, files, and any range of the bytes of a file or of all files as a tar archive."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache

from waterflow_agent.artifacts.content import ArtifactFile, BlockTable
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd import ports
from waterflowd.artifacts.records import ArtifactRecord
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.artifacts.tar import TarLayout
from waterflowd.model.ids import RunId

#: Bytes that are read at a time.
CHUNK_BYTES = 512 << 10
#: Names in an error.
_NAMES_SHOWN = 20
#: Blocks that one download keeps: small files share them.
_BLOCKS_KEPT = 4
#: Artifacts whose files are in memory, and their files unless it is one: a file takes half a kilobyte.
_OPEN_MAX, _OPEN_FILES_MAX = 4, 300_000


class OpenArtifact:
    """An artifact with its files, for reading."""

    def __init__(
        self, store: ArtifactStore, record: ArtifactRecord, read: Callable[[int, int], bytes], files: list[ArtifactFile]
    ) -> None:
        self.record = record
        self.files = files
        self._store = store
        self._read = read
        self._tar = TarLayout(files, record.created_at // 1000)
        #: Where the content of each file begins, and its size: a search would take as long as the list.
        begins = itertools.accumulate((file.size for file in files), initial=0)
        self._places = {file.path: (begin, file.size) for file, begin in zip(files, begins, strict=False)}

    @property
    def tag(self) -> str:
        """Changes when the bytes of the archive do: its files have the time at which the artifact was stored."""
        return f"{self.record.digest.hex()}-{self.record.created_at // 1000}"

    @property
    def tar_size(self) -> int:
        """Size of the archive."""
        return self._tar.size

    def read_tar(self, begin: int, end: int) -> bytes:
        """A range of the archive. Blocks."""
        return self._tar.read(begin, end, self._read)

    def file(self, path: str) -> tuple[int, int]:
        """Where the content of a file begins, and its size. Raises `Rejected` 404 if the artifact has no such file."""
        place = self._places.get(path)
        if place is not None:
            return place
        shown = escape_for_display(path, 80)
        raise Rejected("WF604", f'the artifact "{self.record.name}" has no file "{shown}"', where="path", status=404)

    def read_content(self, begin: int, end: int) -> bytes:
        """A range of the content. Blocks."""
        return self._read(begin, end)


class ArtifactReader:
    """Reads the artifacts of runs."""

    def __init__(self, store: ArtifactStore, server: ArtifactServer, kept: KeptArtifacts, clock: ports.Clock) -> None:
        self._store = store
        self._server = server
        self._kept = kept
        self._clock = clock
        #: Those that were used last, because a client may ask for many ranges.
        self._open_artifacts: OrderedDict[tuple[RunId, bytes], OpenArtifact] = OrderedDict()

    async def keep(self, run: RunId) -> None:
        """Copies what a re-run keeps of an earlier run; see `reruns.py`."""
        await self._kept.keep(run, self._server.write)

    async def of_run(self, run: RunId) -> list[ArtifactRecord]:
        """The artifacts of a run by name, also those that were removed."""
        await self.keep(run)
        return await self._server.read(lambda: self._store.records.of_run(run))

    async def open(self, run: RunId, name: str) -> OpenArtifact:
        """The artifact of a run. Raises `Rejected` WF334 (404) if there is none."""
        await self.keep(run)
        now = self._clock.now()
        record = await self._server.read(lambda: self._store.find(run, name, now))
        if record is None:
            names = [each.name for each in await self.of_run(run) if each.is_available(now)]
            known = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
            text = f'run {run} has no artifact "{escape_for_display(name, 80)}"; it has: {known or "none"}'
            raise Rejected("WF334", text, where="name", status=404)
        key = (run, record.digest)
        found = self._open_artifacts.pop(key, None)
        if found is None or found.record != record:
            found = await self._server.read(lambda: self._open(record))
        self._open_artifacts[key] = found
        while len(self._open_artifacts) > 1 and self._has_too_many_open():
            self._open_artifacts.popitem(last=False)
        return found

    def _has_too_many_open(self) -> bool:
        files = sum(len(artifact.files) for artifact in self._open_artifacts.values())
        return len(self._open_artifacts) > _OPEN_MAX or files > _OPEN_FILES_MAX

    def _open(self, record: ArtifactRecord) -> OpenArtifact:
        table = self._store.table(record)
        return OpenArtifact(
            self._store, record, _content_reader(self._store, record, table), self._store.listing(record)
        )

    async def chunks(self, read: Callable[[int, int], bytes], begin: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a range, a chunk at a time."""
        while begin < end:
            stop = min(end, begin + CHUNK_BYTES)
            yield await self._server.read(lambda first=begin, last=stop: read(first, last))  # type: ignore[misc]
            self._server.metrics.transferred["downloaded"] += stop - begin
            begin = stop


def _content_reader(store: ArtifactStore, record: ArtifactRecord, table: BlockTable) -> Callable[[int, int], bytes]:
    @lru_cache(_BLOCKS_KEPT)
    def block(index: int) -> bytes:
        return store.content(record, table.digest(index))

    def read(begin: int, end: int) -> bytes:
        pieces = []
        while begin < end:
            index, offset = table.find(begin)
            piece = block(index)[offset : offset + end - begin]
            pieces.append(piece)
            begin += len(piece)
        return b"".join(pieces)

    return read
