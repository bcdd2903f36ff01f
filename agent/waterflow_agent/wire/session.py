"""One side of a session: numbers, acknowledgements, retransmission, keep-alives. Pure; time is an argument.

Rules:

- A session begins with one `Hello`; the next session is a new object with numbers from 1. Nothing is resumed: messages that
  were in flight are settled from `Hello.held`.
- `receive` returns numbered messages exactly once and in order. A frame that would leave a gap is refused; it is sent again.
- The caller of `acknowledge` confirms that a message is durable. Acknowledgements are cumulative and are sent with the next
  frame, at most 50 ms later.
- Unacknowledged messages are sent again after 5 s, then 10, 20, 30, 30... A frame is sent at least every third of the time
  after which a silent peer is considered lost.
- The daemon repeats the stamp of the newest frame that it has received. `confirmed_at` is that time on the agent's own clock:
  up to then the daemon knew that the agent was alive, whatever has happened to frames since. Leases are counted from it.
- Everything is bounded: 4,096 messages or 64 MiB may be unacknowledged. A peer that sends more violates the protocol.
- A frame of another session (late or forged) changes nothing. A frame without a session brings loose messages only.

Call `frames(now)` after messages were queued, and again at `next_wake_at(now)`, and send the frames in order. Call `receive`
for each frame, and handle its loose messages before its numbered ones: `Welcome` comes with the first offers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from waterflow_agent.errors import LocalProtocolError, RemoteProtocolError
from waterflow_agent.wire import codec, messages

#: Silence after which a peer is considered lost, unless `Welcome` says otherwise.
SILENCE_MS = 6_000
#: How long an acknowledgement waits for a frame to be sent with.
ACK_DELAY_MS = 50
#: The first and the largest delay of a retransmission. A commit takes milliseconds; on a stalled disk, seconds.
RESEND_MS = 5_000
RESEND_MS_MAX = 30_000
#: Of one round of retransmission. Over TCP a loss within a session is rare.
RESEND_BYTES_MAX = 4 * messages.FRAME_BYTES_MAX
#: Unacknowledged numbered messages: more than any agent has slots, and a fraction of a second of work for the daemon.
WINDOW_MESSAGES = 4_096
WINDOW_BYTES = 64 << 20
#: Of loose messages that wait for the next call of `frames`.
LOOSE_BYTES_MAX = 16 << 20


class Received(msgspec.Struct, frozen=True):
    """The content of a frame. Handle `loose` first."""

    numbered: list[tuple[int, messages.Numbered]] = []
    loose: list[messages.Message] = []
    #: Messages of this side that the peer has now acknowledged, in order.
    acknowledged: list[messages.Numbered] = []
    #: The frame belongs to another session and was dropped.
    is_foreign: bool = False


class _Unacknowledged(msgspec.Struct, frozen=True):
    message: messages.Numbered
    raw: msgspec.Raw
    size: int


class Session:
    """The session `token`, on the side that is not `peer`. Times are milliseconds of the boot clock."""

    def __init__(self, token: str, peer: codec.Side, now: int, silence_ms: int = SILENCE_MS, stamp: int = 0) -> None:
        self.token = token
        self.silence_ms = silence_ms
        #: Numbered messages dropped as duplicates, and frames refused because of a gap.
        self.duplicates = 0
        self.gaps = 0
        self._peer = peer
        self._urgent: list[msgspec.Raw] = []
        self._bulk: list[msgspec.Raw] = []
        self._loose_bytes = 0
        # Our messages: 1.._acked are durable at the peer, .._sent were sent, .._queued exist; the deque holds
        # _acked+1.._queued.
        self._unacknowledged: deque[_Unacknowledged] = deque()
        self._unacknowledged_bytes = 0
        self._acked = 0
        self._sent = 0
        self._queued = 0
        # The peer's messages: 1.._received were received, .._durable are durable here.
        self._received = 0
        self._durable = 0
        self._ack_due_at: int | None = None
        self._resend_ms = RESEND_MS
        self._resend_at: int | None = None
        self._sent_at = now
        self._heard_at = now
        #: The highest stamp of the peer: to repeat it, or (on the agent) what the daemon has confirmed.
        self._stamp = stamp
        #: Set it on the daemon: while it is false, frames that arrive are not confirmed, and extend no lease.
        self.is_confirming = True

    @property
    def room(self) -> int:
        """How many numbered messages may be queued until the peer acknowledges some."""
        if self._unacknowledged_bytes >= WINDOW_BYTES:
            return 0
        return WINDOW_MESSAGES - len(self._unacknowledged)

    @property
    def confirmed_at(self) -> int:
        """On the agent: when it sent the newest frame that the daemon has confirmed; 0 for none."""
        return self._stamp

    def queue(self, message: messages.Message) -> int | None:
        """Queues a message for the next frame. Returns its number if it is of a numbered kind.

        Raises `LocalProtocolError`: WF206 when it is too large, WF207 when `room` is 0 or too many loose messages wait.
        """
        raw = codec.encode_message(message)
        size = len(memoryview(raw))
        if isinstance(message, messages.NUMBERED):
            if not self.room:
                raise LocalProtocolError("WF207", "too many messages are unacknowledged by the peer")
            # The type checker does not know that the tuple of types equals the union.
            self._unacknowledged.append(_Unacknowledged(message, raw, size))  # type: ignore[arg-type]
            self._unacknowledged_bytes += size
            self._queued += 1
            return self._queued
        if self._loose_bytes + size > LOOSE_BYTES_MAX:
            raise LocalProtocolError("WF207", "too many messages are waiting for the next frame")
        # Output, files and artifacts come last in a frame, so that a flood of them delays nothing else.
        (self._bulk if isinstance(message, messages.BULK) else self._urgent).append(raw)
        self._loose_bytes += size
        return None

    def acknowledge(self, number: int, now: int) -> None:
        """Acknowledges the peer's messages up to `number`, which are durable here. A smaller number changes nothing."""
        if number > self._received:
            raise LocalProtocolError("WF208", f"message {number} was acknowledged but not received")
        if number > self._durable:
            self._durable = number
            self._schedule_acknowledgement(now)

    def frames(self, now: int) -> list[bytes]:
        """Returns the frames to send now, in order; none when nothing is due. They are considered sent."""
        frames = self._pack(self._due(now), self._stamp_at(now)) if self._has_news(now) else []
        if not frames:
            is_ack_due = self._ack_due_at is not None and now >= self._ack_due_at
            if not is_ack_due and now < self._sent_at + self.silence_ms // 3:
                return []
            frames = [codec.encode_frame(self.token, self._durable, self._sent + 1, [], [], self._stamp_at(now))]
        self._ack_due_at = None
        self._sent_at = now
        return frames

    def receive(self, frame: bytes | memoryview, now: int) -> Received:
        """Handles the bytes of a frame. Raises only `RemoteProtocolError`, which ends the session."""
        return self.take(codec.decode_frame(frame, self._peer), now)

    def take(self, frame: codec.Frame, now: int) -> Received:
        """Handles a decoded frame. Raises `RemoteProtocolError` WF204 (invalid numbers) and WF205 (window exceeded)."""
        if frame.session != self.token:
            if frame.session:
                return Received(is_foreign=True)
            return Received(loose=list(frame.loose))
        if frame.ack > self._sent:
            raise RemoteProtocolError("WF204", f"message {frame.ack} was acknowledged, but only {self._sent} were sent")
        self._heard_at = now
        if frame.stamp > self._stamp and self.is_confirming:
            # What this side never sent cannot have been confirmed.
            self._stamp = frame.stamp if self._peer is codec.Side.AGENT else min(frame.stamp, self._sent_at)
        return Received(
            numbered=self._take_numbered(frame, now) if frame.numbered else [],
            loose=list(frame.loose),
            acknowledged=self._take_ack(frame.ack, now) if frame.ack > self._acked else [],
        )

    def next_wake_at(self, now: int) -> int:
        """Returns when to call `frames` and `is_silent` again, unless something is queued or received before."""
        if self._urgent or self._bulk or self._queued > self._sent:
            return now
        wake_at = min(self._sent_at + self.silence_ms // 3, self._heard_at + self.silence_ms)
        if self._ack_due_at is not None:
            wake_at = min(wake_at, self._ack_due_at)
        if self._resend_at is not None:
            wake_at = min(wake_at, self._resend_at)
        return max(wake_at, now)

    def is_silent(self, now: int) -> bool:
        """Whether nothing of this session was received for `silence_ms`."""
        return now >= self._heard_at + self.silence_ms

    def forgive(self, now: int) -> None:
        """Restarts the measurement of silence, because this side itself was suspended or stopped."""
        self._heard_at = now

    def _schedule_acknowledgement(self, now: int) -> None:
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
            # The peer did not receive the acknowledgement; if none is due yet, another one does no harm.
            self.duplicates += known
            self._schedule_acknowledgement(now)
        if last <= self._received:
            return []
        if last > self._durable + WINDOW_MESSAGES:
            raise RemoteProtocolError("WF205", f"more than {WINDOW_MESSAGES} unacknowledged messages")
        self._received = last
        return list(enumerate(frame.numbered[known:], first + known))

    def _has_news(self, now: int) -> bool:
        if self._urgent or self._bulk or self._queued > self._sent:
            return True
        return self._resend_at is not None and now >= self._resend_at

    def _due(self, now: int) -> Iterator[tuple[int, msgspec.Raw]]:
        """Yields number (0 for a loose message) and bytes of everything to send now, in order, and marks it as sent."""
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

    def _stamp_at(self, now: int) -> int:
        """The agent stamps its frames with its clock; the daemon repeats the newest stamp."""
        return now if self._peer is codec.Side.DAEMON else self._stamp

    def _pack(self, due: Iterator[tuple[int, msgspec.Raw]], stamp: int) -> list[bytes]:
        """Returns frames of at most `FRAME_BYTES_MAX` and `FRAME_MESSAGES_MAX`; a larger message gets its own frame."""
        frames: list[bytes] = []
        numbered: list[msgspec.Raw] = []
        loose: list[msgspec.Raw] = []
        first, size = 0, codec.FRAME_OVERHEAD_BYTES
        for number, raw in due:
            length = len(memoryview(raw))
            is_apart = bool(number and numbered and number != first + len(numbered))
            is_full = (
                size + length > messages.FRAME_BYTES_MAX or len(numbered) + len(loose) >= messages.FRAME_MESSAGES_MAX
            )
            if (is_apart or is_full) and (numbered or loose):
                first = first or self._sent + 1
                frames.append(codec.encode_frame(self.token, self._durable, first, numbered, loose, stamp))
                numbered, loose, first, size = [], [], 0, codec.FRAME_OVERHEAD_BYTES
            size += length
            if not number:
                loose.append(raw)
                continue
            first = first or number
            numbered.append(raw)
        first = first or self._sent + 1
        frames.append(codec.encode_frame(self.token, self._durable, first, numbered, loose, stamp))
        return frames
