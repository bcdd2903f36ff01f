"""Facts of a stream `repo/<name>`: what was read from the repository, and what was decided.

Rules of this file: as for the events of runs (engine/events.py): past tense, readable forever, new fields have defaults, `at`
is the log's clock in ms. A fact and the runs that it started are appended in one transaction, so the log never holds one
without the other. A run's `RunCreated` holds the trigger key that started it.

Everything is bounded: a fact holds at most `FILES_PER_FACT` files (more follow in `FilesApplied` of the same transaction), and
a file at most `ERRORS_MAX` errors.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model.accesses import JobAccess
from waterflowd.model.plan import Triggers

#: About 100 KB in one record; a first commit with more files takes several.
FILES_PER_FACT = 500
#: Files of a fact, together with the other files that they use and with the accesses of their jobs.
PATHS_PER_FACT = 2_000
ERRORS_MAX = 20


class RepositoryFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts of a repository."""

    at: int


class FileApplied(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of compiling a workflow file: a plan, or errors. Part of a fact, not a fact itself."""

    path: str
    #: The Git object at the path; the same one is never compiled twice.
    blob: str
    #: The plan's content hash; None if the file has errors.
    plan_hash: str | None = None
    name: str = ""
    triggers: Triggers | None = None
    #: What its jobs use; jobs that use the same are recorded once.
    accesses: tuple[JobAccess, ...] = ()
    #: The other files of the revision that it was compiled with, by path: the Git object; a code and the object for anything
    #: but a regular file; empty for a missing file. If one of them changes, the file is compiled again.
    used: dict[str, str] = {}
    errors: tuple[Diagnostic, ...] = ()


class EmptyRepositorySeen(RepositoryFact, frozen=True, kw_only=True, tag="empty-repository-seen"):
    """The repository was read for the first time and had no refs, so its first push starts runs."""


class RevisionApplied(RepositoryFact, frozen=True, kw_only=True, tag="revision-applied"):
    """The ref was updated to `commit`, and everything that this update starts was started."""

    ref: str
    #: 1 when the ref is first seen; increases by one with each update, and is never reset.
    update_number: int
    commit: str
    tree: str
    #: The annotated tag that the ref points to; None if it points to the commit.
    tag_object: str | None = None
    #: The commit before; None when the ref is first seen.
    previous_commit: str | None = None
    author: str = ""
    message: str = ""
    #: Files that were added or changed.
    files: tuple[FileApplied, ...] = ()
    #: Removed paths.
    removed: tuple[str, ...] = ()


class FilesApplied(RepositoryFact, frozen=True, kw_only=True, tag="files-applied"):
    """More files of the preceding `RevisionApplied`, or files that are no longer valid."""

    ref: str
    files: tuple[FileApplied, ...] = ()
    removed: tuple[str, ...] = ()


class RefRemoved(RepositoryFact, frozen=True, kw_only=True, tag="ref-removed"):
    """The ref was removed. Its update number is kept, so that no trigger key is used twice."""

    ref: str
    commit: str


class RepositorySuspended(RepositoryFact, frozen=True, kw_only=True, tag="repository-suspended"):
    """Pushes to the repository are ignored from now on; `by` is the principal."""

    by: str = ""


class RepositoryResumed(RepositoryFact, frozen=True, kw_only=True, tag="repository-resumed"):
    """The repository is read again: all changes since the suspension count as one update per ref."""

    by: str = ""


class RepositoryForgotten(RepositoryFact, frozen=True, kw_only=True, tag="repository-forgotten"):
    """What was applied no longer counts: the name is about to be used for another repository, or again after a removal.

    So the next refs are recorded as first seen and start nothing. Update numbers are kept, so no trigger key is used twice.
    """


class RefsWatched(RepositoryFact, frozen=True, kw_only=True, tag="refs-watched"):
    """All refs that match these patterns are recorded. A ref that appears later was created since, so it counts as a push."""

    patterns: tuple[str, ...] = ()


class ScheduleOutcome(Enum):
    """The decision about a due time of a schedule."""

    #: A run was started in the transaction of this fact.
    STARTED = "started"
    #: It waits until the previous run has ended.
    QUEUED = "queued"
    #: No run is started because of another run or due time of the same schedule.
    SKIPPED = "skipped"
    #: No run is started because it was due while no run could be started.
    MISSED = "missed"


class ScheduleFact(RepositoryFact, frozen=True, kw_only=True):
    """Base of the facts about one schedule, which is identified by file, cron expression and time zone."""

    path: str
    cron: str
    timezone: str


class ScheduleArmed(ScheduleFact, frozen=True, kw_only=True, tag="schedule-armed"):
    """Runs are due after `from_at` (wall clock, ms) from now on. The file is the one at `ref`."""

    ref: str
    from_at: int


class ScheduleDropped(ScheduleFact, frozen=True, kw_only=True, tag="schedule-dropped"):
    """The schedule was removed with its queued due times. `code`: `file-removed`, `file-broken` or `entry-removed`."""

    code: str


class ScheduleDecided(ScheduleFact, frozen=True, kw_only=True, tag="schedule-decided"):
    """The decision about a due time; for `missed`, about `count` due times of which it is the newest. `code` is the reason."""

    #: Milliseconds of the wall clock.
    due_at: int
    outcome: ScheduleOutcome
    code: str
    count: int = 1
    #: There were more than `count`, which were not counted.
    has_more: bool = False


class CompletedRunsHandled(RepositoryFact, frozen=True, kw_only=True, tag="completed-runs-handled"):
    """The runs that `workflow_run` triggers start after runs that completed up to the log position `seq` were started."""

    seq: int


Fact = (
    EmptyRepositorySeen
    | RevisionApplied
    | FilesApplied
    | RefRemoved
    | RepositorySuspended
    | RepositoryResumed
    | RepositoryForgotten
    | RefsWatched
    | ScheduleArmed
    | ScheduleDropped
    | ScheduleDecided
    | CompletedRunsHandled
)
