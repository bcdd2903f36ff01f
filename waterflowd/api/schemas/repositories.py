"""Repositories, the workflows known from them, and the schedules of these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.access.repository_quotas import QuotaUse
from waterflowd.admin.ports import DefinitionRow, RepositoryRequest, RepositoryRow, ScheduleRow
from waterflowd.api.schemas.problems import FileErrorSchema
from waterflowd.api.timestamps import Timestamp, format_timestamp, timestamp
from waterflowd.dsl import cron
from waterflowd.model import durations
from waterflowd.model.plan import CatchUp, InputSpec, InputType, Overlap
from waterflowd.reconcile.conditions import Condition, ConditionType
from waterflowd.reconcile.events import ScheduleOutcome


class ConditionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of a repository. `at` is when its status or reason last changed."""

    type: ConditionType
    status: Literal["true", "false", "unknown"]
    reason: str
    text: str
    at: Timestamp | None

    @classmethod
    def of(cls, condition: Condition) -> ConditionSchema:
        """The condition as it is now."""
        return cls(
            type=condition.type,
            status="unknown" if condition.is_true is None else "true" if condition.is_true else "false",
            reason=condition.code,
            text=condition.text,
            at=timestamp(condition.since_at),
        )


class QuotaSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A quota: its key in the configuration, the amount per hour, and how much of it is used. `text` is empty below 80 %."""

    key: str
    limit: int
    used: int
    exceeded: bool
    text: str

    @classmethod
    def of(cls, use: QuotaUse) -> QuotaSchema:
        """The quota as it is now."""
        return cls(key=use.key, limit=use.limit, used=use.used, exceeded=use.is_exceeded, text=use.text)


class RepositorySchema(msgspec.Struct, frozen=True, kw_only=True):
    """A watched repository: the revisions that were fetched, attempted and applied last."""

    name: str
    url: str
    refs: tuple[str, ...]
    status: Literal["ready", "degraded"]
    text: str
    fetched_at: Timestamp | None
    revision_fetched: str | None
    revision_attempted: str | None
    revision_applied: str | None
    conditions: list[ConditionSchema]
    quotas: list[QuotaSchema]
    groups: tuple[str, ...]
    readable_by: tuple[str, ...]
    #: `configuration`, or `api` for one that was added through the API.
    source: Literal["configuration", "api"]

    @classmethod
    def of(cls, row: RepositoryRow) -> RepositorySchema:
        """The repository as it is now."""
        return cls(
            name=row.name,
            url=row.url,
            refs=row.refs,
            status="ready" if row.is_ready else "degraded",
            text=row.text,
            fetched_at=timestamp(row.fetched_at),
            revision_fetched=row.revision_fetched,
            revision_attempted=row.revision_attempted,
            revision_applied=row.revision_applied,
            conditions=[ConditionSchema.of(condition) for condition in row.conditions],
            quotas=[QuotaSchema.of(use) for use in row.quotas],
            groups=row.groups,
            readable_by=row.readable_by,
            source="api" if row.is_added else "configuration",
        )


_Text = Annotated[str, msgspec.Meta(max_length=1_000)]
_Texts = Annotated[tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=200)], ...], msgspec.Meta(max_length=100)]


class RepositoryChangeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a repository, as in `[[repositories]]` of the configuration. What is left out stays as it is.

    Files with credentials are in the `credentials-dir` of `[added-repositories]`; durations are texts such as `1m`.
    """

    url: _Text | None = None
    refs: _Texts | None = None
    paths: _Texts | None = None
    interval: _Text | None = None
    groups: _Texts | None = None
    webhook_keys: _Texts | None = None
    readable_by: _Texts | None = None
    credentials_file: _Text | None = None
    ssh_key_file: _Text | None = None
    known_hosts_file: _Text | None = None
    ca_file: _Text | None = None
    fetch_timeout: _Text | None = None
    fetch_max_bytes: int | None = None
    runs_per_hour: int | None = None
    output_bytes_per_hour: int | None = None

    def request(self) -> RepositoryRequest:
        """The settings; raises `Rejected` WF605 for an invalid duration."""
        return RepositoryRequest(
            url=self.url,
            refs=self.refs,
            paths=self.paths,
            interval_ms=_duration("interval", self.interval),
            groups=self.groups,
            webhook_keys=self.webhook_keys,
            readable_by=self.readable_by,
            credentials_file=self.credentials_file,
            ssh_key_file=self.ssh_key_file,
            known_hosts_file=self.known_hosts_file,
            ca_file=self.ca_file,
            fetch_timeout_ms=_duration("fetch_timeout", self.fetch_timeout),
            fetch_bytes_max=self.fetch_max_bytes,
            runs_per_hour=self.runs_per_hour,
            output_bytes_per_hour=self.output_bytes_per_hour,
        )


class RepositoryBody(RepositoryChangeBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repository to watch: its name, and settings as in `[[repositories]]` of the configuration."""

    name: Annotated[str, msgspec.Meta(max_length=64)]


def _duration(key: str, text: str | None) -> int | None:
    try:
        return durations.parse(text) if text is not None else None
    except ValueError as error:
        raise Rejected("WF605", f"{key}: {error}", where=key) from None


class RemovedRepositorySchema(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that is no longer watched, and how many of its runs were cancelled for it."""

    name: str
    cancelled_runs: int


class RepositoryList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of repositories."""

    repositories: list[RepositorySchema]
    next: str | None


# Definitions ----------------------------------------------------------------------------------------------------------


class InputSchema(msgspec.Struct, frozen=True, kw_only=True):
    """An input of a workflow."""

    name: str
    type: InputType
    description: str
    required: bool
    default: Any
    options: tuple[str, ...]
    pattern: str | None

    @classmethod
    def of(cls, spec: InputSpec) -> InputSchema:
        """The input as the file declares it."""
        return cls(
            name=spec.name,
            type=spec.type,
            description=spec.description,
            required=spec.required,
            default=spec.default,
            options=spec.options,
            pattern=spec.pattern,
        )


class DefinitionSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow known from a repository."""

    path: str
    name: str
    repository: str
    revision: str
    description: str
    status: Literal["ready", "broken"]
    text: str
    triggers: tuple[str, ...]
    inputs: list[InputSchema]
    errors: list[FileErrorSchema]

    @classmethod
    def of(cls, row: DefinitionRow) -> DefinitionSchema:
        """The newest version of the workflow."""
        return cls(
            path=row.path,
            name=row.name,
            repository=row.repository,
            revision=row.revision,
            description=row.description,
            status="ready" if row.is_ready else "broken",
            text=row.text,
            triggers=row.triggers,
            inputs=[InputSchema.of(spec) for spec in row.inputs],
            errors=[FileErrorSchema.of(diagnostic) for diagnostic in row.errors],
        )


class DefinitionList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of workflows."""

    definitions: list[DefinitionSchema]
    next: str | None


# Schedules ------------------------------------------------------------------------------------------------------------


class ScheduleSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule of a workflow. `next` holds its next instants; those in `waiting` wait for an earlier run."""

    path: str
    name: str
    repository: str
    ref: str
    revision: str
    cron: str
    timezone: str
    overlap: Overlap
    catch_up: CatchUp
    next: list[Timestamp]
    waiting: list[Timestamp]
    last_due_at: Timestamp | None
    last_outcome: ScheduleOutcome | None
    last_run: str | None
    text: str

    @classmethod
    def of(cls, row: ScheduleRow, count: int = 1) -> ScheduleSchema:
        """The schedule with at most `count` next instants."""
        return cls(
            path=row.path,
            name=row.name,
            repository=row.repository,
            ref=row.ref,
            revision=row.revision,
            cron=row.cron,
            timezone=row.timezone,
            overlap=row.overlap,
            catch_up=row.catch_up,
            next=[format_timestamp(instant) for instant in _upcoming(row, count)],
            waiting=[format_timestamp(instant) for instant in row.waiting],
            last_due_at=timestamp(row.last_due_at),
            last_outcome=row.last_outcome,
            last_run=row.last_run,
            text=row.text,
        )


class ScheduleList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of schedules."""

    schedules: list[ScheduleSchema]
    next: str | None


def _upcoming(row: ScheduleRow, count: int) -> list[int]:
    if row.next_at is None:
        return []
    # Computed here and not in the row, so that only the rows of the page cost calendar steps.
    return [row.next_at, *cron.upcoming(row.cron, row.timezone, row.next_at, count - 1)]
