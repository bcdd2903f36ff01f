"""The update of a ref as one transaction: the facts to record and the runs to start.

Rules of this file: data from Git is passed to runs unchanged; only what is displayed (`Trigger.by`) is escaped here. Runs are
started in the order of paths, so that equal updates give equal logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from waterflow_agent.display import escape_for_display
from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic
from waterflowd.model import accesses
from waterflowd.model import plan as plans
from waterflowd.model.records import StartRequest, Trigger, TriggerKind
from waterflowd.reconcile import codes, events, refs, triggers
from waterflowd.reconcile.diff import Difference
from waterflowd.reconcile.events import ERRORS_MAX, FILES_PER_FACT, PATHS_PER_FACT, FileApplied
from waterflowd.reconcile.source import FILE_BYTES_MAX, Commit, Revision, TreeFile
from waterflowd.reconcile.state import FileState

#: The value of `event.before` for a new ref, as in Git's hooks.
NO_COMMIT = "0" * 40
#: Changed paths in a run's payload.
PAYLOAD_PATHS_MAX = 300
_SHORT = 7
_SNIPPET_LENGTH_MAX = 300


def file_applied(file: TreeFile, compiled: Compiled, used: Mapping[str, str] | None = None) -> FileApplied:
    """The result of compiling a file, with the files that it used; errors are bounded."""
    if compiled.plan is None:
        return file_refused(file, compiled.diagnostics, used)
    plan = plans.decode(compiled.plan)
    return FileApplied(
        path=file.path,
        blob=file.blob,
        plan_hash=plans.content_hash(compiled.plan),
        name=plan.name,
        triggers=plan.triggers,
        accesses=_distinct(accesses.of_plan(plan)),
        used=dict(used or {}),
    )


def _distinct(found: Iterable[accesses.JobAccess]) -> tuple[accesses.JobAccess, ...]:
    """The first of the jobs that use the same."""
    return tuple({(item.group, item.environments, item.secrets): item for item in reversed(list(found))}.values())[::-1]


def file_refused(
    file: TreeFile, diagnostics: Sequence[Diagnostic], used: Mapping[str, str] | None = None
) -> FileApplied:
    """A file that has errors."""
    errors = tuple(_bounded(diagnostic) for diagnostic in diagnostics[:ERRORS_MAX])
    return FileApplied(
        path=file.path, blob=file.blob, name=escape_for_display(file.path), errors=errors, used=dict(used or {})
    )


def file_too_large(file: TreeFile) -> Diagnostic:
    """The error for a file that is larger than a workflow may be."""
    message = f"the file is larger than {FILE_BYTES_MAX:,} bytes"
    code = codes.FILE_TOO_LARGE
    return Diagnostic(code=code, path=file.path, line=1, column=1, message=message, suggestion="split the workflow")


def facts(
    at: int, update: triggers.RefUpdate, revision: Revision, push: Push, changes: FileChanges
) -> list[events.Fact]:
    """The facts of an update: one, or more if it has more files than fit into a fact."""
    commit = revision.commit
    windows = _windows(changes.files)
    first = events.RevisionApplied(
        at=at,
        ref=update.ref,
        update_number=update.number,
        commit=commit.id,
        tree=commit.tree,
        tag_object=push.object_id if push.object_id != commit.id else None,
        previous_commit=push.before,
        author=commit.author,
        message=commit.message,
        files=windows[0],
        removed=changes.removed[:FILES_PER_FACT],
    )
    recorded: list[events.Fact] = [first]
    recorded += [events.FilesApplied(at=at, ref=update.ref, files=files) for files in windows[1:]]
    for start in range(FILES_PER_FACT, len(changes.removed), FILES_PER_FACT):
        removed = changes.removed[start : start + FILES_PER_FACT]
        recorded.append(events.FilesApplied(at=at, ref=update.ref, removed=removed))
    return recorded


def _windows(files: Sequence[FileApplied]) -> list[tuple[FileApplied, ...]]:
    """The files in groups that each fit into a fact; at least one group."""
    windows: list[list[FileApplied]] = [[]]
    paths = 0
    for file in files:
        weight = 1 + len(file.used) + len(file.accesses)
        if windows[-1] and (len(windows[-1]) >= FILES_PER_FACT or paths + weight > PATHS_PER_FACT):
            windows.append([])
            paths = 0
        windows[-1].append(file)
        paths += weight
    return [tuple(window) for window in windows]


class FileChanges(msgspec.Struct, frozen=True, kw_only=True):
    """The compiled files of an update, and the removed paths."""

    files: tuple[FileApplied, ...] = ()
    removed: tuple[str, ...] = ()


def file_changes(difference: Difference, applied: Mapping[str, FileApplied]) -> FileChanges:
    """The difference with its files compiled, by path."""
    files = tuple(applied[file.path] for file in sorted(difference.files, key=lambda file: file.path))
    return FileChanges(files=files, removed=difference.removed)


def with_files(changes: FileChanges, files: Sequence[FileApplied]) -> FileChanges:
    """The changes with some files replaced or added, by path."""
    if not files:
        return changes
    by_path = {file.path: file for file in (*changes.files, *files)}
    return FileChanges(files=tuple(by_path[path] for path in sorted(by_path)), removed=changes.removed)


def started(update: triggers.RefUpdate, before: Mapping[str, FileState], changes: FileChanges) -> list[FileApplied]:
    """The files that the update starts, by path, if the configuration permits what they use."""
    after = {path: file.newest for path, file in before.items()}
    for path in changes.removed:
        after.pop(path, None)
    after.update((file.path, file) for file in changes.files)
    return [
        file
        for _, file in sorted(after.items())
        if file.plan_hash is not None
        and file.triggers is not None
        and triggers.is_started(file.triggers, file.path, update)
    ]


def start_request(plan: bytes, path: str, update: triggers.RefUpdate, revision: Revision, push: Push) -> StartRequest:
    """The request that starts the run of one file."""
    commit = revision.commit
    return StartRequest(
        plan=plan,
        repository=push.repository,
        revision=commit.id,
        trigger=Trigger(
            kind=TriggerKind.PUSH,
            by=escape_for_display(commit.author),
            key=triggers.trigger_key(push.repository, update, path),
            ref=update.ref,
            git=git_context(push.repository, update.ref, commit.id, commit.author, commit.message),
            payload=push.payload,
        ),
    )


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """The commits before and after an update, and what all runs of it share."""

    repository: str
    #: The commit before; None for a new ref.
    before: str | None
    #: The object that the ref points to now.
    object_id: str
    #: The `event` context.
    payload: dict[str, Any]


def push_of(repository: str, update: triggers.RefUpdate, before: str | None, commit: Commit, object_id: str) -> Push:
    """The data that the runs of an update share."""
    payload = {
        "name": "push",
        "ref": update.ref,
        "before": before or NO_COMMIT,
        "after": commit.id,
        "changed": list(update.changes.paths[:PAYLOAD_PATHS_MAX]),
    }
    return Push(repository=repository, before=before, object_id=object_id, payload=payload)


def git_context(repository: str, ref: str, commit: str, author: str, message: str) -> dict[str, Any]:
    """The `git` context, with the keys that expressions use."""
    return {
        "sha": commit,
        "short-sha": commit[:_SHORT],
        "ref": ref,
        "branch": refs.branch_of(ref),
        "tag": refs.tag_of(ref),
        "message": message,
        "author": author,
        "repository": repository,
    }


def _bounded(diagnostic: Diagnostic) -> Diagnostic:
    return msgspec.structs.replace(
        diagnostic,
        message=escape_for_display(diagnostic.message, 500),
        snippet=escape_for_display(diagnostic.snippet, _SNIPPET_LENGTH_MAX),
        suggestion=diagnostic.suggestion[:1_000],
    )
