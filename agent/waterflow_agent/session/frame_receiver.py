"""What arrives at a ZeroMQ socket, handed over on the loop's thread without a future for each frame.

pyzmq's own sockets for asyncio make two futures and two turns of the loop for each frame, which costs more than reading it.

The socket's descriptor says that something has changed, and not that there is something to read; and sending takes note of
what has changed too (https://libzmq.readthedocs.io/en/zeromq4-x/zmq_getsockopt.html, ZMQ_FD). So whoever sends says so
(`look`), and a turn reads until there is nothing more, or comes again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq


class FrameReceiver:
    """The frames of one socket of plain pyzmq."""

    def __init__(self, sock: zmq.Socket[bytes], take: Callable[[list[zmq.Frame]], Any], turn_max: int) -> None:
        """`take` is given each message's parts, at most `turn_max` messages in one turn of the loop."""
        self._socket = sock
        self._take = take
        self._turn_max = turn_max
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = None
        self._failed: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Hands over until it is cancelled. Raises what the socket, or `take`, has raised."""
        descriptor = self._socket.fileno()
        self._loop.add_reader(descriptor, self._turn)
        self.look()
        try:
            await self._failed
        finally:
            self._loop.remove_reader(descriptor)
            if self._next is not None:
                self._next.cancel()

    def look(self) -> None:
        """Looks at the socket in the next turn of the loop: to be called after sending."""
        if self._next is None:
            self._next = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        try:
            for _ in range(self._turn_max):
                if self._failed.done():
                    return
                self._take(self._socket.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.Again:
            return
        except Exception as error:  # noqa: BLE001  told to whoever runs this
            if not self._failed.done():
                self._failed.set_exception(error)
            return
        # Everybody else gets a turn before the rest.
        self.look()
