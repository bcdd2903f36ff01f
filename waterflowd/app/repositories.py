"""What watches and reads repositories: one catalog of their settings for everything that needs them."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd import ports
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.repository_quotas import RepositoryQuotas
from waterflowd.admin.ports import RepositoryAdmin, RepositoryRow
from waterflowd.admin.repository_changes import RepositoryDirector, RepositoryParts
from waterflowd.app.config import Config, grant_lints, repository_limits
from waterflowd.compiler.process import CompilerProcess
from waterflowd.gitsource import urls
from waterflowd.gitsource.added_limits import AddedRepositoryLimits
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.gitsource.checkouts.revision_reader import GitRevisionReader
from waterflowd.gitsource.history.reader import CompleteRepository, HistoryReaders
from waterflowd.gitsource.refused import RefusedSource
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.reconcile.added import AddedFact
from waterflowd.reconcile.catalog import RepositoryCatalog
from waterflowd.reconcile.loop import Reconciler
from waterflowd.reconcile.loop.child_workflows import CommittedWorkflows
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Source

logger = logging.getLogger("waterflow.daemon")


class Repositories:
    """The watched repositories as they are now, and what reads them."""

    def __init__(self, config: Config, facts: Iterable[AddedFact] = ()) -> None:
        #: The configuration in effect.
        self.config = config
        self.catalog = RepositoryCatalog(
            config.repository_settings, facts, allow_loopback=config.added_repositories.loopback
        )
        directory = Path(config.data_dir) / "repositories"
        self._opener = RepositoryOpener(directory, os.environ)
        # Tokens in the environment belong to names in the configuration, and not to anyone who adds a similar name.
        self._opener_of_added = RepositoryOpener(directory, {})
        self._histories = HistoryReaders(directory, self._open_complete)

    @property
    def limits(self) -> AddedRepositoryLimits:
        """What a repository that is added through the API may be."""
        return AddedRepositoryLimits(**msgspec.structs.asdict(self.config.added_repositories))

    def report(self) -> None:
        """Logs what is perhaps not as intended."""
        for name in self.catalog.shadowed:
            text = "is used as it is in the configuration, and not as it was added through the API"
            logger.warning("repository %s %s", name, text, extra={"repository": name})
        for lint in grant_lints(self.config, self.catalog):
            logger.warning("%s", lint)

    def open(self, settings: RepositorySettings) -> Source:
        """The source of a repository. Raises `Rejected` WF502 for one of the configuration that cannot be opened."""
        if settings.name in self.catalog.configured:
            return self._opener.open(settings)
        try:
            self.limits.admitted(settings)
            return self._opener_of_added.open(settings)
        except Rejected as refusal:
            return RefusedSource(refusal)

    def _open_complete(self, settings: RepositorySettings) -> CompleteRepository:
        """A repository with its history. Raises `Rejected` WF502 for one that cannot be opened."""
        if settings.name in self.catalog.configured:
            return self._opener.open_complete(settings)
        self.limits.admitted(settings)
        return self._opener_of_added.open_complete(settings)

    def full_name(self, name: str) -> str:
        """The name of a repository as its server has it; see `urls.full_name`."""
        settings = self.catalog.get(name)
        return urls.full_name(settings.url, name) if settings is not None else name

    def url(self, name: str) -> str:
        """The address of a repository; empty for one that is no longer watched."""
        settings = self.catalog.get(name)
        return settings.url if settings is not None else ""

    def contents(self) -> RevisionFileReader:
        """The files of revisions, for agents."""
        return RevisionFileReader(self.catalog, self._opener, self._histories)

    def revisions(self) -> GitRevisionReader:
        """Commits and files, to compare runs."""
        return GitRevisionReader(self.catalog, self._opener)

    def child_workflows(self, compiler: CompilerProcess) -> CommittedWorkflows:
        """What steps start as child runs."""
        return CommittedWorkflows(self.catalog, self._opener.file, compiler)

    @property
    def digests(self) -> Callable[[str, str, Sequence[str]], Awaitable[dict[str, str]]]:
        """The results of `hashFiles`, by repository and revision."""

        async def digests(repository: str, revision: str, calls: Sequence[str]) -> dict[str, str]:
            settings = self.catalog.get(repository)
            return await self._opener.digests(settings, revision, calls) if settings is not None else {}

        return digests

    async def read(self, repository: str, revision: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The contents of files of a revision."""
        return await self._opener.files(self.catalog[repository], revision, paths)

    def replace_quotas(self, quotas: RepositoryQuotas) -> None:
        """Applies the quotas of the configuration and of what was added."""
        quotas.replace(*repository_limits(self.config, self.catalog.added.values()))

    def director(
        self,
        reconciler: Reconciler,
        access: AccessPolicy,
        quotas: RepositoryQuotas,
        place_of: Callable[[str], str],
        admin: RepositoryAdmin,
        writer: ports.StreamWriter,
    ) -> RepositoryDirector:
        """What adds, changes and removes repositories."""

        def row_of(name: str) -> RepositoryRow:
            return next(row for row in admin.status() if row.name == name)

        parts = RepositoryParts(
            catalog=self.catalog,
            reconciler=reconciler,
            access=access,
            replace_quotas=lambda: self.replace_quotas(quotas),
            admit=lambda settings: self.limits.admitted(settings),
            remove_fetched=self._opener.remove,
            place_of=place_of,
        )
        return RepositoryDirector(parts, writer, row_of)
