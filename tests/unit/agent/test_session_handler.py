"""What a session announces, and what it sends again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.agent.core_harness import CoreBench, attempt
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState
from waterflow_agent.wire.session import Received


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[CoreBench]:
    """A settled core without attempts."""
    bench = CoreBench(tmp_path)
    bench.settle()
    yield bench
    await bench.close()


def welcome(generation: int = 1, forget: tuple[messages.TaskId, ...] = ()) -> messages.Welcome:
    return messages.Welcome("s", 1, generation, "web-1", ["web"], 6_000, list(forget))


async def test_hello_lists_held_attempts_and_directories(bench: CoreBench) -> None:
    """The hello lists attempts with their state, and the working directories of jobs."""
    bench.offer(attempt(1), run="true")
    bench.offer(attempt(2), message="hello")

    hello = bench.core.session.hello("token")

    assert hello.held == [
        messages.HeldAttempt(attempt(1), AttemptState.ACCEPTED),
        messages.HeldAttempt(attempt(2), AttemptState.FINISHED),
    ]
    assert hello.jobs == [("run", "job")]


async def test_a_session_is_outdated_when_the_docker_engine_has_changed(bench: CoreBench) -> None:
    """The daemon then gets a new hello, so that jobs with containers find the server or stay away."""
    assert bench.core.session.hello("token").docker is None

    bench.docker = messages.DockerEngine("28.5.1")
    assert bench.core.session.is_outdated
    assert bench.core.session.hello("token").docker == bench.docker
    assert not bench.core.session.is_outdated

    bench.docker = messages.DockerEngine("", "the Docker engine does not answer")
    assert bench.core.session.is_outdated


async def test_a_new_session_sends_unacknowledged_results_and_output_again(bench: CoreBench) -> None:
    """Acknowledged results and output are not sent again."""
    bench.offer(attempt(1), message="one")
    bench.offer(attempt(2), message="two")
    first, _ = bench.link.results()
    bench.output()
    bench.receive(Received(acknowledged=[first], loose=[messages.OutputAck(attempt(1), first.output_bytes)]))
    bench.link.sent.clear()

    bench.core.session.on_opened(welcome())

    assert [result.key for result in bench.link.results()] == [attempt(2)]
    assert bench.output() == b"two\n"


async def test_attempts_unknown_to_the_daemon_are_stopped(bench: CoreBench) -> None:
    """A finished one is removed at once."""
    bench.offer(attempt(1), run="sleep 60")
    bench.offer(attempt(2), message="hello")

    bench.core.session.on_opened(welcome(forget=(attempt(1), attempt(2))))

    assert len(bench.runner.cancelled) == 1
    assert [entry.key for entry in bench.ledger] == [attempt(1)]


async def test_the_session_has_the_groups_that_the_daemon_assigned(bench: CoreBench) -> None:
    """The groups in the agent's configuration are only a request."""
    bench.core.session.on_opened(welcome())

    assert bench.core.session.groups == ["web"]


async def test_confirmations_extend_the_leases_about_once_per_second(tmp_path: Path) -> None:
    """Under load every frame confirms something, and the runner needs few of these messages."""
    bench = CoreBench(tmp_path)
    bench.settle()
    for at in (5_000, 5_400, 5_999, 6_000, 6_100, 9_000):
        bench.core.session.on_confirmed(at)

    await bench.close()
    assert bench.runner.confirmed == [5_000, 6_000, 9_000]
