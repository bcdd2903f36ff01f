"""Administration of repositories: status, workflows, schedules, and requests to fetch, suspend and resume."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.access.repository_quotas import QuotaUse, RepositoryQuotas
from waterflowd.admin.ports import DefinitionPlan, DefinitionRow, RepositoryRow, ScheduleRow
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model.plan import InputSpec
from waterflowd.reconcile import codes, ref_updates, schedules
from waterflowd.reconcile.catalog import RepositoryCatalog
from waterflowd.reconcile.conditions import ConditionType
from waterflowd.reconcile.loop import scheduler
from waterflowd.reconcile.loop.live_repository import LiveRepository
from waterflowd.reconcile.loop.plan_recovery import not_ready
from waterflowd.reconcile.loop.reconciler import Reconciler
from waterflowd.reconcile.loop.repository import RepositoryLoop
from waterflowd.reconcile.state import FileState, RefState


class _Described(msgspec.Struct, frozen=True):
    """The part of a plan that is listed; decoding only this is ten times faster than decoding all."""

    description: str = ""
    inputs: tuple[InputSpec, ...] = ()


_described = msgspec.msgpack.Decoder(_Described)
#: What the rows of a ref depend on: the ref, and the versions of its files, of the plans, of the webhook registry and of
#: what jobs may use.
_RowsKey = tuple[str, int, int, int, int]


class GitRepositoryAdmin:
    """Implements `admin.ports.RepositoryAdmin` over the reconciler."""

    def __init__(
        self, reconciler: Reconciler, quotas: RepositoryQuotas, catalog: RepositoryCatalog | None = None
    ) -> None:
        self._reconciler = reconciler
        self._quotas = quotas
        self._catalog = catalog
        self._rows: dict[str, tuple[_RowsKey, list[DefinitionRow]]] = {}

    def status(self) -> Sequence[RepositoryRow]:
        """All repositories, in the order of the configuration."""
        return [self._repository_row(loop.repository) for loop in self._reconciler.loops.values()]

    def shared_quotas(self) -> Sequence[QuotaUse]:
        """The quotas that all workflows sent to the API share."""
        return self._quotas.uses(None, self._reconciler.ports.clock.now())

    def _repository_row(self, repository: LiveRepository) -> RepositoryRow:
        quotas = self._quotas.uses(repository.name, self._reconciler.ports.clock.now())
        is_added = self._catalog is not None and repository.name not in self._catalog.configured
        return _repository_row(repository, quotas, is_added=is_added)

    async def definitions(self) -> Sequence[DefinitionRow]:
        """The workflows of each repository's default ref, by path."""
        rows = [row for loop in self._reconciler.loops.values() for row in await self._definition_rows(loop)]
        return sorted(rows, key=lambda row: (row.path, row.repository))

    async def schedules(self, name: str | None) -> Sequence[ScheduleRow]:
        """The schedules of each repository's default ref, by path, or those of one workflow."""
        found = [
            _schedule_row(loop.repository, row)
            for loop in self._reconciler.loops.values()
            for row in await self._reconciler.schedulers[loop.repository.name].rows(name)
        ]
        return sorted(found, key=lambda row: (row.path, row.repository, row.cron, row.timezone))

    async def plan(self, path: str, repository: str | None) -> DefinitionPlan:
        """The plan of a definition, as of its ref's applied commit."""
        found = [
            (loop, ref, ref.files[path])
            for loop in self._reconciler.loops.values()
            if repository in (None, loop.repository.name)
            for ref in loop.repository.watched()[:1]
            if path in ref.files
        ]
        if not found:
            text = f'no workflow "{escape_for_display(path)}" in the repositories; see `waterflowctl workflows`'
            raise Rejected(codes.NOT_FOUND, text, where="path", status=404)
        if len(found) > 1:
            names = ", ".join(loop.repository.name for loop, _, _ in found)
            text = f'workflow "{escape_for_display(path)}" exists in several repositories ({names}); name one of them'
            raise Rejected(codes.AMBIGUOUS, text, where="repository", status=409)
        return await self._plan(*found[0])

    async def sync(self, name: str, *, is_awaited: bool) -> RepositoryRow:
        """Fetches now; with `is_awaited` returns when the result is applied."""
        loop = self._reconciler.loop(name)
        if is_awaited:
            await loop.sync()
        else:
            loop.request_reconciliation()
        return self._repository_row(loop.repository)

    async def suspend(self, name: str, by: str) -> RepositoryRow:
        """Ignores pushes to a repository until `resume`. Idempotent."""
        loop = self._reconciler.loop(name)
        await loop.suspend(by)
        return self._repository_row(loop.repository)

    async def resume(self, name: str, by: str) -> RepositoryRow:
        """Fetches a suspended repository again. Idempotent."""
        loop = self._reconciler.loop(name)
        await loop.resume(by)
        return self._repository_row(loop.repository)

    async def _plan(self, loop: RepositoryLoop, ref: RefState, file: FileState) -> DefinitionPlan:
        errors = loop.repository.errors(file.newest)
        if errors:
            # The suggestion may be lines for the configuration.
            first = "; ".join(filter(None, (errors[0].message, " ".join(errors[0].suggestion.split("\n")))))
            text = f'workflow "{escape_for_display(file.newest.path)}" has errors at {ref.commit[:7]}: {first}'
            raise Rejected(codes.BROKEN_WORKFLOW, text, where="path", status=409)
        plan = await self._reconciler.ports.plans.get(file.newest.plan_hash or "")
        if plan is None:
            loop.plan_recovery.request(ref.ref, file.newest)
            raise Rejected(codes.PLAN_NOT_READY, not_ready(file.newest.path).text, where="path", status=409)
        name = loop.repository.name
        git = ref_updates.git_context(name, ref.ref, ref.commit, ref.author, ref.message)
        return DefinitionPlan(plan=plan, repository=name, revision=ref.commit, ref=ref.ref, git=git)

    async def _definition_rows(self, loop: RepositoryLoop) -> list[DefinitionRow]:
        watched = loop.repository.watched()
        if not watched:
            return []
        ref = watched[0]
        ports = self._reconciler.ports
        key = (ref.ref, ref.version, ports.plans.version, ports.webhooks.version, ports.access.version)
        cached = self._rows.get(loop.repository.name)
        if cached is None or cached[0] != key:
            rows = [await self._definition_row(loop, ref, file) for _, file in sorted(ref.files.items())]
            cached = self._rows[loop.repository.name] = (key, rows)
        return cached[1]

    async def _definition_row(self, loop: RepositoryLoop, ref: RefState, file: FileState) -> DefinitionRow:
        newest = file.newest
        errors = loop.repository.errors(newest)
        # A file with errors is listed with the name and triggers of its last version without errors.
        shown_file = newest if newest.plan_hash is not None else file.good or newest
        plan = await self._reconciler.ports.plans.get(shown_file.plan_hash) if shown_file.plan_hash else None
        described = _described.decode(plan) if plan is not None else _Described()
        return DefinitionRow(
            path=newest.path,
            name=shown_file.name,
            repository=loop.repository.name,
            revision=ref.commit,
            description=described.description,
            triggers=shown_file.triggers.names if shown_file.triggers is not None else (),
            inputs=described.inputs,
            is_ready=not errors,
            text=_errors_text(errors) if errors else "ready",
            errors=tuple(errors),
        )


def _errors_text(errors: Sequence[Diagnostic]) -> str:
    if len(errors) == 1:
        return f"1 error: {errors[0].message}"
    return f"{len(errors)} errors, the first: {errors[0].message}"


def _repository_row(repository: LiveRepository, quotas: Sequence[QuotaUse], *, is_added: bool) -> RepositoryRow:
    ready = repository.conditions.get(ConditionType.READY)
    progress = repository.progress
    first = next(iter(progress.fetched), None)
    applied = next((ref for ref in repository.watched() if first in (None, ref.ref)), None)
    return RepositoryRow(
        name=repository.name,
        url=repository.settings.url,
        groups=repository.settings.groups,
        readable_by=repository.settings.readable_by,
        refs=tuple(progress.fetched) or repository.settings.refs,
        fetched_at=progress.fetched_at,
        revision_fetched=progress.fetched.get(first) if first else None,
        revision_attempted=progress.attempted.get(first) if first else None,
        revision_applied=applied.commit if applied else None,
        is_ready=ready.is_true is True,
        text=ready.text,
        conditions=repository.conditions.all(),
        quotas=tuple(quotas),
        is_added=is_added,
    )


def _schedule_row(repository: LiveRepository, row: scheduler.Row) -> ScheduleRow:
    schedule, last = row.schedule, row.schedule.last
    ref = repository.state.refs[schedule.ref]
    return ScheduleRow(
        path=schedule.name.path,
        name=row.file.newest.name,
        repository=repository.name,
        ref=schedule.ref,
        revision=ref.commit,
        cron=schedule.name.cron,
        timezone=schedule.name.timezone,
        overlap=row.trigger.overlap,
        catch_up=row.trigger.catch_up,
        next_at=row.next_at,
        waiting=schedule.queued,
        last_due_at=last.due_at if last is not None else None,
        last_outcome=last.outcome if last is not None else None,
        last_run=row.run,
        text=_schedule_text(repository, row),
    )


def _schedule_text(repository: LiveRepository, row: scheduler.Row) -> str:
    if repository.state.is_suspended:
        return "repository suspended: nothing starts until it is resumed"
    if row.schedule.queued:
        return f"{len(row.schedule.queued)} queued until the previous run ends"
    if row.schedule.last is None:
        return "not due yet"
    return schedules.text_of(row.schedule.last)
