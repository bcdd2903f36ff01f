"""The API's listeners: TCP and a unix socket, one server, in the daemon's own event loop.

Rules of this file:

- The sockets are bound here, before the server starts, so that a taken port is an error of `start` with a sentence.
- The unix socket gets its mode between `bind` and `listen`: nobody can connect while it is open to all. Who is at the other
  end is asked of the kernel once per connection and travels in the connection's state.
- Signals belong to the daemon: uvicorn never sees one. On `stop` the streams end themselves first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from waterflow_agent.errors import Stalled
from waterflowd.api.app import Api
from waterflowd.api.auth import PEER_UID

_SOCKET_MODE = 0o660
#: `sun_path` holds 108 bytes with the final NUL.
_SOCKET_PATH_BYTES_MAX = 107
_BACKLOG = 512
#: Requests that are still at work after this are cut; streams end at once.
_GRACE_S = 5
#: Open connections; each stream is one, and every client of ours needs one at a time. Beyond it a new one is cut.
CONNECTIONS_MAX = 512
#: A connection on which no request begins for so long is closed at the next look, one such time later at most.
HEAD_S_MAX = 30.0
_UCRED = struct.Struct("3i")


class _Protocol(H11Protocol):
    """HTTP/1.1 that knows who is at the other end of a unix socket, and does not wait for ever for a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._seen: object = None
        self._look = self.loop.call_later(HEAD_S_MAX, self._look_again)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
            return
        uid = _peer_uid(transport)
        if uid is not None:
            self.app_state = {**self.app_state, PEER_UID: uid}

    def connection_lost(self, exc: Exception | None) -> None:
        self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        """Closes the connection when no request is at work and none has begun since the last look."""
        # Each request has a cycle of its own; there is none before the first.
        is_at_work = self.cycle is not None and not self.cycle.response_complete
        if not is_at_work and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle
        self._look = self.loop.call_later(HEAD_S_MAX, self._look_again)


def _peer_uid(transport: asyncio.Transport) -> int | None:
    """The uid at the other end of a unix socket; None for TCP."""
    transport_socket = transport.get_extra_info("socket")
    # A duplicate, because what the loop shows of its socket lacks `getsockopt` in some loops.
    with socket.socket(fileno=os.dup(transport_socket.fileno())) as peer:
        if peer.family != socket.AF_UNIX:
            return None
        _pid, uid, _gid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return cast(int, uid)


class _Server(uvicorn.Server):
    """Uvicorn inside somebody else's process."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen and says so."""
        await super().startup(sockets)
        self.is_up.set()


class ApiServer:
    """Serves an API on `listen` (`host:port`, port 0 for any) and on the unix socket `path`; either may be None."""

    def __init__(self, api: Api, listen: str | None, path: Path | None) -> None:
        self._api = api
        self._listen = listen
        self._path = path
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._inode: int | None = None
        #: The port that was taken; None without TCP.
        self.port: int | None = None

    async def start(self) -> None:
        """Listens; raises `Stalled` WF610 when an address cannot be had."""
        sockets: list[socket.socket] = []
        try:
            if self._listen is not None:
                sockets.append(_bind_tcp(self._listen))
                self.port = sockets[-1].getsockname()[1]
            if self._path is not None:
                sockets.append(_bind_unix(self._path))
                self._inode = os.stat(self._path).st_ino
        except BaseException:
            for opened in sockets:
                opened.close()
            raise
        config = Config(
            self._api,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_GRACE_S,
            h11_max_incomplete_event_size=64 << 10,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=sockets), name="api server")
        up = asyncio.create_task(self._server.is_up.wait())
        await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            await self._task

    async def wait(self) -> None:
        """Returns when the server has ended, or raises what ended it; for whoever supervises it."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Ends the streams, finishes what is at work within 5 s, and removes the unix socket. Idempotent."""
        if self._server is None or self._task is None:
            return
        self._api.stop()
        self._server.should_exit = True
        await self._task
        self._server = None
        if self._path is not None and self._inode is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == self._inode:
                    self._path.unlink()


def _bind_tcp(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise Stalled(
            "WF610", f"api.listen = {listen!r} cannot be used ({error}); choose another address or end what holds it"
        ) from error


def _bind_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise Stalled(
            "WF610", f"api.socket is longer than {_SOCKET_PATH_BYTES_MAX} bytes, which no unix socket can be: {path}"
        )
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        opened.bind(os.fspath(path))
        os.chmod(path, _SOCKET_MODE)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        raise Stalled("WF610", f"api.socket = {os.fspath(path)!r} cannot be used ({error})") from error
    except Stalled:
        opened.close()
        raise
    return opened


def _remove_stale(path: Path) -> None:
    """Removes the socket of a daemon that was killed; leaves a living one's, and anything that is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Stalled("WF610", f"api.socket = {os.fspath(path)!r} is there and is no socket; remove it")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass
    raise Stalled("WF610", f"another daemon listens on {os.fspath(path)!r} already; stop it first")
