"""The API client: time limits, and how it splits streams into items."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.patience import PATIENCE_S
from waterflowd.ctl.client import Client
from waterflowd.ctl.failures import Unreachable
from waterflowd.ctl.settings import Settings

#: Characters that some libraries treat as line breaks, but JSON does not.
TEXT = "a\u2028b\x85c\u2029d"


class Slow(ThreadingHTTPServer):
    """Answers a POST when it is released, and a GET at once with a stream of two items."""

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
            # The client has disconnected.
            self.close_connection = True

    def do_GET(self) -> None:
        items = [f'{{"text":"{TEXT}"}}', '{"text":"two"}']
        if "text/event-stream" in self.headers["Accept"]:
            text = ": comment\n\n" + "".join(f"id: {number}\ndata: {item}\n\n" for number, item in enumerate(items))
            text += "event: end\ndata: {}\n\n"
            kind = "text/event-stream"
        else:
            text, kind = "".join(f"{item}\n" for item in items), "application/x-ndjson"
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def slow() -> Iterator[Slow]:
    """Returns a server that delays its answer to a POST."""
    with Slow() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def test_waiting_has_a_longer_timeout_than_other_requests(slow: Slow) -> None:
    """The daemon limits the time of a fetch; other requests time out in the client."""
    settings = Settings(f"http://127.0.0.1:{slow.server_port}", None, answer_s=0.05)
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


def test_only_a_line_feed_separates_items(slow: Slow) -> None:
    """A step's text may contain every other character that some libraries treat as a line break."""
    client = Client(Settings(f"http://127.0.0.1:{slow.server_port}", None))

    assert [row["text"] for row in client.lines("/v1/runs/a/logs")] == [TEXT, "two"]
    client.close()


def test_a_stream_ends_with_its_end_event(slow: Slow) -> None:
    """Comments are skipped; an item may contain characters that some libraries treat as line breaks."""
    client = Client(Settings(f"http://127.0.0.1:{slow.server_port}", None))

    followed = client.follow("/v1/runs/a/events", lambda _text: pytest.fail("the connection was not lost"))

    assert [row["text"] for row in followed] == [TEXT, "two"]
    client.close()
