"""The small files of the `.git` that a job's directory gets: what HEAD is, the refs, and the configuration. Pure.

It looks like what GitHub's checkout leaves: a branch is checked out at the run's commit, other branches are those of `origin`,
a tag or a single commit is a detached HEAD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dulwich.refs import Ref, check_ref_format

from waterflow_agent.errors import Stalled
from waterflowd.reconcile import codes
from waterflowd.reconcile.source import Refs

#: Branches and tags in one directory.
REFS_MAX = 50_000
_BRANCH = "refs/heads/"
_REMOTE = "refs/remotes/origin/"
_ID = re.compile(r"[0-9a-f]{40}")
#: Only sizes and times in seconds survive the copy of a directory for another user.
_CONFIGURATION = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
\ttrustctime = false
\tcheckStat = minimal
[gc]
\tauto = 0
[remote "origin"]
\turl = {url}
\tfetch = +refs/heads/*:refs/remotes/origin/*
"""
_TRACKING = """[branch {branch}]
\tremote = origin
\tmerge = {ref}
"""


def usable_refs(refs: Refs) -> dict[str, str]:
    """The branches and tags that Git accepts. Raises `Stalled` WF508 if there are too many."""
    found = {
        name: object_id
        for name, object_id in refs.object_ids.items()
        if _ID.fullmatch(object_id) and check_ref_format(Ref(name.encode("utf-8", "surrogateescape")))
    }
    if len(found) > REFS_MAX:
        text = (
            f"the repository has {len(found):,} branches and tags; a checkout with history has {REFS_MAX:,} at most:"
            " delete old ones, or use a checkout without history"
        )
        raise Stalled(codes.LIMIT, text)
    return found


def git_files(*, url: str, ref: str, revision: str, refs: Refs, shallow: Iterable[str]) -> dict[str, bytes]:
    """The content of each file by its path below `.git`. `ref` is the full name of what the run is for, or empty."""
    found = usable_refs(refs)
    is_branch = ref.startswith(_BRANCH) and check_ref_format(Ref(ref.encode("utf-8", "surrogateescape")))
    packed = {
        _REMOTE + name.removeprefix(_BRANCH) if name.startswith(_BRANCH) else name: object_id
        for name, object_id in found.items()
    }
    if is_branch:
        packed[ref] = revision
        if ref in found:
            # Later pushes are not part of this run.
            packed[_REMOTE + ref.removeprefix(_BRANCH)] = revision
    lines = [f"{object_id} {name}\n" for name, object_id in sorted(packed.items())]
    configuration = _CONFIGURATION.format(url=_quoted(url))
    if is_branch:
        configuration += _TRACKING.format(branch=_quoted(ref.removeprefix(_BRANCH)), ref=_quoted(ref))
    files = {
        "HEAD": f"ref: {ref}\n" if is_branch else f"{revision}\n",
        "config": configuration,
        "packed-refs": "".join(lines),
    }
    if refs.head_ref is not None and refs.head_ref in found and refs.head_ref.startswith(_BRANCH):
        files["refs/remotes/origin/HEAD"] = f"ref: {_REMOTE}{refs.head_ref.removeprefix(_BRANCH)}\n"
    if known := sorted(commit for commit in shallow if _ID.fullmatch(commit)):
        files["shallow"] = "".join(f"{commit}\n" for commit in known)
    return {path: text.encode("utf-8", "surrogateescape") for path, text in files.items()}


def _quoted(text: str) -> str:
    """A value of Git's configuration, or the name of a section."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "") + '"'
