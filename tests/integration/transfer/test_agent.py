"""`file/transfer` through a complete agent with a real runner: restarts, cancels, timeouts, and leftovers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import living
from tests.integration.agent.test_agent import Bench, bench, eventually
from tests.integration.transfer.transfer_harness import Request, Server, leftovers, served
from tests.patience import PATIENCE_S
from waterflow_agent.attempts import Outcome
from waterflow_agent.wire.messages import Task

__all__ = ["bench"]

CONTENT = bytes(5 << 20)


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """The server pauses in the middle of its answer until this event is set."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def server(go_on: threading.Event) -> Iterator[Server]:
    def answer(request: Request) -> None:
        request.reply(200, CONTENT[: 9 << 19], length=len(CONTENT))
        if go_on.wait(PATIENCE_S):
            request.wfile.write(CONTENT[9 << 19 :])

    with served(answer) as server:
        yield server


def fetch(bench: Bench, server: Server, **fields: object) -> Task:
    params = {
        "source": f"{server.url}/a?key=hunter2",
        "destination": f"{bench.markers}/a",
        "headers": {"Authorization": "Bearer hunter2"},
    }
    return bench.daemon.task(1, node="file/transfer", params=params, **fields)


def is_begun(folder: Path) -> bool:
    return any(path.stat().st_size for path in leftovers(folder))


async def test_a_transfer_survives_a_restart_of_the_agent(bench: Bench, server: Server, go_on: threading.Event) -> None:
    """The agent is killed during the transfer; the restarted agent reports the result."""
    await bench.start_process()
    task = fetch(bench, server)
    bench.daemon.offer(task)
    await eventually(lambda: is_begun(bench.markers))

    await bench.kill()
    go_on.set()
    await bench.start_process()
    finished = await bench.daemon.result(task.key)

    assert finished.outcome is Outcome.SUCCESS, finished
    assert finished.outputs["bytes"] == len(CONTENT)
    assert (bench.markers / "a").read_bytes() == CONTENT
    assert len(server.seen) == 1


async def test_a_cancel_and_a_timeout_leave_nothing(bench: Bench, server: Server) -> None:
    """The node removes its partial files before it exits."""
    await bench.start()
    task = fetch(bench, server, grace_ms=20_000)
    bench.daemon.offer(task)
    await eventually(lambda: is_begun(bench.markers))
    bench.daemon.cancel(task.key)
    finished = await bench.daemon.result(task.key)
    assert (finished.outcome, finished.reason_code) == (Outcome.CANCELLED, "cancel-requested"), finished
    assert list(bench.markers.iterdir()) == []

    task = bench.daemon.task(
        2, node="file/transfer", params=fetch(bench, server).params, timeout_ms=3_000, grace_ms=20_000
    )
    finished, output = await bench.daemon.run(task)
    assert (finished.outcome, finished.reason_code) == (Outcome.TIMED_OUT, "timeout"), finished
    assert list(bench.markers.iterdir()) == []
    assert b"hunter2" not in output
    assert living.holding(bench.data_dir, b"hunter2") == []
