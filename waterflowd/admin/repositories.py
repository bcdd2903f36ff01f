"""What the API shows of repositories: rows made from the loops' state. Reads only; nothing here is remembered but rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waterflow_agent.display import escape_for_display, quote
from waterflow_agent.errors import Rejected
from waterflowd.admin.ports import DefinitionPlan, DefinitionRow, RepositoryRow, ScheduleRow
from waterflowd.model.plan import InputSpec
from waterflowd.reconcile import codes, ref_updates, schedules
from waterflowd.reconcile.conditions import ConditionType
from waterflowd.reconcile.loop import scheduler
from waterflowd.reconcile.loop.reconciler import Reconciler
from waterflowd.reconcile.loop.repository import RepositoryLoop
from waterflowd.reconcile.state import FileState, RefState


class _Described(msgspec.Struct, frozen=True):
    """The part of a plan that is shown; decoding it alone is ten times faster than decoding all."""

    description: str = ""
    inputs: tuple[InputSpec, ...] = ()


_described = msgspec.msgpack.Decoder(_Described)
#: What the rows of one ref were made from: ref, versions of its files, of the plans, and of the names of webhooks.
_RowsKey = tuple[str, int, int, int]


class GitRepositoryAdmin:
    """Implements `admin.ports.RepositoryAdmin` over the reconciler."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._rows: dict[str, tuple[_RowsKey, list[DefinitionRow]]] = {}

    def status(self) -> Sequence[RepositoryRow]:
        """All repositories, in the order of the configuration."""
        return [_repository_row(loop) for loop in self._reconciler.loops.values()]

    def definitions(self) -> Sequence[DefinitionRow]:
        """The workflows of each repository's default ref, by path."""
        rows = [row for loop in self._reconciler.loops.values() for row in self._definition_rows(loop)]
        return sorted(rows, key=lambda row: (row.path, row.repository))

    def schedules(self, name: str | None) -> Sequence[ScheduleRow]:
        """The schedules of each repository's default ref, by path, or those of one workflow."""
        found = [
            _schedule_row(loop, row)
            for loop in self._reconciler.loops.values()
            for row in self._reconciler.schedulers[loop.settings.name].rows(name)
        ]
        return sorted(found, key=lambda row: (row.path, row.repository, row.cron, row.timezone))

    def plan(self, path: str, repository: str | None) -> DefinitionPlan:
        """The plan of a definition, as of its ref's applied commit."""
        found = [
            (loop, ref, ref.files[path])
            for loop in self._reconciler.loops.values()
            if repository in (None, loop.settings.name)
            for ref in loop.watched()[:1]
            if path in ref.files
        ]
        if not found:
            text = f'there is no workflow "{escape_for_display(path)}"'
            raise Rejected(codes.NOT_FOUND, text, where="path", status=404)
        if len(found) > 1:
            names = ", ".join(loop.settings.name for loop, _, _ in found)
            text = f'the workflow "{escape_for_display(path)}" is in several repositories: {names}; say which'
            raise Rejected(codes.AMBIGUOUS, text, where="repository", status=409)
        return self._plan(*found[0])

    async def sync(self, name: str, *, is_awaited: bool) -> RepositoryRow:
        """Looks now; with `is_awaited` returns when what is there is applied."""
        loop = self._reconciler.loop(name)
        if is_awaited:
            await loop.sync()
        else:
            loop.request_look()
        return _repository_row(loop)

    async def suspend(self, name: str, by: str) -> RepositoryRow:
        """Stops looking at a repository until `resume`. Idempotent."""
        loop = self._reconciler.loop(name)
        await loop.suspend(by)
        return _repository_row(loop)

    async def resume(self, name: str, by: str) -> RepositoryRow:
        """Looks at a repository again. Idempotent."""
        loop = self._reconciler.loop(name)
        await loop.resume(by)
        return _repository_row(loop)

    def _plan(self, loop: RepositoryLoop, ref: RefState, file: FileState) -> DefinitionPlan:
        errors = loop.errors(file.newest)
        if errors:
            text = f'the workflow "{escape_for_display(file.newest.path)}" has errors at {ref.commit[:7]}: {errors[0].message}'
            raise Rejected(codes.BROKEN_WORKFLOW, text, where="path", status=409)
        plan = self._reconciler.ports.plans.get(file.newest.plan_hash or "")
        if plan is None:
            loop.request_plan(ref.ref, file.newest)
            text = f"the workflow {quote(file.newest.path)} is being recompiled after a restart; try again in a moment"
            raise Rejected(codes.PLAN_NOT_READY, text, where="path", status=409)
        name = loop.settings.name
        git = ref_updates.git_context(name, ref.ref, ref.commit, ref.author, ref.message)
        return DefinitionPlan(plan=plan, repository=name, revision=ref.commit, ref=ref.ref, git=git)

    def _definition_rows(self, loop: RepositoryLoop) -> list[DefinitionRow]:
        watched = loop.watched()
        if not watched:
            return []
        ref = watched[0]
        ports = self._reconciler.ports
        key = (ref.ref, ref.version, ports.plans.version, ports.webhooks.version)
        held = self._rows.get(loop.settings.name)
        if held is None or held[0] != key:
            rows = [self._definition_row(loop, ref, file) for _, file in sorted(ref.files.items())]
            held = self._rows[loop.settings.name] = (key, rows)
        return held[1]

    def _definition_row(self, loop: RepositoryLoop, ref: RefState, file: FileState) -> DefinitionRow:
        newest = file.newest
        errors = loop.errors(newest)
        # A broken file is shown as it last was, so that people know what it would be.
        shown_file = newest if newest.plan_hash is not None else file.good or newest
        plan = self._reconciler.ports.plans.get(shown_file.plan_hash) if shown_file.plan_hash else None
        described = _described.decode(plan) if plan is not None else _Described()
        return DefinitionRow(
            path=newest.path,
            name=shown_file.name,
            repository=loop.settings.name,
            revision=ref.commit,
            description=described.description,
            triggers=ref_updates.trigger_names(shown_file.triggers),
            inputs=described.inputs,
            is_ready=not errors,
            text=f"errors: {len(errors)}; the first: {errors[0].message}" if errors else "ready",
            errors=tuple(errors),
        )


def _repository_row(loop: RepositoryLoop) -> RepositoryRow:
    ready = loop.conditions.get(ConditionType.READY)
    progress = loop.progress
    first = next(iter(progress.fetched), None)
    applied = next((ref for ref in loop.watched() if first in (None, ref.ref)), None)
    return RepositoryRow(
        name=loop.settings.name,
        url=loop.settings.url,
        refs=tuple(progress.fetched) or loop.settings.refs,
        fetched_at=progress.fetched_at,
        revision_fetched=progress.fetched.get(first) if first else None,
        revision_attempted=progress.attempted.get(first) if first else None,
        revision_applied=applied.commit if applied else None,
        is_ready=ready.is_true is True,
        text=ready.text,
        conditions=loop.conditions.all(),
    )


def _schedule_row(loop: RepositoryLoop, row: scheduler.Row) -> ScheduleRow:
    held, last = row.held, row.held.last
    ref = loop.state.refs[held.ref]
    return ScheduleRow(
        path=held.name.path,
        name=row.file.newest.name,
        repository=loop.settings.name,
        ref=held.ref,
        revision=ref.commit,
        cron=held.name.cron,
        timezone=held.name.timezone,
        overlap=row.trigger.overlap,
        catch_up=row.trigger.catch_up,
        next_at=row.next_at,
        waiting=held.queued,
        last_due_at=last.due_at if last is not None else None,
        last_outcome=last.outcome if last is not None else None,
        last_run=row.run,
        text=_schedule_text(loop, row),
    )


def _schedule_text(loop: RepositoryLoop, row: scheduler.Row) -> str:
    if loop.state.is_suspended:
        return "the repository is suspended: nothing is started until it is resumed"
    if row.held.queued:
        return f"instants that wait for the run before them to end: {len(row.held.queued)}"
    if row.held.last is None:
        return "has not come yet"
    return schedules.text_of(row.held.last)
