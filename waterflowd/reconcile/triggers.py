"""Which workflows a movement of a ref starts.

Rules of this file:

- A file without `on` starts when this movement added or changed it, or another file that it uses. `push` asks the ref and
  the changed paths, as they are: what a file uses is no path of its filters.
- The first sight of a ref starts nothing: nobody can know what of its history was meant. The exceptions are the first push
  to a repository that was seen empty, and a ref that was made since all refs of the configured patterns were recorded.
- A new branch has added or changed what differs from the default ref; a new tag has changed nothing, it names a commit.
- A file that has errors starts nothing, and neither does its last good version.
- Path filters ask what changed between the tree that was applied last and the new one. Where that is not known (too many
  paths, the old tree is gone) they let the run through; a tag has no changed paths, and path filters do not ask it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from waterflowd.model.plan import PushTrigger, Triggers
from waterflowd.reconcile import globs, refs
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.source import Changes
from waterflowd.reconcile.state import RefState

#: Patterns that are wanted, and patterns that are not.
_Filter = tuple[tuple[str, ...], tuple[str, ...]]

#: A key of the log's index holds 511 bytes, and other parts of the program put a prefix before it.
_KEY_BYTES_MAX = 400


class RefUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A ref came to another commit."""

    ref: str
    number: int
    #: The ref was never seen before, and nobody knows whether it was there before the daemon looked.
    is_first_sight: bool
    changes: Changes
    #: Paths of workflow files that this movement added or changed.
    files: frozenset[str]


def is_started(triggers: Triggers, path: str, update: RefUpdate) -> bool:
    """Tells whether the movement starts the workflow at `path`."""
    if update.is_first_sight:
        return False
    if triggers.on_change and path in update.files:
        return True
    return triggers.push is not None and _is_pushed(triggers.push, update)


def new_files(
    ref: str, applied: Mapping[str, FileApplied], before: RefState | None, base: RefState | None
) -> frozenset[str]:
    """Which of the files that are new to a ref count as added or changed; `base` is what a new ref is compared with."""
    if before is not None or base is None:
        return frozenset(applied)
    if refs.tag_of(ref) is not None:
        return frozenset()
    same = {path: (file.newest.blob, file.newest.used) for path, file in base.files.items()}
    return frozenset(path for path, file in applied.items() if same.get(path) != (file.blob, file.used))


def trigger_key(repository: str, update: RefUpdate, path: str) -> str:
    """The text under which a movement starts a file's run once; long ones end in a hash."""
    head = f"push:{repository}:"
    tail = f"{update.ref}:{update.number}:{path}"
    if len((head + tail).encode()) > _KEY_BYTES_MAX:
        # The number stays readable, the hash makes the rest unique.
        tail = f"sha256-{hashlib.sha256(tail.encode()).hexdigest()}:{update.number}"
    return head + tail


def _is_pushed(push: PushTrigger, update: RefUpdate) -> bool:
    tag = refs.tag_of(update.ref)
    if tag is not None:
        return _is_selected(tag, (push.tags, push.tags_ignore), (push.branches, push.branches_ignore))
    branch = refs.branch_of(update.ref)
    if branch is None:
        return not (push.branches or push.branches_ignore or push.tags or push.tags_ignore)
    own, others = (push.branches, push.branches_ignore), (push.tags, push.tags_ignore)
    return _is_selected(branch, own, others) and _is_path_pushed(push, update.changes)


def _is_selected(name: str, own: _Filter, others: _Filter) -> bool:
    """Whether the filter for this kind of ref takes the name; `others` is the one for the other kind."""
    wanted, ignored = own
    if not (wanted or ignored):
        # As on GitHub: a filter for branches alone means that tags are not meant, and the other way round.
        return not any(others)
    return (not wanted or globs.selects(wanted, name)) and not globs.selects(ignored, name)


def _is_path_pushed(push: PushTrigger, changes: Changes) -> bool:
    if not changes.is_complete:
        return True
    if push.paths and not globs.selects_any(push.paths, changes.paths):
        return False
    if push.paths_ignore:
        return any(not globs.selects(push.paths_ignore, path) for path in changes.paths)
    return True
