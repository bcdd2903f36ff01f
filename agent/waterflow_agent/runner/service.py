"""The runner: holds the steps, serves the agent's messages, records how steps end.

A result is on disk before it is sent to the agent. If the disk is full, the result is sent from memory and the write is
repeated until it succeeds.
"""

from __future__ import annotations

import os
import sys

from waterflow_agent.clock import Clock
from waterflow_agent.runner import agent_connection, attempt_directory, event_loop, processes, protocol, step, users
from waterflow_agent.runner.attempt_directory import AttemptDirectory
from waterflow_agent.runner.event_loop import EventLoop
from waterflow_agent.runner.leases import Leases
from waterflow_agent.runner.limits import POLL_MS
from waterflow_agent.runner.spawn import Spawner, SpawnFailed
from waterflow_agent.runner.step import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from waterflow_agent.runner.cgroup import GroupTree, StepGroup
    from waterflow_agent.runner.protocol import Message, StartRequest
    from waterflow_agent.runner.users import User, Users

#: What the ended steps of all jobs may leave behind, when their processes are counted at their ends, and such steps.
_LEFT_PROCESSES_MAX = 256
_LEFT_STEPS_MAX = 64
#: Between attempts to write a result to a full disk, and from the end of a step to the search for strays.
_RETRY_MS = 1_000
_STRAYS_MS = 250
#: Longer than a trivial step, which then needs no move; see `cgroup`.
_MOVE_MS = 30


class RunnerService:
    """The runner of one directory. `run` returns when it was asked to stop and holds no running step."""

    def __init__(
        self,
        root: str,
        listener: socket.socket,
        *,
        tree: GroupTree | None,
        allowed: Users,
        ended: Iterable[str],
        release: str,
    ) -> None:
        """`root` is `DIR/attempts`; `ended` are the names on disk that have a result."""
        self.clock = Clock()
        self._root = root
        self._listener = listener
        self._tree = tree
        self._users = allowed
        #: Processes that steps left behind, since the start of this process.
        self._leftovers = 0
        self._release = release
        self._boot_id = processes.boot_id()
        self._spawner = Spawner()
        self._loop = EventLoop(self.clock, self._on_children, self._on_stop)
        self._steps: dict[str, Step] = {}
        #: Steps that have ended, with processes that run until their jobs end.
        self._left: dict[str, Step] = {}
        #: Jobs that have ended while such processes were running, with those that were ended.
        self._ending_jobs: dict[str, list[Message]] = {}
        self._pids: dict[int, Step] = {}
        self._ended: set[str] = set(ended)
        self._unwritten: dict[str, Message] = {}
        self._leases = Leases()
        self._lease_timer_at: int | None = None
        self._agent: agent_connection.AgentConnection | None = None
        self._refused_connections = 0
        self._awaits_writable = False
        self._is_stray_search_scheduled = False
        self._will_move = False
        self._will_poll_limits = False
        self._idle_ms: int | None = None
        self._idle_since = self.clock.boot_ms()
        self._is_stopping = False

    def run(self, *, idle_s: int | None = None) -> None:
        """Serve until stopped by SIGTERM, by a `stop` while idle, or by `idle_s` seconds without agent and steps."""
        self.watch(self._listener.fileno(), self._accept)
        self._idle_ms = None if idle_s is None else idle_s * 1_000
        self._check_idle()
        while not (self._is_stopping and not self._steps and not self._left):
            agent = self._agent
            self._loop.turn(None if agent is None or self._awaits_writable else agent.flush_due)
            self._flush()
        self._listener.close()

    # What a step needs (`step.StepHost`).

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` when `fd` is readable."""
        self._loop.watch(fd, ready)

    def watch_counter(self, fd: int, ready: Callable[[], None]) -> None:
        """Call `ready` when the counters in this file of a control group change."""
        self._loop.watch(fd, ready, event_loop.EXCEPTIONAL)

    def unwatch(self, fd: int) -> None:
        """Forget and close `fd`."""
        self._loop.unwatch(fd)

    def wake_at(self, one: Step, due: int) -> None:
        """Wake `one` at `due`, unless it has armed another time by then."""
        self._loop.wake_at(one, due, len(self._steps) + len(self._left))

    def has_grown(self, one: Step) -> None:
        """Report to the agent that there is more output."""
        if self._agent is not None:
            self._agent.hint(one.name, one.output_bytes, self.clock.boot_ms())

    def has_started(self, one: Step) -> None:
        """Tell the agent that the step's program runs."""
        if self._agent is not None:
            started: Message = {"type": "started", "name": one.name, "pid": one.pid, "at": one.started_at}
            self._agent.send_lazily(started, self.clock.boot_ms())

    def has_left_over(self, count: int) -> None:
        """Count processes that a step left behind, and tell the agent."""
        self._leftovers += count
        if self._agent is not None:
            self._agent.send_lazily({"type": "leftovers", "count": self._leftovers}, self.clock.boot_ms())

    def has_orphans(self) -> bool:
        """Whether a process that lost its parent belongs neither to a running step nor to one that is known to have left it."""
        known = {pid for one in self._left.values() for pid in one.watched_pids}
        return any(pid not in self._pids and pid not in known for pid in processes.children())

    def may_leave(self, count: int) -> bool:
        """Whether the limits for what steps leave behind allow so many more processes."""
        running = sum(len(one.watched_pids) for one in self._left.values())
        is_full = len(self._left) >= _LEFT_STEPS_MAX or running + count > _LEFT_PROCESSES_MAX
        return not is_full and not self._is_stopping

    def step_left(self, one: Step, result: Message) -> None:
        """Record the result and send it; what the step has left behind keeps its lease."""
        self._left[one.name] = self._steps.pop(one.name)
        self._pids.pop(one.pid, None)
        self._record_end(one.directory, result)
        self._search_strays_soon()

    def step_ended(self, one: Step, result: Message) -> None:
        """Record the result and send it."""
        self._drop_lease(one.name)
        if self._left.pop(one.name, None) is not None:
            self._finish_job(one.job)
        else:
            del self._steps[one.name]
            self._pids.pop(one.pid, None)
            self._record_end(one.directory, result)
        self._search_strays_soon()
        self._check_idle()

    # Messages of the agent.

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        agent = agent_connection.AgentConnection(connection)
        if not self._may_connect(agent):
            agent.close()
            return
        if self._agent is not None:
            self._agent.send({"type": "replaced"})
            self._agent.flush()
            self._drop_agent()
        self._agent = agent
        self.watch(agent.fileno(), self._receive)
        hello: Message = {"type": "hello", "protocol": protocol.PROTOCOL, "release": self._release}
        hello |= {"pid": os.getpid(), "boot_id": self._boot_id, "can_switch": self._users.can_switch}
        limits = sorted(self._tree.controllers.names) if self._tree is not None else []
        agent.send(hello | {"limits": limits, "leftovers": self._leftovers})

    def _may_connect(self, agent: agent_connection.AgentConnection) -> bool:
        """Whether the peer has this process's user, or is root, and is not a step, which is always a descendant."""
        pid, uid = agent.peer()
        if uid in (os.geteuid(), 0) and pid > 0 and not processes.is_descendant(pid, os.getpid()):
            return True
        self._refused_connections += 1
        if self._refused_connections & (self._refused_connections - 1) == 0:
            # Logged at powers of two, because a step can connect in a loop.
            _log(f"refused connection {self._refused_connections}: process {pid} of user {uid} is not an agent")
        return False

    def _receive(self) -> None:
        agent = self._agent
        if agent is None:
            return
        try:
            messages = agent.receive()
        except protocol.BadMessage as error:
            _log(f"closing the agent's connection: {error}")
            agent.is_broken = True
            return
        for message in messages:
            self._serve(message)

    def _serve(self, message: Message) -> None:
        kind, name = message["type"], message.get("name")
        if kind == "status":
            self._send({"type": "held", "attempts": self._held(), "jobs": sorted(self._left_jobs())})
        elif kind == "stop":
            self._stop_when_idle()
        elif kind == "confirm":
            at = message.get("at")
            if isinstance(at, int):
                self._leases.confirm(at, self.clock.boot_ms())
        elif kind == "end-job":
            job = message.get("job")
            if isinstance(job, str):
                self._end_job(job)
        elif not isinstance(name, str) or not protocol.is_name(name):
            self._refuse(None, f"{kind}: {name!r} is not a safe name")
        elif kind == "start":
            self._start(name, message)
        elif kind == "cancel":
            self._cancel(name, message.get("reason"), message.get("force") is True)
        elif kind == "forget":
            self._forget(name)
        else:
            self._refuse(name, f"{kind}: unknown message")

    def _start(self, name: str, message: Message) -> None:
        if name in self._steps or name in self._ended:
            self._send_state(name)
            return
        if self._is_stopping:
            self._refuse(name, "start: the runner is stopping")
            return
        try:
            request = protocol.StartRequest(message)
        except protocol.BadMessage as error:
            self._refuse(name, f"start: {error}")
            return
        directory = AttemptDirectory(self._root, name)
        try:
            record_fd = directory.claim(request, self._boot_id)
        except FileExistsError:
            self._refuse(name, "start: this name was used before")
        except OSError as error:
            self._record_end(directory, self._never_started(f"cannot write the attempt's files: {error.strerror}"))
        else:
            try:
                self._spawn(request, directory, record_fd)
            finally:
                os.close(record_fd)

    def _spawn(self, request: StartRequest, directory: AttemptDirectory, record_fd: int) -> None:
        group, before = None, self.clock.boot_ms()
        if request.lease_ms and self._leases.has_ended(request.lease_ms, before):
            error = "the agent had no connection to the daemon for too long"
            self._record_end(directory, self._never_started(error, "lease-ended"))
            return
        try:
            user = self._users.find(request.user) if request.user is not None else None
            group = self._choose_group(request)
            spawned = self._spawner.spawn(request, (processes.MARK, directory.path), user)
        except (SpawnFailed, users.UserRefused) as error:
            self._leave_limits(group)
            if group is not None:
                group.release()
            self._record_end(directory, self._never_started(str(error)))
            return
        self._leave_limits(group)
        one = Step(self, request, directory, spawned, group, user)
        self._steps[request.name] = one
        self._pids[one.pid] = one
        if group is not None and group.applied.must_be_polled:
            self._poll_limits_soon()
        if request.lease_ms:
            self._leases.add(one.name, request.lease_ms)
            self._watch_leases()
        try:
            # The start time is bracketed with the clock, because reading it from /proc right after an exec takes 200 µs.
            attempt_directory.record_process(record_fd, one.pid, one.started_at, (before, self.clock.boot_ms()))
        except OSError as error:
            # Only a later runner needs this, and it also finds the step by its mark.
            _log(f"{one.name}: cannot record its process: {error.strerror}")
        if spawned.pending is None:
            self.has_started(one)

    def _poll_limits_soon(self) -> None:
        if not self._will_poll_limits:
            self._will_poll_limits = True
            self._loop.call_at(self.clock.boot_ms() + POLL_MS, self._poll_limits)

    def _poll_limits(self) -> None:
        self._will_poll_limits = False
        for one in tuple(self._steps.values()):
            one.check_limits()
        if self._steps:
            self._poll_limits_soon()

    def _choose_group(self, request: StartRequest) -> StepGroup | None:
        """Move into the group in which the step will start. Raises `SpawnFailed` when that is impossible."""
        if request.limits and (self._tree is None or not request.cgroup):
            raise SpawnFailed("limits need a control group, but this machine delegates none to the runner")
        if self._tree is None:
            return None
        try:
            if request.cgroup:
                return self._take_group(self._tree, request)
            self._tree.move_home()
        except OSError as error:
            raise SpawnFailed(f"cannot use control groups: {error.strerror}") from error
        return None

    def _leave_limits(self, group: StepGroup | None) -> None:
        """Leave a group with limits: this process must not share them, nor be killed when the step exceeds its memory."""
        if group is None or not group.has_limits:
            return
        try:
            group.applied.leave()
        except OSError as error:
            _log(f"cannot leave the groups of a step: {error.strerror}")
        self._move_on()

    def _take_group(self, tree: GroupTree, request: StartRequest) -> StepGroup:
        group = tree.take(request.limits)
        if not self._will_move:
            # A step that ends before that needs no move at all.
            self._will_move = True
            self._loop.call_at(self.clock.boot_ms() + _MOVE_MS, self._move_on)
        return group

    def _move_on(self) -> None:
        self._will_move = False
        if self._tree is None:
            return
        try:
            self._tree.make_ready()
        except OSError as error:
            _log(f"cannot prepare a control group: {error.strerror}")

    def _cancel(self, name: str, reason: object, is_forced: bool) -> None:
        if reason not in ("cancelled", "timed-out"):
            self._refuse(name, f"cancel: invalid reason {reason!r}")
        elif name in self._steps:
            if is_forced:
                self._steps[name].kill(str(reason))
            else:
                self._steps[name].cancel(str(reason))
        elif name in self._ended:
            self._send_state(name)
        else:
            self._refuse(name, "cancel: unknown name")

    def _forget(self, name: str) -> None:
        if name in self._steps:
            self._refuse(name, "forget: the step is still running")
            return
        self._ended.discard(name)
        self._unwritten.pop(name, None)

    def _stop_when_idle(self) -> None:
        if self._steps or self._left or self._unwritten:
            self._refuse(
                None, "stop: steps are running, or what they left to their jobs, or a result is not on disk yet"
            )
        else:
            self._is_stopping = True

    # What steps leave to their jobs.

    def _left_jobs(self) -> set[str]:
        return {one.job for one in self._left.values() if one.job is not None}

    def _end_job(self, job: str) -> None:
        """End what the steps of this job have left behind."""
        left = [one for one in self._left.values() if one.job == job]
        if job not in self._ending_jobs:
            self._ending_jobs[job] = [named for one in left for named in one.left_behind()]
        for one in left:
            one.end()
        self._finish_job(job)

    def _finish_job(self, job: str | None) -> None:
        """Report that nothing is left of a job that has ended."""
        if job in self._ending_jobs and job not in self._left_jobs():
            ended = self._ending_jobs.pop(job)
            if ended:
                self.has_left_over(len(ended))
            self._send({"type": "job-ended", "job": job, "processes": ended})

    # Leases.

    def _watch_leases(self) -> None:
        """Have the next end of a lease noticed in time, also after the machine was suspended."""
        end_at = self._leases.next_end_at
        self._loop.wait_s_max = event_loop.WAIT_S_MAX if end_at is None else event_loop.LEASE_WAIT_S_MAX
        if end_at is not None and (self._lease_timer_at is None or end_at < self._lease_timer_at):
            self._lease_timer_at = end_at
            self._loop.call_at(end_at, self._end_leases)

    def _end_leases(self) -> None:
        self._lease_timer_at = None
        for name in self._leases.ended(self.clock.boot_ms()):
            self._leases.drop(name)
            if name in self._steps:
                self._steps[name].cancel("lease-ended")
            else:
                self._left[name].end()
        self._watch_leases()

    def _drop_lease(self, name: str) -> None:
        self._leases.drop(name)
        if self._leases.next_end_at is None:
            self._loop.wait_s_max = event_loop.WAIT_S_MAX

    # Answers.

    def _send(self, message: Message) -> None:
        if self._agent is not None:
            self._agent.send(message)

    def _refuse(self, name: str | None, text: str) -> None:
        self._send({"type": "error", "name": name, "text": text})

    def _send_state(self, name: str) -> None:
        one = self._steps.get(name)
        if one is not None:
            self._send({"type": "started", "name": name, "pid": one.pid, "at": one.started_at})
        else:
            self._send({"type": "exited", "name": name, "result": self._result_of(name)})

    def _held(self) -> list[Message]:
        held: list[Message] = [
            {
                "name": one.name,
                "state": "running" if one.phase == step.RUNNING else "stopping",
                "pid": one.pid,
                "at": one.started_at,
                "output_bytes": one.output_bytes,
                "result": None,
            }
            for one in self._steps.values()
        ]
        for name in sorted(self._ended):
            result = self._result_of(name)
            held.append(
                {
                    "name": name,
                    "state": "ended",
                    "pid": None,
                    "at": result["started_at"],
                    "output_bytes": result["output_bytes"],
                    "result": result,
                }
            )
        return held

    def _result_of(self, name: str) -> Message:
        result = self._unwritten.get(name) or AttemptDirectory(self._root, name).read_result()
        return result or lost_result("its result cannot be read", self.clock.wall_ms())

    # Ends.

    def _never_started(self, error: str, reason: str = "spawn-failed") -> Message:
        return _result(reason, error, None, self.clock.wall_ms())

    def _record_end(self, directory: AttemptDirectory, result: Message) -> None:
        self._ended.add(directory.name)
        try:
            directory.write_result(result)
        except OSError as error:
            _log(f"{directory.name}: cannot write its result, retrying: {error.strerror}")
            if not self._unwritten:
                self._loop.call_at(self.clock.boot_ms() + _RETRY_MS, self._write_again)
            self._unwritten[directory.name] = result
        if self._agent is not None:
            self._agent.drop_hint(directory.name)
            self._agent.send({"type": "exited", "name": directory.name, "result": result})

    def _write_again(self) -> None:
        for name, result in tuple(self._unwritten.items()):
            try:
                AttemptDirectory(self._root, name).write_result(result)
            except FileNotFoundError:
                # The directory does not exist, so the next runner will not find an attempt without a result.
                del self._unwritten[name]
            except OSError:
                self._loop.call_at(self.clock.boot_ms() + _RETRY_MS, self._write_again)
                return
            else:
                del self._unwritten[name]

    def _on_children(self, ended: list[tuple[int, int]]) -> None:
        for pid, status in ended:
            one = self._pids.pop(pid, None)
            if one is not None:
                one.on_exit(status)

    def _on_stop(self) -> None:
        """Handle SIGTERM or SIGINT: the first stops the steps with their grace period, the second kills them."""
        is_second, self._is_stopping = self._is_stopping, True
        for left in tuple(self._left.values()):
            if is_second:
                left.kill("exited")
            else:
                left.end()
        for one in tuple(self._steps.values()):
            if is_second:
                one.kill("lost", "the runner was stopped while the step ran")
            else:
                one.cancel("lost", "the runner was stopped while the step ran")

    def _search_strays_soon(self) -> None:
        if not self._is_stray_search_scheduled:
            self._is_stray_search_scheduled = True
            self._loop.call_at(self.clock.boot_ms() + _STRAYS_MS, self._end_strays)

    def _end_strays(self) -> None:
        """Kill processes that detached themselves from an ended step: its orphans have become children of this process."""
        self._is_stray_search_scheduled = False
        strays = [pid for pid in processes.children() if pid not in self._pids]
        if strays:
            strays = [pid for pid in strays if not self._may_belong_to_a_step(pid)]
        for pid in strays:
            users.kill_child(pid, (None, *self._users.all()))
        if strays:
            _log(f"killed {len(strays)} processes that had left their step")
            self.has_left_over(len(strays))
            # Their children become children of this process.
            self._search_strays_soon()

    def _may_belong_to_a_step(self, pid: int) -> bool:
        """Whether this orphan may be of a step that still runs: it is in its group, or at least started after it."""
        process = self._examine(pid)
        if process is not None and process.is_dead:
            return True
        steps = (*self._steps.values(), *self._left.values())
        if self._tree is not None:
            return any(one.group is not None and pid in one.group.processes() for one in steps)
        if process is None:
            return False
        with users.acting_as(self._owner(pid)):
            root, _, name = (processes.mark_of(pid) or "").rpartition("/")
        if root == self._root and name:
            return name in self._steps or name in self._left
        # It has removed its mark, and a process is not older than its step. One that its step has left may be of any age.
        started = [self._start_time(one) for one in self._steps.values()]
        return bool(self._left) or any(process.start_time >= at for at in started)

    def _start_time(self, one: Step) -> int:
        process = self._examine(one.pid)
        return 0 if process is None else process.start_time

    def _examine(self, pid: int) -> processes.Process | None:
        with users.acting_as(self._owner(pid)):
            return processes.read_process(pid)

    def _owner(self, pid: int) -> User | None:
        """Return the user as which this process can see the process, None for its own."""
        for user in self._users.all():
            with users.acting_as(user):
                if os.access(f"/proc/{pid}/environ", os.R_OK, effective_ids=True):
                    return user
        return None

    # The agent's connection.

    def _flush(self) -> None:
        agent = self._agent
        if agent is None:
            return
        is_due = agent.flush_due is not None and agent.flush_due <= self.clock.boot_ms()
        if (is_due or self._awaits_writable) and not agent.is_broken:
            self._flush_agent(agent)
        if agent.is_broken:
            self._drop_agent()

    def _flush_agent(self, agent: agent_connection.AgentConnection) -> None:
        agent.flush()
        if agent.has_unsent != self._awaits_writable and not agent.is_broken:
            self._awaits_writable = agent.has_unsent
            self._loop.watch_both_ways(agent.fileno(), agent.has_unsent)

    def _drop_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            self._awaits_writable = False
            self._loop.release(agent.fileno())
            agent.close()
            self._check_idle()

    def _check_idle(self) -> None:
        """Start the idle timer when there is neither an agent nor a step; stop when it expires."""
        if self._idle_ms is None or self._agent is not None or self._steps or self._left:
            return
        self._idle_since = since = self.clock.boot_ms()

        def end_if_idle() -> None:
            if self._idle_since != since or self._agent is not None or self._steps or self._left:
                return
            if self._unwritten:
                self._check_idle()
            else:
                self._is_stopping = True

        self._loop.call_at(since + self._idle_ms, end_if_idle)


def lost_result(error: str, finished_at: int, started_at: int | None = None) -> Message:
    """Return the result of an attempt whose outcome is unknown."""
    return _result("lost", error, started_at, finished_at)


def _result(reason: str, error: str, started_at: int | None, finished_at: int) -> Message:
    return {
        "exit_code": None,
        "signal": None,
        "reason": reason,
        "started_at": started_at,
        "finished_at": finished_at,
        "output_bytes": 0,
        "output_dropped": 0,
        "error": error,
    }


def _log(text: str) -> None:
    try:
        print(f"waterflow-runner: {text}", file=sys.stderr, flush=True)
    except OSError:
        # The log is probably on the same full disk. The steps matter more than the message.
        return
