"""Retention: rules, what they would remove, and removed runs."""

from __future__ import annotations

import msgspec

from waterflowd.admin.ports import RetentionRow
from waterflowd.api.timestamps import Timestamp, timestamp
from waterflowd.model.records import RemovedRun


class RetentionRowSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule would remove of a workflow: so many runs, or their output. `bytes` is an estimate."""

    rule: str
    repository: str | None
    path: str
    runs: int
    events: int
    bytes: int

    @classmethod
    def of(cls, row: RetentionRow) -> RetentionRowSchema:
        """The row as JSON."""
        return cls(**msgspec.structs.asdict(row))


class RetentionProgressSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed since the daemon started. `failed` runs could not be removed; the daemon's log says why."""

    runs: int
    outputs: int
    events: int
    bytes: int
    rounds: int
    round_ended_at: Timestamp | None
    is_running: bool
    failed: int


class RetentionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The rules that are set (ages in ms), what they would remove now, and what they have removed."""

    rules: dict[str, int]
    would_remove: list[RetentionRowSchema]
    removed: RetentionProgressSchema


class RemovedRunSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was removed, when, and by which rule."""

    id: str
    number: int
    name: str
    path: str
    repository: str | None
    removed_at: Timestamp | None
    rule: str

    @classmethod
    def of(cls, row: RemovedRun) -> RemovedRunSchema:
        """The row as JSON."""
        return cls(
            id=row.id,
            number=row.number,
            name=row.name,
            path=row.path,
            repository=row.repository,
            removed_at=timestamp(row.at),
            rule=row.rule.value,
        )


class RemovedRunList(msgspec.Struct, frozen=True, kw_only=True):
    """Removed runs."""

    removed_runs: list[RemovedRunSchema]
