"""Replaces what the real modules take from the machine while a world runs: randomness, the calendar, loggers.

Everything else that touches the outside enters through a port and is simulated there. Only the names below are
replaced, and they are always restored.
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

from tests.simulator import calendar
from waterflowd.host import driver
from waterflowd.reconcile import schedules, webhooks
from waterflowd.reconcile.loop import repository, scheduler, workflow_run_triggers

if TYPE_CHECKING:
    from tests.simulator.world import World


class _Supervised:
    """Replaces the logger of loops that survive any error: in a world, an error that they log ends the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def info(self, *_: object, **__: object) -> None:
        """Drops the message."""

    warning = info

    def exception(self, text: str, *args: object, **_: object) -> None:
        """Reports an exception that should never have been raised."""
        self._world.checks.fail(f"a fault: {text % args}: {sys.exception()!r}", sys.exception())


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """Makes the modules see only this world."""
    swapped: list[tuple[Any, str, Any]] = [
        (driver, "secrets", SimpleNamespace(randbits=world.chance.dice.getrandbits)),
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
    """Returns the replacements for triggers: seconds take the place of the calendar's minutes and of their limits."""
    swapped = [(module, "_logger", _Supervised(world)) for module in (repository, scheduler, workflow_run_triggers)]
    return [
        *swapped,
        (schedules, "cron", calendar),
        (scheduler, "cron", calendar),
        *((schedules, name, value) for name, value in calendar.BOUNDS.items()),
        (scheduler, "_WAKE_S_MAX", calendar.WAKE_S_MAX),
        (webhooks, "WINDOW_S", calendar.HOOK_WINDOW_S),
    ]


def processor_s() -> float:
    """Returns the processor time of this thread, for the figures of a campaign; it is not part of any world."""
    return time.thread_time()
