"""The port to Git: what the reconcile loop reads of a repository, local or remote.

Rules of this file: a source only reads. It never checks out, follows links, runs hooks or filters, or writes. Its results are
bounded but untrusted: anybody who may push controls names and messages. Commits, trees and blobs are hexadecimal object ids.
All methods are called on the event loop's thread and never block it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from waterflowd.dsl.reporting.diagnostics import Diagnostic

#: The maximum size of a workflow file, as in the language.
FILE_BYTES_MAX = 1 << 20
#: Workflow files of one commit in the configured folders; a repository with more is refused as a whole.
FILES_MAX = 20_000
#: Folders below a workflow folder.
DEPTH_MAX = 10
#: Changed paths that path filters match; a larger change counts as one that changes everything, as on GitHub.
CHANGED_PATHS_MAX = 1_000
MESSAGE_LENGTH_MAX = 1_000
AUTHOR_LENGTH_MAX = 200


class Refs(msgspec.Struct, frozen=True, kw_only=True):
    """The refs of a repository at one moment."""

    #: Full name of the ref that HEAD names (it may not exist yet); None if HEAD is a commit.
    head_ref: str | None
    #: The object of each ref, by full name (`refs/heads/main`, `refs/tags/v1`).
    object_ids: dict[str, str]


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit. Message and author's name are cut to a maximum length, and otherwise unchanged."""

    id: str
    tree: str
    author: str
    message: str
    #: The first parent; None for a commit without one.
    parent: str | None = None


class TreeFile(msgspec.Struct, frozen=True, kw_only=True):
    """A path in a tree. `blob` is the id of its object, even if that is not a file, so that known problems are recognized."""

    path: str
    blob: str
    #: Why its content is not read, such as a symbolic link; None for a regular file.
    problem: Diagnostic | None = None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """All paths that differ between two trees, sorted. Incomplete if they are too many or a tree no longer exists."""

    paths: tuple[str, ...] = ()
    is_complete: bool = True


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A commit with its workflow files."""

    commit: Commit
    files: tuple[TreeFile, ...]
    changes: Changes


class WatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether changes are noticed at once or by polling. The code is stable; the text is one sentence."""

    is_watching: bool
    code: str
    text: str
    #: True for a remote, which is fetched at the configured interval and not more often.
    is_remote: bool = False


class Source(Protocol):
    """One repository, read in place or through a mirror.

    Errors of all methods: `Retryable` WF503 if it does not exist or cannot be reached, WF505 if it is too slow, WF506 if an
    object is missing or damaged; `Stalled` WF504 and WF508 if a person must act. One call at a time.
    """

    async def refs(self) -> Refs:
        """The current branches and tags. A later call never returns an older state than an earlier one."""
        ...

    async def revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        """The commit with the id `object_id` (or of the tag with that id), its workflow files in `folders` by path, and the
        differences from `previous_tree`; None is an empty tree."""
        ...

    async def blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """The contents of blobs; None for one that is larger than a workflow file may be."""
        ...

    async def lookup(self, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
        """The files at these paths of a tree, by path; missing ones are left out. Links are not followed."""
        ...

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Returns True if the refs may have changed since the last call of this method, False after the timeout.

        Both results are only hints: the caller reads the refs in any case.
        """
        ...

    def watch_status(self) -> WatchStatus:
        """How changes are noticed at the moment."""
        ...

    async def close(self) -> None:
        """Stops watching and releases the repository. Idempotent; cancels pending calls."""
        ...
