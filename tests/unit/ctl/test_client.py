"""The client's patience: with a daemon that works, not with one that is gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.patience import PATIENCE_S
from waterflowd.ctl import client as clients
from waterflowd.ctl.client import Client
from waterflowd.ctl.failures import Unreachable
from waterflowd.ctl.settings import Settings


class Slow(ThreadingHTTPServer):
    """Answers a post when it is released."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.arrived = threading.Event()
        self.released = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Slow

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrived.set()
        self.server.released.wait(PATIENCE_S)
        try:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
        except ConnectionError:
            # The client that would not wait.
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def slow() -> Iterator[Slow]:
    """A server that is at work."""
    with Slow() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def test_a_wait_outlives_the_bound_of_other_requests(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a fetch may take is the daemon's to say; what answers at once elsewhere is given up on after a while."""
    monkeypatch.setattr(clients, "_READ_S", 0.05)
    settings = Settings(f"http://127.0.0.1:{slow.server_port}", None)
    waiting, other = Client(settings), Client(settings)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(waiting.wait, "/v1/repositories/ops/sync", wait="true")
        assert slow.arrived.wait(PATIENCE_S)
        with pytest.raises(Unreachable):
            other.post("/v1/repositories/ops/sync")
        assert not answer.done()
        slow.released.set()
        assert answer.result(PATIENCE_S) == {}
    waiting.close()
    other.close()
