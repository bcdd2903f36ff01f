"""Reads commits, workflow files and blobs from an object directory: a local repository's or a mirror's.

The functions block, and open the object store for each call.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from waterflow_agent.errors import Stalled
from waterflowd.gitsource import commits, objects
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.gitsource.trees import TreeReader
from waterflowd.reconcile import codes
from waterflowd.reconcile.source import FILE_BYTES_MAX, Commit, Revision, TreeFile

_COMMIT_BYTES_MAX = 1 << 20
#: Tags of tags.
_TAG_DEPTH_MAX = 5


def revision(directory: str, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
    """See `Source.revision`."""
    with closing(ObjectStore(directory)) as store:
        found = commit(store, object_id)
        trees = TreeReader(store)
        files = trees.files(found.tree, folders)
        return Revision(commit=found, files=files, changes=trees.changes(previous_tree, found.tree))


def blobs(directory: str, ids: Sequence[str]) -> dict[str, bytes | None]:
    """See `Source.blobs`."""
    contents: dict[str, bytes | None] = {}
    with closing(ObjectStore(directory)) as store:
        for object_id in ids:
            try:
                kind, content = store.read(object_id, FILE_BYTES_MAX)
            except objects.TooLarge:
                contents[object_id] = None
                continue
            if kind != objects.BLOB:
                raise objects.unreadable(object_id, "is not a file")
            contents[object_id] = content
    return contents


def lookup(directory: str, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
    """See `Source.lookup`."""
    with closing(ObjectStore(directory)) as store:
        trees = TreeReader(store)
        return {path: found for path in paths if (found := trees.find(tree, path)) is not None}


def files(directory: str, commit_id: str, paths: Sequence[str]) -> dict[str, bytes]:
    """The contents of regular files of a commit, by path; missing files are left out.

    Raises `Stalled` for anything but a regular file, and for a file that is larger than a workflow file may be, `Retryable`
    WF506 if an object cannot be read.
    """
    contents: dict[str, bytes] = {}
    with closing(ObjectStore(directory)) as store:
        trees, tree = TreeReader(store), commit(store, commit_id).tree
        for path in paths:
            found = trees.find(tree, path)
            if found is None:
                continue
            if found.problem is not None:
                raise Stalled(found.problem.code, f"{path}: {found.problem.message}")
            try:
                kind, contents[path] = store.read(found.blob, FILE_BYTES_MAX)
            except objects.TooLarge as error:
                raise Stalled(codes.LIMIT, f"{path} is larger than {FILE_BYTES_MAX:,} bytes") from error
            if kind != objects.BLOB:
                raise objects.unreadable(found.blob, "is not a file")
    return contents


def file(directory: str, commit_id: str, path: str) -> bytes | None:
    """The content of a regular file of a commit; None if there is none, or it is too large."""
    with closing(ObjectStore(directory)) as store:
        found = TreeReader(store).find(commit(store, commit_id).tree, path)
    if found is None or found.problem is not None:
        return None
    return blobs(directory, [found.blob])[found.blob]


def commit(store: ObjectStore, object_id: str) -> Commit:
    """The commit with this id, or the one that a tag with this id leads to."""
    return commit_object(store, object_id)[0]


def commit_object(store: ObjectStore, object_id: str) -> tuple[Commit, bytes]:
    """As `commit`, with the content of the commit's object."""
    for _ in range(_TAG_DEPTH_MAX):
        try:
            kind, content = store.read(object_id, _COMMIT_BYTES_MAX)
            if kind == objects.COMMIT:
                return commits.parse_commit(object_id, content), content
            if kind != objects.TAG:
                break
            object_id = commits.tagged(content)
        except objects.TooLarge as error:
            raise Stalled(codes.LIMIT, f"commit {object_id[:12]} is larger than {_COMMIT_BYTES_MAX:,} bytes") from error
        except ValueError as error:
            raise objects.unreadable(object_id, f"is damaged: {error}") from error
    raise objects.unreadable(object_id, "is not a commit")
