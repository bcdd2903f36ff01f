"""An event loop whose time is a number: nothing really waits, and the same calls always run in the same order.

Rules of this file:

- Time moves only when nothing is ready, and then straight to the next timer. Running code takes no time.
- Everything that is scheduled belongs to the process in whose context it was scheduled, or to the simulation (no process).
- A killed process runs nothing more: what it had scheduled is dropped, and its coroutines are closed. Code in their
  `finally` still runs, but what that code schedules is dropped as well; the process's ports are taken away first.
- A paused process (SIGSTOP) keeps what is due for later; time continues without it.
- There are no threads: what is passed to a thread runs at once, in place of the call.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio import events as asyncio_events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

#: Maximum number of callbacks in one instant; more mean an endless cycle.
TURNS_MAX = 50_000
#: Maximum number of callbacks in the life of a simulation; an ordinary one has some thousands.
TURNS_IN_ALL_MAX = 1_000_000
#: A coroutine that awaits in its `finally` has to be closed more than once.
_CLOSES_MAX = 20

_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated process", default=None)


class Killed(BaseException):
    """Interrupts a process that was killed, wherever its code is."""


class Process:
    """One process of the simulated machines: identifies everything that runs on its behalf."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False
        self.is_paused = False
        self.backlog: list[asyncio.Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        #: For handles; use `run` to call something at once.
        self.context = contextvars.Context()
        self.context.run(_current.set, self)

    def run(self, call: Callable[..., Any], *args: Any) -> Any:
        """Calls a function now on behalf of this process."""
        return self.context.copy().run(call, *args)


class _Handle(asyncio.Handle):
    __slots__ = ("owner",)


class _TimerHandle(asyncio.TimerHandle):
    __slots__ = ("owner",)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the file's docstring. Only `advance` moves it."""

    def __init__(self) -> None:
        super().__init__()
        self._time = 0.0
        self._numbers = 0
        self._turns = 0
        self._instant: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._dying: list[Process] = []
        self._nobody = contextvars.Context()
        #: Uncaught errors in order: texts with the exception.
        self.failures: list[tuple[str, BaseException | None]] = []

    def time(self) -> float:
        """Returns the seconds since the simulation started."""
        return self._time

    @property
    def now_ms(self) -> int:
        """Returns the same time in whole milliseconds."""
        return int(self._time * 1000)

    # Scheduling -------------------------------------------------------------------------------------------------------

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        """Works as asyncio's method does."""
        handle = _Handle(callback, args, self, context)
        handle.owner = _current.get() if context is None else context.get(_current)  # type: ignore[attr-defined]
        self._instant.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        """Works as `call_soon`, because there is only one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Works as asyncio's method does."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Works as asyncio's method does."""
        handle = _TimerHandle(when, callback, args, self, context)
        handle.owner = _current.get() if context is None else context.get(_current)  # type: ignore[attr-defined]
        self._numbers += 1
        heapq.heappush(self._timers, (when, self._numbers, handle))
        return handle

    def outside(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> Any:
        """Sets a timer of the simulation itself, independent of the caller: it fires even if a process is killed or paused."""
        return self.call_at(self._time + delay_s, callback, *args, context=self._nobody)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Does nothing: a cancelled timer is dropped when it is due."""

    def create_task(  # type: ignore[override]
        self, coro: Any, *, name: str | None = None, context: Any = None, **_: Any
    ) -> asyncio.Task[Any]:
        """Works as asyncio's method does; the task is closed when its process is killed."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        owner = _current.get()
        if owner is not None:
            if len(owner.tasks) > 64:
                owner.tasks = [known for known in owner.tasks if not known.done()]
            owner.tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Runs the function at once, like an infinitely fast thread."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001  what a thread raises is raised by its awaiter
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Records an uncaught error."""
        if isinstance(context.get("exception"), Killed):
            return
        self.failures.append((str(context.get("message")), context.get("exception")))

    # Processes --------------------------------------------------------------------------------------------------------

    def spawn(self, process: Process, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Creates a task of the process."""
        task: asyncio.Task[Any] = process.run(lambda: self.create_task(work, name=name))
        return task

    def kill(self, process: Process) -> None:
        """Stops the process: nothing of it runs from now on, not even in the rest of this instant."""
        if not process.is_dead:
            process.is_dead = True
            process.backlog.clear()
            self._dying.append(process)

    def pause(self, process: Process) -> None:
        """Pauses the process (SIGSTOP)."""
        process.is_paused = True

    def resume(self, process: Process) -> None:
        """Resumes the process (SIGCONT): everything that became due in the meantime runs now, in order."""
        process.is_paused = False
        backlog, process.backlog = process.backlog, []
        if not process.is_dead:
            self._instant.extend(backlog)

    def _bury(self) -> None:
        dying, self._dying = self._dying, []
        for process in dying:
            for task in process.tasks:
                if task.done():
                    continue
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                for _ in range(_CLOSES_MAX):
                    try:
                        process.run(coroutine.close)
                    except RuntimeError:
                        # It awaits in a `finally`: continue after that.
                        continue
                    break
            process.tasks.clear()

    # Running ----------------------------------------------------------------------------------------------------------

    def advance(self, until: float, has_ended: Callable[[], bool] = lambda: False) -> None:
        """Runs everything up to this time, or until `has_ended` returns true between two instants."""
        previous = asyncio_events._get_running_loop()
        asyncio_events._set_running_loop(self)
        try:
            while True:
                self._run_instant()
                if has_ended() or not self._timers or self._timers[0][0] > until:
                    break
                when, _, handle = heapq.heappop(self._timers)
                self._time = max(self._time, when)
                self._instant.append(handle)
            self._time = max(self._time, min(until, self._time if has_ended() else until))
        finally:
            asyncio_events._set_running_loop(previous)

    def _run_instant(self) -> None:
        instant = self._instant
        turns = 0
        while instant:
            handle = instant.popleft()
            if handle._cancelled:
                continue
            owner: Process | None = handle.owner  # type: ignore[attr-defined]
            if owner is not None:
                if owner.is_dead:
                    continue
                if owner.is_paused:
                    owner.backlog.append(handle)
                    continue
            handle._run()
            if self._dying:
                self._bury()
            turns += 1
            if turns > TURNS_MAX or self._turns + turns > TURNS_IN_ALL_MAX:
                text = f"{turns} callbacks in one instant, {self._turns + turns} in all"
                raise RuntimeError(f"{text}: something goes in circles")
        self._turns += turns
