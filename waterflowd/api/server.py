"""The listeners of the API: TCP and a unix socket, one server, in the event loop of the daemon.

Rules of this file:

- The sockets are bound here, before the server starts, so that `start` reports a port in use with a clear error.
- The unix socket gets its mode between `bind` and `listen`, so no client can connect before. The uid of the peer is read from
  the kernel once per connection, and kept in the state of the connection.
- The daemon handles signals, not uvicorn. `stop` ends the streams first.
- A connection that says nothing is closed by a timer, and earlier when another one needs its place (connections.py). TCP and
  the unix socket have separate places.
- Accepting connections and reading requests take part of the event loop's time like the requests themselves (loop_time.py).
- When the timer fires, the daemon looks again a moment later before it closes the connection. While the process or the machine
  stood still, timers ran out and requests arrived; closing a connection with such a request would reset it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import socket
import stat
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h11
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from waterflow_agent.errors import Stalled
from waterflowd.api.access import quotas
from waterflowd.api.access.auth import PEER_UID, REFUSAL
from waterflowd.api.app import Api
from waterflowd.api.connections import REFUSED_MAX, ConnectionTable
from waterflowd.api.loop_time import LoopShare
from waterflowd.api.problems import problem
from waterflowd.api.request_heads import StrictConnection

_SOCKET_MODE = 0o660
#: `sun_path` has 108 bytes including the final NUL.
_SOCKET_PATH_BYTES_MAX = 107
#: Connections that the kernel holds for us, and that are accepted in one go before the limits apply to them.
BACKLOG = 128
#: Requests that take longer during a stop are aborted; streams end at once.
_GRACE_S = 5
#: A connection without a new request for this long is closed at the next check, at most this much later.
HEAD_S_MAX = 10.0
#: Between two requests. Longer than the 5 s after which httpx, also in our own clients, no longer uses a connection: with equal
#: times the daemon would close connections on which a request is under way.
_KEEP_ALIVE_S = 8
#: How long before an idle connection is closed the daemon looks a second time.
_SECOND_LOOK_S = 1.0
#: File descriptors that the API may use beside the TCP connections within the limit: for the unix socket, and for connections
#: that were accepted before the limits apply, or that wait for a refusal.
RESERVED_DESCRIPTORS = quotas.UNIX.connections + 2 * (BACKLOG + REFUSED_MAX)
#: How long a refused connection may take to send the request that is answered with the reason.
_REFUSED_S = 2.0
#: Connections that are accepted at a time.
_TURN_ACCEPTS = 4
#: The machine has no descriptors or memory left; after this time, the daemon tries again.
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_S = 0.25
_UCRED = struct.Struct("3i")
_INTEGER = struct.Struct("i")


class _Protocol(H11Protocol):
    """HTTP/1.1 with strict heads, the uid of the peer on a unix socket, limits, and a timeout for idle connections."""

    def __init__(
        self, *arguments: Any, table: ConnectionTable, share: LoopShare, uid: int | None, **options: Any
    ) -> None:
        """`uid` is that of the peer on a unix socket; None for TCP."""
        super().__init__(*arguments, **options)
        self.conn = StrictConnection()
        self._table = table
        self._share = share
        self._uid = uid
        #: What has arrived and waits for its turn.
        self._unread: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._last_cycle: object = None
        if self._uid is not None:
            self.app_state = {**self.app_state, PEER_UID: self._uid}
            source = str(self._uid)
        else:
            source = quotas.source_of_address(self.client[0] if self.client else "")
        refusal = self._table.add(self, source)
        self._idle_check = self.loop.call_later(
            HEAD_S_MAX if refusal is None else _REFUSED_S, self._close_if_idle if refusal is None else self.abort
        )
        if refusal:
            self.app_state = {**self.app_state, REFUSAL: refusal}
        elif refusal is not None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle_check.cancel()
        self._table.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads what has arrived, or keeps it until there is time, and does not receive more meanwhile."""
        if not self._unread and self._share.is_free:
            self._read(data)
            return
        self._unset_keepalive_if_required()
        self.flow.pause_reading()
        self._unread.append(data)
        if len(self._unread) == 1:
            self._share.wait().add_done_callback(self._read_on)

    def _read_on(self, _: object) -> None:
        data = b"".join(self._unread)
        self._unread.clear()
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._read(data)

    def _read(self, data: bytes) -> None:
        began = time.thread_time()
        super().data_received(data)
        self._share.spend(time.thread_time() - began)

    def abort(self) -> None:
        """See `connections.Connection`."""
        self.transport.abort()

    def has_unread_input(self) -> bool:
        """See `connections.Connection`."""
        if self._unread:
            return True
        unread = bytearray(_INTEGER.size)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
        return any(unread)

    def handle_events(self) -> None:
        """Reads what has arrived; a request makes the connection busy."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._table.set_busy(self)

    def on_response_complete(self) -> None:
        """The connection is idle, unless the next request has already arrived."""
        self._table.set_idle(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that is not valid HTTP, and closes the connection."""
        error = sys.exception()
        answer = problem(400, str(error) if isinstance(error, h11.RemoteProtocolError) else msg, code="WF605")
        headers = [*answer.raw_headers, (b"connection", b"close")]
        with contextlib.suppress(h11.LocalProtocolError):
            # A part of the body was malformed after the answer had begun: then there is only the end of the connection.
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """The time between two requests has passed: closes the connection unless one is read until the second look."""
        self.timeout_keep_alive_task = self.loop.call_later(_SECOND_LOOK_S, super().timeout_keep_alive_handler)

    def _close_if_idle(self) -> None:
        """Closes the connection when no request is active and none has begun since the last check."""
        if self._is_idle():
            self._idle_check = self.loop.call_later(_SECOND_LOOK_S, self._close_if_still_idle)
        else:
            self._check_later()

    def _close_if_still_idle(self) -> None:
        if self._is_idle():
            self.transport.close()
        else:
            self._check_later()

    def _is_idle(self) -> bool:
        # Each request has its own cycle; before the first request there is none.
        is_active = self.cycle is not None and not self.cycle.response_complete
        return not is_active and not self._unread and self.cycle is self._last_cycle

    def _check_later(self) -> None:
        self._last_cycle = self.cycle
        self._idle_check = self.loop.call_later(HEAD_S_MAX, self._close_if_idle)


class _Listener:
    """Accepts connections at one socket. They wait in the kernel until it is their turn, like requests (loop_time.py)."""

    def __init__(self, listening: socket.socket, table: ConnectionTable, share: LoopShare) -> None:
        self._listening = listening
        self._table = table
        self._share = share
        self._loop = asyncio.get_running_loop()
        self._make: Callable[..., asyncio.Protocol] | None = None
        self._adopting: set[asyncio.Task[None]] = set()

    def start(self, make: Callable[..., asyncio.Protocol]) -> None:
        """Begins to listen; `make` makes the protocol of a connection."""
        self._make = make
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        self._watch()

    def stop(self) -> None:
        """Stops accepting connections."""
        if self._make is not None:
            self._make = None
            self._loop.remove_reader(self._listening.fileno())

    def _watch(self) -> None:
        if self._make is not None:
            self._loop.add_reader(self._listening.fileno(), self._arrived)

    def _arrived(self) -> None:
        if self._share.is_free:
            self._accept()
        else:
            self._loop.remove_reader(self._listening.fileno())
            self._share.wait().add_done_callback(self._go_on)

    def _go_on(self, _: object) -> None:
        if self._make is not None:
            self._watch()
            self._accept()

    def _accept(self) -> None:
        began = time.thread_time()
        for _ in range(_TURN_ACCEPTS):
            try:
                connection, _address = self._listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _NONE_LEFT:
                    # Connections are below the limit of descriptors, so the whole machine has none left.
                    self._loop.remove_reader(self._listening.fileno())
                    self._loop.call_later(_RETRY_S, self._watch)
                    break
                # The peer is gone already.
                continue
            task = self._loop.create_task(self._adopt(connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)
        self._share.spend(time.thread_time() - began)

    async def _adopt(self, connection: socket.socket) -> None:
        if self._make is None:
            connection.close()
            return
        try:
            connection.setblocking(False)
            uid = _peer_uid(connection)
            if uid is None:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            make = functools.partial(self._make, table=self._table, share=self._share, uid=uid)
            await self._loop.connect_accepted_socket(make, connection)
        except OSError:
            connection.close()


def _peer_uid(connection: socket.socket) -> int | None:
    """The uid of the peer on a unix socket; None for TCP."""
    if connection.family != socket.AF_UNIX:
        return None
    _pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return cast(int, uid)


@dataclass(frozen=True, slots=True)
class _Tables:
    """The connections of both listeners."""

    tcp: ConnectionTable
    unix: ConnectionTable


class _Server(uvicorn.Server):
    """Uvicorn embedded in the daemon, with its own way to accept connections."""

    def __init__(self, config: Config, listeners: list[_Listener]) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()
        self._listeners = listeners

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does not capture signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen and sets `is_up`."""
        await super().startup([])
        make = functools.partial(
            _Protocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        for listener in self._listeners:
            listener.start(make)
        self.is_up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops listening, and ends the connections."""
        for listener in self._listeners:
            listener.stop()
        await super().shutdown(sockets)


class ApiServer:
    """Serves an API on `listen` (`host:port`, port 0 for any) and on the unix socket `path`; either may be None."""

    def __init__(
        self, api: Api, listen: str | None, path: Path | None, *, connections_max: int = quotas.TCP.connections
    ) -> None:
        """`connections_max` is the number of TCP connections for which there are file descriptors."""
        self._api = api
        self._listen = listen
        self._path = path
        self.tables = _Tables(
            ConnectionTable(connections_max, min(quotas.TCP.connections_per_source, connections_max // 2)),
            ConnectionTable(quotas.UNIX.connections, quotas.UNIX.connections_per_source),
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._inode: int | None = None
        #: The bound port; None without TCP.
        self.port: int | None = None

    async def start(self) -> None:
        """Starts to listen; raises `Stalled` WF610 when an address cannot be used."""
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
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # What strangers can cause is a warning, such as a request that is not HTTP; app/logs.py limits its rate.
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        pools = self._api.pools
        listeners = [
            _Listener(opened, self.tables.unix, pools.unix.share)
            if opened.family == socket.AF_UNIX
            else _Listener(opened, self.tables.tcp, pools.tcp.share)
            for opened in sockets
        ]
        self._server = _Server(config, listeners)
        self._task = asyncio.create_task(self._server.serve(sockets=sockets), name="api server")
        up = asyncio.create_task(self._server.is_up.wait())
        await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            await self._task

    async def wait(self) -> None:
        """Returns when the server has ended, or raises its error; for the supervisor."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Ends the streams, finishes active requests within 5 s, and removes the unix socket. Idempotent."""
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
        return socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    except (OSError, ValueError, OverflowError) as error:
        raise Stalled(
            "WF610",
            f"cannot listen on api.listen = {listen!r} ({error}); choose another address, or stop the program that uses it",
        ) from error


def _bind_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
        raise Stalled(
            "WF610",
            f"api.socket exceeds {_SOCKET_PATH_BYTES_MAX} bytes, the limit for unix sockets; choose a shorter path: {path}",
        )
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        opened.bind(os.fspath(path))
        os.chmod(path, _SOCKET_MODE)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise Stalled("WF610", f"cannot listen on api.socket = {os.fspath(path)!r} ({error})") from error
    except Stalled:
        opened.close()
        raise
    return opened


def _remove_stale(path: Path) -> None:
    """Removes the socket of a killed daemon, but not that of a running one, and nothing that is not a socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Stalled("WF610", f"api.socket = {os.fspath(path)!r} exists and is not a socket; remove it")
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
    raise Stalled("WF610", f"another daemon already listens on {os.fspath(path)!r}; stop it first")
