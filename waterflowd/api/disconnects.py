"""Clients that disconnect before they have their answer: their request is not worth further work."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from waterflow_agent.errors import Rejected

_Result = TypeVar("_Result")


async def until_disconnected(receive: Receive) -> None:
    """Returns when the client has disconnected. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`, which is cancelled when the client disconnects; then raises `Rejected`, which nobody sees."""
    gone = asyncio.create_task(until_disconnected(request.receive), name="request: client")
    working = asyncio.create_task(work, name="request: work")
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Rejected("WF605", "the client disconnected before the answer")
        return working.result()
    finally:
        for task in (gone, working):
            task.cancel()
        await asyncio.gather(gone, working, return_exceptions=True)
