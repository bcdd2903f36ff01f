"""Sends what steps print: read from the runner's spools, in chunks, again and again until the daemon has acknowledged them.

The output log of an attempt is the content of its spool, with workflow commands carried out (`workflow_commands`) and secrets
masked, followed by what the agent itself prints. Where the spool's size limit or a full disk dropped bytes, the log has one
line on stream 2 that counts them. Offsets on the wire count bytes of this log, so they have no gaps.

Rules of this file:

- At most `OUTPUT_WINDOW_BYTES` are unacknowledged, over all attempts, which take turns of one chunk each. So a flood of output
  delays neither control messages nor the output of other attempts.
- While the step runs, only the first half of a spool's size limit is sent: bytes behind it may still be dropped.
- An acknowledgement says how far the daemon's log reaches. Sending continues from there, forwards or backwards.
- The log depends on the spool alone, not on how it is read, so an offset means the same after every restart. Text that may be
  the beginning of a secret or of a command is held back until more follows on its stream, or the step has exited.
- Nothing here waits; `take` is called once in each turn of the loop.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence

from waterflow_agent.display import missing_line
from waterflow_agent.execution.masking import Masking, MaskSet, StreamMasker
from waterflow_agent.execution.workflow_commands import Printed, WorkflowCommands
from waterflow_agent.runner import spool
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import OutputChunk, TaskId

#: Without an acknowledgement for this long, output is sent again: far longer than a slow commit takes.
RESEND_MS = 10_000
#: Output in one message; leaves room for the lines that count dropped bytes.
_CHUNK_BYTES = messages.OUTPUT_CHUNK_BYTES_MAX - 4096
#: `_Stream.rewound_at` before the first acknowledgement of a session.
_NOT_YET = -1


class OutputLog:
    """One attempt's output as the daemon sees it. Reading on from where the last read ended is cheap."""

    __slots__ = (
        "_annotations",
        "_commands",
        "_first_masks",
        "_is_clean",
        "_last_at",
        "_masked",
        "_masks",
        "_offset",
        "_open_spool",
        "_printed",
        "_printed_count",
        "_printed_offset",
        "_reader",
        "_spool_offset",
        "_spool_path",
    )

    def __init__(
        self,
        spool_path: str | None,
        printed: Sequence[OutputChunk] = (),
        masks: Masking | None = None,
        open_spool: Callable[[str], spool.SpoolReader] = spool.SpoolReader,
    ) -> None:
        """`spool_path` is the runner's `output`, or None for an attempt without a process; `printed` is masked already."""
        self._open_spool = open_spool
        self._spool_path = spool_path
        self._first_masks = masks
        self._is_clean = False
        self._printed = list(printed)
        self._offset: int
        self._rewind()

    def append(self, printed: Iterable[OutputChunk]) -> None:
        """Adds what the agent prints after the process has exited."""
        self._printed += printed

    def read(self, offset: int, bytes_max: int, *, is_complete: bool) -> list[OutputChunk]:
        """Returns chunks from `offset` on, about `bytes_max` in total; none if no more is available yet.

        There may be more of them than one message may contain.
        """
        if offset < self._offset:
            self._rewind()
        chunks: list[OutputChunk] = []
        while bytes_max > 0:
            pieces = self._next(bytes_max, is_complete=is_complete)
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
        """Reads the spool to its end and returns the size of the log. The runner knows it only without gaps and masks."""
        while self.read(self._offset, _CHUNK_BYTES, is_complete=True):
            continue
        return self._offset

    @property
    def spool_end(self) -> int:
        """How many of the bytes that the step printed have been read, or are known to be missing."""
        return self._spool_offset

    @property
    def masks(self) -> Masking | None:
        """The secrets of the attempt and what it has masked in the part that was read; None for none."""
        return self._masks

    @property
    def added_masks(self) -> list[str]:
        """The values that the attempt has masked itself in the part that was read."""
        return self._commands.masks

    @property
    def annotations(self) -> list[str]:
        """The lines of the part that was read that are marked as error, warning or notice: the first ones of each."""
        lines = [line for _, line in self._annotations]
        return lines if self._masks is None else [self._masks.text(line) for line in lines]

    def mark_clean(self) -> None:
        """Notes that the whole log contains no secret, so that it is not searched again."""
        self._is_clean = True
        for stream in (self._masked or {}).values():
            stream.is_clean = True

    def copy(self) -> OutputLog:
        """Returns a log that reads on from the same offset, independently."""
        duplicate = copy.copy(self)
        duplicate._printed = list(self._printed)
        duplicate._reader = copy.copy(self._reader)
        duplicate._commands = self._commands.copy()
        duplicate._annotations = list(self._annotations)
        if self._masked is not None:
            duplicate._masked = {number: copy.copy(stream) for number, stream in self._masked.items()}
        return duplicate

    def _rewind(self) -> None:
        self._offset = 0
        self._spool_offset = 0
        self._last_at = 0
        self._printed_count = 0
        self._printed_offset = 0
        self._masks = self._first_masks
        #: By stream number; None when nothing has to be masked.
        self._masked: dict[int, StreamMasker] | None = None if self._masks is None else {}
        self._commands = WorkflowCommands()
        #: Level and line of each.
        self._annotations: list[tuple[str, str]] = []
        self._reader = None if self._spool_path is None else self._open_spool(self._spool_path)

    def _next(self, bytes_max: int, *, is_complete: bool) -> list[OutputChunk]:
        while self._reader is not None:
            found = self._reader.read(self._spool_offset, min(bytes_max, _CHUNK_BYTES), tail=is_complete)
            if found:
                self._spool_offset, self._last_at = found[-1].end, found[-1].at
                pieces = [piece for chunk in self._join(found) for piece in self._mask(chunk)]
            elif is_complete:
                pieces = self._release_held(self._last_at)
                if not pieces:
                    break
            else:
                return []
            if pieces:
                return pieces
        # The spool has been read to its end: the rest is what the agent printed.
        if self._printed_count >= len(self._printed):
            return []
        chunk = self._printed[self._printed_count]
        piece = OutputChunk(chunk.at, chunk.stream, chunk.data[self._printed_offset : self._printed_offset + bytes_max])
        self._printed_offset += len(piece.data)
        if self._printed_offset >= len(chunk.data):
            self._printed_count, self._printed_offset = self._printed_count + 1, 0
        return [piece]

    def _join(self, chunks: list[spool.SpoolChunk]) -> Iterable[spool.SpoolChunk]:
        """Joins chunks of one stream and one instant when they are masked, because masking each of them is expensive."""
        if self._masked is None:
            yield from chunks
            return
        for (at, number), row in itertools.groupby(chunks, lambda chunk: (chunk.at, chunk.stream)):
            if number == spool.MISSING:
                yield from row
            else:
                pieces = list(row)
                yield spool.SpoolChunk(pieces[0].offset, at, number, b"".join(piece.data for piece in pieces))

    def _mask(self, chunk: spool.SpoolChunk) -> list[OutputChunk]:
        """Returns the chunks of the log that follow from this chunk of the spool."""
        if chunk.stream == spool.MISSING:
            line = OutputChunk(chunk.at, spool.STDERR, missing_line(chunk.dropped))
            return [*self._release_held(chunk.at), line]
        return self._print(chunk.at, chunk.stream, self._commands.feed(chunk.stream, chunk.data))

    def _print(self, at: int, number: int, printed: Iterable[Printed]) -> list[OutputChunk]:
        """Returns chunks of a stream with what is decided of it by now."""
        found: list[bytes] = []
        for piece in printed:
            if piece.mask:
                self._add_mask(piece.mask)
            if piece.level:
                self._annotate(piece.level, piece.text)
            if self._masked is None or self._masks is None:
                found.append(piece.text)
            elif piece.is_command:
                # It is a whole line, so nothing before it is held back.
                found.append(self._masks.data(piece.text))
            else:
                found.append(self._masker(number, self._masks).feed(piece.text))
        return chunks_of([(number, b"".join(found))], at)

    def _masker(self, number: int, masks: Masking) -> StreamMasker:
        assert self._masked is not None
        masker = self._masked.get(number)
        if masker is None:
            masker = self._masked[number] = StreamMasker(masks, is_clean=self._is_clean)
        return masker

    def _annotate(self, level: str, text: bytes) -> None:
        if sum(other == level for other, _ in self._annotations) < messages.ANNOTATIONS_MAX:
            # Masked before it is cut, because the part of a secret that is left might not be found.
            masked = text if self._masks is None else self._masks.data(text)
            line = masked.decode("utf-8", "replace").split("\n", 1)[0]
            self._annotations.append((level, line[: messages.ANNOTATION_LENGTH_MAX]))

    def _add_mask(self, value: str) -> None:
        known = self._masks if isinstance(self._masks, MaskSet) else MaskSet(self._masks)
        self._masks = known.with_value(value)
        self._masked = self._masked or {}
        for masker in self._masked.values():
            masker.change(self._masks)

    def _release_held(self, at: int) -> list[OutputChunk]:
        """Returns what was held back, because nothing follows it."""
        held: list[OutputChunk] = []
        for number in self._commands.streams:
            held += self._print(at, number, self._commands.finish(number))
            masker = (self._masked or {}).get(number)
            if masker is not None and (rest := masker.finish()):
                held.append(OutputChunk(at, number, rest))
        return held


def chunks_of(printed: Iterable[tuple[int, bytes]], at: int) -> list[OutputChunk]:
    """Returns what was printed, as (stream, bytes), in chunks that fit a message."""
    return [
        OutputChunk(at, stream, text[begin : begin + _CHUNK_BYTES])
        for stream, text in printed
        for begin in range(0, len(text), _CHUNK_BYTES)
    ]


def truncate(chunks: list[OutputChunk], bytes_max: int | None) -> tuple[list[OutputChunk], int]:
    """Returns the first `bytes_max` bytes with a line that counts the dropped ones, and how many were dropped."""
    total = sum(len(chunk.data) for chunk in chunks)
    if bytes_max is None or total <= bytes_max:
        return chunks, 0
    kept: list[OutputChunk] = []
    left = bytes_max
    for chunk in chunks:
        if left > 0:
            kept.append(OutputChunk(chunk.at, chunk.stream, chunk.data[:left]))
        left -= len(chunk.data)
    dropped = total - bytes_max
    return [*kept, OutputChunk(chunks[0].at, spool.STDERR, missing_line(dropped))], dropped


class _Stream:
    __slots__ = ("acked", "log", "rewound_at", "sent", "total")

    def __init__(self, log: OutputLog) -> None:
        self.log = log
        self.sent = 0
        self.acked = 0
        #: Size of the log once the attempt has ended.
        self.total: int | None = None
        #: Offset to which a repeated acknowledgement has already rewound; `_NOT_YET` before the first one.
        self.rewound_at = _NOT_YET


class OutputSender:
    """Decides which output of which attempt is sent next. Times are milliseconds of the boot clock."""

    def __init__(
        self,
        window_bytes: int = messages.OUTPUT_WINDOW_BYTES,
        open_spool: Callable[[str], spool.SpoolReader] = spool.SpoolReader,
    ) -> None:
        self._window_bytes = window_bytes
        self._open_spool = open_spool
        self._streams: dict[TaskId, _Stream] = {}
        #: Attempts that may have output to send, the next one first.
        self._ready: OrderedDict[TaskId, None] = OrderedDict()
        self._in_flight = 0
        #: Since when each attempt has had unacknowledged bytes, the oldest first. Reused for each attempt, because
        #: acknowledgements of one attempt say nothing about another.
        self._unanswered: OrderedDict[TaskId, int] = OrderedDict()

    @property
    def has_ready(self) -> bool:
        """Whether `take` would return something."""
        return bool(self._ready) and self._in_flight < self._window_bytes

    def open(self, key: TaskId, spool_path: str | None, masks: Masking | None = None) -> None:
        """Starts to send the output of an attempt, unless that has started before."""
        if key not in self._streams:
            self._streams[key] = _Stream(OutputLog(spool_path, masks=masks, open_spool=self._open_spool))
            self._ready[key] = None

    def copy_log(self, key: TaskId) -> OutputLog:
        """Returns a copy of the log of an opened attempt, which continues where sending is now."""
        return self._streams[key].log.copy()

    def mark_clean(self, key: TaskId) -> None:
        """Notes that the attempt's log contains no secret."""
        if key in self._streams:
            self._streams[key].log.mark_clean()

    def on_growth(self, key: TaskId) -> None:
        """Notes that the attempt has printed more."""
        if key in self._streams:
            self._ready[key] = None

    def finish(self, key: TaskId, printed: Sequence[OutputChunk], total: int) -> bool:
        """Notes that the attempt has ended with a log of `total` bytes, which ends with `printed`.

        Returns whether the daemon has acknowledged all of them; then no further acknowledgement will come.
        """
        stream = self._streams[key]
        stream.log.append(printed)
        stream.total = total
        self._ready[key] = None
        return stream.acked >= total

    def acknowledge(self, key: TaskId, offset: int, now: int) -> bool:
        """Notes that the daemon has the first `offset` bytes. Returns whether that is the whole log of an ended attempt."""
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
            # The daemon misses a chunk before what it received: go back once, not for each chunk that is in flight.
            stream.rewound_at = offset
            self._go_back(key, stream)
        elif offset < stream.acked and stream.rewound_at == _NOT_YET:
            # The first acknowledgement of a session is below an earlier one: the daemon was restored from a backup and expects
            # what follows `offset`. If the acknowledgement was only late, some output is sent twice.
            self._go_back(key, stream)
            stream.acked = stream.sent = stream.rewound_at = offset
            self._ready[key] = None
        return stream.total is not None and stream.acked >= stream.total

    def rewind(self) -> None:
        """Prepares for a new session: what was in flight is sent again."""
        for key, stream in self._streams.items():
            stream.rewound_at = _NOT_YET
            self._go_back(key, stream)

    def drop(self, key: TaskId) -> None:
        """Forgets the attempt's output."""
        stream = self._streams.pop(key, None)
        if stream is not None:
            self._in_flight -= stream.sent - stream.acked
            self._unanswered.pop(key, None)
            self._ready.pop(key, None)

    def take(self, now: int) -> tuple[list[messages.Output], list[TaskId]]:
        """Returns what to send now, and the attempts whose spool is shorter than reported, because it was deleted."""
        while self._unanswered and now >= next(iter(self._unanswered.values())) + RESEND_MS:
            key = next(iter(self._unanswered))
            self._streams[key].rewound_at = _NOT_YET
            self._go_back(key, self._streams[key])
        outputs: list[messages.Output] = []
        broken: list[TaskId] = []
        while self._ready and self._in_flight < self._window_bytes:
            key, _ = self._ready.popitem(last=False)
            stream = self._streams[key]
            room = min(_CHUNK_BYTES, self._window_bytes - self._in_flight)
            chunks = stream.log.read(stream.sent, room, is_complete=stream.total is not None)
            size = sum(len(chunk.data) for chunk in chunks)
            if not size:
                if stream.total is not None and stream.sent < stream.total:
                    broken.append(key)
                continue
            self._unanswered.setdefault(key, now)
            outputs += _messages(key, stream.sent, chunks)
            stream.sent += size
            self._in_flight += size
            if stream.total is None or stream.sent < stream.total:
                self._ready[key] = None
        return outputs, broken

    def next_wake_at(self) -> int | None:
        """Returns when to call `take` again if no acknowledgement comes; None when nothing is in flight."""
        return next(iter(self._unanswered.values())) + RESEND_MS if self._unanswered else None

    def _go_back(self, key: TaskId, stream: _Stream) -> None:
        self._in_flight -= stream.sent - stream.acked
        self._unanswered.pop(key, None)
        stream.sent = stream.acked
        if stream.total is None or stream.sent < stream.total:
            self._ready[key] = None


def _messages(key: TaskId, offset: int, chunks: list[OutputChunk]) -> Iterator[messages.Output]:
    """Yields the messages with these chunks, which begin at `offset`."""
    some: list[OutputChunk] = []
    size = 0
    for chunk in chunks:
        if some and (
            len(some) >= messages.OUTPUT_CHUNKS_MAX or size + len(chunk.data) > messages.OUTPUT_CHUNK_BYTES_MAX
        ):
            yield messages.Output(key, offset, some)
            some, offset, size = [], offset + size, 0
        some.append(chunk)
        size += len(chunk.data)
    if some:
        yield messages.Output(key, offset, some)
