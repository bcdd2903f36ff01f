"""Work in threads that is never left running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


async def to_end(call: Callable[_P, _Result], *args: _P.args, **kwargs: _P.kwargs) -> _Result:
    """Runs a call in a thread. If this is cancelled, the call is still awaited: nothing may write while files are removed."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
