"""What the log remembers of a repository: the fold of its facts.

Rules of this file: `evolve` is total on logged facts, makes no decisions and is the only writer. Its cost depends on the
fact alone. The same fold serves the live path and the start of the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from waterflowd.model.plan import WebhookTrigger, WorkflowRunTrigger
from waterflowd.reconcile import events
from waterflowd.reconcile.events import FileApplied


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a file asks for: the completed runs that start it, from a place in the log on."""

    since: int
    trigger: WorkflowRunTrigger


class FileState(msgspec.Struct, kw_only=True):
    """A workflow file of a ref: its newest version, the last one without errors, and the commit that brought the newest."""

    newest: FileApplied
    good: FileApplied | None
    commit: str
    #: Place in the log of the fact from which on the file has had its webhook's name, without a break; 0 when it has none.
    hook_since: int = 0
    #: What the file has asked for, the newest last, without a break and as far back as anybody has to know; empty when it
    #: starts after no other workflow.
    asked: tuple[Asked, ...] = ()

    @property
    def is_broken(self) -> bool:
        """True when the newest version has errors, so that nothing is started from the file."""
        return self.newest.plan_hash is None

    @property
    def hook(self) -> WebhookTrigger | None:
        """The webhook of the last version without errors."""
        return self.good.triggers.webhook if self.good is not None and self.good.triggers is not None else None

    @property
    def follows(self) -> WorkflowRunTrigger | None:
        """What other workflows' runs start the last version without errors."""
        return self.good.triggers.workflow_run if self.good is not None and self.good.triggers is not None else None

    @property
    def follow_since(self) -> int:
        """Place in the log from which on the file has started after other workflows, without a break; 0 when it does not."""
        return self.asked[0].since if self.asked else 0

    def asked_at(self, seq: int) -> WorkflowRunTrigger | None:
        """What the file asked for when the record at `seq` was written."""
        return next((asked.trigger for asked in reversed(self.asked) if asked.since < seq), None)


class RefState(msgspec.Struct, kw_only=True):
    """A ref: where it stands as far as the log goes, and the files there by path."""

    ref: str
    movement: int = 0
    commit: str = ""
    #: The object that the ref names: the commit, or the tag object that leads to it.
    tip: str = ""
    tree: str = ""
    author: str = ""
    message: str = ""
    applied_at: int = 0
    is_removed: bool = False
    #: Grows with each fact about the ref, for caches of what was read here.
    version: int = 0
    files: dict[str, FileState] = {}


class ScheduleName(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What makes a schedule the same one over revisions: its file and the times that it names."""

    path: str
    cron: str
    timezone: str


class ScheduleState(msgspec.Struct, kw_only=True):
    """A schedule of the default ref: up to where its instants are decided. Times are the wall clock's, in ms."""

    name: ScheduleName
    ref: str
    #: Nothing at or before it is decided again.
    handled_at: int
    #: Instants that wait for an open run, oldest first.
    queued: tuple[int, ...] = ()
    #: The instant of the newest run.
    started_at: int | None = None
    last: events.ScheduleDecided | None = None


class RepositoryState(msgspec.Struct, kw_only=True):
    """A repository: its refs by full name."""

    name: str
    #: True once it was seen without any ref: then its first push is one, and not history.
    was_empty: bool = False
    is_suspended: bool = False
    refs: dict[str, RefState] = {}
    #: The patterns whose refs are all recorded; None until some are.
    patterns: tuple[str, ...] | None = None
    schedules: dict[ScheduleName, ScheduleState] = {}
    #: What runs that completed up to this place in the log start was started.
    followed_seq: int = 0

    def known(self, path: str, blob: str) -> Iterator[FileApplied]:
        """What this object at this path became before, on any ref; with the same other files it is not compiled again."""
        for ref in self.refs.values():
            file = ref.files.get(path)
            if file is None:
                continue
            if file.newest.blob == blob:
                yield file.newest
            if file.good is not None and file.good is not file.newest and file.good.blob == blob:
                yield file.good


def evolve(state: RepositoryState, fact: events.Fact, seq: int = 0) -> None:
    """Applies one fact to the state, in place; `seq` is its place in the whole log."""
    match fact:
        case events.RevisionApplied():
            ref = state.refs.setdefault(fact.ref, RefState(ref=fact.ref, files={}))
            ref.movement = fact.movement
            ref.commit = fact.commit
            ref.tip = fact.tag_object or fact.commit
            ref.tree = fact.tree
            ref.author = fact.author
            ref.message = fact.message
            ref.applied_at = fact.at
            ref.is_removed = False
            _evolve_files(ref, fact, seq, state.followed_seq)
        case events.FilesApplied():
            _evolve_files(state.refs[fact.ref], fact, seq, state.followed_seq)
        case events.RefRemoved():
            state.refs[fact.ref].is_removed = True
        case events.RepositorySuspended():
            state.is_suspended = True
        case events.RepositoryResumed():
            state.is_suspended = False
        case events.RepositorySeen():
            state.was_empty = True
        case events.RefsWatched():
            state.patterns = fact.patterns
        case events.ScheduleArmed() | events.ScheduleDropped() | events.ScheduleDecided():
            _evolve_schedules(state.schedules, fact)
        case events.RunsFollowed():
            state.followed_seq = max(state.followed_seq, fact.seq)


def fold(name: str, facts: Iterable[events.Fact]) -> RepositoryState:
    """The state after these facts."""
    state = RepositoryState(name=name, refs={}, schedules={})
    for fact in facts:
        evolve(state, fact)
    return state


def _evolve_files(
    ref: RefState, fact: events.RevisionApplied | events.FilesApplied, seq: int, followed_seq: int
) -> None:
    ref.version += 1
    # A webhook that another file of the same movement takes over keeps its place too.
    left = {path: ref.files[path] for path in (*fact.removed, *(file.path for file in fact.files)) if path in ref.files}
    hooks: dict[str, int] = {}
    for was in left.values():
        if was.hook is not None:
            hooks[was.hook.name] = min(was.hook_since, hooks.get(was.hook.name, was.hook_since))
    for path in fact.removed:
        ref.files.pop(path, None)
    for file in fact.files:
        before = ref.files.get(file.path)
        # While a file is broken, its last good version keeps its place.
        good = file if file.plan_hash is not None else (before.good if before else None)
        held = FileState(newest=file, good=good, commit=ref.commit)
        if held.hook is not None:
            is_kept = before is not None and before.hook is not None and before.hook.name == held.hook.name
            held.hook_since = before.hook_since if before is not None and is_kept else hooks.get(held.hook.name, seq)
        if held.follows is not None:
            held.asked = _asked(before.asked if before is not None else (), held.follows, seq, followed_seq)
        ref.files[file.path] = held


def _asked(before: tuple[Asked, ...], trigger: WorkflowRunTrigger, seq: int, followed_seq: int) -> tuple[Asked, ...]:
    """What the file has asked for and asks for now, without what was replaced before the place that was followed."""
    if before and before[-1].trigger == trigger:
        return before
    kept = [asked for asked, later in pairwise(before) if later.since > followed_seq] + list(before[-1:])
    return (*kept, Asked(since=seq, trigger=trigger))


def _evolve_schedules(
    schedules: dict[ScheduleName, ScheduleState],
    fact: events.ScheduleArmed | events.ScheduleDropped | events.ScheduleDecided,
) -> None:
    name = ScheduleName(path=fact.path, cron=fact.cron, timezone=fact.timezone)
    held = schedules.get(name)
    match fact:
        case events.ScheduleArmed():
            if held is None:
                held = schedules[name] = ScheduleState(name=name, ref=fact.ref, handled_at=fact.from_at)
            held.ref = fact.ref
            held.handled_at = fact.from_at
        case events.ScheduleDropped():
            schedules.pop(name, None)
        case events.ScheduleDecided() if held is not None:
            held.handled_at = max(held.handled_at, fact.instant_at)
            held.last = fact
            held.queued = tuple(instant for instant in held.queued if instant != fact.instant_at)
            if fact.outcome is events.ScheduleOutcome.QUEUED:
                held.queued += (fact.instant_at,)
            elif fact.outcome is events.ScheduleOutcome.STARTED:
                held.started_at = fact.instant_at
