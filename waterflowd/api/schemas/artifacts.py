"""Artifacts of a run."""

from __future__ import annotations

import msgspec

from waterflow_agent.artifacts.content import ArtifactFile
from waterflowd.api.timestamps import format_timestamp
from waterflowd.artifacts.records import ArtifactRecord, Removal


class ArtifactRemovalSchema(msgspec.Struct, frozen=True, kw_only=True):
    """When and why an artifact was removed: `expired`, or `deleted` by somebody."""

    at: str
    reason: str
    by: str | None


class ArtifactSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact: which step stored it, and what it contains.

    `expires_at` is null if it is kept as long as its run. `kept_from` is the earlier run from which a re-run has kept it.
    `removal` is null as long as it can be downloaded.
    """

    name: str
    files: int
    bytes: int
    digest: str
    job: str
    step: str
    attempt: int
    created_at: str
    expires_at: str | None
    kept_from: str | None
    removal: ArtifactRemovalSchema | None

    @classmethod
    def of(cls, record: ArtifactRecord, now: int) -> ArtifactSchema:
        """The artifact as the API shows it."""
        return cls(
            name=record.name,
            files=record.files,
            bytes=record.size,
            digest=f"sha256:{record.digest.hex()}",
            job=record.job,
            step=record.step,
            attempt=record.attempt,
            created_at=format_timestamp(record.created_at),
            expires_at=None if record.expires_at is None else format_timestamp(record.expires_at),
            kept_from=record.kept_from,
            removal=_removal(record, now),
        )


def _removal(record: ArtifactRecord, now: int) -> ArtifactRemovalSchema | None:
    removal = record.removal
    if removal is None and record.expires_at is not None and record.is_expired(now):
        # The next clean-up will say so.
        removal = Removal(at=record.expires_at, reason="expired")
    if removal is None:
        return None
    return ArtifactRemovalSchema(at=format_timestamp(removal.at), reason=removal.reason, by=removal.by or None)


class ArtifactListSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The artifacts of a run by name, also those that were removed."""

    artifacts: list[ArtifactSchema]


class ArtifactFileSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A file of an artifact."""

    path: str
    bytes: int
    is_executable: bool


class ArtifactDetailsSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact with some of its files, by path. `next` is the `after` of the next page, or null."""

    artifact: ArtifactSchema
    #: Size of the tar archive with all files.
    archive_bytes: int
    files: list[ArtifactFileSchema]
    next: int | None

    @classmethod
    def of(
        cls, record: ArtifactRecord, now: int, archive_bytes: int, files: list[ArtifactFile], following: int | None
    ) -> ArtifactDetailsSchema:
        """The artifact with a page of files."""
        rows = [ArtifactFileSchema(path=file.path, bytes=file.size, is_executable=file.is_executable) for file in files]
        return cls(artifact=ArtifactSchema.of(record, now), archive_bytes=archive_bytes, files=rows, next=following)
