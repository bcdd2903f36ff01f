"""Requests to the daemon with one response each: a few at a time, each sent again in every new session until it is answered."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class RequestWindow(Generic[RequestT, ResponseT]):
    """The open requests of one kind. For the loop's thread."""

    def __init__(self, send: Callable[[RequestT], None], size: int, *, first: int = 1) -> None:
        """`send` may drop a request without a session: `on_opened` sends it again. At most `size` are in flight.

        `first` is the number of the first request. Where a response does not say by itself to what it responds, it must be one
        that an earlier process of the agent has not used.
        """
        self._send = send
        self._numbers = itertools.count(first)
        self._open: dict[int, tuple[RequestT, asyncio.Future[ResponseT]]] = {}
        self._window = asyncio.Semaphore(size)

    async def ask(self, make: Callable[[int], RequestT]) -> ResponseT:
        """Sends the request that `make` returns for its number, and returns the response."""
        async with self._window:
            number = next(self._numbers)
            answer: asyncio.Future[ResponseT] = asyncio.get_running_loop().create_future()
            request = make(number)
            self._open[number] = (request, answer)
            try:
                self._send(request)
                return await answer
            finally:
                del self._open[number]

    def on_opened(self) -> None:
        """Sends every open request again, in a new session."""
        for request, _ in self._open.values():
            self._send(request)

    def on_response(self, number: int, response: ResponseT) -> None:
        """Takes a response. One that is not expected is dropped."""
        _, answer = self._open.get(number, (None, None))
        if answer is not None and not answer.done():
            answer.set_result(response)
