"""The state of runs, folded from the facts that Temporal keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from waterflow_agent.errors import Retryable
from waterflowd.engine import Run, fold
from waterflowd.model import plan
from waterflowd.model.ids import RunId, StreamName, run_stream
from waterflowd.temporal import run_turns
from waterflowd.temporal.reading import terminated_runs
from waterflowd.temporal.reading.stream_reader import Stored, StreamReader

#: A start is durable before its first turn, which follows at once.
FIRST_TURN_S = 0.05
FIRST_TURN_TRIES = 100


class TemporalRunReader:
    """Implements `admin.ports.RunReader`."""

    def __init__(self, streams: StreamReader, stalled: Mapping[RunId, str], refusal: Callable[[], str]) -> None:
        """`stalled` are runs that cannot continue, and the reasons; `refusal` says why no run can be started, or is empty."""
        self._streams = streams
        self._stalled = stalled
        self._refusal = refusal

    async def run(self, run: RunId, at: int | None = None) -> Run | None:
        """See the protocol. `Retryable` WF802 for a run that has been started, but has not made its first turn yet."""
        stream = run_stream(run)
        stored = await self._begun(stream)
        if stored is not None and not stored.facts and not stored.terminated_at:
            text = (
                f"run {run} has been started, but has not begun yet, because the daemon or Temporal is busy; try again"
            )
            raise Retryable("WF802", text)
        facts = terminated_runs.facts(stored) if stored is not None else ()
        if stored is None or not facts or (at is not None and not 1 <= at <= len(facts)):
            return None
        history = [run_turns.FACTS.unpack(stream, fact).event for fact in facts[:at]]
        return fold(run, plan.decode(stored.subject), history)

    async def _begun(self, stream: StreamName) -> Stored | None:
        """The stream; waits a while for the first turn of a run that has just been started."""
        stored = await self._streams.read(stream)
        tries = FIRST_TURN_TRIES
        while stored is not None and not stored.facts and not stored.terminated_at and tries:
            tries -= 1
            await asyncio.sleep(FIRST_TURN_S)
            stored = await self._streams.read(stream)
        return stored

    def stalled(self) -> Mapping[RunId, str]:
        """See the protocol."""
        return self._stalled

    def read_only_text(self) -> str | None:
        """See the protocol."""
        return self._refusal() or None
