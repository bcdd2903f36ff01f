"""A proxy to a TCP server that stops in the middle until a test lets it continue."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import Self
from urllib.parse import urlsplit


class Gate:
    """A proxy at `url` to `endpoint`: stops after `after_bytes` from clients in total, until `open` is called."""

    def __init__(self, endpoint: str, after_bytes: int) -> None:
        address = urlsplit(endpoint)
        self._target = (str(address.hostname), int(address.port or 80))
        self._left = after_bytes
        self._lock = threading.Lock()
        self._reached = threading.Event()
        self._opened = threading.Event()
        gate = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), socket.create_connection(gate._target) as server:
                    back = threading.Thread(
                        target=_pass_on, args=(server, self.request, lambda size: None), daemon=True
                    )
                    back.start()
                    _pass_on(self.request, server, gate._passed)
                    back.join()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def is_reached(self) -> bool:
        """Returns whether a client waits at the gate."""
        return self._reached.is_set()

    def open(self) -> None:
        """Lets everything through."""
        self._opened.set()

    def _passed(self, size: int) -> None:
        with self._lock:
            self._left -= size
            must_wait = self._left <= 0
        if must_wait:
            self._reached.set()
            self._opened.wait()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
        self._server.shutdown()
        self._server.server_close()


def _pass_on(source: socket.socket, target: socket.socket, passed: object) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(64 << 10):
            target.sendall(data)
            passed(len(data))  # type: ignore[operator]
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
