"""The source of a repository that may not be opened: every read says why.

It stands for a repository that was added through the API and that the configuration no longer permits, so that the daemon
starts, and the status shows the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.reconcile.source import Refs, Revision, TreeFile, WatchStatus


class RefusedSource:
    """A `Source` without a repository."""

    def __init__(self, refusal: Rejected) -> None:
        self._refusal = refusal

    def _raise(self) -> NoReturn:
        raise Stalled(self._refusal.code, self._refusal.text)

    async def refs(self) -> Refs:
        """Raises the refusal."""
        self._raise()

    async def revision(self, object_id: str, previous_tree: str | None, folders: Sequence[str]) -> Revision:
        """Raises the refusal."""
        self._raise()

    async def blobs(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """Raises the refusal."""
        self._raise()

    async def lookup(self, tree: str, paths: Sequence[str]) -> dict[str, TreeFile]:
        """Raises the refusal."""
        self._raise()

    async def wait_for_change(self, timeout_s: float) -> bool:
        """Waits for the timeout."""
        await asyncio.sleep(timeout_s)
        return False

    def watch_status(self) -> WatchStatus:
        """Nothing is watched."""
        return WatchStatus(is_watching=False, code="refused", text="the repository may not be read", is_remote=True)

    async def close(self) -> None:
        """There is nothing to close."""
