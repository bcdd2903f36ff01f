"""Which workflows the update of a ref starts.

Rules of this file:

- A file without `on` starts when the update added or changed it, or another file that it uses. `push` matches the ref and the
  changed paths; the files that a workflow uses are not added to these paths.
- When a ref is first seen, nothing starts, because its history was pushed before. The exceptions are the first push to a
  repository that was seen empty, and a ref that was created after all refs of the configured patterns were recorded.
- A new branch adds or changes what differs from the default ref. A new tag changes nothing, because it names an existing
  commit.
- A file with errors starts nothing, and neither does its last version without errors.
- Path filters match what changed between the last applied tree and the new one. If that is unknown (too many paths, the old
  tree no longer exists), they match. A tag has no changed paths, so path filters do not apply to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from waterflowd.model import ids
from waterflowd.model.plan import PushTrigger, Triggers
from waterflowd.reconcile import globs, refs
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.source import Changes
from waterflowd.reconcile.state import RefState

#: Patterns that select, and patterns that exclude.
_Filter = tuple[tuple[str, ...], tuple[str, ...]]


class RefUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A ref now points to another commit."""

    ref: str
    number: int
    #: The ref was never seen before, and may have existed before the daemon read the repository.
    is_first_seen: bool
    changes: Changes
    #: Paths of workflow files that this update added or changed.
    files: frozenset[str]


def is_started(triggers: Triggers, path: str, update: RefUpdate) -> bool:
    """Whether the update starts the workflow at `path`."""
    if update.is_first_seen:
        return False
    if triggers.on_change and path in update.files:
        return True
    return triggers.push is not None and _is_pushed(triggers.push, update)


def new_files(
    ref: str, applied: Mapping[str, FileApplied], before: RefState | None, base: RefState | None
) -> frozenset[str]:
    """Which of the applied files count as added or changed; a new ref is compared with `base`."""
    if before is not None or base is None:
        return frozenset(applied)
    if refs.tag_of(ref) is not None:
        return frozenset()
    same = {path: (file.newest.blob, file.newest.used) for path, file in base.files.items()}
    return frozenset(path for path, file in applied.items() if same.get(path) != (file.blob, file.used))


def trigger_key(repository: str, update: RefUpdate, path: str) -> str:
    """The key under which an update starts a file once; a long one ends in a hash."""
    return ids.trigger_key(f"push:{repository}", f"{update.ref}:{update.number}:{path}")


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
    """Whether the filter for this kind of ref matches the name; `others` is the filter for the other kind."""
    selected, ignored = own
    if not (selected or ignored):
        # As on GitHub: with a filter only for branches, tags do not match, and vice versa.
        return not any(others)
    return (not selected or globs.selects(selected, name)) and not globs.selects(ignored, name)


def _is_path_pushed(push: PushTrigger, changes: Changes) -> bool:
    if not changes.is_complete:
        return True
    if push.paths and not globs.selects_any(push.paths, changes.paths):
        return False
    if push.paths_ignore:
        return any(not globs.selects(push.paths_ignore, path) for path in changes.paths)
    return True
