"""The step runner and the processes of steps, as the agent's real `RunnerClient` sees them through its socket.

A step's script says what its process does: `d=MS` how long it lives, `x=A,B,...` its exit code by attempt, `p=N` how
many lines it prints, `o` that it sets an output, `stubborn` that it ignores the stop signal. The runner behaves as the
real one does: a name starts once, results are on disk before they are reported, and a killed runner leaves orphans,
which the next runner kills and reports as lost. Process starts are recorded in the simulation's truth and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.simulator.environment import Environment
from tests.simulator.loop import Process
from tests.simulator.outside.host import Host
from tests.simulator.truth import Execution
from waterflow_agent.execution.runner_client import RunnerClient
from waterflow_agent.runner import protocol, spool
from waterflow_agent.runner.leases import Leases
from waterflow_agent.runner.spool import SpoolChunk
from waterflow_agent.wire.messages import TaskId


class Behaviour:
    """What a script makes its process do, for one attempt."""

    def __init__(self, script: str, attempt: int) -> None:
        words = script.split()
        pairs = dict(word.split("=", 1) for word in words if "=" in word)
        codes = [int(code) for code in pairs.get("x", "0").split(",")]
        self.duration_ms = int(pairs.get("d", "10"))
        self.exit_code = codes[min(attempt, len(codes)) - 1]
        self.lines = int(pairs.get("p", "0"))
        self.is_stubborn = "stubborn" in words
        self.hands_back = "o" in words


class _Step:
    """A process with its spool; `reason` is why it is being stopped."""

    def __init__(self, name: str, execution: Execution, behaviour: Behaviour, request: protocol.StartRequest) -> None:
        self.name = name
        self.execution = execution
        self.behaviour = behaviour
        self.request = request
        self.reason = ""
        self.handles: list[asyncio.TimerHandle] = []
        self.has_ended = False


#: What a runner without privileges reports.
_ABILITIES: dict[str, Any] = {"can_switch": False, "limits": [], "leftovers": 0}


class Runner:
    """One process of the runner of one server."""

    def __init__(self, environment: Environment, host: Host, reboot: Callable[[], None]) -> None:
        self._environment = environment
        self._host = host
        self._reboot = reboot
        self.is_dead = False
        #: When the runner starts to answer, in seconds of the simulation.
        self.answers_from = 0.0
        self._connection: _Pipe | None = None
        self._leases = Leases()
        #: Results by name: stored on the server's disk, as are the claimed names.
        for name, step in list(host.steps.items()):
            self._end_orphan(name, step)
        for name, result in host.results.items():
            if result is None:
                host.results[name] = self._lost(name, "the runner was killed while the step ran")

    def _end_orphan(self, name: str, step: _Step) -> None:
        self._finish(step, None, "killed by the next runner")
        self._host.results[name] = self._lost(name, "the runner was killed while the step ran")

    def _lost(self, name: str, error: str) -> dict[str, object]:
        chunks = self._host.disk.spools.get(self._host.spool_path(name), [])
        return self._result("lost", None, chunks[-1].end if chunks else 0, None) | {"error": error}

    def _result(self, reason: str, code: int | None, output: int, started_at: int | None) -> dict[str, object]:
        return {
            "exit_code": code,
            "signal": 9 if reason != "lost" and code is None else None,
            "reason": reason,
            "started_at": started_at,
            "finished_at": self._environment.wall_ms(),
            "output_bytes": output,
            "output_dropped": 0,
            "error": None,
        }

    # The agent's connection.

    def accept(self, pipe: _Pipe) -> None:
        """Accepts a new agent; the previous one is notified."""
        if self._connection is not None:
            self._tell({"type": "replaced"})
        self._connection = pipe
        hello = {"type": "hello", "protocol": protocol.PROTOCOL, "release": self._environment.release, "pid": 1}
        self._tell(hello | _ABILITIES)

    def let_go(self, pipe: _Pipe) -> None:
        """Handles that the agent closed its end."""
        if self._connection is pipe:
            self._connection = None

    def serve(self, message: dict[str, Any]) -> None:
        """Handles one message of the agent."""
        kind, name = message["type"], message.get("name", "")
        if kind == "status":
            self._tell({"type": "held", "attempts": self._held()})
        elif kind == "start":
            self._start(name, message)
        elif kind == "cancel":
            self._cancel(name, message)
        elif kind == "confirm":
            self._leases.confirm(message["at"], self._host.clock.boot_ms())
        elif kind == "forget":
            if name in self._host.steps:
                self._refuse(name, "forget: the step still runs")
            else:
                self._host.results.pop(name, None)

    def _tell(self, message: dict[str, object]) -> None:
        if self._connection is not None:
            self._connection.tell(message)

    def _refuse(self, name: str, text: str) -> None:
        self._tell({"type": "error", "name": name, "text": text})

    def _tell_state(self, name: str) -> None:
        step = self._host.steps.get(name)
        if step is not None:
            self._tell({"type": "started", "name": name, "pid": 2, "at": step.execution.started_wall_ms})
        else:
            self._tell({"type": "exited", "name": name, "result": self._host.results[name]})

    def _held(self) -> list[dict[str, object]]:
        held: list[dict[str, object]] = []
        for name, result in self._host.results.items():
            step = self._host.steps.get(name)
            at = step.execution.started_wall_ms if step is not None else (result or {}).get("started_at")
            state = "ended" if step is None else "stopping" if step.reason else "running"
            held.append({"name": name, "state": state, "pid": 2, "at": at, "output_bytes": 0, "result": result})
        return held

    # Steps.

    def _start(self, name: str, message: dict[str, Any]) -> None:
        host, environment = self._host, self._environment
        if name in host.results:
            self._tell_state(name)
            return
        request = protocol.StartRequest(message)
        if request.lease_ms and self._leases.has_ended(request.lease_ms, host.clock.boot_ms()):
            environment.note(f"{host.name}: the lease of {name} is over before it starts")
            host.results[name] = self._result("lease-ended", None, 0, None)
            self._tell_state(name)
            return
        if environment.chance.happens("spawn failed"):
            environment.note(f"{host.name}: {name} cannot be spawned")
            host.results[name] = self._result("spawn-failed", None, 0, None) | {"error": "no such program"}
            self._tell_state(name)
            return
        key = host.names[name]
        behaviour = Behaviour(request.argv[1], key.attempt.number)
        execution = environment.truth.started(key, host.name, environment.now_ms, environment.wall_ms())
        environment.note(f"{host.name}: {_short(key)} starts ({request.argv[1]})")
        step = host.steps[name] = _Step(name, execution, behaviour, request)
        host.results[name] = None
        environment.observer.process_started(host, execution)
        self._schedule(step)
        if request.lease_ms:
            self._leases.add(name, request.lease_ms)
            self._watch_lease()
        if environment.chance.happens("power lost at a start"):
            # Perhaps before the journal was flushed, and before anyone was notified.
            environment.loop.outside(environment.chance.delay_s(0.0, 0.06), self._reboot)
        self._tell({"type": "started", "name": name, "pid": 2, "at": execution.started_wall_ms})

    def _schedule(self, step: _Step) -> None:
        loop, behaviour = self._environment.loop, step.behaviour
        duration_ms = behaviour.duration_ms
        if self._environment.chance.happens("step slow"):
            duration_ms = duration_ms * 4 + 1_000
        for line in range(behaviour.lines):
            at_s = duration_ms * (line + 1) / (behaviour.lines + 1) / 1000
            step.handles.append(loop.outside(at_s, self._print, step, line))
        step.handles.append(loop.outside(duration_ms / 1000, self._exits, step, behaviour.exit_code))
        if step.request.timeout_ms is not None:
            step.handles.append(loop.outside(step.request.timeout_ms / 1000, self._stop, step, "timed-out"))

    def _watch_lease(self) -> None:
        end_at = self._leases.next_end_at
        if end_at is not None:
            clock = self._host.clock
            delay_s = clock.real_s(max(0, end_at - clock.boot_ms())) + self._environment.chance.leases.uniform(
                0.0, 0.25
            )
            self._environment.loop.outside(delay_s, self._end_leases)

    def _end_leases(self) -> None:
        if self.is_dead:
            return
        for name in self._leases.ended(self._host.clock.boot_ms()):
            self._leases.drop(name)
            self._stop(self._host.steps[name], "lease-ended")
        self._watch_lease()

    def _print(self, step: _Step, line: int) -> None:
        key = step.execution.key
        data = (
            f"{key.attempt.job}/{key.attempt.step}#{key.attempt.number} line {line} {'x' * (line * 37 % 90)}\n".encode()
        )
        chunks = self._host.disk.spools.setdefault(self._host.spool_path(step.name), [])
        begin = chunks[-1].end if chunks else 0
        if not self.is_dead:
            # The pipe of an orphan has no reader.
            stream = spool.STDOUT if line % 3 else spool.STDERR
            chunks.append(SpoolChunk(begin, self._environment.wall_ms(), stream, data))
            step.execution.printed += data
            self._tell({"type": "output", "name": step.name, "bytes": begin + len(data)})

    def _stop(self, step: _Step, reason: str) -> None:
        if step.has_ended or step.reason or self.is_dead:
            return
        step.reason = reason
        loop = self._environment.loop
        if not step.behaviour.is_stubborn:
            step.handles.append(loop.outside(self._environment.chance.delay_s(0.001, 0.1), self._exits, step, None))
        grace_s = self._host.clock.real_s(step.request.grace_ms)
        step.handles.append(loop.outside(grace_s, self._exits, step, None))

    def _kill(self, step: _Step, reason: str) -> None:
        step.reason = step.reason or reason
        step.handles.append(
            self._environment.loop.outside(self._environment.chance.delay_s(0.0005, 0.05), self._exits, step, None)
        )

    def _exits(self, step: _Step, code: int | None) -> None:
        if step.has_ended:
            return
        self._finish(step, code, step.reason or "exited")
        if self.is_dead:
            # The end of an orphan is not reported.
            return
        execution = step.execution
        if code == 0 and step.behaviour.hands_back:
            self._host.files[self._host.directories[step.name]] = execution.outputs
        result = self._result(step.reason or "exited", code, len(execution.printed), execution.started_wall_ms)
        self._host.results[step.name] = result
        self._tell({"type": "exited", "name": step.name, "result": result})

    def _finish(self, step: _Step, code: int | None, how: str) -> None:
        step.has_ended = True
        self._leases.drop(step.name)
        self._environment.truth.ended(step.execution)
        for handle in step.handles:
            handle.cancel()
        self._host.steps.pop(step.name, None)
        execution = step.execution
        execution.ended_at, execution.exit_code, execution.how = self._environment.now_ms, code, how
        self._environment.note(f"{self._host.name}: {_short(execution.key)} ends: {how} {code}")

    def _cancel(self, name: str, message: dict[str, Any]) -> None:
        step = self._host.steps.get(name)
        if step is None:
            if name in self._host.results:
                self._tell_state(name)
            else:
                self._refuse(name, "cancel: unknown name")
        elif message.get("force"):
            self._kill(step, message["reason"])
        else:
            self._stop(step, message["reason"])

    # How the runner itself ends.

    def die(self) -> None:
        """Kills the runner with SIGKILL: its steps continue as orphans, and the agent finds its socket closed."""
        self.is_dead = True
        for step in self._host.steps.values():
            step.execution.is_orphan = True
        pipe, self._connection = self._connection, None
        if pipe is not None:
            pipe.lost()

    def power_lost(self) -> None:
        """Loses everything at once."""
        for step in list(self._host.steps.values()):
            self._finish(step, None, "power lost")
        self.die()


class _Pipe:
    """The unix socket between one agent process and the runner: in order, without loss while both run."""

    def __init__(self, environment: Environment, runner: Runner, process: Process, connection: Any) -> None:
        self._environment = environment
        self._process = process
        self._connection = connection
        self._runner = runner
        self._decoder = protocol.Decoder()
        self._up_at = self._down_at = 0.0
        self._is_closed = False

    # The transport of the agent's protocol object.

    def write(self, data: bytes) -> None:
        """Takes bytes from the agent."""
        if self._is_closed:
            return
        messages = self._decoder.feed(data)
        loop = self._environment.loop
        self._up_at = max(self._up_at, loop.time() + self._environment.chance.delay_s(0.0001, 0.004))
        loop.outside(self._up_at - loop.time(), self._serve, messages)

    def is_closing(self) -> bool:
        """Returns whether nothing more is written."""
        return self._is_closed

    def close(self) -> None:
        """Closes the agent's end."""
        if not self._is_closed:
            self._is_closed = True
            self._runner.let_go(self)
            self._environment.loop.call_soon(self._connection.connection_lost, None, context=self._process.context)

    abort = close

    # The runner's side.

    def _serve(self, messages: list[Any]) -> None:
        if not self._runner.is_dead:
            for message in messages:
                self._runner.serve(message)

    def tell(self, message: dict[str, object]) -> None:
        """Delivers a message of the runner."""
        loop = self._environment.loop
        self._down_at = max(self._down_at, loop.time() + self._environment.chance.delay_s(0.0001, 0.004))
        frames = protocol.frames([protocol.encode(message)])
        loop.call_at(self._down_at, self._arrived, frames, context=self._process.context)

    def _arrived(self, frames: bytes) -> None:
        if not self._is_closed:
            self._connection.data_received(frames)

    def lost(self) -> None:
        """Closes the runner's end."""
        if not self._is_closed:
            self._is_closed = True
            self._environment.loop.call_soon(self._connection.connection_lost, None, context=self._process.context)


class _Attempts:
    """`runner.attempts.AttemptDirectoryPool` without files."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def path(self, name: str) -> str:
        return self._host.spool_path(name).removesuffix("/output")

    def prepare(self, name: str) -> str:
        return self.path(name)

    def release(self, name: str) -> str | None:
        self._host.disk.spools.pop(self._host.spool_path(name), None)
        return None


class SimRunnerClient(RunnerClient):
    """The real client of the runner; only its socket and its directories are simulated."""

    def __init__(
        self,
        environment: Environment,
        host: Host,
        process: Process,
        current_runner: Callable[[], Runner | None],
        start_runner: Callable[[], None],
    ) -> None:
        super().__init__(f"/simulated/{host.name}")
        self._environment = environment
        self._process = process
        self._current_runner = current_runner
        self._start = start_runner
        self._attempts = _Attempts(host)  # type: ignore[assignment]

    async def _connect_once(self) -> Any:
        from waterflow_agent.execution.runner_client import _Connection

        runner = self._current_runner()
        if runner is None or runner.is_dead or self._environment.loop.time() < runner.answers_from:
            raise ConnectionRefusedError("no runner")
        connection = _Connection(self)
        pipe = _Pipe(self._environment, runner, self._process, connection)
        connection.connection_made(pipe)  # type: ignore[arg-type]
        runner.accept(pipe)
        return connection

    def _start_runner(self) -> None:
        self._start()


def _short(key: TaskId) -> str:
    return f"{key.attempt.run[-6:]} {key.attempt.job}/{key.attempt.step}#{key.attempt.number} e{key.epoch}"
