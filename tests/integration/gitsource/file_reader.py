"""What reads the files of repositories for agents, in tests, and what an agent does with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from waterflow_agent.checkout import file_list
from waterflow_agent.checkout.tree_store import TreeStore
from waterflow_agent.wire import messages
from waterflowd.dispatch import lowering
from waterflowd.gitsource.checkouts.revision_files import RevisionFileReader
from waterflowd.gitsource.history.reader import HistoryReaders
from waterflowd.gitsource.repository_opener import RepositoryOpener
from waterflowd.model.records import Checkout
from waterflowd.reconcile.settings import RepositorySettings


def file_reader(
    *settings: RepositorySettings, mirrors: Path, environment: Mapping[str, str] | None = None
) -> RevisionFileReader:
    """Reads these repositories; remotes through mirrors in a directory, with tokens of the environment."""
    opener = RepositoryOpener(mirrors, environment or {})
    histories = HistoryReaders(mirrors, opener.open_complete)
    return RevisionFileReader({one.name: one for one in settings}, opener, histories)


class AgentFiles:
    """The directories that an agent makes of checkouts."""

    def __init__(self, reader: RevisionFileReader, folder: Path) -> None:
        self._reader = reader
        self._store = TreeStore(folder / "trees", 1 << 30, shutil.rmtree)
        #: How many files the last checkout has fetched.
        self.fetched = 0

    async def check_out(self, checkout: Checkout) -> Path:
        """Returns the directory of a job with the checkout."""
        listed = await self._reader.listed(checkout)
        partial = self._store.begin(lowering.tree_of(checkout), file_list.decode(listed.content))
        self.fetched = len(partial.missing)
        while partial.missing:
            blob = next(iter(partial.missing))
            content = bytearray()
            while True:
                chunk = (
                    await self._reader.pieces(
                        checkout.repository, listed, [blob], len(content), messages.FILE_RESPONSE_BYTES_MAX
                    )
                )[0]
                content += chunk.data
                if len(content) == chunk.size:
                    break
            self._store.add(partial, [(blob, bytes(content))])
        self._store.finish(partial)
        return partial.path
