"""Starts fetch children: one process for each fetch.

Rules of this file: the caller gets a response or an error within the request's time limit and a few seconds. Only a few
children start at a time, so that a daemon with many repositories does not start a hundred of them together; a slow child gives
up its slot, so that remotes that hang do not delay others.
"""

from __future__ import annotations

import msgspec

from waterflow_agent.errors import Retryable, Stalled
from waterflowd.gitsource import child_process
from waterflowd.gitsource.remote.fetch_errors import timed_out
from waterflowd.gitsource.remote.fetch_protocol import Fetched, FetchFailed, FetchRequest, FetchResponse
from waterflowd.reconcile import codes

_AT_ONCE = 8
_SLOT_S = 5.0
_CHILD = "waterflowd.gitsource.remote.fetch_child"
_responses: msgspec.msgpack.Decoder[FetchResponse] = msgspec.msgpack.Decoder(FetchResponse)


class Fetcher:
    """Runs the fetch children of all repositories."""

    def __init__(self) -> None:
        self._slots = child_process.Slots(_AT_ONCE, _SLOT_S)

    async def fetch(self, request: FetchRequest) -> Fetched:
        """Performs one fetch; `Retryable` or `Stalled` if it fails. Cancelling ends the child."""
        response = await self._slots.run(_fetch(request))
        if isinstance(response, FetchFailed):
            raise (Retryable if response.is_retryable else Stalled)(response.code, response.text)
        return response


async def _fetch(request: FetchRequest) -> FetchResponse:
    try:
        response = await child_process.call(_CHILD, msgspec.msgpack.encode(request), request.limits.time_s)
        return _responses.decode(response)
    except TimeoutError:
        return timed_out(request)
    except (OSError, EOFError, msgspec.MsgspecError):
        text = f"the fetch from {request.url.authority} ended without a response; it may have exceeded its memory limit"
        return FetchFailed(code=codes.FETCH_LIMIT, text=text)
