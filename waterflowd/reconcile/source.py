"""The port to Git: everything that the reconcile loop asks of a repository, wherever it lives.

Rules of this file: a source only reads. It never checks out, follows links, runs hooks or filters, or writes. What comes
out of it is bounded, and hostile all the same: names and messages are text of whoever may push. Commits, trees and blobs
are hexadecimal object ids. All methods are called on the event loop's thread and never block it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from waterflowd.dsl.reporting.diagnostics import Diagnostic

#: A workflow file holds 1 MiB at most; the language says so.
FILE_BYTES_MAX = 1 << 20
#: Workflow files of one commit; beyond it the repository is refused as a whole (no peer comes near).
FILES_MAX = 10_000
#: Folders below a workflow folder.
DEPTH_MAX = 10
#: Changed paths that path filters look at; a larger change counts as one that changes everything, as on GitHub.
CHANGED_PATHS_MAX = 1_000
MESSAGE_LENGTH_MAX = 1_000
AUTHOR_LENGTH_MAX = 200


class Refs(msgspec.Struct, frozen=True, kw_only=True):
    """The refs at one moment."""

    #: Full name of the ref that HEAD names (it may not exist yet); None when HEAD names a commit.
    head_ref: str | None
    #: Full ref name (`refs/heads/main`, `refs/tags/v1`) to the object it names.
    object_ids: dict[str, str]


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit's facts; message and author's name are cut, and as their author wrote them."""

    id: str
    tree: str
    author: str
    message: str


class TreeFile(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow file in a tree. `blob` is the id of whatever stands there, so an unchanged problem is known again."""

    path: str
    blob: str
    #: Why its content is not read, such as a symbolic link; None for a plain file.
    problem: Diagnostic | None = None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Paths that differ between two trees, whole tree, sorted. Incomplete when there are too many or one tree is gone."""

    paths: tuple[str, ...] = ()
    is_complete: bool = True


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One commit as far as workflows go."""

    commit: Commit
    files: tuple[TreeFile, ...]
    changes: Changes


class WatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How changes are noticed: at once, or only when somebody looks. The code is stable, the text is one sentence."""

    is_watching: bool
    code: str
    text: str
    #: True when a look is a connection to a remote, which is made at the configured interval and no oftener.
    is_remote: bool = False


class Source(Protocol):
    """One repository, read in place or through a mirror.

    Errors of all methods: `Retryable` WF503 when it is not there, WF505 when it is too slow, WF506 when an object is
    missing or damaged; `Stalled` WF504 and WF508 when only a person can help. One call at a time.
    """

    async def refs(self) -> Refs:
        """The refs now: all branches and tags. A later call never gives an older state than an earlier one."""
        ...

    async def revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        """The commit that `object_id` names (a tag leads to its commit), its workflow files in `folders` by path, and
        what differs from `previous_tree`, where None stands for an empty tree."""
        ...

    async def blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """The contents of blobs; None for one that is larger than a workflow file may be."""
        ...

    async def lookup(self, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
        """What stands at these paths of a tree, by path; what is not there is left out. Nothing is followed."""
        ...

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Returns True when the refs may have changed since the last call of this method, False after the time.

        True is a hint, False is no promise: the caller reads the refs in both cases.
        """
        ...

    def watch_status(self) -> WatchStatus:
        """How changes are noticed at the moment."""
        ...

    async def close(self) -> None:
        """Stops watching and lets go of the repository. Idempotent; cancels what waits."""
        ...
