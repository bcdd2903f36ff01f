"""A socket in front of a Docker engine's that can hold back an answer, or break off as if the engine had exited."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.patience import PATIENCE_S


class Relay:
    """Forwards everything in both directions. The answer to a request that contains `wanted` waits for `go_on`."""

    def __init__(self, engine: str, folder: Path, marker: bytes) -> None:
        self.address = f"unix://{folder}/relay.sock"
        self.is_asked = threading.Event()
        self.go_on = threading.Event()
        self._wanted = marker
        self._engine = engine.removeprefix("unix://")
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"{folder}/relay.sock")
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Closes every connection and accepts no new ones."""
        for one in (self._listener, *self._open):
            with suppress(OSError):
                # A close alone would not wake up threads that wait on the socket.
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def cut_after(self, wait: Callable[[], object]) -> None:
        """Closes every connection once `wait` returns."""
        wait()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                far.connect(self._engine)
                self._open += [near, far]
                # One event per connection, because other connections continue to receive answers.
                held = threading.Event()
                for arguments in ((near, far, held, True), (far, near, held, False)):
                    threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, held: threading.Event, is_request: bool) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                if is_request and self._wanted in content:
                    held.set()
                if not is_request and held.is_set():
                    self.is_asked.set()
                    self.go_on.wait(PATIENCE_S)
                target.sendall(content)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(engine: str, marker: bytes = b"\0") -> Iterator[Relay]:
    """Relays the engine at this address."""
    # The path of a unix socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="wf-relay-", dir="/tmp"))
    relay = Relay(engine, folder, marker)
    try:
        yield relay
    finally:
        relay.go_on.set()
        relay.cut()
        shutil.rmtree(folder)
