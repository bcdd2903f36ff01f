"""What lies between two commits of a configured repository, and the files of a commit, for comparisons of runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing

from waterflowd.admin.ports import CommitRow
from waterflowd.gitsource import reading
from waterflowd.gitsource.objects import ObjectStore
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.reconcile.settings import RepositorySettings

#: Commits that are listed; how many there are beyond that is of little use.
COMMITS_MAX = 50


class GitRevisionReader:
    """Implements `admin.ports.RevisionReader`."""

    def __init__(self, repositories: Mapping[str, RepositorySettings], opener: RepositoryOpener) -> None:
        self._repositories = repositories
        self._opener = opener

    async def commits(self, repository: str, newest: str, oldest: str) -> tuple[list[CommitRow], bool] | None:
        """See the port."""
        settings = self._repositories.get(repository)
        if settings is None:
            return None
        return await asyncio.to_thread(lambda: commits_between(self._opener.objects(settings), newest, oldest))

    async def file(self, repository: str, revision: str, path: str) -> bytes | None:
        """See the port."""
        settings = self._repositories.get(repository)
        return await self._opener.file(settings, revision, path) if settings is not None else None


def commits_between(directory: str, newest: str, oldest: str) -> tuple[list[CommitRow], bool] | None:
    """The commits from `newest` back to before `oldest` along first parents, and whether there are more of them.

    None if `oldest` is not behind `newest`. Raises `Retryable` for a commit that cannot be read.
    """
    found: list[CommitRow] = []
    with closing(ObjectStore(directory)) as store:
        current: str | None = newest
        while current is not None and current != oldest:
            if len(found) == COMMITS_MAX:
                return found, True
            commit = reading.commit(store, current)
            subject = commit.message.partition("\n")[0]
            found.append(CommitRow(id=commit.id, author=commit.author, subject=subject))
            current = commit.parent
    return (found, False) if current is not None else None
