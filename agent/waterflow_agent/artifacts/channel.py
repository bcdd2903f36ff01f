"""A step's connection to the relay of its agent. It waits while the agent or the daemon is away, and then continues."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from waterflow_agent.artifacts import local_protocol
from waterflow_agent.artifacts.local_protocol import IN_FLIGHT_MAX, StepRequest
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire import messages

#: Between two tries to connect.
_RETRY_S = 0.2
ResultT = TypeVar("ResultT", bound=messages.ArtifactResult)


class ArtifactChannel:
    """Asks the daemon, through the agent; at most `IN_FLIGHT_MAX` requests at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[bytes, asyncio.Future[local_protocol.StepResponse]]] = {}
        self._window = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep_connected(), name="artifacts")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None, "entered"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ask(self, action: messages.ArtifactAction, kind: type[ResultT]) -> ResultT:
        """Returns the answer, of the kind that the action has.

        Raises `Rejected`, and `Retryable` if the daemon refuses now and the same may succeed later. While the daemon only asks
        for patience, the request is repeated.
        """
        result = await self.ask_any(action)
        if not isinstance(result, kind):
            raise Rejected("WF762", "the server sent an unexpected answer")
        return result

    async def ask_any(self, action: messages.ArtifactAction) -> messages.ArtifactResult:
        """As `ask`, for actions with several kinds of answers."""
        while True:
            response = await self._once(action)
            if response.result is not None:
                return response.result
            if not response.code:
                raise Rejected("WF762", "the server sent an unexpected answer")
            if response.code in _PASSING:
                raise Retryable(response.code, response.text)
            if not response.after_ms:
                raise Rejected(response.code, response.text)
            await asyncio.sleep(response.after_ms / 1_000)

    async def _once(self, action: messages.ArtifactAction) -> local_protocol.StepResponse:
        async with self._window:
            number = next(self._numbers)
            frame = local_protocol.encode(StepRequest(number, action))
            answer: asyncio.Future[local_protocol.StepResponse] = asyncio.get_running_loop().create_future()
            self._open[number] = (frame, answer)
            try:
                if self._writer is not None:
                    self._writer.write(frame)
                return await answer
            finally:
                del self._open[number]

    async def _keep_connected(self) -> None:
        while True:
            with contextlib.suppress(EOFError, OSError, ValueError, msgspec.MsgspecError):
                await self._connect()
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> None:
        """Serves one connection until it ends."""
        made = local_protocol.new_socket()
        try:
            with local_protocol.socket_address(self._path) as address:
                await asyncio.get_running_loop().sock_connect(made, address)
            reader, writer = await asyncio.open_unix_connection(sock=made, limit=messages.ARTIFACT_BLOCK_BYTES_MAX)
        except BaseException:
            made.close()
            raise
        try:
            for frame, _ in self._open.values():
                writer.write(frame)
            self._writer = writer
            while True:
                response = await local_protocol.read_response(reader)
                _, answer = self._open.get(response.number, (b"", None))
                if answer is not None and not answer.done():
                    answer.set_result(response)
        finally:
            self._writer = None
            writer.close()


#: Codes of a daemon that has no space, or cannot use its bucket: waiting for it would occupy the server's slot.
_PASSING = ("WF302", "WF322", "WF330")
