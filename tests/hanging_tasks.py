"""What each task of the event loop waits for when a test times out: pytest-timeout shows only the loop, which waits as well."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """A hook of pytest-timeout, which has set its signal handler when this continues."""
    outcome = yield
    handler = signal.getsignal(signal.SIGALRM)
    if callable(handler):
        fail = handler

        def report(number: int, frame: FrameType | None) -> None:
            print(*waits(), sep="\n", file=sys.stderr)
            fail(number, frame)

        signal.signal(signal.SIGALRM, report)
    return outcome


def waits() -> Iterator[str]:
    """A line for each task of the running loop; nothing without one."""
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:
        return
    for task in sorted(tasks, key=asyncio.Task.get_name):
        yield f"task {task.get_name()!r} waits in {' > '.join(_places(task.get_coro()))}"


def _places(waiting: Any) -> Iterator[str]:
    """Where a coroutine waits: the outermost call first."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            yield repr(waiting)[:200]
            return
        yield f"{frame.f_code.co_name} ({frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
