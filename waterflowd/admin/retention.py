"""Retention as the API sees it."""

from __future__ import annotations

import msgspec

from waterflowd import ports
from waterflowd.admin.ports import RetentionRow
from waterflowd.host.retention.pruner import Pruner
from waterflowd.model.ids import RunId
from waterflowd.model.records import RemovedOutput, RemovedRun
from waterflowd.time_slices import TimeSlices, Work

#: Removed runs that are read at a time: a millisecond.
_ROWS = 250


class LogRetentionAdmin:
    """Implements `admin.ports.RetentionAdmin`."""

    def __init__(self, pruner: Pruner, journal: ports.Journal, time_slices: TimeSlices) -> None:
        self._pruner = pruner
        self._journal = journal
        self._time_slices = time_slices

    @property
    def rules(self) -> dict[str, int]:
        """See the protocol."""
        settings = msgspec.structs.asdict(self._pruner.retention)
        return {name: value for name, value in settings.items() if value is not None}

    @property
    def progress(self) -> dict[str, int | bool | None]:
        """See the protocol."""
        return msgspec.structs.asdict(self._pruner.progress)

    async def preview(self) -> list[RetentionRow]:
        """See the protocol."""
        return [RetentionRow(**msgspec.structs.asdict(found)) for found in await self._pruner.preview()]

    def start_now(self, by: str) -> None:
        """See the protocol."""
        self._pruner.start_now(by)

    def removed_run(self, run: RunId) -> RemovedRun | None:
        """See the protocol."""
        return self._journal.removed_run(run)

    async def removed_runs(self, name: str, number: int) -> list[RemovedRun]:
        """See the protocol."""
        return await self._time_slices.do(self._search(name, number))

    def _search(self, name: str, number: int) -> Work[list[RemovedRun]]:
        found: list[RemovedRun] = []
        after: RunId | None = None
        while rows := self._journal.removed_runs(after, _ROWS):
            found += [row for row in rows if row.number == number and name in (row.name, row.path)]
            after = rows[-1].id
            yield
        return found

    def removed_output(self, run: RunId) -> RemovedOutput | None:
        """See the protocol."""
        return self._journal.removed_output(run)
