"""Thousands of silent or half-open connections: the daemon keeps working and frees all resources afterwards."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
from collections.abc import Iterator

import pytest

from tests.attack.arena import GOOD, Arena, Peak, descriptors, memory_bytes
from tests.chance import IS_FULL, SEED
from tests.patience import PATIENCE_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COUNT = 5_000 if IS_FULL else 1_000
MIB = 1 << 20
#: The first part of a greeting in ZeroMQ's protocol.
_GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f"


@contextlib.contextmanager
def _many_descriptors(count: int) -> Iterator[int]:
    """Lets this process open that many more files, as far as permitted; yields how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = count + 500
    limit = expected if hard == resource.RLIM_INFINITY else min(expected, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, soft), hard))
    try:
        yield min(count, max(limit, soft) - 500)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("port", ["work", "enroll", "api"])
def test_thousands_of_half_open_connections_do_no_harm(arena: Arena, port: str) -> None:
    """Runs continue and agents connect in the meantime; afterwards memory and descriptors are as before."""
    number = {"work": arena.work_port, "enroll": arena.enroll_port, "api": arena.api_port}[port]
    pid = arena.daemon_pid
    for _ in range(20):
        arena.latency_s()
    files, memory = descriptors(pid), Peak(lambda: memory_bytes(pid))
    print(f"WATERFLOW_SEED={SEED}")
    dice = random.Random(SEED)
    with _many_descriptors(COUNT) as count, contextlib.ExitStack() as stack:
        opened = 0
        for _ in range(count):
            try:
                peer = stack.enter_context(socket.create_connection(("127.0.0.1", number), timeout=PATIENCE_S))
                part = dice.choice([b"", _GREETING[: dice.randint(1, 10)], b"GET /v1/ru", b"\0" * dice.randint(1, 64)])
                peer.sendall(part)
            except OSError:
                # The daemon may refuse excess connections.
                continue
            opened += 1
        memory.look()
        held = descriptors(pid)
        latency = max(arena.latency_s() for _ in range(5))
        if port != "enroll":
            arena.add_agent("late", "web")
    print(
        f"{opened} opened, {held - files} held, RssAnon +{memory.growth / MIB:.1f} MiB, a run took {latency:.3f} s at most"
    )
    wait_until(lambda: descriptors(pid) <= files + 10, "the daemon to let go of them")
    arena.add_agent("after", "web")
    assert arena.wait_for(arena.start(GOOD))["conclusion"] == "success"
    wait_until(lambda: {"web-1", "web-2", "after"} <= arena.connected(), "all agents to be connected")
    memory.look()
    assert memory.growth <= 64 * MIB, f"the daemon grew by {memory.growth / MIB:.1f} MiB"
