"""Which refs of a repository are watched: those that match the configured patterns, or the branch of HEAD."""

from __future__ import annotations

from collections.abc import Sequence

from waterflowd.reconcile import globs
from waterflowd.reconcile.source import Refs

BRANCH = "refs/heads/"
TAG = "refs/tags/"
_TAG_PATTERN = "tags/"


def branch_of(ref: str) -> str | None:
    """The branch's short name, or None for another kind of ref."""
    return ref.removeprefix(BRANCH) if ref.startswith(BRANCH) else None


def tag_of(ref: str) -> str | None:
    """The tag's short name, or None for another kind of ref."""
    return ref.removeprefix(TAG) if ref.startswith(TAG) else None


def watched(refs: Refs, patterns: Sequence[str]) -> list[str]:
    """Full names of the existing watched refs, the default one first, then by name.

    Without patterns it is the branch of HEAD. If HEAD names a branch that does not exist (a new bare repository says `master`,
    and `main` is pushed), it is the only branch.
    """
    if not patterns:
        default = default_ref(refs)
        return [default] if default else []
    chosen = [ref for ref in refs.object_ids if is_selected(ref, patterns)]
    return sorted(chosen, key=lambda ref: (ref != refs.head_ref, ref))


def default_ref(refs: Refs) -> str | None:
    """The default branch; None if there is none or it is ambiguous."""
    if refs.head_ref in refs.object_ids:
        return refs.head_ref
    branches = [ref for ref in refs.object_ids if ref.startswith(BRANCH)]
    return branches[0] if len(branches) == 1 else None


def nothing_watched(refs: Refs, patterns: Sequence[str]) -> str:
    """One sentence: why no ref is watched and what to do."""
    branches = sorted(ref.removeprefix(BRANCH) for ref in refs.object_ids if ref.startswith(BRANCH))
    if not refs.object_ids:
        return "the repository is empty; push a commit"
    if patterns:
        return f"no ref matches {', '.join(patterns)}; the branches are: {_some(branches) or 'none'}"
    if refs.head_ref is None:
        return "HEAD is not a branch; set `refs` to the branches to watch"
    return f"HEAD names {refs.head_ref}, which does not exist; set `refs` to one of: {_some(branches) or 'its refs'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def is_selected(ref: str, written: Sequence[str]) -> bool:
    """Whether the patterns match the ref (full name); those that begin with `tags/` are for tags."""
    patterns = [pattern.replace(BRANCH, "", 1).replace(TAG, _TAG_PATTERN, 1) for pattern in written]
    tag = tag_of(ref)
    if tag is not None:
        of_tags = [p.replace(_TAG_PATTERN, "", 1) for p in patterns if p.lstrip("!").startswith(_TAG_PATTERN)]
        return globs.selects(of_tags, tag)
    branch = branch_of(ref)
    of_branches = [p for p in patterns if not p.lstrip("!").startswith(_TAG_PATTERN)]
    return branch is not None and globs.selects(of_branches, branch)
