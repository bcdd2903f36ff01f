"""What is kept of each artifact: one small file, `runs/<run>/<hash of the name>`, whose rename is the commit.

The files of an artifact are not in it: they are in blocks, like its content, so that a list of artifacts is read at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from waterflow_agent.errors import Stalled
from waterflowd.artifacts import sealed_files
from waterflowd.model.ids import RunId, is_run_id


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """When and why an artifact was removed."""

    at: int
    #: `expired` or `deleted`.
    reason: str
    #: Who has deleted it.
    by: str = ""


class ArtifactRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact of a run."""

    name: str
    #: The scope of its blocks.
    scope: str
    #: The step that has stored it; in a re-run, perhaps of the earlier run.
    job: str
    step: str
    attempt: int
    created_at: int
    #: None while its run exists.
    expires_at: int | None
    files: int
    size: int
    #: Identifies the content (`waterflow_agent.artifacts.content`).
    digest: bytes
    table: list[bytes]
    listing: list[bytes]
    #: The earlier run from which it was kept.
    kept_from: RunId | None = None
    #: What is left of a removed artifact says so, as long as its run exists. It has no blocks.
    removal: Removal | None = None
    #: Whether its content is in the bucket of `artifacts.storage`; table and listing are in the data directory as well.
    is_in_bucket: bool = False

    def is_expired(self, now: int) -> bool:
        """Whether it has expired."""
        return self.expires_at is not None and now >= self.expires_at

    def is_available(self, now: int) -> bool:
        """Whether it can be fetched."""
        return self.removal is None and not self.is_expired(now)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ArtifactRecord)


class RecordFiles:
    """The records below a directory. Blocking."""

    def __init__(self, root: Path) -> None:
        self._runs = root / "runs"

    def write(self, run: RunId, record: ArtifactRecord) -> None:
        """Writes or replaces a record, durably. Raises `OSError`; then nothing has changed."""
        sealed_files.write(self._runs / run / file_name(record.name), _encoder.encode(record))

    def read(self, run: RunId, name: str) -> ArtifactRecord | None:
        """The record of an artifact; None if there is none. Raises `Stalled` WF304 for a damaged one."""
        path = self._runs / run / file_name(name)
        try:
            return decode(path)
        except FileNotFoundError:
            return None

    def of_run(self, run: RunId) -> list[ArtifactRecord]:
        """All artifacts of a run, by name. Raises `Stalled` WF304 for a damaged record."""
        found = []
        for path in self.paths(run):
            with contextlib.suppress(FileNotFoundError):
                found.append(decode(path))
        return sorted(found, key=lambda record: record.name)

    def paths(self, run: RunId) -> list[Path]:
        """The files of a run's records."""
        folder = self._runs / run
        try:
            return sorted(folder / name for name in os.listdir(folder) if not name.endswith(".new"))
        except FileNotFoundError:
            return []

    def runs(self) -> list[RunId]:
        """The runs that have artifacts."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(RunId(name) for name in os.listdir(self._runs) if is_run_id(name))
        return []

    def remove(self, run: RunId, name: str) -> None:
        """Removes a record; its blocks are unused from now on."""
        with contextlib.suppress(FileNotFoundError):
            (self._runs / run / file_name(name)).unlink()
        with contextlib.suppress(OSError):
            (self._runs / run).rmdir()

    def remove_run(self, run: RunId) -> None:
        """Removes all records of a run."""
        folder = self._runs / run
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(folder):
                (folder / name).unlink(missing_ok=True)
            folder.rmdir()

    def all(self) -> Iterator[ArtifactRecord]:
        """Every record, also one that is copied to another run and then removed meanwhile.

        Raises `Stalled` WF304 for a damaged one.
        """
        seen: set[str] = set()
        is_changing = True
        while is_changing:
            is_changing = False
            for path in (path for run in self.runs() for path in self.paths(run) if str(path) not in seen):
                seen.add(str(path))
                is_changing = True
                with contextlib.suppress(FileNotFoundError):
                    yield decode(path)


def file_name(name: str) -> str:
    """The name of an artifact's record: the name itself may be too long, or differ only in case."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def decode(path: Path) -> ArtifactRecord:
    """Reads a record. Raises `Stalled` WF304 when it is damaged, and `FileNotFoundError`."""
    body = sealed_files.read(path)
    with contextlib.suppress(msgspec.MsgspecError):
        if body is not None:
            return _decoder.decode(body)
    raise Stalled("WF304", f"the record of an artifact is damaged: {path}; remove the file, or restore a backup")
