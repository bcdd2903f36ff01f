"""Replaces what the real modules take from the machine while a simulation runs: randomness, the calendar, loggers.

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
from typing import Any

from tests.simulator import calendar
from tests.simulator.environment import Environment
from waterflowd.host import driver
from waterflowd.reconcile import schedules, webhooks
from waterflowd.reconcile.loop import repository, scheduler, workflow_run_triggers


class _Supervised:
    """Replaces the logger of loops that survive any error: in a simulation, an error that they log ends the simulation."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def info(self, *_: object, **__: object) -> None:
        """Drops the message."""

    warning = info

    def exception(self, text: str, *args: object, **_: object) -> None:
        """Reports an exception that should never have been raised."""
        self._environment.fail(f"a fault: {text % args}: {sys.exception()!r}", sys.exception())


@contextlib.contextmanager
def installed(environment: Environment) -> Iterator[None]:
    """Makes the modules see only this simulation."""
    swapped: list[tuple[Any, str, Any]] = [
        (driver, "secrets", SimpleNamespace(randbits=environment.chance.dice.getrandbits)),
        *_swapped_for_triggers(environment),
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


def _swapped_for_triggers(environment: Environment) -> list[tuple[Any, str, Any]]:
    """Returns the replacements for triggers: seconds take the place of the calendar's minutes and of their limits."""
    swapped = [
        (module, "_logger", _Supervised(environment)) for module in (repository, scheduler, workflow_run_triggers)
    ]
    return [
        *swapped,
        (schedules, "cron", calendar),
        (scheduler, "cron", calendar),
        *((schedules, name, value) for name, value in calendar.BOUNDS.items()),
        (scheduler, "_WAKE_S_MAX", calendar.WAKE_S_MAX),
        (webhooks, "WINDOW_S", calendar.HOOK_WINDOW_S),
    ]


def processor_s() -> float:
    """Returns the processor time of this thread, for the figures of a campaign; it is not part of any simulation."""
    return time.thread_time()
