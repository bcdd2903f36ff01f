"""Which output is stored, and where a log is cut off because the quota of its repository is used up.

Rules of this file:

- A cut is final for its attempt: everything after it is dropped, and one piece in its place counts the dropped bytes. The piece
  has a stream of its own, which no agent can write, and is written when the agent has reported the size of the whole log.
- Dropped bytes are acknowledged once everything before them is durable, and the last one when the mark is. So nothing here
  needs to be durable: after a restart the agent sends again what follows the durable log, and the decision is made again.
- Offsets before the cut mean the same to the agent and in the store.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping

import msgspec

from waterflow_agent.display import missing_line
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.access.repository_quotas import RepositoryQuotas
from waterflowd.model.ids import AttemptId
from waterflowd.model.records import CUT_STREAM, HeldAttempt, OutputPiece

logger = logging.getLogger("waterflow.host")

#: Ends of logs kept in memory; the ends of others are read from the store.
_ENDS_MAX = 4096
#: Logs that were cut off; without its entry, a log is cut off again where it ends.
_CUTS_MAX = 65_536
#: The last stream that an agent can write.
_STREAM_MAX = 2


class _Cut(msgspec.Struct):
    """A log that was cut off. Offsets are bytes of the agent's log."""

    at: int
    #: How far the agent has sent its log.
    seen: int = 0
    #: Size of the agent's log; None while the attempt runs.
    total: int | None = None
    is_marked: bool = False


class OutputAdmission:
    """See the file's docstring. `keep_counters` records counters in the log. One call of `pieces` at a time."""

    def __init__(
        self,
        quotas: RepositoryQuotas,
        logs: ports.OutputLogs,
        clock: ports.Clock,
        keep_counters: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._quotas = quotas
        self._logs = logs
        self._clock = clock
        self._keep_counters = keep_counters
        #: Where logs end, with what is being written, and when their attempts were dispatched.
        self._ends: OrderedDict[AttemptId, tuple[int, int]] = OrderedDict()
        #: Attempts that were dispatched at this time or later have sent no output that was forgotten, in ms.
        self._remembered_from = clock.now()
        self._cuts: OrderedDict[AttemptId, _Cut] = OrderedDict()

    async def pieces(self, attempt: HeldAttempt, output: messages.Output) -> list[OutputPiece]:
        """The pieces to store: those of the message, none of them, or the mark of a log that was cut off.

        Raises `Retryable` while it cannot be read where the log ends.
        """
        name, repository, offset = attempt.name, attempt.repository, output.offset
        size = sum(len(chunk.data) for chunk in output.chunks)
        if name not in self._ends and name not in self._cuts:
            await self._look_up(attempt, offset)
        cut = self._cuts.get(name)
        pieces: list[OutputPiece] = []
        if cut is None:
            admitted = self._admit(attempt, output, size)
            pieces = _pieces(output, admitted)
            if admitted == size:
                return pieces
            cut = self._cut(repository, name)
        cut.seen = max(cut.seen, offset + size)
        if not attempt.is_open and cut.total is None:
            # Without a report of the agent, the size is unknown.
            cut.total = attempt.output_bytes or cut.seen
        return pieces + self._mark(cut)

    def finished(self, name: AttemptId, total: int) -> list[OutputPiece]:
        """Notes the size of the attempt's whole log; returns the mark if it was cut off and is complete now."""
        cut = self._cuts.get(name)
        if cut is None:
            return []
        cut.total = total
        return self._mark(cut)

    def acknowledged(self, name: AttemptId, size: int) -> int:
        """The offset to acknowledge when `size` bytes of the stored log are durable."""
        cut = self._cuts.get(name)
        if cut is None or size < cut.at:
            return size
        return max(cut.seen, size) if cut.is_marked and size > cut.at else max(cut.seen - 1, cut.at)

    def not_stored(self, name: AttemptId, size: int) -> None:
        """Pieces of the log could not be stored: its durable size is `size`, and the agent sends again what follows."""
        self._ends.pop(name, None)
        cut = self._cuts.get(name)
        if cut is not None and size < cut.at:
            del self._cuts[name]
        elif cut is not None and size == cut.at:
            cut.is_marked = False

    async def _look_up(self, attempt: HeldAttempt, offset: int) -> None:
        """Learns where the log ends. That of a new attempt, the usual case, needs no reading."""
        name = attempt.name
        if offset == 0 and attempt.dispatched_at >= self._remembered_from:
            self._end(attempt, 0)
            return
        size = await self._logs.size(name)
        last = await self._logs.read(name, size - 1, 1) if size else []
        if last and last[-1].stream == CUT_STREAM:
            self._cuts[name] = _Cut(at=last[-1].offset, is_marked=True)
        else:
            self._end(attempt, size)

    def _end(self, attempt: HeldAttempt, end: int) -> None:
        self._ends[attempt.name] = end, attempt.dispatched_at
        self._ends.move_to_end(attempt.name)
        if len(self._ends) > _ENDS_MAX:
            _, (_, dispatched_at) = self._ends.popitem(last=False)
            self._remembered_from = max(self._remembered_from, dispatched_at + 1)

    def _admit(self, attempt: HeldAttempt, output: messages.Output, size: int) -> int:
        """How many bytes of the message are stored: all, or what the quota leaves room for, up to the end of a line."""
        repository, offset = attempt.repository, output.offset
        end, _ = self._ends[attempt.name]
        # What follows a gap is not stored, and known bytes are not stored again.
        added = offset + size - end if offset <= end else 0
        if added <= 0:
            return size
        now = self._clock.now()
        room = self._quotas.room(repository, end, now)
        if added > room:
            data = b"".join(chunk.data for chunk in output.chunks)[end - offset :]
            added = data.rfind(b"\n", 0, room) + 1 or room
        counters = self._quotas.take_output(repository, added, now)
        if counters:
            self._keep_counters(counters)
        self._end(attempt, end + added)
        return end + added - offset

    def _cut(self, repository: str | None, name: AttemptId) -> _Cut:
        cut = self._cuts[name] = _Cut(at=self._ends.pop(name)[0])
        if len(self._cuts) > _CUTS_MAX:
            self._cuts.popitem(last=False)
        if self._quotas.output_was_cut(repository, self._clock.now()):
            owner = "workflows sent to the API" if repository is None else f"repository {repository}"
            text = "%s: output quota used up; the longest logs are cut off, first that of run %s, %s/%s"
            logger.warning(
                text, owner, name.run, name.job, name.step, extra={"repository": repository, "run": name.run}
            )
        return cut

    def _mark(self, cut: _Cut) -> list[OutputPiece]:
        """The mark, once it is known how much was dropped."""
        if cut.is_marked or cut.total is None or cut.seen < cut.total:
            return []
        cut.is_marked = True
        dropped = max(0, cut.total - cut.at)
        self._quotas.output_bytes_dropped += dropped
        line = missing_line(dropped, "the output quota of the repository is used up")
        return [OutputPiece(offset=cut.at, at=self._clock.now(), stream=CUT_STREAM, data=line)]


def _pieces(output: messages.Output, size: int) -> list[OutputPiece]:
    """The first `size` bytes of the message."""
    pieces = []
    offset, end = output.offset, output.offset + size
    for chunk in output.chunks:
        if offset >= end and chunk.data:
            break
        stream = min(chunk.stream, _STREAM_MAX)
        pieces.append(OutputPiece(offset=offset, at=chunk.at, stream=stream, data=chunk.data[: end - offset]))
        offset += len(chunk.data)
    return pieces
