"""The life of one step, from the start of its process until no process of it is left.

    RUNNING  ──main ends──▶ DRAINING ──leftovers, or 1 s without end of output──▶ STOPPING ──grace over──▶ KILLING
       │                       └──leftovers of a step that may leave some──▶ LEFT ──job ends──▶ STOPPING
       └──cancel, timeout───────────────────────────────────────────────────────▶ STOPPING
    each of them but RUNNING ──main reaped and nothing left──▶ OVER      KILLING ──30 s──▶ OVER (and says so)

Rules
- A step ends when its main process exits: the exit status is the result, even if other processes still hold its output.
- Remaining processes (of the session, group, control group, or with the mark) get the step's stop signal, and are killed after
  the grace period. Processes that hold the output may first exit by themselves for one second, so that the end of a pipeline is
  kept.
- The result is reported only when no process is left and all output is in the spool. The exception is a step with a job: what
  it leaves behind after it has exited by itself runs until the job ends (`LEFT`), and the result is reported before. What these
  processes print then is read, so that they can go on, and dropped.
- A step of another user may be stopped before its program runs, by its user's other processes. Until the start is known to have
  succeeded, the process is killed without a grace period.
- The reason is set once: after the first cancel, timeout or exit nothing changes it.
- Times are of the boot clock, which counts suspended time and is not affected by changes of the wall clock. Times for people
  (`started_at`) are of the wall clock.
"""

from __future__ import annotations

import functools
import os
import signal

from waterflow_agent.runner import processes, spool, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Protocol

    from waterflow_agent.clock import Clock
    from waterflow_agent.runner.attempt_directory import AttemptDirectory
    from waterflow_agent.runner.cgroup import StepGroup
    from waterflow_agent.runner.processes import Process
    from waterflow_agent.runner.protocol import Message, StartRequest
    from waterflow_agent.runner.spawn import Spawned
    from waterflow_agent.runner.users import User

    class StepHost(Protocol):
        """What a step needs from the loop; everything is called in the loop's one thread."""

        @property
        def clock(self) -> Clock:
            """The machine's clocks."""

        def watch(self, fd: int, ready: Callable[[], None]) -> None:
            """Call `ready` each time `fd` is readable or its other end is closed."""

        def watch_counter(self, fd: int, ready: Callable[[], None]) -> None:
            """Call `ready` each time the counters in this file of a control group change."""

        def unwatch(self, fd: int) -> None:
            """Stop watching `fd` and close it."""

        def wake_at(self, step: Step, due: int) -> None:
            """Call `step.on_due()` once the boot clock has reached `due`, unless `step.due` has changed by then."""

        def has_grown(self, step: Step) -> None:
            """The step printed something."""

        def has_started(self, step: Step) -> None:
            """The program runs, which was not known when the step was created; called at most once."""

        def has_left_over(self, count: int) -> None:
            """The main process has exited and left this many processes behind, which are ended now."""

        def has_orphans(self) -> bool:
            """Whether there are processes that may be of a step that has ended, and belong to no other one."""

        def may_leave(self, count: int) -> bool:
            """Whether a step may leave so many processes behind."""

        def step_left(self, step: Step, result: Message) -> None:
            """The step has ended, and its processes that are left run until its job ends; called before `step_ended`."""

        def step_ended(self, step: Step, result: Message) -> None:
            """The step has ended and no process of it is left; called once."""


RUNNING = "running"
DRAINING = "draining"
LEFT = "left"
STOPPING = "stopping"
KILLING = "killing"
OVER = "over"

TRANSITIONS: dict[str, frozenset[str]] = {
    RUNNING: frozenset({DRAINING, STOPPING, KILLING}),
    DRAINING: frozenset({LEFT, STOPPING, KILLING, OVER}),
    LEFT: frozenset({STOPPING, KILLING, OVER}),
    STOPPING: frozenset({KILLING, OVER}),
    KILLING: frozenset({OVER}),
    OVER: frozenset(),
}

#: How long output may arrive after the exit of the process that printed it.
DRAIN_MS = 1_000
#: A killed process that is left after this is stuck in the kernel (a broken disk, NFS): waiting longer is useless.
KILL_PATIENCE_MS = 30_000
#: Bounds the number of descriptors; further processes are found by the next scan.
_WATCHED_MAX = 64
#: Reads of one pipe after the exit: more than the largest pipe holds.
_FINAL_READS_MAX = 32
#: Leftovers that are named in the result.
_NAMED_MAX = 10
#: Scans for leftovers that exit before they can be waited for; after that the timer decides.
_LOOKS_MAX = 8

_COLON = ord(":")
_buffer = bytearray(spool.PAYLOAD_BYTES_MAX)
_view = memoryview(_buffer)
_vector = [_buffer]


class Step:
    """A started step; `phase` changes by `TRANSITIONS`."""

    __slots__ = (
        "_clock",
        "_error",
        "_forks",
        "_grace_ms",
        "_has_commands",
        "_host",
        "_is_reported",
        "_leftovers",
        "_pending",
        "_pipes",
        "_reason",
        "_spool",
        "_status",
        "_stop_signal",
        "_user",
        "_watched",
        "directory",
        "due",
        "group",
        "job",
        "phase",
        "pid",
        "started_at",
    )

    def __init__(
        self,
        host: StepHost,
        request: StartRequest,
        directory: AttemptDirectory,
        spawned: Spawned,
        group: StepGroup | None,
        user: User | None = None,
    ) -> None:
        """`user` is the user of the process when it is not this process's own."""
        self._host = host
        self._clock = host.clock
        self.directory = directory
        self.pid = spawned.pid
        self.phase = RUNNING
        self.started_at = self._clock.wall_ms()
        self.due: int | None = None
        self.group = group
        self._user = user
        self._forks = -1
        self._stop_signal = request.stop_signal
        self._grace_ms = request.grace_ms
        self._reason: str | None = None
        self._error: str | None = None
        self._has_commands = False
        #: The job until whose end its processes may run; None for none.
        self.job = request.job
        #: The result was reported, although processes are left.
        self._is_reported = False
        self._leftovers: Message = {}
        self._status: int | None = None
        self._spool = spool.SpoolWriter(directory.output_path, request.output_bytes_max)
        self._pipes: dict[int, int] = {spool.STDOUT: spawned.stdout}
        #: The number of each process whose end is awaited, by its pidfd.
        self._watched: dict[int, int] = {}
        self._pending = spawned.pending
        if self._pending is not None:
            host.watch(self._pending.fileno, self._look_at_start)
        host.watch(spawned.stdout, self._on_stdout)
        if spawned.stderr >= 0:
            self._pipes[spool.STDERR] = spawned.stderr
            host.watch(spawned.stderr, self._on_stderr)
        if request.timeout_ms is not None:
            self._arm(request.timeout_ms)
        if group is not None:
            self._forks = group.applied.open_events()
        if self._forks >= 0:
            host.watch_counter(self._forks, self._on_fork_failure)

    @property
    def name(self) -> str:
        """The attempt's name."""
        return self.directory.name

    @property
    def output_bytes(self) -> int:
        """Bytes printed so far."""
        return self._spool.offset

    # What happens to it.

    def cancel(self, reason: str, error: str | None = None) -> None:
        """Stop the step (`cancelled`, `timed-out`) or its leftovers with the stop signal. A second call changes nothing."""
        if self.phase in (RUNNING, DRAINING):
            if self._status is None:
                self._error = error
            self._stop(reason)

    def kill(self, reason: str, error: str | None = None) -> None:
        """Kill the step at once, without a grace period."""
        if self._status is None and self._reason is None:
            self._reason, self._error = reason, error
        if self.phase not in (KILLING, OVER):
            self._kill()

    def on_exit(self, status: int) -> None:
        """The main process was reaped with this wait status."""
        self._look_at_start()
        self._status = status
        if status and self._reason is None and self.group is not None and (text := self.group.applied.exceeded()):
            self._reason, self._error = "limit", text
        if self.phase == RUNNING:
            self._move(DRAINING)
            self.due = None
            if self._pipes:
                self._arm(DRAIN_MS)
        self._settle()

    def end(self) -> None:
        """Stop what the step has left behind, because its job has ended."""
        if self.phase == LEFT:
            self._stop("exited")

    @property
    def watched_pids(self) -> Collection[int]:
        """The processes that it has left behind, as far as it watches them."""
        return self._watched.values()

    def left_behind(self) -> list[Message]:
        """Name the processes that it has left behind."""
        return [self._named(process) for process in self._members()[:_NAMED_MAX]]

    def _named(self, process: Process) -> Message:
        return {"pid": process.pid, "name": process.name, "age_ms": process.age_ms(self._clock.boot_ms())}

    def check_limits(self) -> None:
        """Kill the step if it has exceeded a limit."""
        if self.group is not None and self.phase == RUNNING and (text := self.group.applied.exceeded()):
            self.kill("limit", text)

    def on_due(self) -> None:
        """The timer has expired."""
        self.due = None
        if self.phase == RUNNING:
            self._stop("timed-out")
        elif self.phase == DRAINING:
            self._settle()
        elif self.phase == STOPPING:
            self._kill()
        elif self.phase == KILLING:
            self._give_up()

    def _look_at_start(self) -> None:
        """Note whether the program runs, as soon as that is known."""
        if self._pending is None:
            return
        failure = self._pending.outcome()
        if failure is None:
            return
        self._host.unwatch(self._pending.fileno)
        self._pending = None
        if not failure:
            self._host.has_started(self)
        elif self._reason is None:
            self._reason, self._error = "spawn-failed", failure

    def _on_stdout(self) -> None:
        self._read(spool.STDOUT)

    def _on_stderr(self) -> None:
        self._read(spool.STDERR)

    def _read(self, stream: int) -> None:
        if self._read_once(stream) == 0:
            self._close_pipe(stream)
            self._settle()

    def _read_once(self, stream: int) -> int:
        """Move the bytes of one read to the spool. Returns their number, 0 at the end, -1 when there are none now."""
        try:
            count = os.readv(self._pipes[stream], _vector)
        except BlockingIOError:
            return -1
        if count and not self._is_reported:
            # Of a pair that is cut by the end of a read, the second one begins the next read.
            if not self._has_commands and (_buffer[0] == _COLON or _buffer.find(b"::", 0, count) >= 0):
                self._has_commands = True
            # `has_started` comes before the first output.
            self._look_at_start()
            self._spool.append(stream, _view[:count], self._clock.wall_ms())
            self._host.has_grown(self)
        return count

    def _on_fork_failure(self) -> None:
        """A process of the step could not start another one, because of a limit."""
        # Reading is what re-arms the event.
        os.pread(self._forks, 4096, 0)
        self.check_limits()

    def _on_leftover_end(self, pidfd: int) -> None:
        self._watched.pop(pidfd, None)
        self._host.unwatch(pidfd)
        self._settle()

    # What it does about it.

    def _stop(self, reason: str) -> None:
        self._look_at_start()
        if self._status is None and self._reason is None:
            self._reason = reason
        if self._grace_ms == 0 or self._pending is not None:
            self._kill()
            return
        self._move(STOPPING)
        self._arm(self._grace_ms)
        # A suspended process handles the signal only after SIGCONT.
        self._signal_all(self._stop_signal, signal.SIGCONT)
        self._settle()

    def _kill(self) -> None:
        self._move(KILLING)
        self._arm(KILL_PATIENCE_MS)
        if self.group is not None:
            self.group.kill()
        if self._pending is not None:
            # It may not lead its session yet.
            users.kill_child(self.pid, (None, self._user))
        self._signal_all(signal.SIGKILL)
        self._settle()

    def _give_up(self) -> None:
        left = [process.pid for process in self._members()]
        self._error = f"processes that cannot be killed: {', '.join(map(str, left[:_WATCHED_MAX]))}"
        self._finish()

    def _settle(self) -> None:
        """Finish when the main process was reaped and no process is left; otherwise handle the leftovers."""
        if self._status is None or self._watched or self.phase == OVER:
            return
        if self._pipes and self.phase == DRAINING and self.due is not None:
            return
        if not self._pipes and self._is_gone():
            self._finish()
            return
        for _ in range(_LOOKS_MAX):
            leftovers = self._members()
            if not leftovers:
                # The output may still be held by a process that does not belong to the step: it is ignored.
                self._finish()
                return
            if self.phase == DRAINING:
                self._leave(leftovers)
                if self.phase != LEFT:
                    return
            self._watch(leftovers)
            if self._watched:
                return

    def _is_gone(self) -> bool:
        """Whether certainly no process is left, without a search, which is expensive."""
        if not processes.group_is_empty(self.pid):
            return False
        if self.group is not None:
            return self.group.is_vacant
        # Those that left the session are found by a search only; a step without a job ends them a little later.
        return self.job is None or not self._host.has_orphans()

    def _leave(self, leftovers: list[Process]) -> None:
        """Leave these processes to the job and report the result, or stop them."""
        may_stay = self.job is not None and self._reason is None
        if may_stay and self._host.may_leave(len(leftovers)):
            self._read_rest()
            self._leftovers = {"left": [self._named(process) for process in leftovers[:_NAMED_MAX]]}
            self._leftovers["left_count"] = len(leftovers)
            self._move(LEFT)
            self.due = None
            self._host.step_left(self, self._report())
            return
        if may_stay:
            self._leftovers = {"ended_count": len(leftovers)}
        self._host.has_left_over(len(leftovers))
        self._stop("exited")

    def _report(self) -> Message:
        """End the output and return the result."""
        finished_at = self._clock.wall_ms()
        self._spool.close(finished_at)
        self._is_reported = True
        return self._result(finished_at)

    def _read_rest(self) -> None:
        for stream in tuple(self._pipes):
            # What the step's own processes have printed; others could fill the pipe forever.
            for _ in range(_FINAL_READS_MAX):
                if self._read_once(stream) <= 0:
                    break

    def _watch(self, leftovers: list[Process]) -> None:
        """Wait for the exit of the leftovers, and kill them in the phase KILLING."""
        for process in leftovers:
            with users.acting_as(self._user):
                pidfd = processes.send_signal(process, signal.SIGKILL if self.phase == KILLING else 0)
            if pidfd < 0:
                continue
            if len(self._watched) >= _WATCHED_MAX:
                os.close(pidfd)
                continue
            self._watched[pidfd] = process.pid
            self._host.watch(pidfd, functools.partial(self._on_leftover_end, pidfd))

    def _signal_all(self, *numbers: int) -> None:
        with users.acting_as(self._user):
            if self._status is None:
                for number in numbers:
                    processes.signal_group(self.pid, number)
        members = self._members()
        with users.acting_as(self._user):
            for process in members:
                if self._status is None and process.group == self.pid:
                    continue
                for number in numbers:
                    pidfd = processes.send_signal(process, number)
                    if pidfd >= 0:
                        os.close(pidfd)

    def _members(self) -> list[Process]:
        contained = self.group.processes() if self.group is not None else ()
        reaper = os.getpid() if self._is_reported else None
        with users.acting_as(self._user):
            return processes.members(self.pid, self.directory.path, contained, reaper)

    def _finish(self) -> None:
        self._read_rest()
        for stream in tuple(self._pipes):
            self._close_pipe(stream)
        for pidfd in self._watched:
            self._host.unwatch(pidfd)
        self._watched.clear()
        if self._pending is not None:
            self._host.unwatch(self._pending.fileno)
        if self._forks >= 0:
            self._host.unwatch(self._forks)
        if self.group is not None:
            self.group.release()
        self._move(OVER)
        self.due = None
        self._host.step_ended(self, {} if self._is_reported else self._report())

    def _result(self, finished_at: int) -> Message:
        code = None if self._status is None else os.waitstatus_to_exitcode(self._status)
        has_started = self._reason != "spawn-failed"
        if not has_started:
            # The status is that of the process that could not become the program.
            code = None
        return {
            "exit_code": code if code is not None and code >= 0 else None,
            "signal": -code if code is not None and code < 0 else None,
            "reason": self._reason or "exited",
            "started_at": self.started_at if has_started else None,
            "finished_at": finished_at,
            "output_bytes": self._spool.offset,
            "output_dropped": self._spool.dropped,
            "error": self._error,
            "has_commands": self._has_commands,
            **self._leftovers,
        }

    def _close_pipe(self, stream: int) -> None:
        self._host.unwatch(self._pipes.pop(stream))

    def _arm(self, delay_ms: int) -> None:
        self.due = self._clock.boot_ms() + delay_ms
        self._host.wake_at(self, self.due)

    def _move(self, phase: str) -> None:
        assert phase in TRANSITIONS[self.phase], f"{self.name}: {self.phase} cannot become {phase}"
        self.phase = phase
