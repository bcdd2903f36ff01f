"""How long tests wait for events that normally take milliseconds.

The suite runs in parallel on shared machines with two processors, so reaching the limit only means that something will never
happen; no test may depend on how fast it does. A failing wait names what it waited for, before pytest's own timeout
(`timeout` in pyproject.toml), which only shows a stack.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

#: For a single event, including the start of its processes.
PATIENCE_S = 120.0


def wait_until(claim: Callable[[], Answer | None], what: str, patience_s: float = PATIENCE_S) -> Answer:
    """Returns the first true answer of `claim`; fails the test with `what` if there is none in time."""
    deadline = time.monotonic() + patience_s
    while True:
        found = claim()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s:g} s for {what}")
        time.sleep(0.02)
