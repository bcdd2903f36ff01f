"""The state of runs, read from the durable log."""

from __future__ import annotations

from collections.abc import Mapping

from waterflow_agent.errors import Rejected
from waterflowd.engine import Run
from waterflowd.host.driver import Driver
from waterflowd.host.queries import RunQueries
from waterflowd.model.ids import RunId
from waterflowd.time_slices import TimeSlices


class LogRunReader:
    """Implements `admin.ports.RunReader`."""

    def __init__(self, queries: RunQueries, driver: Driver, time_slices: TimeSlices) -> None:
        self._queries = queries
        self._driver = driver
        self._time_slices = time_slices

    async def run(self, run: RunId, at: int | None = None) -> Run | None:
        """See the protocol."""
        try:
            return await self._time_slices.do(self._queries.read(run, at))
        except Rejected:
            return None

    def stalled(self) -> Mapping[RunId, str]:
        """See the protocol."""
        return self._driver.state.stalled

    def read_only_text(self) -> str | None:
        """See the protocol."""
        return self._driver.refusal or None
