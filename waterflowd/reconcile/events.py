"""Facts of a stream `repo/<name>`: what was seen of the repository, and what became of it.

Rules of this file: the same as for a run's events (engine/events.py): past tense, for ever readable, new fields with
defaults, `at` is the log's clock in ms. A fact and the runs that it started are appended in one transaction, so the log
never holds one without the other; which runs those were stands in their `RunCreated` (the trigger key).

Everything is bounded: a fact holds `FILES_PER_FACT` files at most, more of them follow in `FilesApplied` of the same
transaction, and a file `ERRORS_MAX` errors.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model.plan import Triggers

#: About 100 KB in one record; a first commit with more files takes several.
FILES_PER_FACT = 500
#: Files of a fact and other files that they use, together.
PATHS_PER_FACT = 2_000
ERRORS_MAX = 20


class RepositoryFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts of a repository."""

    at: int


class FileApplied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a workflow file became: a plan, or errors. Part of a fact, never one by itself."""

    path: str
    #: The Git object that stood at the path; the same one is never compiled twice.
    blob: str
    #: The plan's content hash; None when the file has errors.
    plan_hash: str | None = None
    name: str = ""
    triggers: Triggers | None = None
    #: Groups that its jobs name, as they stand in the file.
    groups: tuple[str, ...] = ()
    #: Other files of the revision that it was compiled with, by path, each with what stood there: the Git object, a code and
    #: the object for what is no plain file, empty for nothing. The same file with others is compiled again.
    used: dict[str, str] = {}
    errors: tuple[Diagnostic, ...] = ()


class EmptyRepositorySeen(RepositoryFact, frozen=True, kw_only=True, tag="empty-repository-seen"):
    """The repository was looked at for the first time and had no ref at all, so its first push counts as added."""


class RevisionApplied(RepositoryFact, frozen=True, kw_only=True, tag="revision-applied"):
    """The ref stands at `commit`, and everything that this movement starts has been started."""

    ref: str
    #: 1 for the first sight of the ref; grows by one with each movement, and never starts again.
    update_number: int
    commit: str
    tree: str
    #: The object that the ref names, where that is not the commit itself: an annotated tag.
    tag_object: str | None = None
    #: Where the ref stood before; None at its first sight.
    previous_commit: str | None = None
    author: str = ""
    message: str = ""
    #: Files that were added or changed.
    files: tuple[FileApplied, ...] = ()
    #: Paths that are gone.
    removed: tuple[str, ...] = ()


class FilesApplied(RepositoryFact, frozen=True, kw_only=True, tag="files-applied"):
    """More files of the movement that the `RevisionApplied` before it began."""

    ref: str
    files: tuple[FileApplied, ...] = ()
    removed: tuple[str, ...] = ()


class RefRemoved(RepositoryFact, frozen=True, kw_only=True, tag="ref-removed"):
    """The ref is gone. Its number of movements stays, so that no trigger key comes twice."""

    ref: str
    commit: str


class RepositorySuspended(RepositoryFact, frozen=True, kw_only=True, tag="repository-suspended"):
    """Nothing of the repository is looked at from now on; `by` is the principal."""

    by: str = ""


class RepositoryResumed(RepositoryFact, frozen=True, kw_only=True, tag="repository-resumed"):
    """The repository is looked at again: what moved meanwhile counts as one movement per ref."""

    by: str = ""


class RefsWatched(RepositoryFact, frozen=True, kw_only=True, tag="refs-watched"):
    """Every ref that these patterns select is recorded. One that appears later was made since, so it counts as a push."""

    patterns: tuple[str, ...] = ()


class ScheduleOutcome(Enum):
    """What was decided for an instant of a schedule."""

    #: A run was started, in the transaction of this fact.
    STARTED = "started"
    #: It waits until the run before it has ended.
    QUEUED = "queued"
    #: Nothing is started for it, because of another run or instant of the same schedule.
    SKIPPED = "skipped"
    #: Nothing is started for it, because it came while nobody could start it.
    MISSED = "missed"


class ScheduleFact(RepositoryFact, frozen=True, kw_only=True):
    """Base of the facts about one schedule, which is a file and the times that it names."""

    path: str
    cron: str
    timezone: str


class ScheduleArmed(ScheduleFact, frozen=True, kw_only=True, tag="schedule-armed"):
    """The schedule's instants after `from_at` (wall clock, ms) count from now on. The file is the one at `ref`."""

    ref: str
    from_at: int


class ScheduleDropped(ScheduleFact, frozen=True, kw_only=True, tag="schedule-dropped"):
    """The schedule is no more, and nothing of it waits. `code` says why: `file-removed`, `file-broken`, `entry-removed`."""

    code: str


class ScheduleDecided(ScheduleFact, frozen=True, kw_only=True, tag="schedule-decided"):
    """What became of an instant; for `missed`, of `count` instants of which it is the newest. `code` says why."""

    #: Milliseconds of the wall clock.
    due_at: int
    outcome: ScheduleOutcome
    code: str
    count: int = 1
    #: There were more than `count`; nobody counted them all.
    has_more: bool = False


class CompletedRunsHandled(RepositoryFact, frozen=True, kw_only=True, tag="completed-runs-handled"):
    """What the runs of the repository that completed up to the global sequence `seq` start was started."""

    seq: int


Fact = (
    EmptyRepositorySeen
    | RevisionApplied
    | FilesApplied
    | RefRemoved
    | RepositorySuspended
    | RepositoryResumed
    | RefsWatched
    | ScheduleArmed
    | ScheduleDropped
    | ScheduleDecided
    | CompletedRunsHandled
)
