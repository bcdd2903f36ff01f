"""Deletes an artifact on request, and at once the blocks that only it had.

Rules of this file: first the record changes, then the blocks go that nothing else has. A block that an upload has asked for
since then stays; an upload that had asked for it before sends it again (WF333). Nothing is removed while a backup is made.
"""

from __future__ import annotations

import logging
import time

import msgspec

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd import ports
from waterflowd.artifacts.cleaning import ArtifactCleaner
from waterflowd.artifacts.files import removable
from waterflowd.artifacts.records import ArtifactRecord, Removal
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.artifacts.server import ArtifactServer
from waterflowd.artifacts.store import ArtifactStore, local_blocks_of
from waterflowd.model.ids import RunId

logger = logging.getLogger("waterflow.artifacts")

#: Blocks that are removed at a time, so that uploads continue in between.
_BATCH = 500
#: The times of files may be behind the clock by a tick of the kernel.
_TICK_S = 0.1


class ArtifactDeleter:
    """See the file's docstring."""

    def __init__(
        self,
        store: ArtifactStore,
        server: ArtifactServer,
        kept: KeptArtifacts,
        cleaner: ArtifactCleaner,
        clock: ports.Clock,
    ) -> None:
        self._store = store
        self._cleaner = cleaner
        self._server = server
        self._kept = kept
        self._clock = clock

    async def delete(self, run: RunId, name: str, by: str) -> ArtifactRecord:
        """Returns the record, which says who deleted the artifact.

        Raises `Rejected` WF334 (404) if there is no such artifact, WF338 (409) during a backup.
        """
        await self._kept.keep(run, self._server.write)
        now, before = self._clock.now(), time.time() - _TICK_S
        removal = Removal(at=now, reason="deleted", by=by)
        record = await self._server.write(lambda: self._remove(run, name, removal))
        self._server.metrics.removed["deleted"] += 1
        try:
            freed = await self._free(record, before)
        except (WaterflowError, OSError) as error:
            # A damaged record of another artifact, for example: then its blocks may be among these.
            logger.error("artifact %s is deleted, but its blocks stay for now: %s", name, error, extra={"run": run})
        else:
            self._server.metrics.freed += freed
            logger.info("%s deleted the artifact %s: %d bytes are free", by, name, freed, extra={"run": run})
        return msgspec.structs.replace(record, removal=removal)

    def _remove(self, run: RunId, name: str, removal: Removal) -> ArtifactRecord:
        with removable(self._store.root) as may_remove:
            record = self._store.find(run, name, removal.at)
            if record is None:
                shown = escape_for_display(name, 80)
                raise Rejected("WF334", f'run {run} has no artifact "{shown}"', where="name", status=404)
            if not may_remove:
                raise Rejected("WF338", "a backup is being made; delete the artifact when it has ended", status=409)
            self._store.remove(run, record, removal)
            return record

    async def _free(self, record: ArtifactRecord, before: float) -> int:
        """Removes the blocks that only this artifact had; returns their size."""
        own = await self._server.read(lambda: set(local_blocks_of(self._store, record)))
        others = await self._cleaner.records_by_scope()
        digests, freed = list(own - await self._cleaner.used(record.scope, others.get(record.scope, ()))), 0
        for begin in range(0, len(digests), _BATCH):
            batch = digests[begin : begin + _BATCH]
            freed += await self._server.write(lambda batch=batch: self._remove_blocks(record.scope, batch, before))  # type: ignore[misc]
        return freed

    def _remove_blocks(self, scope: str, digests: list[bytes], before: float) -> int:
        with removable(self._store.root) as may_remove:
            return self._store.blocks.remove(scope, digests, before) if may_remove else 0
