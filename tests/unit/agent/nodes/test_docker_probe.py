"""What the probe of a Docker engine says about what answers on a socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from waterflow_agent.nodes.containers import probe

OK = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


@contextlib.contextmanager
def answering(path: Path, answer: bytes, *, is_silent: bool = False) -> Iterator[str]:
    """Yields the address of a socket that sends these bytes to one client; a silent one keeps it waiting."""
    release = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            if is_silent:
                release.wait()
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            release.set()
            thread.join()


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the socket is; short enough for the kernel."""
    return tmp_path_factory.mktemp("s") / "d"


def test_an_engine_says_its_version(path: Path) -> None:
    """The rest of the answer does not matter; a name that is much too long is cut."""
    with answering(path, OK + b'{"Version": "28.5.1", "Components": []}') as address:
        assert probe.engine_version(address) == "28.5.1"
    path.unlink()
    with answering(path, OK + b'{"Version": "%s"}' % (b"9" * 1000)) as address:
        assert probe.engine_version(address) == "9" * 64


@pytest.mark.parametrize(
    "answer",
    [
        b"220 mail.example.org\r\n",
        OK + b"not json",
        OK + b"[]",
        OK + b'{"Version": 5}',
        OK + b'{"Version": "a\\nb"}',
        b'HTTP/1.0 403 Forbidden\r\n\r\n{"Version": "1"}',
    ],
)
def test_what_is_no_engine_is_named_as_such(path: Path, answer: bytes) -> None:
    """Anything may listen on a socket."""
    with answering(path, answer) as address, pytest.raises(probe.ProbeError, match="is not a Docker engine"):
        probe.engine_version(address)


def test_an_engine_that_does_not_answer_is_one_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be missing, may have ended, may end meanwhile, or may be silent."""
    with pytest.raises(probe.ProbeError, match=f"^no Docker engine at unix://{path}$"):
        probe.engine_version(f"unix://{path}")
    with answering(path, b"") as address, pytest.raises(probe.ProbeError, match="has closed the connection"):
        probe.engine_version(address)
    with pytest.raises(probe.ProbeError, match="does not answer: Connection refused"):
        probe.engine_version(f"unix://{path}")
    path.unlink()
    monkeypatch.setattr(probe, "ANSWER_S_MAX", 0.05)
    with answering(path, b"", is_silent=True) as address, pytest.raises(probe.ProbeError, match="has not answered"):
        probe.engine_version(address)
