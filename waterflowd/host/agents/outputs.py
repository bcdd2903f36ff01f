"""Writes the output of steps from the link to the output logs, and acknowledges it once it is durable.

Rules of this file: only the agent that has (or had) the attempt may append to its output log, and only up to a log's limit.
Output is collected for a moment, and while an append is in progress; what of it is admitted (output_admission.py) is then
written at once. The agents' windows bound what is collected; a limit here applies to agents that ignore their window. Other
output is rejected, if necessary after its run was asked (output_owners.py): it is acknowledged, because its agent would send
it forever otherwise, and recorded against that agent. A damaged log concerns its attempt alone: what cannot be added to it is
acknowledged and dropped, with an entry in the daemon's log.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict

import msgspec

from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.host.agents.output_admission import OutputAdmission
from waterflowd.host.agents.output_owners import OutputOwners
from waterflowd.host.feed import Feed
from waterflowd.model.ids import AgentId, AttemptId
from waterflowd.model.records import HeldAttempt, OutputAppend, OutputPiece

logger = logging.getLogger("waterflow.host")

#: Space in a log for the marks of dropped output, beyond the limit of its attempt.
MARKS_BYTES_MAX = 1 << 20
#: Limit of collected bytes per agent, a few times its window; beyond it the agent has to send again.
WAITING_BYTES_MAX = 8 * messages.OUTPUT_WINDOW_BYTES
#: Memory of a message and of a chunk besides their bytes.
_OVERHEAD_BYTES = 256
#: Damaged logs that are remembered, so that each is reported once.
_DAMAGED_MAX = 1_000
#: The code of the error about a damaged log; every other one is about the storage as a whole.
_DAMAGED_CODE = "WF304"
#: Why output is rejected.
NOT_HELD_TEXT = "the agent does not have this attempt"
#: Pause while the storage takes nothing, as with a full disk.
DISK_FULL_PAUSE_S = 1.0


class _Arrival(msgspec.Struct, frozen=True):
    """Something that was sent about an output log, in the order of its arrival."""

    agent: AgentId
    key: messages.TaskId
    attempt: HeldAttempt
    #: None for output that was dropped: the answer says where the agent has to continue.
    output: messages.Output | None = None
    #: The size of the whole log; only with the report of the attempt's end, which gets no answer.
    total: int | None = None


class OutputCollector:
    """Collects output and writes it."""

    def __init__(
        self, attempts: ports.Attempts, admission: OutputAdmission, logs: ports.OutputLogs, link: ports.Link, feed: Feed
    ) -> None:
        self._attempts = attempts
        self._admission = admission
        self._logs = logs
        self._link = link
        self._feed = feed
        self._arrived: list[_Arrival] = []
        self._waiting_bytes: Counter[AgentId] = Counter()
        #: Attempts of which some output was dropped since the last write.
        self._dropped: set[messages.TaskId] = set()
        self._damaged: OrderedDict[AttemptId, None] = OrderedDict()
        self._owners = OutputOwners(attempts.confirm, self._answered)
        self._wake = asyncio.Event()

    def received(self, agent: AgentId, output: messages.Output) -> None:
        """An agent has sent output."""
        key = output.key
        size = sum(len(chunk.data) for chunk in output.chunks)
        attempt = self._attempts.find(agent, key.attempt)
        end = max(output.offset, 0) + size
        if attempt is None or not attempt.is_certain or attempt.epoch != key.epoch:
            # An agent could claim the attempt of another one.
            if self._attempts.is_foreign(agent, key):
                self._reject(agent, key, end, NOT_HELD_TEXT)
            else:
                self._owners.ask(agent, key, end)
            return
        if not 0 <= output.offset <= attempt.output_bytes_max + MARKS_BYTES_MAX - size:
            self._reject(
                agent, key, end, f"the offset is beyond the limit of its output, {attempt.output_bytes_max:,} bytes"
            )
            return
        if self._waiting_bytes[agent] > WAITING_BYTES_MAX:
            if key not in self._dropped:
                self._dropped.add(key)
                self._add(_Arrival(agent, key, attempt))
            return
        # Empty messages and chunks are not free either.
        self._waiting_bytes[agent] += size + _OVERHEAD_BYTES * (1 + len(output.chunks))
        self._add(_Arrival(agent, key, attempt, output))

    def _reject(self, agent: AgentId, key: messages.TaskId, end: int, text: str) -> None:
        """The agent would send it forever without an acknowledgement."""
        self._link.reject(agent, "WF215", f"output of {display_name(key)}: {text}")
        self._link.send(agent, [messages.OutputAck(key, end)])

    def _answered(self, agent: AgentId, key: messages.TaskId, attempt: HeldAttempt | None, end: int) -> None:
        """Whose the attempt is has become known: its agent is told where to continue."""
        if attempt is None:
            self._reject(agent, key, end, NOT_HELD_TEXT)
        else:
            self._add(_Arrival(agent, key, attempt))

    def finished(self, agent: AgentId, attempt: HeldAttempt, report: messages.Finished) -> None:
        """The agent has reported the end of its attempt, and with it the size of the whole output log."""
        # Under another lease it was another log.
        if attempt.is_certain and attempt.epoch == report.key.epoch and report.output_bytes > 0:
            self._add(_Arrival(agent, report.key, attempt, total=report.output_bytes))

    def _add(self, arrival: _Arrival) -> None:
        self._arrived.append(arrival)
        self._wake.set()

    async def run(self) -> None:
        """Writes output until it is cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(self._logs.collect_s)
            self._wake.clear()
            arrived, self._arrived = self._arrived, []
            self._waiting_bytes.clear()
            self._dropped.clear()
            waiting: list[tuple[_Arrival, OutputAppend]] = []
            for arrival in arrived:
                pieces = await self._admitted(arrival)
                if pieces is None:
                    self._acknowledge_dropped(arrival)
                elif pieces or arrival.total is None:
                    waiting.append((arrival, OutputAppend(attempt=arrival.key.attempt, pieces=pieces)))
            if waiting:
                await self._write(waiting)

    async def _admitted(self, arrival: _Arrival) -> list[OutputPiece] | None:
        """The pieces to store; None if the log is damaged."""
        if arrival.total is not None:
            return self._admission.finished(arrival.key.attempt, arrival.total)
        while arrival.output is not None:
            try:
                return await self._admission.pieces(arrival.attempt, arrival.output)
            except Retryable as error:
                logger.error("cannot read where output logs end; trying again: %s", error.text)
            except Stalled as error:
                self._note_damage(arrival.key.attempt, error)
                return None
            await asyncio.sleep(DISK_FULL_PAUSE_S)
        return []

    def _note_damage(self, name: AttemptId, error: Stalled) -> None:
        """Further output of the attempt is dropped, because its log is damaged. Raises any other error again."""
        if error.code != _DAMAGED_CODE:
            raise error
        if name in self._damaged:
            return
        self._damaged[name] = None
        if len(self._damaged) > _DAMAGED_MAX:
            self._damaged.popitem(last=False)
        text = "run %s, %s/%s: %s; the run continues, and other output is not affected"
        logger.error(text, name.run, name.job, name.step, error.text, extra={"run": name.run})

    def _acknowledge_dropped(self, arrival: _Arrival) -> None:
        """The agent would send it forever otherwise."""
        output = arrival.output
        if output is not None:
            end = output.offset + sum(len(chunk.data) for chunk in output.chunks)
            self._link.send(arrival.agent, [messages.OutputAck(arrival.key, end)])

    async def _write(self, waiting: list[tuple[_Arrival, OutputAppend]]) -> None:
        sizes = await self._append([append for _, append in waiting])
        acknowledgements: dict[AgentId, list[messages.OutputAck]] = {}
        for (arrival, _), size in zip(waiting, sizes, strict=True):
            offset = self._admission.acknowledged(arrival.key.attempt, size)
            acknowledgements.setdefault(arrival.agent, []).append(messages.OutputAck(arrival.key, offset))
        for agent, outgoing in acknowledgements.items():
            self._link.send(agent, outgoing)
        for run in dict.fromkeys(append.attempt.run for _, append in waiting):
            self._feed.output_published(run)

    async def _append(self, appends: list[OutputAppend]) -> list[int]:
        """The sizes after the appends. After a failure without them: the durable sizes tell the agents where to continue."""
        is_stored = True
        while True:
            try:
                sizes = await self._append_once(appends)
            except Retryable as error:
                logger.error("cannot write output; agents will send it again: %s", error.text)
            else:
                break
            await asyncio.sleep(DISK_FULL_PAUSE_S)
            is_stored = False
            appends = [OutputAppend(attempt=append.attempt, pieces=[]) for append in appends]
        if not is_stored:
            for append, size in zip(appends, sizes, strict=True):
                self._admission.not_stored(append.attempt, size)
        return sizes

    async def _append_once(self, appends: list[OutputAppend]) -> list[int]:
        try:
            return await self._logs.append(appends)
        except Stalled as error:
            if error.code != _DAMAGED_CODE:
                raise
        # Each by itself, because one of them prevents the others. Known bytes are not stored again.
        return [await self._append_one(append) for append in appends]

    async def _append_one(self, append: OutputAppend) -> int:
        try:
            [size] = await self._logs.append([append])
        except Stalled as error:
            self._note_damage(append.attempt, error)
            # What is dropped is acknowledged.
            return max((piece.offset + len(piece.data) for piece in append.pieces), default=0)
        return size


def display_name(key: messages.TaskId) -> str:
    """The attempt's name for the daemon's log; an agent chose its parts."""
    attempt = key.attempt
    return ascii("/".join((attempt.run, attempt.job, attempt.step, str(attempt.number)))[:200])
