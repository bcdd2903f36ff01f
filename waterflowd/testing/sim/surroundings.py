"""What the real modules take from the machine, replaced for as long as a world runs: clocks, randomness, sockets, spools.

Everything else that touches the outside comes in through a port and is simulated there. The names below are the only ones
that are swapped, and they are put back whatever happens.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import zmq

from waterflow_agent import desk, link, output
from waterflow_agent.runner import spool
from waterflow_agent.runner.spool import Chunk
from waterflowd.host import driver

if TYPE_CHECKING:
    from waterflowd.testing.sim.world import World


class _SpoolReader:
    """`spool.SpoolReader` over the simulated disks."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks
        self._index = 0

    def read(self, from_offset: int, max_bytes: int, *, tail: bool = True) -> list[Chunk]:
        """What is there from an offset on."""
        del tail
        if self._index >= len(self._chunks) or from_offset < self._chunks[self._index].offset:
            self._index = 0
        found: list[Chunk] = []
        for index in range(self._index, len(self._chunks)):
            chunk = self._chunks[index]
            if chunk.end <= from_offset:
                continue
            self._index = index
            begin = max(0, from_offset - chunk.offset)
            piece = chunk.data[begin : begin + max_bytes]
            found.append(Chunk(chunk.offset + begin, chunk.at, chunk.stream, piece))
            break
        return found


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """The modules see this world and nothing else."""
    swapped: list[tuple[Any, str, Any]] = [
        (driver, "secrets", SimpleNamespace(randbits=world.chance.dice.getrandbits)),
        (desk, "_wall_ms", world.wall_ms),
        (desk, "_boot_ms", lambda: world.now_ms),
        (desk, "time", SimpleNamespace(monotonic=world.loop.time)),
        (
            desk,
            "machine",
            SimpleNamespace(system=lambda: ("linux", "x86_64"), machine_id=str, host_name=lambda: "host"),
        ),
        (link, "boot_ms", lambda: world.now_ms),
        (link, "zmq", _fake_zmq()),
        (output, "spool", _fake_spool(world)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in swapped]
    level = logging.root.manager.disable
    is_collecting = gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        for module, name, replacement in swapped:
            setattr(module, name, replacement)
        yield
    finally:
        for module, name, original in before:
            setattr(module, name, original)
        logging.disable(level)
        if is_collecting:
            gc.enable()


def _fake_zmq() -> Any:
    context = SimpleNamespace(destroy=lambda linger=0: None)
    return SimpleNamespace(
        asyncio=SimpleNamespace(Context=lambda: context),
        Socket=SimpleNamespace(shadow=lambda socket: socket),
        NOBLOCK=zmq.NOBLOCK,
        Again=zmq.Again,
        Event=zmq.Event,
    )


def _fake_spool(world: World) -> Any:
    def open_reader(path: str) -> _SpoolReader:
        server = path.split("/")[2]
        disk = next(one.disk for one in world.servers if one.name == server)
        return _SpoolReader(disk.spools.setdefault(path, []))

    return SimpleNamespace(
        SpoolReader=open_reader, MISSING=spool.MISSING, STDERR=spool.STDERR, STDOUT=spool.STDOUT, Chunk=Chunk
    )


def processor_s() -> float:
    """Processor time of this thread, for the figures of a campaign; no part of any world."""
    return time.thread_time()
