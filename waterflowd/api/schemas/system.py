"""The daemon itself, and the state of the whole system."""

from __future__ import annotations

from typing import Literal

import msgspec

from waterflowd.admin.ports import AuditAdmin
from waterflowd.api.schemas.agents import AgentSchema, PendingAgentSchema
from waterflowd.api.schemas.gates import PendingApprovalSchema
from waterflowd.api.schemas.repositories import RepositorySchema, ScheduleSchema
from waterflowd.api.schemas.runs import RunPartSchema, RunSummarySchema
from waterflowd.api.timestamps import Timestamp


class HealthSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon is alive, or ready."""

    status: Literal["ok", "ready"]


class VersionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The release that is running."""

    name: str
    version: str


class DaemonSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon itself. `generation` counts its starts, `log_seq` is the newest event of the log, 0 without a feed."""

    version: str
    started_at: Timestamp | None
    now: Timestamp | None
    generation: int
    log_seq: int


class AuditExportSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A destination of the audit trail, and the number of records that it has not received. `failure` is "" if it works."""

    to: str
    waiting: int
    failure: str


class AuditStatusSchema(msgspec.Struct, frozen=True, kw_only=True):
    """How the audit trail is protected: whether a key seals it, and where it is exported to."""

    sealed: bool
    exports: list[AuditExportSchema]

    @classmethod
    def of(cls, audit: AuditAdmin) -> AuditStatusSchema:
        """The state now."""
        exports = [AuditExportSchema(to=row.name, waiting=row.waiting, failure=row.failure) for row in audit.exports()]
        return cls(sealed=audit.is_sealed, exports=exports)


class SystemStatusSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the whole system on one screen. `failed` holds the most recent failures."""

    status: Literal["healthy", "degraded"]
    problems: list[str]
    daemon: DaemonSchema
    repositories: list[RepositorySchema]
    agents: list[AgentSchema]
    agents_total: int
    agents_connected: int
    pending: list[PendingAgentSchema]
    open_runs: int
    running: list[RunSummarySchema]
    waiting: list[RunPartSchema]
    approvals: list[PendingApprovalSchema]
    failed: list[RunSummarySchema]
    schedules: list[ScheduleSchema]
    audit: AuditStatusSchema
