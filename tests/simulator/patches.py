"""What the real modules take from the machine, replaced for as long as a world runs: clocks, randomness, sockets, spools.

Everything else that touches the outside comes in through a port and is simulated there. The names below are the only ones
that are swapped, and they are put back whatever happens.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import zmq

from tests.simulator import calendar
from waterflow_agent.execution import desk, output
from waterflow_agent.runner import spool
from waterflow_agent.runner.spool import SpoolChunk
from waterflow_agent.session import link
from waterflowd.host import driver
from waterflowd.reconcile import schedules, webhooks
from waterflowd.reconcile.loop import repository, scheduler, workflow_run_triggers

if TYPE_CHECKING:
    from tests.simulator.world import World


class _SpoolReader:
    """`spool.SpoolReader` over the simulated disks."""

    def __init__(self, chunks: list[SpoolChunk]) -> None:
        self._chunks = chunks
        self._index = 0

    def read(self, from_offset: int, max_bytes: int, *, tail: bool = True) -> list[SpoolChunk]:
        """What is there from an offset on."""
        del tail
        if self._index >= len(self._chunks) or from_offset < self._chunks[self._index].offset:
            self._index = 0
        found: list[SpoolChunk] = []
        for index in range(self._index, len(self._chunks)):
            chunk = self._chunks[index]
            if chunk.end <= from_offset:
                continue
            self._index = index
            begin = max(0, from_offset - chunk.offset)
            piece = chunk.data[begin : begin + max_bytes]
            found.append(SpoolChunk(chunk.offset + begin, chunk.at, chunk.stream, piece))
            break
        return found


class _Supervised:
    """The logger of loops that live on whatever goes wrong in them: here a fault ends the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def info(self, *_: object, **__: object) -> None:
        """Dropped."""

    warning = info

    def exception(self, text: str, *args: object, **_: object) -> None:
        """Somebody has caught what should not have been raised."""
        self._world.checks.fail(f"a fault: {text % args}: {sys.exception()!r}", sys.exception())


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
        *_swapped_for_triggers(world),
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


def _swapped_for_triggers(world: World) -> list[tuple[Any, str, Any]]:
    """Worlds live for seconds, so minutes of the calendar become seconds, and the bounds that belong to them as well."""
    swapped = [(module, "_logger", _Supervised(world)) for module in (repository, scheduler, workflow_run_triggers)]
    return [
        *swapped,
        (schedules, "cron", calendar),
        (scheduler, "cron", calendar),
        *((schedules, name, value) for name, value in calendar.BOUNDS.items()),
        (scheduler, "_WAKE_S_MAX", calendar.WAKE_S_MAX),
        (webhooks, "WINDOW_S", calendar.HOOK_WINDOW_S),
    ]


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
        SpoolReader=open_reader, MISSING=spool.MISSING, STDERR=spool.STDERR, STDOUT=spool.STDOUT, SpoolChunk=SpoolChunk
    )


def processor_s() -> float:
    """Processor time of this thread, for the figures of a campaign; no part of any world."""
    return time.thread_time()
