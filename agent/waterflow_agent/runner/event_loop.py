"""One thread that waits: for descriptors, for times of the boot clock, for children and for a signal to stop.

A turn: wait; tell which children have ended; call what is readable; call what is due; call `after_turn`. Children come
first, so a step that has ended by itself is not taken for cancelled by a message of the same turn. Signals only wake the
loop (through a descriptor); everything they mean is done in a turn.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from waterflow_agent.clock import Clock
    from waterflow_agent.runner.step import Step

READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
WRITABLE = select.EPOLLOUT
_EVENTS_MAX = 256
#: The wait of epoll does not count a suspended machine; a time-out that passed meanwhile is noticed this much late.
_WAIT_S_MAX = 10.0
#: Entries of the heap beyond those of living steps before it is tidied.
_STALE_MAX = 256


class EventLoop:
    """Calls back until it is told to end; everything it calls runs in the thread that called `turn`."""

    def __init__(
        self, clock: Clock, on_children: Callable[[list[tuple[int, int]]], None], on_stop: Callable[[], None]
    ) -> None:
        """`on_children` gets (pid, wait status) of each child that was reaped, `on_stop` follows SIGTERM and SIGINT."""
        self._clock = clock
        self._on_children = on_children
        self._on_stop = on_stop
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        #: A heap of (due, order, the step whose time it is, what to call).
        self._due: list[tuple[int, int, Step | None, Callable[[], None]]] = []
        self._order = 0
        self._is_told_to_stop = False
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._listen_to_signals()

    def turn(self, latest: int | None) -> None:
        """Wait for something to happen, no longer than until `latest` (boot clock), and see to it."""
        events = self._epoll.poll(self._wait_s(latest), _EVENTS_MAX)
        if any(fd == self._wakeup.fileno() for fd, _ in events):
            self._reap()
        for fd, _ in events:
            ready = self._ready.get(fd)
            if ready is not None:
                ready()
        now = self._clock.boot_ms()
        while self._due and self._due[0][0] <= now:
            due, _, one, call = heapq.heappop(self._due)
            if one is None or one.due == due:
                call()

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` in each turn in which `fd` is readable or its other end is closed."""
        self._ready[fd] = ready
        self._epoll.register(fd, READABLE)

    def watch_both_ways(self, fd: int, both_ways: bool) -> None:
        """Whether a watched `fd` counts as ready when it is writable as well."""
        self._epoll.modify(fd, READABLE | WRITABLE if both_ways else READABLE)

    def unwatch(self, fd: int) -> None:
        """Forget and close `fd`, which no other process has: so closing takes it out of the epoll as well."""
        if self._ready.pop(fd, None) is not None:
            os.close(fd)

    def release(self, fd: int) -> None:
        """Forget `fd` without closing it."""
        del self._ready[fd]
        self._epoll.unregister(fd)

    def call_at(self, due: int, call: Callable[[], None]) -> None:
        """Call `call` once the boot clock has reached `due`."""
        self._order += 1
        heapq.heappush(self._due, (due, self._order, None, call))

    def wake_at(self, one: Step, due: int, living: int) -> None:
        """Wake `one` at `due`, unless it has armed another time by then; `living` steps may have a time."""
        if len(self._due) > _STALE_MAX + 2 * living:
            # Times of steps that ended long before their time-out would hold them in memory until then.
            self._due = [entry for entry in self._due if entry[2] is None or entry[2].due == entry[0]]
            heapq.heapify(self._due)
        self._order += 1
        heapq.heappush(self._due, (due, self._order, one, one.on_due))

    def _wait_s(self, latest: int | None) -> float:
        if self._due and (latest is None or self._due[0][0] < latest):
            latest = self._due[0][0]
        return -1 if latest is None else min(max(0, latest - self._clock.boot_ms()) / 1_000, _WAIT_S_MAX)

    def _reap(self) -> None:
        """Reap every child that has ended, the steps' own and adopted ones; then obey a signal to stop."""
        try:
            self._wakeup.recv(4096)
        except BlockingIOError:
            return
        ended: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ended.append((pid, status))
        self._on_children(ended)
        if self._is_told_to_stop:
            self._is_told_to_stop = False
            self._on_stop()

    def _listen_to_signals(self) -> None:
        self._wakeup.setblocking(False)
        self._wakeup_end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._on_stop_signal)
        signal.signal(signal.SIGINT, self._on_stop_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.watch(self._wakeup.fileno(), lambda: None)

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._is_told_to_stop = True
