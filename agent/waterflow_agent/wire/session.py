"""One opened session as one side sees it: numbers, acknowledgements, sending again, keep-alives. Pure; time is an argument.

Rules:

- A session is for one `Hello`; the next one is a new object with fresh numbers from 1. Nothing is resumed: what was in
  flight is settled from `Hello.held`.
- Numbered messages come out of `receive` once and in order. A frame that would leave a gap is refused; it will come again.
- `acknowledge` is said by the host once a message is durable, never before; it is cumulative and travels on the next
  frame, at most 50 ms later.
- What is not acknowledged goes out again after 5 s, then 10, 20, 30, 30... A frame leaves at least every third of the time
  after which a silent peer is taken for cut.
- Everything is bounded: 4,096 messages or 64 MiB without an acknowledgement, and a peer that sends past that breaks the
  protocol.
- A frame of another session (a late one, a forged one) changes nothing. A frame without a session brings loose messages only.

The shell calls `frames(now)` after it has queued something, and again at `next_wake_at(now)`; it sends what it gets in
order. It calls `receive` for each frame, and handles the loose messages of an answer before its numbered ones: `Welcome`
comes with the first offers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.wire import codec, messages

#: Silence after which a peer is taken for cut, unless the `Welcome` says otherwise.
SILENCE_MS = 6_000
#: An acknowledgement waits this long for a frame to ride on.
ACK_DELAY_MS = 50
#: When to send again for the first time, and at most; a commit takes milliseconds, a stalled disk seconds.
RESEND_MS = 5_000
RESEND_MS_MAX = 30_000
#: What one round of sending again costs at most; over TCP a loss inside a session is rare, so rounds will do.
RESEND_BYTES_MAX = 4 * messages.FRAME_BYTES_MAX
#: Numbered messages without an acknowledgement: more than any agent has slots, a fraction of a second of work for a daemon.
WINDOW_MESSAGES = 4_096
WINDOW_BYTES = 64 << 20
#: Loose messages that wait for the next call of `frames`.
LOOSE_BYTES_MAX = 16 << 20


class Received(msgspec.Struct, frozen=True):
    """What a frame brought. Handle `loose` first."""

    numbered: list[tuple[int, messages.Numbered]] = []
    loose: list[messages.Message] = []
    #: Messages of this side that the peer now says are durable there, in order.
    acknowledged: list[messages.Numbered] = []
    #: The frame was of another session and was dropped.
    is_foreign: bool = False


class _Unacknowledged(msgspec.Struct, frozen=True):
    message: messages.Numbered
    raw: msgspec.Raw
    size: int


class Session:
    """The session `token` as the side that is not `peer` sees it. Times are milliseconds that never go back."""

    def __init__(self, token: str, peer: codec.Side, now: int, silence_ms: int = SILENCE_MS) -> None:
        self.token = token
        self.silence_ms = silence_ms
        #: Numbered messages dropped because they came twice, and frames refused because they would have left a gap.
        self.duplicates = 0
        self.gaps = 0
        self._peer = peer
        self._urgent: list[msgspec.Raw] = []
        self._bulk: list[msgspec.Raw] = []
        self._loose_bytes = 0
        # Ours: numbers 1.._acked are durable there, .._sent have left, .._queued exist; the deque holds _acked+1.._queued.
        self._unacknowledged: deque[_Unacknowledged] = deque()
        self._unacknowledged_bytes = 0
        self._acked = 0
        self._sent = 0
        self._queued = 0
        # Theirs: numbers 1.._received came, .._durable are durable here.
        self._received = 0
        self._durable = 0
        self._ack_due_at: int | None = None
        self._resend_ms = RESEND_MS
        self._resend_at: int | None = None
        self._sent_at = now
        self._heard_at = now

    @property
    def room(self) -> int:
        """How many numbered messages may be queued before the peer acknowledges some."""
        if self._unacknowledged_bytes >= WINDOW_BYTES:
            return 0
        return WINDOW_MESSAGES - len(self._unacknowledged)

    @property
    def received_number(self) -> int:
        """The highest number of the peer's that came, in order."""
        return self._received

    def queue(self, message: messages.Message) -> int | None:
        """Takes a message for the next frame; gives its number if it is of a numbered kind.

        Raises `LocalProtocolError`: WF206 when it is too large, WF207 when `room` is 0 or too many loose ones wait.
        """
        raw = codec.encode_message(message)
        size = len(memoryview(raw))
        if isinstance(message, messages.NUMBERED):
            if not self.room:
                raise LocalProtocolError("WF207", "the peer has not acknowledged enough to take another message")
            # The tuple of types is not known to the type checker as the union of the same name.
            self._unacknowledged.append(_Unacknowledged(message, raw, size))  # type: ignore[arg-type]
            self._unacknowledged_bytes += size
            self._queued += 1
            return self._queued
        if self._loose_bytes + size > LOOSE_BYTES_MAX:
            raise LocalProtocolError("WF207", "too many messages wait for the next frame")
        # Output and files come after the rest of a frame, so that a flood of them can delay nothing.
        (self._bulk if isinstance(message, messages.Output | messages.FileResponse) else self._urgent).append(raw)
        self._loose_bytes += size
        return None

    def acknowledge(self, number: int, now: int) -> None:
        """Says that the peer's messages up to `number` are durable here. An older number changes nothing."""
        if number > self._received:
            raise LocalProtocolError("WF208", f"message {number} was acknowledged but never came")
        if number > self._durable:
            self._durable = number
            self._owe_acknowledgement(now)

    def frames(self, now: int) -> list[bytes]:
        """What should be sent now, in this order; empty when nothing is due. What it gives counts as sent."""
        frames = self._pack(self._due(now)) if self._has_news(now) else []
        if not frames:
            is_ack_due = self._ack_due_at is not None and now >= self._ack_due_at
            if not is_ack_due and now < self._sent_at + self.silence_ms // 3:
                return []
            frames = [codec.encode_frame(self.token, self._durable, self._sent + 1, [], [])]
        self._ack_due_at = None
        self._sent_at = now
        return frames

    def receive(self, frame: bytes | memoryview, now: int) -> Received:
        """Takes a frame as it came. Raises `RemoteProtocolError` (the session is over) and nothing else."""
        return self.take(codec.decode_frame(frame, self._peer), now)

    def take(self, frame: codec.Frame, now: int) -> Received:
        """Takes a decoded frame. Raises `RemoteProtocolError` WF204 (numbers make no sense) and WF205 (past the window)."""
        if frame.session != self.token:
            if frame.session:
                return Received(is_foreign=True)
            return Received(loose=list(frame.loose))
        if frame.ack > self._sent:
            raise RemoteProtocolError("WF204", f"message {frame.ack} was acknowledged but only {self._sent} were sent")
        self._heard_at = now
        return Received(
            numbered=self._take_numbered(frame, now) if frame.numbered else [],
            loose=list(frame.loose),
            acknowledged=self._take_ack(frame.ack, now) if frame.ack > self._acked else [],
        )

    def next_wake_at(self, now: int) -> int:
        """When to call `frames` and `is_silent` again, if nothing is queued or received before; `now` for at once."""
        if self._urgent or self._bulk or self._queued > self._sent:
            return now
        wake_at = min(self._sent_at + self.silence_ms // 3, self._heard_at + self.silence_ms)
        if self._ack_due_at is not None:
            wake_at = min(wake_at, self._ack_due_at)
        if self._resend_at is not None:
            wake_at = min(wake_at, self._resend_at)
        return max(wake_at, now)

    def is_silent(self, now: int) -> bool:
        """Whether the peer has sent nothing of this session for `silence_ms`."""
        return now >= self._heard_at + self.silence_ms

    def forgive(self, now: int) -> None:
        """Says that this side itself stood still (a suspended machine, a stopped process): the silence is not the peer's."""
        self._heard_at = now

    def _owe_acknowledgement(self, now: int) -> None:
        if self._ack_due_at is None:
            self._ack_due_at = now + ACK_DELAY_MS

    def _take_ack(self, ack: int, now: int) -> list[messages.Numbered]:
        acknowledged = []
        for _ in range(ack - self._acked):
            entry = self._unacknowledged.popleft()
            self._unacknowledged_bytes -= entry.size
            acknowledged.append(entry.message)
        self._acked = ack
        self._resend_ms = RESEND_MS
        self._resend_at = now + RESEND_MS if self._sent > ack else None
        return acknowledged

    def _take_numbered(self, frame: codec.Frame, now: int) -> list[tuple[int, messages.Numbered]]:
        first, last = frame.first_number, frame.first_number + len(frame.numbered) - 1
        if first < 1:
            raise RemoteProtocolError("WF204", "messages are numbered from 1")
        if first > self._received + 1:
            self.gaps += 1
            return []
        known = min(self._received - first + 1, len(frame.numbered))
        if known:
            # The peer did not get the acknowledgement, or none is owed yet and this one does no harm.
            self.duplicates += known
            self._owe_acknowledgement(now)
        if last <= self._received:
            return []
        if last > self._durable + WINDOW_MESSAGES:
            raise RemoteProtocolError("WF205", f"more than {WINDOW_MESSAGES} messages without an acknowledgement")
        self._received = last
        return list(enumerate(frame.numbered[known:], first + known))

    def _has_news(self, now: int) -> bool:
        if self._urgent or self._bulk or self._queued > self._sent:
            return True
        return self._resend_at is not None and now >= self._resend_at

    def _due(self, now: int) -> Iterator[tuple[int, msgspec.Raw]]:
        """Number (0 for a loose one) and bytes of all that should leave now, in order; marks it as sent."""
        urgent, bulk = self._urgent, self._bulk
        self._urgent, self._bulk, self._loose_bytes = [], [], 0
        yield from ((0, raw) for raw in urgent)
        sent, new_from = self._sent, self._sent - self._acked
        self._sent = self._queued
        if self._resend_at is not None and now >= self._resend_at:
            self._resend_ms = min(2 * self._resend_ms, RESEND_MS_MAX)
            self._resend_at = now + self._resend_ms
            yield from self._sent_before(new_from)
        if self._queued > sent:
            if self._resend_at is None:
                self._resend_at = now + self._resend_ms
            for index in range(new_from, len(self._unacknowledged)):
                yield self._acked + 1 + index, self._unacknowledged[index].raw
        yield from ((0, raw) for raw in bulk)

    def _sent_before(self, count: int) -> Iterator[tuple[int, msgspec.Raw]]:
        left = RESEND_BYTES_MAX
        for index in range(count):
            entry = self._unacknowledged[index]
            if index and entry.size > left:
                return
            left -= entry.size
            yield self._acked + 1 + index, entry.raw

    def _pack(self, due: Iterator[tuple[int, msgspec.Raw]]) -> list[bytes]:
        """Frames of at most `FRAME_BYTES_MAX`; a single message that is larger has a frame of its own."""
        frames: list[bytes] = []
        numbered: list[msgspec.Raw] = []
        loose: list[msgspec.Raw] = []
        first, size = 0, codec.FRAME_OVERHEAD_BYTES
        for number, raw in due:
            length = len(memoryview(raw))
            is_apart = bool(number and numbered and number != first + len(numbered))
            if (is_apart or size + length > messages.FRAME_BYTES_MAX) and (numbered or loose):
                frames.append(codec.encode_frame(self.token, self._durable, first or self._sent + 1, numbered, loose))
                numbered, loose, first, size = [], [], 0, codec.FRAME_OVERHEAD_BYTES
            size += length
            if not number:
                loose.append(raw)
                continue
            first = first or number
            numbered.append(raw)
        frames.append(codec.encode_frame(self.token, self._durable, first or self._sent + 1, numbered, loose))
        return frames
