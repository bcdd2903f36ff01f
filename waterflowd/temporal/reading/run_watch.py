"""How many runs are open, and which of them are stalled: those of all daemons, as the cluster lists them.

Rules of this file: the cluster is asked now and then, in the background, so readers never wait for it. Its lists are a second
or two late. While it does not answer, what it said last is shown.
"""

from __future__ import annotations

import asyncio
import logging

from temporalio.client import Client, WorkflowExecution

from waterflow_agent.errors import WaterflowError
from waterflowd.model.ids import RunId
from waterflowd.temporal import run_turns
from waterflowd.temporal.reading.stream_reader import RUNS, reported, stalled_text
from waterflowd.temporal.workflow import messages

logger = logging.getLogger("waterflow.temporal")

#: How often the cluster is asked.
LOOK_S = 5.0
#: Stalled runs whose reasons are read; all are counted.
STALLED_READ_MAX = 100

_OPEN = f"{RUNS} AND ExecutionStatus = 'Running'"
_STALLED = f"{_OPEN} AND {messages.STALLED_ATTRIBUTE} IS NOT NULL"
_UNKNOWN = "the run cannot continue; `temporal workflow describe` shows why"


class RunWatch:
    """See the module's docstring. `run` must run while it is used."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.open = 0
        self.stalled = 0
        #: The newest stalled runs, and the reasons.
        self.reasons: dict[RunId, str] = {}

    async def run(self) -> None:
        """Asks forever. No error ends it."""
        while True:
            try:
                await self.look()
            except WaterflowError as error:
                logger.debug("open runs cannot be counted: %s", error)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Asks once. Raises `Retryable` WF802 when the cluster does not answer."""
        with reported():
            count = (await self._client.count_workflows(_OPEN)).count
            stalled = (await self._client.count_workflows(_STALLED)).count if count else 0
            found = self._client.list_workflows(_STALLED, limit=STALLED_READ_MAX) if stalled else None
            reasons = {self._run(each): await self._reason(each) async for each in found} if found is not None else {}
        self.open, self.stalled = count, max(stalled, len(reasons))
        self.reasons.clear()
        self.reasons.update(reasons)

    @staticmethod
    def _run(execution: WorkflowExecution) -> RunId:
        return RunId(execution.id.removeprefix(run_turns.PREFIX))

    async def _reason(self, execution: WorkflowExecution) -> str:
        try:
            return await stalled_text(self._client, execution.id, execution.raw_info.memo) or _UNKNOWN
        except (WaterflowError, KeyError, RuntimeError, TypeError):
            # It is sealed with a key that this daemon does not have, or was changed.
            return _UNKNOWN
