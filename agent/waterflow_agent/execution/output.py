"""What steps printed, on its way to the daemon: read from the runner's spools, sent in pieces, sent again until acknowledged.

An attempt's output log is what its spool holds, with its secrets masked, then what the agent itself has to say. Where the
spool's cap left something out, the log has one line on stream 2 that counts the bytes. Offsets on the wire count bytes of this
log, so they have no gap.

Rules of this file:

- At most `OUTPUT_WINDOW_BYTES` are on the way without an acknowledgement, over all attempts, in turns of one chunk each. So
  a flood delays neither control messages nor the output of others.
- Only the first half of a spool's cap is sent while the step runs: what lies behind may still be taken away from its middle.
- An acknowledgement says how far the daemon's log reaches; that is where to go on, forwards or backwards.
- Masked text depends on the spool alone, not on how it is read, so an offset means the same after every restart. What may be
  the beginning of a secret waits for what follows on its stream, and for the end at most.
- Nothing here waits; the shell calls `take` once per turn of the loop.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from waterflow_agent.execution.masking import Masks, Stream
from waterflow_agent.runner import spool
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import OutputChunk, TaskKey

#: Without any progress for this long the output goes out again from the last acknowledgement: far more than a slow commit.
RESEND_MS = 10_000
#: One message's output, less room for the lines that count what is missing.
#: Nothing was acknowledged since a session was opened.
_NOT_YET = -1
_CHUNK_BYTES = messages.OUTPUT_CHUNK_BYTES_MAX - 4096


class OutputLog:
    """One attempt's output as the daemon sees it; cheap to read on from where the last read ended."""

    __slots__ = (
        "_is_clean",
        "_last_at",
        "_masked",
        "_masks",
        "_offset",
        "_printed",
        "_printed_count",
        "_printed_offset",
        "_reader",
        "_spool_offset",
        "_spool_path",
    )

    def __init__(self, spool_path: str | None, printed: Sequence[OutputChunk] = (), masks: Masks | None = None) -> None:
        """`spool_path` is the runner's `output`, or None for an attempt without a process; `printed` is masked already."""
        self._spool_path = spool_path
        self._masks = masks
        self._is_clean = False
        self._printed = list(printed)
        self._offset: int
        self._rewind()

    def append(self, printed: Iterable[OutputChunk]) -> None:
        """Adds what the agent says after the end of the process."""
        self._printed += printed

    def read(self, offset: int, bytes_max: int, *, is_over: bool) -> list[OutputChunk]:
        """Pieces from `offset` on, about `bytes_max` in all; empty when there is no more for now."""
        if offset < self._offset:
            self._rewind()
        chunks: list[OutputChunk] = []
        while bytes_max > 0:
            pieces = self._next(bytes_max, is_over=is_over)
            if not pieces:
                break
            for piece in pieces:
                begin, self._offset = self._offset, self._offset + len(piece.data)
                if self._offset <= offset:
                    continue
                if begin < offset:
                    piece = OutputChunk(piece.at, piece.stream, piece.data[offset - begin :])
                chunks.append(piece)
                bytes_max -= len(piece.data)
        return chunks

    def size(self) -> int:
        """Reads the spool to its end and gives the whole log's size, where the runner does not know it: of gaps, of masks."""
        while self.read(self._offset, _CHUNK_BYTES, is_over=True):
            continue
        return self._offset

    def mark_clean(self) -> None:
        """The whole log was found to hold no secret: it need not be searched again."""
        self._is_clean = True
        for stream in (self._masked or {}).values():
            stream.is_clean = True

    def fork(self) -> OutputLog:
        """One that reads on from the same place, on its own."""
        twin = copy.copy(self)
        twin._printed = list(self._printed)
        twin._reader = copy.copy(self._reader)
        if self._masked is not None:
            twin._masked = {number: copy.copy(stream) for number, stream in self._masked.items()}
        return twin

    def _rewind(self) -> None:
        self._offset = 0
        self._spool_offset = 0
        self._last_at = 0
        self._printed_count = 0
        self._printed_offset = 0
        #: By stream; None where nothing is to be masked, empty where nothing is held back.
        self._masked: dict[int, Stream] | None = None if self._masks is None else {}
        self._reader = None if self._spool_path is None else spool.SpoolReader(self._spool_path)

    def _next(self, bytes_max: int, *, is_over: bool) -> list[OutputChunk]:
        while self._reader is not None:
            found = self._reader.read(self._spool_offset, min(bytes_max, _CHUNK_BYTES), tail=is_over)
            if found:
                self._spool_offset, self._last_at = found[-1].end, found[-1].at
                pieces = [piece for chunk in self._joined(found) for piece in self._tell(chunk)]
            elif is_over:
                pieces = self._tell_held(self._last_at)
                if not pieces:
                    break
            else:
                return []
            if pieces:
                return pieces
        # The end of the spool: what is left is the agent's own.
        if self._printed_count >= len(self._printed):
            return []
        chunk = self._printed[self._printed_count]
        piece = OutputChunk(chunk.at, chunk.stream, chunk.data[self._printed_offset : self._printed_offset + bytes_max])
        self._printed_offset += len(piece.data)
        if self._printed_offset >= len(chunk.data):
            self._printed_count, self._printed_offset = self._printed_count + 1, 0
        return [piece]

    def _joined(self, chunks: list[spool.SpoolChunk]) -> Iterable[spool.SpoolChunk]:
        """The pieces; where they are masked, those of one stream and one instant as one, since masking each costs."""
        if self._masked is None:
            yield from chunks
            return
        for (at, number), row in itertools.groupby(chunks, lambda chunk: (chunk.at, chunk.stream)):
            if number == spool.MISSING:
                yield from row
            else:
                pieces = list(row)
                yield spool.SpoolChunk(pieces[0].offset, at, number, b"".join(piece.data for piece in pieces))

    def _tell(self, chunk: spool.SpoolChunk) -> list[OutputChunk]:
        """The pieces of the log that are known now that this one of the spool is."""
        if chunk.stream == spool.MISSING:
            line = OutputChunk(chunk.at, spool.STDERR, missing_line(chunk.dropped))
            return [*self._tell_held(chunk.at), line]
        if self._masked is None or self._masks is None:
            return [OutputChunk(chunk.at, chunk.stream, chunk.data)]
        stream = self._masked.get(chunk.stream)
        if stream is None:
            stream = self._masked[chunk.stream] = Stream(self._masks, is_clean=self._is_clean)
        data = stream.feed(chunk.data)
        return [OutputChunk(chunk.at, chunk.stream, data)] if data else []

    def _tell_held(self, at: int) -> list[OutputChunk]:
        """What is held back, because nothing follows it."""
        held = [OutputChunk(at, number, stream.finish()) for number, stream in sorted((self._masked or {}).items())]
        return [piece for piece in held if piece.data]


def missing_line(dropped: int) -> bytes:
    """The line that stands for bytes that were left out."""
    return b"\n[waterflow: %d bytes of output are left out here]\n" % dropped


def chunks_of(printed: Iterable[tuple[int, bytes]], at: int) -> list[OutputChunk]:
    """Makes (stream, bytes) of what a node printed into chunks that fit a message."""
    return [
        OutputChunk(at, stream, text[begin : begin + _CHUNK_BYTES])
        for stream, text in printed
        for begin in range(0, len(text), _CHUNK_BYTES)
    ]


class _Stream:
    __slots__ = ("acked", "log", "rewound_at", "sent", "total")

    def __init__(self, log: OutputLog) -> None:
        self.log = log
        self.sent = 0
        self.acked = 0
        #: Size of the log once the attempt is over.
        self.total: int | None = None
        #: Where a repeated acknowledgement has already made us go back to; `_NOT_YET` before the first answer.
        self.rewound_at = _NOT_YET


class OutputSender:
    """The output of all attempts of an agent. Times are milliseconds that never go back."""

    def __init__(self, window_bytes: int = messages.OUTPUT_WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._streams: dict[TaskKey, _Stream] = {}
        #: Attempts that may have something to send, the next one first.
        self._ready: OrderedDict[TaskKey, None] = OrderedDict()
        self._in_flight = 0
        #: Since when each attempt has bytes on the way without an answer, the oldest first. One attempt's silence is its own:
        #: the answers for another one do not help it.
        self._unanswered: OrderedDict[TaskKey, int] = OrderedDict()

    @property
    def in_flight(self) -> int:
        """Bytes on the way without an acknowledgement."""
        return self._in_flight

    @property
    def has_ready(self) -> bool:
        """Whether `take` would give something."""
        return bool(self._ready) and self._in_flight < self._window_bytes

    def open(self, key: TaskKey, spool_path: str | None, masks: Masks | None = None) -> None:
        """Begins with an attempt; one that is known already goes on."""
        if key not in self._streams:
            self._streams[key] = _Stream(OutputLog(spool_path, masks=masks))
            self._ready[key] = None

    def rest(self, key: TaskKey) -> OutputLog | None:
        """A log of the attempt from where its sending stands, to be measured."""
        stream = self._streams.get(key)
        return None if stream is None else stream.log.fork()

    def mark_clean(self, key: TaskKey) -> None:
        """The attempt's log holds no secret."""
        if key in self._streams:
            self._streams[key].log.mark_clean()

    def grown(self, key: TaskKey) -> None:
        """There is more output."""
        if key in self._streams:
            self._ready[key] = None

    def finish(self, key: TaskKey, printed: Sequence[OutputChunk], total: int) -> bool:
        """The attempt is over and its whole log has `total` bytes, `printed` at its end; True when the daemon has them all.

        Then no acknowledgement is to come that would say so.
        """
        stream = self._streams[key]
        stream.log.append(printed)
        stream.total = total
        self._ready[key] = None
        return stream.acked >= total

    def acknowledge(self, key: TaskKey, offset: int, now: int) -> bool:
        """The daemon has the first `offset` bytes; True when that is the whole log of an attempt that is over."""
        stream = self._streams.get(key)
        if stream is None:
            return False
        if offset > stream.acked:
            self._in_flight -= max(0, min(offset, stream.sent) - stream.acked)
            stream.acked = offset
            stream.sent = max(stream.sent, offset)
            self._unanswered.pop(key, None)
            if stream.sent > offset:
                self._unanswered[key] = now
            stream.rewound_at = max(stream.rewound_at, 0)
            if stream.total is None or stream.sent < stream.total:
                self._ready[key] = None
        elif offset == stream.acked < stream.sent and stream.rewound_at != offset:
            # The daemon is missing a piece before what it got: once from here, not once for each piece on the way.
            stream.rewound_at = offset
            self._go_back(key, stream)
        elif offset < stream.acked and stream.rewound_at == _NOT_YET:
            # The first answer of a session is below what an earlier session heard: the daemon is an older one, restored from
            # a backup, and only what follows `offset` has a place there. An answer that came late costs a repetition.
            self._go_back(key, stream)
            stream.acked = stream.sent = stream.rewound_at = offset
            self._ready[key] = None
        return stream.total is not None and stream.acked >= stream.total

    def rewind(self) -> None:
        """A new session: what was on the way is sent again."""
        for key, stream in self._streams.items():
            stream.rewound_at = _NOT_YET
            self._go_back(key, stream)

    def drop(self, key: TaskKey) -> None:
        """Nobody wants the attempt's output any more."""
        stream = self._streams.pop(key, None)
        if stream is not None:
            self._in_flight -= stream.sent - stream.acked
            self._unanswered.pop(key, None)
            self._ready.pop(key, None)

    def take(self, now: int) -> tuple[list[messages.Output], list[TaskKey]]:
        """What should be sent now, and the attempts whose spool has less than it should (somebody removed it)."""
        while self._unanswered and now >= next(iter(self._unanswered.values())) + RESEND_MS:
            key = next(iter(self._unanswered))
            self._streams[key].rewound_at = _NOT_YET
            self._go_back(key, self._streams[key])
        outputs: list[messages.Output] = []
        broken: list[TaskKey] = []
        while self._ready and self._in_flight < self._window_bytes:
            key, _ = self._ready.popitem(last=False)
            stream = self._streams[key]
            room = min(_CHUNK_BYTES, self._window_bytes - self._in_flight)
            chunks = stream.log.read(stream.sent, room, is_over=stream.total is not None)
            size = sum(len(chunk.data) for chunk in chunks)
            if not size:
                if stream.total is not None and stream.sent < stream.total:
                    broken.append(key)
                continue
            self._unanswered.setdefault(key, now)
            outputs.append(messages.Output(key, stream.sent, chunks))
            stream.sent += size
            self._in_flight += size
            if stream.total is None or stream.sent < stream.total:
                self._ready[key] = None
        return outputs, broken

    def next_wake_at(self) -> int | None:
        """When to call `take` again if no acknowledgement comes; None when nothing is on the way."""
        return next(iter(self._unanswered.values())) + RESEND_MS if self._unanswered else None

    def _go_back(self, key: TaskKey, stream: _Stream) -> None:
        self._in_flight -= stream.sent - stream.acked
        self._unanswered.pop(key, None)
        stream.sent = stream.acked
        if stream.total is None or stream.sent < stream.total:
            self._ready[key] = None
