"""Passes the requests of running steps for artifacts and caches to the daemon, and the answers back.

Rules of this file:

- Each step that uses artifacts has a socket among its own files, which only its user can reach. So the socket says which
  attempt asks, and a step cannot ask for another one.
- The agent keeps no state of a transfer. When it was restarted, it opens the sockets again, and the steps repeat requests.
- The requests of all steps share one window towards the daemon, in the order in which they arrive.
- A step that keeps a cache on its server has a second socket, whose requests the agent answers itself (`caches/service.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent import logs
from waterflow_agent.artifacts import local_protocol
from waterflow_agent.artifacts.local_protocol import CACHE_SOCKET, IN_FLIGHT_MAX, SOCKET, StepRequest, StepResponse
from waterflow_agent.caches.service import ServerCaches
from waterflow_agent.session.request_window import RequestWindow
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId

logger = logging.getLogger(__name__)

#: Connections of one step. It needs one.
_CONNECTIONS_MAX = 4


class ArtifactRelay:
    """The sockets of all steps of one agent that use artifacts. For the loop's thread."""

    def __init__(self, send: Callable[[messages.ArtifactRequest], None], caches: ServerCaches | None = None) -> None:
        """`send` may drop a request without a session. `caches` is None where the server keeps none."""
        self._window: RequestWindow[messages.ArtifactRequest, messages.ArtifactResponse] = RequestWindow(
            send, messages.ARTIFACT_REQUESTS_MAX, first=secrets.randbits(48)
        )
        self._caches = caches
        self._sockets: dict[tuple[TaskId, str], _StepSocket] = {}

    def open(self, key: TaskId, directory: str, name: str = SOCKET) -> None:
        """Opens a socket of an attempt in the directory with its files. Raises `OSError`."""
        self._close_socket(key, name)
        answer = self._ask_daemon if name == SOCKET else self._ask_server
        self._sockets[key, name] = _StepSocket(key, Path(directory, name), answer)

    def reopen(self, key: TaskId, directory: str) -> None:
        """Opens the sockets of an attempt that an earlier process of the agent has started, if it had any."""
        for name in (SOCKET, CACHE_SOCKET):
            if not os.path.lexists(f"{directory}/{name}"):
                continue
            try:
                self.open(key, directory, name)
            except OSError as error:
                # The step waits until its timeout; a full disk has space again after the agent's next start.
                logger.error("cannot open the socket of a step: %s", error, extra=logs.subject(key.attempt))

    def close_socket(self, key: TaskId) -> None:
        """Closes and removes the sockets of an attempt; does nothing if it has none."""
        for name in (SOCKET, CACHE_SOCKET):
            self._close_socket(key, name)
        if self._caches is not None:
            self._caches.ended(key)

    def _close_socket(self, key: TaskId, name: str) -> None:
        found = self._sockets.pop((key, name), None)
        if found is not None:
            found.close()
            with contextlib.suppress(OSError):
                found.path.unlink()

    async def _ask_daemon(self, key: TaskId, action: messages.ArtifactAction) -> messages.ArtifactResponse:
        return await self._window.ask(lambda number: messages.ArtifactRequest(key=key, number=number, action=action))

    async def _ask_server(self, key: TaskId, action: messages.ArtifactAction) -> messages.ArtifactResponse:
        if self._caches is None:
            return messages.ArtifactResponse(
                key, 0, None, "WF337", "this server keeps no caches (server-caches-mb is 0)"
            )
        return await self._caches.answer(key, action, self._ask_daemon)

    def on_opened(self) -> None:
        """Repeats the open requests in a new session."""
        self._window.on_opened()

    def on_response(self, response: messages.ArtifactResponse) -> None:
        """Takes an answer of the daemon."""
        self._window.on_response(response.number, response)

    async def close(self) -> None:
        """Closes all sockets, which stay on disk for the agent's next process."""
        open_sockets = list(self._sockets.values())
        self._sockets.clear()
        for each in open_sockets:
            each.close()
        await asyncio.gather(*(each.ended() for each in open_sockets))
        if self._caches is not None:
            await asyncio.to_thread(self._caches.close)


#: Answers a request of an attempt.
_Answer = Callable[[TaskId, messages.ArtifactAction], Awaitable[messages.ArtifactResponse]]


class _StepSocket:
    def __init__(self, key: TaskId, path: Path, answer: _Answer) -> None:
        self.path = path
        self._key = key
        self._answer = answer
        self._listening = _listen(path)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._spawn(self._accept())

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._listening.close()

    async def ended(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                # Too many open files, for example: the step's connection waits.
                logger.warning("cannot accept a step's connection: %s", error, extra=logs.subject(self._key.attempt))
                await asyncio.sleep(1)
                continue
            if self._connections >= _CONNECTIONS_MAX:
                connection.close()
                continue
            self._connections += 1
            self._spawn(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        requests: set[asyncio.Task[None]] = set()
        free = asyncio.Semaphore(IN_FLIGHT_MAX)
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_unix_connection(
                sock=connection, limit=messages.ARTIFACT_BLOCK_BYTES_MAX
            )
            while True:
                await free.acquire()
                request = await local_protocol.read_request(reader)
                task = asyncio.create_task(self._pass_on(request, writer), name="artifact request")
                requests.add(task)
                task.add_done_callback(requests.discard)
                task.add_done_callback(lambda _: free.release())
        except (EOFError, OSError):
            # The step has ended, or was stopped.
            pass
        except (ValueError, msgspec.MsgspecError) as error:
            logger.warning("a step sent an invalid request: %s", error, extra=logs.subject(self._key.attempt))
        finally:
            self._connections -= 1
            for task in requests:
                task.cancel()
            if writer is not None:
                writer.close()

    async def _pass_on(self, request: StepRequest, writer: asyncio.StreamWriter) -> None:
        response = await self._answer(self._key, request.action)
        answer = StepResponse(request.number, response.result, response.code, response.text, response.after_ms)
        with contextlib.suppress(OSError):
            writer.write(local_protocol.encode(answer))
            await writer.drain()


def _listen(path: Path) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listening = local_protocol.new_socket()
    try:
        with local_protocol.socket_address(path) as address:
            listening.bind(address)
        # The step may have another user. Nobody else can enter the directory.
        path.chmod(0o666)
        listening.listen(_CONNECTIONS_MAX)
    except BaseException:
        listening.close()
        raise
    return listening
