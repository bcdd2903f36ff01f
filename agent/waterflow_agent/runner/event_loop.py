"""A loop in one thread that waits for descriptors, times of the boot clock, children, and a signal to stop.

A turn: wait; report children that have exited; call what is readable; call what is due. Children come first, so that a message
of the same turn cannot cancel a step that has already exited. Signals only wake the loop (through a descriptor); they are
handled in a turn.
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
#: Something exceptional, such as a counter of a control group that has changed.
EXCEPTIONAL = select.EPOLLPRI
_EVENTS_MAX = 256
#: epoll does not count suspended time, so a timeout that passed meanwhile is noticed at most this late; a lease sooner.
WAIT_S_MAX = 10.0
LEASE_WAIT_S_MAX = 0.25
#: Entries in the heap beyond those of living steps before it is cleaned.
_STALE_MAX = 256


class EventLoop:
    """Runs callbacks, all in the thread that calls `turn`."""

    def __init__(
        self, clock: Clock, on_children: Callable[[list[tuple[int, int]]], None], on_stop: Callable[[], None]
    ) -> None:
        """`on_children` gets (pid, wait status) of each reaped child; `on_stop` is called after SIGTERM and SIGINT."""
        self._clock = clock
        self._on_children = on_children
        self._on_stop = on_stop
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[], None]] = {}
        #: A heap of (due, order, step or None, callback).
        self._due: list[tuple[int, int, Step | None, Callable[[], None]]] = []
        self._order = 0
        #: How late a time may be noticed after the machine was suspended.
        self.wait_s_max = WAIT_S_MAX
        self._is_stop_requested = False
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._listen_to_signals()

    def turn(self, latest: int | None) -> None:
        """Wait until something happens, until `latest` (boot clock) at most, and handle it."""
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

    def watch(self, fd: int, ready: Callable[[], None], events: int = READABLE) -> None:
        """Call `ready` in each turn in which `fd` is readable or its other end is closed, or with one of other `events`."""
        self._ready[fd] = ready
        self._epoll.register(fd, events)

    def watch_both_ways(self, fd: int, both_ways: bool) -> None:
        """Choose whether a watched `fd` is also ready when it is writable."""
        self._epoll.modify(fd, READABLE | WRITABLE if both_ways else READABLE)

    def unwatch(self, fd: int) -> None:
        """Forget and close `fd`."""
        if self._ready.pop(fd, None) is not None:
            # Closing is not enough: a child that has not reached its program yet has the file open too.
            self._epoll.unregister(fd)
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
        """Wake `one` at `due`, unless its `due` has changed by then; `living` is the number of steps."""
        if len(self._due) > _STALE_MAX + 2 * living:
            # Steps that ended long before their timeout would otherwise stay in memory until then.
            self._due = [entry for entry in self._due if entry[2] is None or entry[2].due == entry[0]]
            heapq.heapify(self._due)
        self._order += 1
        heapq.heappush(self._due, (due, self._order, one, one.on_due))

    def _wait_s(self, latest: int | None) -> float:
        if self._due and (latest is None or self._due[0][0] < latest):
            latest = self._due[0][0]
        return -1 if latest is None else min(max(0, latest - self._clock.boot_ms()) / 1_000, self.wait_s_max)

    def _reap(self) -> None:
        """Reap every child that has exited, also adopted ones, then handle a signal to stop."""
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
        if self._is_stop_requested:
            self._is_stop_requested = False
            self._on_stop()

    def _listen_to_signals(self) -> None:
        self._wakeup.setblocking(False)
        self._wakeup_end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_end.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._on_stop_signal)
        signal.signal(signal.SIGINT, self._on_stop_signal)
        # Not SIG_IGN, which children would inherit.
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)
        self.watch(self._wakeup.fileno(), lambda: None)

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._is_stop_requested = True
