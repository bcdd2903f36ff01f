"""The connection of the agent: one at a time, and never blocking.

Messages that are not urgent (`started`, hints that a spool grew) are sent with urgent ones, or after `LAZY_MS`: at hundreds of
short steps a second most of them start, print and exit within one frame. Only the last hint of each name is kept. An agent that
does not read is disconnected when `UNSENT_BYTES_MAX` wait for it. Nothing is lost: after a reconnect it gets everything by
`status`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from waterflow_agent.runner import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from waterflow_agent.runner.protocol import Message

#: Too short to be noticed in a log, longer than a trivial step takes.
LAZY_MS = 20
UNSENT_BYTES_MAX = 4 * 1024 * 1024
_RECEIVE_BYTES = 65_536
_CREDENTIALS = struct.Struct("3i")
_SO_PEERPIDFD = 77


class AgentConnection:
    """One accepted connection. A broken one sets `is_broken`; the service closes it."""

    __slots__ = ("_decoder", "_hints", "_queue", "_socket", "_unsent", "flush_due", "is_broken")

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._decoder = protocol.Decoder()
        self._queue: list[Message] = []
        self._hints: dict[str, int] = {}
        self._unsent = bytearray()
        #: When queued messages must be sent (boot clock, milliseconds); 0 for at once, None when nothing is queued.
        self.flush_due: int | None = None
        self.is_broken = False

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def peer(self) -> tuple[int, int]:
        """Return process (0 if it has ended or is in another namespace) and user of the peer, from the kernel."""
        packed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(packed)
        return (pid if self._is_alive(pid) else 0), uid

    def _is_alive(self, pid: int) -> bool:
        """Whether `pid` is still the process that connected, as far as the kernel can tell; Linux 6.5 is certain."""
        try:
            pidfd = self._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            return error.errno == errno.ENOPROTOOPT
        try:
            with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
                return f"\nPid:\t{pid}\n" in file.read()
        except OSError:
            return False
        finally:
            os.close(pidfd)

    @property
    def has_unsent(self) -> bool:
        """Whether the socket was full: flush again when it is writable."""
        return bool(self._unsent)

    def receive(self) -> list[Message]:
        """Return the received messages; none, and `is_broken`, when the agent has disconnected. Raises `BadMessage`."""
        try:
            received = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            self.is_broken = True
            return []
        if not received:
            self.is_broken = True
            return []
        return self._decoder.feed(received)

    def send(self, message: Message) -> None:
        """Send a message at the end of this turn of the loop."""
        self._queue.append(message)
        self.flush_due = 0

    def send_lazily(self, message: Message, now: int) -> None:
        """Send a message with the next urgent one, or after `LAZY_MS`."""
        self._queue.append(message)
        if self.flush_due is None:
            self.flush_due = now + LAZY_MS

    def hint(self, name: str, size: int, now: int) -> None:
        """Report lazily that the spool of `name` has grown to `size` bytes of output."""
        self._hints[name] = size
        if self.flush_due is None:
            self.flush_due = now + LAZY_MS

    def drop_hint(self, name: str) -> None:
        """Drop the hint of a name whose result is sent, which contains the size too."""
        self._hints.pop(name, None)

    def flush(self) -> None:
        """Pass everything queued to the socket, and keep what it does not take."""
        self._queue += [{"type": "output", "name": name, "bytes": size} for name, size in self._hints.items()]
        self._hints.clear()
        self.flush_due = None
        if self._queue:
            self._unsent += protocol.frames(map(_encode, self._queue))
            self._queue = []
        if not self._unsent or self.is_broken:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.is_broken = True
            return
        del self._unsent[:sent]
        if len(self._unsent) > UNSENT_BYTES_MAX:
            self.is_broken = True

    def close(self) -> None:
        """Close the connection; what was not sent is dropped."""
        self._socket.close()


def _encode(message: Message) -> bytes:
    try:
        return protocol.encode(message)
    except protocol.BadMessage as error:
        # Only `held` can become that large, when an agent forgets nothing for a very long time.
        return protocol.encode({"type": "error", "name": None, "text": str(error)})
