"""The refs that a remote advertises: its branches and tags, the watched ones, and the default one.

Rule of this file: the remote controls names and ids. A name that no pattern can match is ignored, and an invalid id fails the
fetch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dulwich.objects import ObjectID
from dulwich.refs import Ref

from waterflowd.gitsource.remote.fetch_errors import no_repository, past_limit
from waterflowd.reconcile import refs as ref_patterns
from waterflowd.reconcile.source import Refs

_ID = re.compile(rb"[0-9a-f]{40}")
_LONG_ID = re.compile(rb"[0-9a-f]{64}")
_REFS_MAX = 200_000
_HEAD = Ref(b"HEAD")
_PEELED = b"^{}"
#: The names that Git prefers if a server does not say what HEAD names.
_USUAL = ("refs/heads/main", "refs/heads/master")


def object_ids(advertised: Mapping[Ref, ObjectID]) -> dict[str, str]:
    """Branches and tags by full name."""
    found: dict[str, str] = {}
    if len(advertised) > _REFS_MAX:
        raise past_limit(f"the remote has {len(advertised):,} refs; the maximum is {_REFS_MAX:,}")
    for name, object_id in advertised.items():
        if not name.startswith((b"refs/heads/", b"refs/tags/")) or name.endswith(_PEELED):
            continue
        try:
            found[name.decode("utf-8")] = _checked(object_id)
        except UnicodeDecodeError:
            # No pattern of the configuration can match such a ref.
            continue
    return found


def watched_ids(advertised: Mapping[Ref, ObjectID], known: Mapping[str, str], patterns: Sequence[str]) -> list[str]:
    """The ids of the watched refs. Without patterns that is the object of HEAD, whatever branch it names."""
    at_head = advertised.get(_HEAD)
    if not patterns and at_head is not None:
        # HEAD may name no existing branch; then the only branch takes its place.
        branches = [object_id for ref, object_id in known.items() if ref.startswith(ref_patterns.BRANCH)]
        return [_checked(at_head), *(branches if len(branches) == 1 else [])]
    refs = Refs(head_ref=None, object_ids=dict(known))
    return [known[ref] for ref in ref_patterns.watched(refs, patterns)]


def head_ref(symbolic: Mapping[Ref, Ref], advertised: Mapping[Ref, ObjectID | None]) -> str | None:
    """The ref that HEAD names; if the server does not say, the branch with the same object as HEAD."""
    named = symbolic.get(_HEAD)
    if named is not None:
        return named.decode("utf-8", "replace")
    at_head = advertised.get(_HEAD)
    if at_head is None:
        return None
    same = [
        ref
        for ref, object_id in object_ids({n: i for n, i in advertised.items() if i}).items()
        if object_id.encode() == at_head
    ]
    branches = [ref for ref in same if ref.startswith(ref_patterns.BRANCH)]
    usual = [ref for ref in _USUAL if ref in branches]
    return usual[0] if usual else branches[0] if len(branches) == 1 else None


def _checked(object_id: bytes) -> str:
    if _ID.fullmatch(object_id):
        return object_id.decode("ascii")
    if _LONG_ID.fullmatch(object_id):
        raise no_repository("the repository uses SHA-256 objects, which are not supported; only sha1 is")
    raise no_repository("the remote advertises refs with invalid object ids")
