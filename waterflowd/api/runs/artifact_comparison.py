"""What differs between the artifacts of two runs: which there are, and the files of those with different digests.

Rules of this file: artifacts are matched by name, files by path and size. The content of files is not read: where only that
differs, the digests of the artifacts say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waterflow_agent.artifacts.content import ArtifactFile
from waterflowd.api.runs.comparison import ENTRIES_MAX
from waterflowd.artifacts.records import ArtifactRecord


class ArtifactState(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact in one of the runs. `is_removed` if its files are gone."""

    files: int
    bytes: int
    digest: str
    is_removed: bool


class ChangedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file with different sizes, in bytes; null where there is no such file."""

    path: str
    before: int | None
    after: int | None


class ChangedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact with different digests; null in the run that does not have it.

    `files` are the first of the `files_total` files that were added, are gone or have another size; null if they were not
    compared.
    """

    name: str
    before: ArtifactState | None
    after: ArtifactState | None
    files: list[ChangedFile] | None
    files_total: int


def changed_artifacts(
    before: Sequence[ArtifactRecord], after: Sequence[ArtifactRecord], now: int
) -> list[ChangedArtifact]:
    """The artifacts that differ, by name, without their files."""
    were, are = ({record.name: record for record in records} for records in (before, after))
    found: list[ChangedArtifact] = []
    for name in sorted({*were, *are}):
        was, current = were.get(name), are.get(name)
        if (was is not None and current is not None and was.digest == current.digest) or len(found) == ENTRIES_MAX:
            continue
        states = _state(was, now), _state(current, now)
        found.append(ChangedArtifact(name=name, before=states[0], after=states[1], files=None, files_total=0))
    return found


def _state(record: ArtifactRecord | None, now: int) -> ArtifactState | None:
    if record is None:
        return None
    return ArtifactState(
        files=record.files,
        bytes=record.size,
        digest=f"sha256:{record.digest.hex()}",
        is_removed=not record.is_available(now),
    )


def with_files(
    changed: ChangedArtifact, before: Sequence[ArtifactFile], after: Sequence[ArtifactFile], files_max: int
) -> ChangedArtifact:
    """The artifact with the files that differ, by path."""
    was, now = ({file.path: file.size for file in files} for files in (before, after))
    paths = sorted(path for path in was.keys() | now.keys() if was.get(path) != now.get(path))
    files = [ChangedFile(path=path, before=was.get(path), after=now.get(path)) for path in paths[:files_max]]
    return msgspec.structs.replace(changed, files=files, files_total=len(paths))
