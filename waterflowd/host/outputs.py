"""Writes the output of steps from the link to the output logs, and acknowledges it once it is durable.

Rules of this file: only the agent that has (or had) the attempt may append to its output log, and only up to a log's limit.
Output is collected while an append is in progress and then written at once. The agents' windows bound what is collected;
a limit here applies to agents that ignore their window. Other output is rejected: it is
acknowledged, because its agent would send it forever otherwise, and recorded against that agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.host.feed import Feed
from waterflowd.host.live_state import LiveState
from waterflowd.host.queries import RunQueries
from waterflowd.model.ids import AgentId
from waterflowd.model.records import OutputAppend, OutputPiece

logger = logging.getLogger("waterflow.host")

#: How long output is collected before it is written: more flushes would delay events.
COLLECT_S = 0.025
#: Largest log: the limit of every task (64 MiB), and space for the marks of dropped output.
LOG_BYTES_MAX = 65 << 20
#: Limit of collected bytes per agent, a few times its window; beyond it the agent has to send again.
WAITING_BYTES_MAX = 8 * messages.OUTPUT_WINDOW_BYTES
#: Memory of a message and of a chunk besides their bytes.
_OVERHEAD_BYTES = 256
#: Pause after a full disk.
DISK_FULL_PAUSE_S = 1.0


class OutputCollector:
    """Collects output and writes it."""

    def __init__(
        self, state: LiveState, logs: ports.OutputWriter, link: ports.Link, feed: Feed, queries: RunQueries
    ) -> None:
        self._state = state
        self._logs = logs
        self._link = link
        self._feed = feed
        self._queries = queries
        self._waiting: list[tuple[AgentId, messages.TaskId, OutputAppend]] = []
        self._waiting_bytes: Counter[AgentId] = Counter()
        #: Attempts of which some output was dropped since the last write.
        self._dropped: set[messages.TaskId] = set()
        self._wake = asyncio.Event()

    def received(self, agent: AgentId, output: messages.Output) -> None:
        """An agent has sent output."""
        key = output.key
        size = sum(len(chunk.data) for chunk in output.chunks)
        fault = self._fault(agent, key, output.offset, size)
        if fault:
            self._link.reject(agent, "WF215", f"output of {display_name(key)}: {fault}")
            self._link.send(agent, [messages.OutputAck(key, max(output.offset, 0) + size)])
            return
        if self._waiting_bytes[agent] > WAITING_BYTES_MAX:
            if key not in self._dropped:
                # Without pieces: the answer says where the agent has to continue.
                self._dropped.add(key)
                self._waiting.append((agent, key, OutputAppend(attempt=key.attempt, pieces=[])))
            return
        # Empty messages and chunks are not free either.
        self._waiting_bytes[agent] += size + _OVERHEAD_BYTES * (1 + len(output.chunks))
        pieces = []
        offset = output.offset
        for chunk in output.chunks:
            pieces.append(OutputPiece(offset=offset, at=chunk.at, stream=chunk.stream, data=chunk.data))
            offset += len(chunk.data)
        self._waiting.append((agent, key, OutputAppend(attempt=key.attempt, pieces=pieces)))
        self._wake.set()

    def _fault(self, agent: AgentId, key: messages.TaskId, offset: int, size: int) -> str:
        """Why the output cannot be stored; empty if it can."""
        if not self._is_owner(agent, key):
            return "the agent does not have this attempt"
        return "" if 0 <= offset <= LOG_BYTES_MAX - size else "the offset is beyond the size limit of a log"

    def _is_owner(self, agent: AgentId, key: messages.TaskId) -> bool:
        attempt = self._queries.attempt(self._state.runs, key.attempt)
        return attempt is not None and attempt.agent == agent and attempt.epoch == key.epoch

    async def run(self) -> None:
        """Writes output until it is cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(COLLECT_S)
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            self._waiting_bytes.clear()
            self._dropped.clear()
            sizes = await self._append([append for _, _, append in waiting])
            acknowledgements: dict[AgentId, list[messages.OutputAck]] = {}
            for (agent, key, _), size in zip(waiting, sizes, strict=True):
                acknowledgements.setdefault(agent, []).append(messages.OutputAck(key, size))
            for agent, outgoing in acknowledgements.items():
                self._link.send(agent, outgoing)
            for run in dict.fromkeys(append.attempt.run for _, _, append in waiting):
                self._feed.output_published(run)

    async def _append(self, appends: list[OutputAppend]) -> list[int]:
        """The sizes after the appends. After a failure without them: the durable sizes tell the agents where to continue."""
        while True:
            try:
                return await self._logs.append(appends)
            except Retryable as error:
                logger.error("cannot write output; agents will send it again: %s", error.text)
            await asyncio.sleep(DISK_FULL_PAUSE_S)
            appends = [OutputAppend(attempt=append.attempt, pieces=[]) for append in appends]


def display_name(key: messages.TaskId) -> str:
    """The attempt's name for the daemon's log; an agent chose its parts."""
    attempt = key.attempt
    return ascii("/".join((attempt.run, attempt.job, attempt.step, str(attempt.number)))[:200])
