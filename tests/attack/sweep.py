"""The faults that a sweep tries: a few random ones in every run, and all of them at night.

The seed is printed with every fault; `WATERFLOW_SEED` repeats a sweep, `WATERFLOW_FAULT=rename:8` a single fault.
`WATERFLOW_SWEEP=full` counts from 1 up, for each system call in turn, until the process outlives the work.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.attack.injection import Fault
from tests.chance import IS_FULL, SEED

#: `CALL:COUNT`, to try only one fault.
ONE = os.environ.get("WATERFLOW_FAULT", "")
#: Number of random faults per kind of process in a daily run, unless a sweep says otherwise.
ROUNDS = 6
#: More calls than any process makes during the work of a sweep; ends a sweep that would never end.
_COUNT_MAX = 400


def portions(calls: Sequence[tuple[str, int]]) -> list[Any]:
    """Returns a test's parameters: all calls together every day, each call separately at night (slow)."""
    if not IS_FULL:
        return [pytest.param(calls, id="some")]
    return [pytest.param([call], id=call[0]) for call in calls]


def sweep(
    calls: Sequence[tuple[str, int]],
    strike: Callable[[Fault], bool],
    found: Sequence[tuple[str, int]] = (),
    effect: str = "signal=SIGKILL",
    rounds: int = ROUNDS,
) -> list[Fault]:
    """Tries faults with `strike`, which returns whether the fault struck; returns those that did.

    `calls` are the system calls with a count that they usually reach; random counts stay within it. `found` are faults
    that once revealed a bug: they are always tried.
    """
    struck: list[Fault] = []

    def tried(call: str, count: int) -> bool:
        fault = Fault(call, count, effect)
        print(fault, flush=True)
        if not strike(fault):
            return False
        struck.append(fault)
        return True

    if ONE:
        name, _, number = ONE.partition(":")
        if name not in dict(calls):
            pytest.skip(f"another fault is asked for: {ONE}")
        tried(name, int(number))
        return struck
    if IS_FULL:
        for call, _ in calls:
            for count in range(1, _COUNT_MAX):
                if not tried(call, count):
                    break
        return struck
    print(f"WATERFLOW_SEED={SEED}")
    for call, count in found:
        tried(call, count)
    dice = random.Random(SEED)
    for _ in range(rounds):
        call, usual = dice.choice(calls)
        tried(call, dice.randint(1, usual))
    for call, _ in calls:
        # The random faults may all be calls that this process did not reach; the first call of some kind is always
        # reached.
        if struck or tried(call, 1):
            break
    return struck
