"""Receives frames from a ZeroMQ socket on the loop's thread, without a future for each frame.

The asyncio sockets of pyzmq need two futures and two turns of the loop for each frame, which costs more than reading it.

The socket's descriptor signals a change of state, not that there is something to read, and sending consumes that signal
(https://libzmq.readthedocs.io/en/zeromq4-x/zmq_getsockopt.html, ZMQ_FD). So `look` must be called after each send, and a turn
reads until nothing is left or schedules another turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import zmq


class FrameReceiver:
    """Receives the frames of one plain pyzmq socket."""

    def __init__(self, sock: zmq.Socket[bytes], take: Callable[[list[zmq.Frame]], Any], turn_max: int) -> None:
        """`take` gets the parts of each message, of at most `turn_max` messages in one turn of the loop."""
        self._socket = sock
        self._take = take
        self._turn_max = turn_max
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.Handle | None = None
        self._failed: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Receives until cancelled. Raises what the socket or `take` has raised."""
        descriptor = self._socket.fileno()
        self._loop.add_reader(descriptor, self._readable)
        self.look()
        try:
            await self._failed
        finally:
            self._loop.remove_reader(descriptor)
            if self._next is not None:
                self._next.cancel()

    def look(self) -> None:
        """Reads the socket in the next turn of the loop. Call this after sending."""
        if self._next is None:
            self._next = self._loop.call_soon(self._scheduled)

    def _readable(self) -> None:
        # A scheduled turn reads as well. Two in one iteration of the loop would let other callbacks wait for both.
        if self._next is None:
            self._turn()

    def _scheduled(self) -> None:
        self._next = None
        self._turn()

    def _turn(self) -> None:
        try:
            for _ in range(self._turn_max):
                if self._failed.done():
                    return
                self._take(self._socket.recv_multipart(zmq.NOBLOCK, copy=False))
        except zmq.Again:
            return
        except Exception as error:  # noqa: BLE001  raised by `run`
            if not self._failed.done():
                self._failed.set_exception(error)
            return
        # Other callbacks get a turn before the rest is read.
        self.look()
