"""The logged state of a repository, folded from its facts.

Rules of this file: `evolve` accepts every logged fact, makes no decisions and is the only writer. Its cost depends only on
the fact. The live path and the start of the daemon use the same fold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from waterflowd.model.plan import WebhookTrigger, WorkflowRunTrigger
from waterflowd.reconcile import events
from waterflowd.reconcile.events import FileApplied


class TriggerVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A file's `workflow_run` trigger, and the position in the log from which it applies."""

    since: int
    trigger: WorkflowRunTrigger


class FileState(msgspec.Struct, kw_only=True):
    """A workflow file of a ref: its newest version, its last version without errors, and the commit of the newest."""

    newest: FileApplied
    good: FileApplied | None
    commit: str
    #: Position in the log since which the file has had its webhook's name without a break; 0 without a webhook.
    webhook_since: int = 0
    #: The file's `workflow_run` triggers since it has had one without a break, newest last. Versions that were replaced
    #: before all runs up to that position were handled are dropped.
    workflow_run_versions: tuple[TriggerVersion, ...] = ()

    @property
    def is_broken(self) -> bool:
        """True when the newest version has errors, so the file starts nothing."""
        return self.newest.plan_hash is None

    @property
    def webhook(self) -> WebhookTrigger | None:
        """The webhook of the last version without errors."""
        return self.good.triggers.webhook if self.good is not None and self.good.triggers is not None else None

    @property
    def workflow_run(self) -> WorkflowRunTrigger | None:
        """The `workflow_run` trigger of the last version without errors."""
        return self.good.triggers.workflow_run if self.good is not None and self.good.triggers is not None else None

    @property
    def workflow_run_since(self) -> int:
        """Position in the log since which the file has had a `workflow_run` trigger; 0 without one."""
        return self.workflow_run_versions[0].since if self.workflow_run_versions else 0

    def workflow_run_at(self, seq: int) -> WorkflowRunTrigger | None:
        """The trigger that applied when the record at `seq` was written."""
        return next((version.trigger for version in reversed(self.workflow_run_versions) if version.since < seq), None)


class RefState(msgspec.Struct, kw_only=True):
    """A ref: its applied commit, and the workflow files there by path."""

    ref: str
    update_number: int = 0
    commit: str = ""
    #: The object that the ref points to: the commit, or an annotated tag of it.
    object_id: str = ""
    tree: str = ""
    author: str = ""
    message: str = ""
    applied_at: int = 0
    is_removed: bool = False
    #: Only the update number is kept: the ref is recorded as first seen when it is read again.
    is_forgotten: bool = False
    #: Increases with each change of the files, for caches.
    version: int = 0
    files: dict[str, FileState] = {}


class ScheduleName(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The identity of a schedule across revisions: its file, cron expression and time zone."""

    path: str
    cron: str
    timezone: str


class ScheduleState(msgspec.Struct, kw_only=True):
    """A schedule of the default ref, and the due time up to which it is decided. Times are wall-clock times in ms."""

    name: ScheduleName
    ref: str
    #: Due times up to this one are decided.
    handled_at: int
    #: Due times that wait for an open run, oldest first.
    queued: tuple[int, ...] = ()
    #: The due time of the newest run.
    started_at: int | None = None
    last: events.ScheduleDecided | None = None


class StateRecorded(msgspec.Struct, frozen=True, kw_only=True):
    """Stands for all facts before it, where an engine does not keep them."""

    at: int
    #: A `RepositoryState`, encoded with MessagePack.
    state: bytes


class RepositoryState(msgspec.Struct, kw_only=True):
    """A repository: its refs by full name."""

    name: str
    #: True if it had no refs when it was first read; then its first push counts as a push and not as history.
    was_empty: bool = False
    is_suspended: bool = False
    refs: dict[str, RefState] = {}
    #: The patterns whose refs have all been recorded; None before that.
    patterns: tuple[str, ...] | None = None
    schedules: dict[ScheduleName, ScheduleState] = {}
    #: The runs that `workflow_run` triggers start after runs completed up to this position of the log have been started.
    handled_runs_seq: int = 0

    @property
    def has_refs(self) -> bool:
        """Whether any ref was recorded, even if it was removed since."""
        return any(not ref.is_forgotten for ref in self.refs.values())

    def known(self, path: str, blob: str) -> Iterator[FileApplied]:
        """Earlier results for this object at this path, on any ref; reused if the other files it uses are the same."""
        for ref in self.refs.values():
            file = ref.files.get(path)
            if file is None:
                continue
            if file.newest.blob == blob:
                yield file.newest
            if file.good is not None and file.good is not file.newest and file.good.blob == blob:
                yield file.good


def evolve(state: RepositoryState, fact: events.Fact | StateRecorded, seq: int = 0) -> None:
    """Applies one fact to the state, in place; `seq` is its position in the whole log."""
    match fact:
        case events.RevisionApplied():
            ref = state.refs.setdefault(fact.ref, RefState(ref=fact.ref, files={}))
            ref.update_number = fact.update_number
            ref.commit = fact.commit
            ref.object_id = fact.tag_object or fact.commit
            ref.tree = fact.tree
            ref.author = fact.author
            ref.message = fact.message
            ref.applied_at = fact.at
            ref.is_removed = ref.is_forgotten = False
            _evolve_files(ref, fact, seq, state.handled_runs_seq)
        case events.FilesApplied():
            _evolve_files(state.refs[fact.ref], fact, seq, state.handled_runs_seq)
        case events.RefRemoved():
            state.refs[fact.ref].is_removed = True
        case events.RepositorySuspended():
            state.is_suspended = True
        case events.RepositoryResumed():
            state.is_suspended = False
        case events.RepositoryForgotten():
            _forget(state)
        case events.EmptyRepositorySeen():
            state.was_empty = True
        case events.RefsWatched():
            state.patterns = fact.patterns
        case events.ScheduleArmed() | events.ScheduleDropped() | events.ScheduleDecided():
            _evolve_schedules(state.schedules, fact)
        case events.CompletedRunsHandled():
            state.handled_runs_seq = max(state.handled_runs_seq, fact.seq)
        case StateRecorded():
            recorded = msgspec.msgpack.decode(fact.state, type=RepositoryState)
            for name in RepositoryState.__struct_fields__:
                setattr(state, name, getattr(recorded, name))


def fold(name: str, facts: Iterable[events.Fact | StateRecorded]) -> RepositoryState:
    """The state after these facts."""
    state = RepositoryState(name=name, refs={}, schedules={})
    for fact in facts:
        evolve(state, fact)
    return state


def _forget(state: RepositoryState) -> None:
    state.was_empty = state.is_suspended = False
    state.patterns = None
    state.schedules = {}
    for name, ref in state.refs.items():
        state.refs[name] = RefState(
            ref=name,
            update_number=ref.update_number,
            is_removed=True,
            is_forgotten=True,
            version=ref.version + 1,
            files={},
        )


def _evolve_files(
    ref: RefState, fact: events.RevisionApplied | events.FilesApplied, seq: int, handled_runs_seq: int
) -> None:
    ref.version += 1
    # A webhook that moves to another file in the same update keeps its position too.
    replaced = (ref.files.get(path) for path in (*fact.removed, *(file.path for file in fact.files)))
    webhooks: dict[str, int] = {}
    for old in replaced:
        if old is not None and old.webhook is not None:
            webhooks[old.webhook.name] = min(old.webhook_since, webhooks.get(old.webhook.name, old.webhook_since))
    for path in fact.removed:
        ref.files.pop(path, None)
    for file in fact.files:
        before = ref.files.get(file.path)
        # While a file is broken, its last good version keeps its position.
        good = file if file.plan_hash is not None else (before.good if before else None)
        after = FileState(newest=file, good=good, commit=ref.commit)
        if after.webhook is not None:
            is_kept = before is not None and before.webhook is not None and before.webhook.name == after.webhook.name
            after.webhook_since = before.webhook_since if before and is_kept else webhooks.get(after.webhook.name, seq)
        if after.workflow_run is not None:
            versions = before.workflow_run_versions if before is not None else ()
            after.workflow_run_versions = _with_version(versions, after.workflow_run, seq, handled_runs_seq)
        ref.files[file.path] = after


def _with_version(
    versions: tuple[TriggerVersion, ...], trigger: WorkflowRunTrigger, seq: int, handled_runs_seq: int
) -> tuple[TriggerVersion, ...]:
    """The versions with the current trigger added, without those that no unhandled run needs."""
    if versions and versions[-1].trigger == trigger:
        return versions
    kept = [version for version, later in pairwise(versions) if later.since > handled_runs_seq] + list(versions[-1:])
    return (*kept, TriggerVersion(since=seq, trigger=trigger))


def _evolve_schedules(
    schedules: dict[ScheduleName, ScheduleState],
    fact: events.ScheduleArmed | events.ScheduleDropped | events.ScheduleDecided,
) -> None:
    name = ScheduleName(path=fact.path, cron=fact.cron, timezone=fact.timezone)
    schedule = schedules.get(name)
    match fact:
        case events.ScheduleArmed():
            if schedule is None:
                schedule = schedules[name] = ScheduleState(name=name, ref=fact.ref, handled_at=fact.from_at)
            schedule.ref = fact.ref
            schedule.handled_at = fact.from_at
        case events.ScheduleDropped():
            schedules.pop(name, None)
        case events.ScheduleDecided() if schedule is not None:
            schedule.handled_at = max(schedule.handled_at, fact.due_at)
            schedule.last = fact
            schedule.queued = tuple(due_at for due_at in schedule.queued if due_at != fact.due_at)
            if fact.outcome is events.ScheduleOutcome.QUEUED:
                schedule.queued += (fact.due_at,)
            elif fact.outcome is events.ScheduleOutcome.STARTED:
                schedule.started_at = fact.due_at
