"""The artifacts of all runs: what may be stored, and the commit. Blocking; see `server.py` for the threads.

Rules of this file:

- An artifact becomes visible with its record, after all its blocks are durable: completely or not at all.
- An artifact belongs to a run. A step may replace what it has stored itself; what another step has stored only on request.
- Everything has a limit (`ArtifactLimits`), with an error that names it. While less than `reserved_bytes` of the disk are free,
  nothing is stored, so that artifacts never use the space that the event log needs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.content import ArtifactFile, BlockTable
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import ArtifactPart
from waterflowd.artifacts.blocks import DISK_FULL_ERRORS, BlockFiles
from waterflowd.artifacts.limits import ARTIFACTS_MAX, DAY_MS, ArtifactLimits, ArtifactUsage, check_total, within
from waterflowd.artifacts.records import ArtifactRecord, RecordFiles, Removal
from waterflowd.model.ids import AttemptId, RunId


class StoredContent(Protocol):
    """What has blocks: an artifact, or a cache entry."""

    @property
    def scope(self) -> str:
        """The scope of the blocks."""
        ...

    @property
    def table(self) -> list[bytes]:
        """The blocks of the table."""
        ...

    @property
    def listing(self) -> list[bytes]:
        """The blocks of the list of files."""
        ...


#: How long the free space of the disk is believed.
_SPACE_S = 0.5


class ArtifactStore:
    """The artifacts below a directory. One thread at a time may change it; any may read."""

    def __init__(self, root: Path, limits: ArtifactLimits, free_bytes: Callable[[Path], int] | None = None) -> None:
        self.limits = limits
        self.blocks = BlockFiles(root)
        self.records = RecordFiles(root)
        self.root = root
        self._free_bytes = free_bytes or _free_bytes
        self._free_until = 0.0
        #: What may be stored until the free space is looked at again.
        self._room = 0
        #: Reads a block from the bucket, if there is one: scope and digest.
        self.read_from_bucket: Callable[[str, bytes], bytes] | None = None

    def begin(self, name: AttemptId, action: messages.BeginArtifact, now: int) -> None:
        """Checks an upload before it begins. Raises `Rejected` WF330 (limits), WF332 (name taken), `Retryable` WF302."""
        self._check(name, action, now)
        self.check_space(0)

    def missing(self, scope: str, digests: Sequence[bytes]) -> list[int]:
        """The positions of the blocks that are not stored; the others stay for a while."""
        return [number for number, digest in enumerate(digests) if not self.blocks.has(scope, digest, touches=True)]

    def store(self, scope: str, digest: bytes, data: bytes) -> None:
        """Stores a block, durably. Raises `Rejected` WF330 and WF331, `Retryable` WF302, `OSError`."""
        self.check_space(len(data))
        try:
            self.blocks.put(scope, digest, data)
        except OSError as error:
            raise disk_error(error) from error

    def commit(self, name: AttemptId, scope: str, action: messages.CommitArtifact, now: int) -> ArtifactRecord:
        """Stores an artifact. Raises as `begin`, and `Rejected` WF333 when blocks of it are missing, WF331 for wrong sums."""
        self._check(name, action, now)
        table = self.verify(scope, action)
        return self.record(name, scope, action, now, list(table.digests()))

    def check_commit(self, name: AttemptId, scope: str, action: messages.CommitArtifact, now: int) -> BlockTable:
        """The table of an artifact whose content is in the bucket, before it is looked for there. Raises as `commit`."""
        self._check(name, action, now)
        return self._sized_table(scope, action)

    def record(
        self,
        name: AttemptId,
        scope: str,
        action: messages.CommitArtifact,
        now: int,
        blocks: Sequence[bytes] | None,
    ) -> ArtifactRecord:
        """Writes the record of an artifact with these blocks of content, which are stored; None: they are in the bucket."""
        local = [*(blocks or ()), *action.table, *action.listing]
        # Also keeps those that no other artifact has from being removed just now.
        if blocks is None and self.missing(scope, local):
            raise blocks_gone()
        days = action.retention_days
        keep_ms = days * DAY_MS if days else self.limits.keep_ms
        record = ArtifactRecord(
            name=action.name,
            scope=scope,
            job=name.job,
            step=name.step,
            attempt=name.number,
            created_at=now,
            expires_at=None if keep_ms is None else now + keep_ms,
            files=action.files,
            size=action.size,
            digest=content.artifact_digest(action.table, action.listing),
            table=list(action.table),
            listing=list(action.listing),
            is_in_bucket=blocks is None,
        )
        try:
            self.blocks.sync(scope, iter(local))
            self.records.write(name.run, record)
        except OSError as error:
            raise disk_error(error) from error
        return record

    def verify(self, scope: str, action: messages.CommitArtifact | messages.CommitCache) -> BlockTable:
        """Checks that all blocks of a content are stored, and keeps them for a while. Returns its table.

        Raises `Rejected` WF333 when blocks are missing, WF331 for wrong sums.
        """
        table = self._sized_table(scope, action)
        sizes = (self.blocks.size(scope, digest) for digest in table.digests())
        if any(found != size for found, size in zip(sizes, table.sizes, strict=True)):
            raise blocks_gone()
        # Also keeps those that no other artifact has from being removed just now.
        if self.missing(scope, [*table.digests(), *action.table, *action.listing]):
            raise blocks_gone()
        return table

    def find(self, run: RunId, name: str, now: int) -> ArtifactRecord | None:
        """The artifact of this name; None if there is none, or it was removed or has expired."""
        record = self.records.read(run, name)
        return None if record is None or not record.is_available(now) else record

    def of_run(self, run: RunId, now: int) -> list[ArtifactRecord]:
        """The artifacts of a run, by name."""
        return [record for record in self.records.of_run(run) if record.is_available(now)]

    def remove(self, run: RunId, record: ArtifactRecord, removal: Removal) -> None:
        """Removes an artifact; its blocks are unused from now on, and what is left of its record says when and why."""
        try:
            self.records.write(run, msgspec.structs.replace(record, table=[], listing=[], removal=removal))
        except OSError:
            # A full disk must not keep what takes its space.
            self.records.remove(run, record.name)

    def keep_blocks(self, record: ArtifactRecord) -> bool:
        """Keeps the blocks of an artifact from being removed just now; False if some of them are gone already.

        Blocks in the bucket are not looked for: they stay as long as a record has them.
        """
        return not self.missing(record.scope, list(local_blocks_of(self, record)))

    def table(self, record: StoredContent) -> BlockTable:
        """The table of the content's blocks."""
        return self._table(record.scope, record.table)

    def listing(self, record: ArtifactRecord) -> list[ArtifactFile]:
        """The files of an artifact, in the order of its content. Raises `Rejected` WF762 if a hostile agent has made it up."""
        blob = b"".join(self.blocks.get(record.scope, digest) for digest in record.listing)
        files = content.decode_listing(blob, record.files)
        if len(files) != record.files or sum(file.size for file in files) != record.size:
            raise Rejected("WF762", f'the list of files of the artifact "{record.name}" does not fit its content')
        return files

    def usage(self) -> ArtifactUsage:
        """The space that is used; at once."""
        return ArtifactUsage(
            stored_bytes=self.blocks.known_bytes, free_bytes=self._free_bytes(self.root), limits=self.limits
        )

    def by_scope(self) -> dict[str, list[ArtifactRecord]]:
        """All artifacts by the scope of their blocks. Raises `Stalled` WF304."""
        found: dict[str, list[ArtifactRecord]] = {}
        for record in self.records.all():
            found.setdefault(record.scope, []).append(record)
        return found

    def used(self, records: Iterable[StoredContent]) -> set[bytes]:
        """The digests of the blocks of these contents in the data directory. Raises `WaterflowError` for a lost table."""
        return {digest for record in records for digest in local_blocks_of(self, record)}

    def bucket_bytes(self) -> int:
        """Size of the content of all artifacts in a bucket; equal blocks count once."""
        total = 0
        for records in self.by_scope().values():
            counted: set[bytes] = set()
            for record in records:
                if record.is_in_bucket:
                    table = self.table(record)
                    for digest, size in zip(table.digests(), table.sizes, strict=True):
                        total += 0 if digest in counted else size
                        counted.add(digest)
        return total

    def used_in_bucket(self, scope: str | None = None) -> dict[str, set[bytes]]:
        """The digests of the content of all artifacts in the bucket, by scope. Raises `WaterflowError` for a lost table."""
        found: dict[str, set[bytes]] = {}
        for record in self.records.all():
            if record.is_in_bucket and scope in (None, record.scope):
                found.setdefault(record.scope, set()).update(self.table(record).digests())
        return found

    def content(self, record: ArtifactRecord, digest: bytes) -> bytes:
        """A block of the content of an artifact, wherever it is. Raises `Stalled` WF304, `Retryable` WF322."""
        if not record.is_in_bucket:
            return self.blocks.get(record.scope, digest)
        if self.read_from_bucket is None:
            raise Stalled("WF304", "the artifact is in a bucket, but artifacts.storage is not set")
        return self.read_from_bucket(record.scope, digest)

    def _sized_table(self, scope: str, action: messages.CommitArtifact | messages.CommitCache) -> BlockTable:
        check_table_blocks(action)
        table = self._table(scope, action.table)
        if table.size != action.size:
            raise Rejected("WF331", f"the artifact has {table.size} bytes of content, not {action.size}")
        return table

    def _table(self, scope: str, digests: Sequence[bytes]) -> BlockTable:
        if any(not self.blocks.has(scope, digest) for digest in digests):
            raise blocks_gone()
        return BlockTable(b"".join(self.blocks.get(scope, digest) for digest in digests))

    def _check(self, name: AttemptId, action: messages.BeginArtifact | messages.CommitArtifact, now: int) -> None:
        content.check_name(action.name)
        limits = self.limits
        within("an artifact may have", action.size, limits.artifact_bytes, "bytes", "artifacts.artifact-max-bytes")
        within("an artifact may have", action.files, limits.files, "files", "artifacts.artifact-max-files")
        others = []
        for record in self.records.of_run(name.run):
            if record.name != action.name:
                others.append(record)
            elif (
                record.is_available(now)
                and not action.is_replacing
                and (record.job, record.step) != (name.job, name.step)
            ):
                raise Rejected(
                    "WF332",
                    f'the run has an artifact "{action.name}" already, of {record.job}/{record.step}; choose another name, '
                    "such as one with a value of the matrix, or set overwrite: true",
                )
        within("a run may have", len(others) + 1, ARTIFACTS_MAX, "artifacts", "")
        used = sum(record.size for record in others if record.is_available(now))
        within(
            "the artifacts of a run may have", used + action.size, limits.run_bytes, "bytes", "artifacts.run-max-bytes"
        )

    def check_space(self, size: int) -> None:
        """Raises `Rejected` WF330 and `Retryable` WF302 if there is no space for so many bytes."""
        check_total(self.blocks.stored_bytes + size, self.limits)
        now = time.monotonic()
        self._room -= size
        if now < self._free_until and self._room >= 0:
            return
        free = self._free_bytes(self.root)
        self._room = free - self.limits.reserved_bytes - size
        if self._room < 0:
            raise Retryable(
                "WF302",
                f"the daemon's disk is almost full: {free >> 20} MiB are free, and artifacts leave "
                f"{self.limits.reserved_bytes >> 20} MiB free (artifacts.reserved-bytes); free some space",
            )
        self._free_until = now + _SPACE_S


def block_of(record: StoredContent, table: BlockTable, part: ArtifactPart, index: int) -> bytes:
    """The digest of a block of a content. Raises `Rejected` WF334 if it has no such block."""
    count = {ArtifactPart.TABLE: len(record.table), ArtifactPart.LISTING: len(record.listing)}.get(part, len(table))
    if index >= count:
        raise Rejected("WF334", f"the artifact has no block {index}")
    if part is ArtifactPart.CONTENT:
        return table.digest(index)
    return (record.table if part is ArtifactPart.TABLE else record.listing)[index]


def blocks_of(store: ArtifactStore, record: StoredContent) -> Iterator[bytes]:
    """The digests of all blocks of a content."""
    yield from record.table
    yield from record.listing
    yield from store.table(record).digests()


def local_blocks_of(store: ArtifactStore, record: StoredContent) -> Iterator[bytes]:
    """The digests of the blocks of a content that are in the data directory."""
    if isinstance(record, ArtifactRecord) and record.is_in_bucket:
        yield from record.table
        yield from record.listing
    else:
        yield from blocks_of(store, record)


def check_table_blocks(action: messages.CommitArtifact | messages.CommitCache) -> None:
    """Raises `Rejected` WF331 for more blocks of a table than the content can have."""
    if len(action.table) > content.table_blocks_max(action.size):
        raise Rejected("WF331", f"the artifact has too many blocks for {action.size} bytes")


def blocks_gone() -> Rejected:
    """Blocks of an artifact are missing at its commit."""
    return Rejected("WF333", "blocks of the artifact are not stored any longer; it has to be sent again")


def disk_error(error: OSError) -> Exception:
    """The error of a full disk in words; any other error as it is."""
    if error.errno in DISK_FULL_ERRORS:
        return Retryable("WF302", "the daemon's disk is full; the artifact was not stored")
    return error


def _free_bytes(root: Path) -> int:
    # Before the first artifact, the directory does not exist.
    place = root if root.exists() else root.parent
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize
