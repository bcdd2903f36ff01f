"""The daemon itself, and the state of the whole system."""

from __future__ import annotations

from typing import Literal

import msgspec

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


class SystemStatusSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the whole system on one screen. `failed` holds the most recent failures."""

    status: Literal["healthy", "degraded"]
    problems: list[str]
    daemon: DaemonSchema
    repositories: list[RepositorySchema]
    agents: list[AgentSchema]
    agents_total: int
    pending: list[PendingAgentSchema]
    open_runs: int
    running: list[RunSummarySchema]
    waiting: list[RunPartSchema]
    approvals: list[PendingApprovalSchema]
    failed: list[RunSummarySchema]
    schedules: list[ScheduleSchema]
