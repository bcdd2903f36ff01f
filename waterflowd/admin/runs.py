"""The state of runs, read from the durable log."""

from __future__ import annotations

from collections.abc import Mapping

from waterflow_agent.errors import Rejected
from waterflowd.engine import Run
from waterflowd.host.driver import Driver
from waterflowd.host.queries import RunQueries
from waterflowd.model.ids import RunId


class LogRunReader:
    """Implements `admin.ports.RunReader`."""

    def __init__(self, queries: RunQueries, driver: Driver) -> None:
        self._queries = queries
        self._driver = driver

    def run(self, run: RunId) -> Run | None:
        """See the protocol."""
        try:
            return self._queries.run(run)
        except Rejected:
            return None

    def run_at(self, run: RunId, position: int) -> Run | None:
        """See the protocol."""
        try:
            return self._queries.run(run, position)
        except Rejected:
            return None

    def stalled(self) -> Mapping[RunId, str]:
        """See the protocol."""
        return self._driver.state.stalled

    def read_only_text(self) -> str | None:
        """See the protocol."""
        return self._driver.refusal or None
