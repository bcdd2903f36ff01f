"""The agent's client of the step runner: starts, cancels and forgets steps, and receives reports about them.

Rules
- Nothing waits for an answer. `start`, `cancel` and `end_job` are kept and sent again after every reconnect until the runner
  has reported about the step or the job. The runner starts a name only once, so repeating is safe. `forget` is sent once: a
  step that the runner still holds after a reconnect is in `HeldSteps`, and has to be forgotten again.
- All messages of one turn of the loop are sent in one write, and all received reports are returned in one list.
- The first report after every connect is `HeldSteps`: everything that the runner holds, running and ended. It is the only
  source for what happened while no agent was connected.
- A runner that does not answer is started detached, so that it outlives this process. With `starts_runner=False` a service
  manager keeps the runner running, and this class only waits for it.

Names become directories `DIR/attempts/<name>`; see `runner.directory` for what is in them, and `runner.reports` for the
types that are handed in and out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import waterflow_agent
from waterflow_agent import errors
from waterflow_agent.backoff import Backoff
from waterflow_agent.runner import directory_pool, protocol
from waterflow_agent.runner.directory_pool import AttemptDirectoryPool
from waterflow_agent.runner.reports import (
    HeldStep,
    HeldSteps,
    JobEnded,
    LeftProcess,
    RequestRefused,
    RunnerAbilities,
    RunnerReport,
    StepExited,
    StepOutput,
    StepResult,
    StepSpec,
    StepStarted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

#: Between attempts to reach a runner that does not answer.
_BACKOFF = Backoff(first_s=0.05, max_s=2.0)
#: A connection that is lost sooner than this means that the runner ends right after its start: then reconnecting can wait.
STEADY_S = 5.0
#: A detached runner without steps and agent exits after this; the next agent starts a new one.
IDLE_EXIT_S = 600
#: The runner's exit status when another one serves the directory.
_ANOTHER_RUNNER = 3
#: For the start of a Python process on a loaded machine.
START_S_MAX = 30.0
#: A suspended runner (SIGSTOP, a debugger) must not keep the agent from exiting.
CLOSE_S_MAX = 2.0
#: The kernel's limit for the path of a unix socket, less its final NUL.
_SOCKET_PATH_BYTES_MAX = 107
_STATUS = protocol.encode({"type": "status"})
_STOP = protocol.encode({"type": "stop"})
#: Environment variables of this process that the runner gets; steps get their own.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONHOME", "VIRTUAL_ENV", "TMPDIR")


class RunnerClient:
    """The connection to the runner of `data_dir`, kept open until `close`. For one event loop; not thread-safe."""

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        starts_runner: bool = True,
        idle_exit_s: int = IDLE_EXIT_S,
        runner_options: Sequence[str] = (),
    ) -> None:
        self._data_dir = os.path.realpath(data_dir)
        self._starts_runner = starts_runner
        self._idle_exit_s = idle_exit_s
        self._runner_options = list(runner_options)
        self._connection: _Connection | None = None
        #: Encoded messages, like the queue below.
        self._starts: dict[str, bytes] = {}
        self._cancels: dict[str, bytes] = {}
        self._job_ends: dict[str, bytes] = {}
        #: The newest confirmation of the daemon.
        self._confirmation: list[bytes] = []
        self._outgoing: list[bytes] = []
        self._reports: list[RunnerReport] = []
        self._has_reports = asyncio.Event()
        self._awaits_held = False
        #: The runner has another release and is replaced as soon as it is idle.
        self._is_outdated = False
        self._keeper: asyncio.Task[None] | None = None
        self._is_closed = False
        self._connected_at = 0.0
        self._losses = 0
        self._failure: errors.WaterflowError | None = None
        self._attempts = AttemptDirectoryPool(f"{self._data_dir}/attempts")
        self._to_remove: list[str] = []
        self._remover: asyncio.Task[None] | None = None
        #: Commands of the agent itself, which are no attempts, by name.
        self._commands: dict[str, asyncio.Future[StepResult]] = {}
        #: What the runner can enforce; known once it has answered.
        self.abilities = RunnerAbilities(can_switch=False, limits=frozenset())
        #: Processes that steps left behind and that were ended, since the start of the runner.
        self.leftovers = 0

    def directory(self, name: str) -> Path:
        """Return the step's directory: its spool begins at `output`, and `files` is for what the step returns."""
        return Path(self._attempts.path(_checked(name)))

    def prepare(self, name: str) -> Path:
        """Create the step's directory, to put files into it before `start`, which otherwise creates it.

        Raises `OSError`. An existing directory is kept as it is.
        """
        return Path(self._attempts.prepare(_checked(name)))

    async def connect(self) -> None:
        """Connect to the runner, and start it if necessary. Raises `Retryable` when that is impossible."""
        self._connection = await self._open()
        self._on_connected()

    async def close(self) -> None:
        """Send what is queued and disconnect. Steps keep running. Directories of forgotten steps are removed."""
        self._is_closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._connection is not None:
            self._flush()
            await self._connection.finish()
            self._connection = None
        if self._remover is not None:
            await self._remover
        self._has_reports.set()

    # Requests.

    def start(self, spec: StepSpec) -> None:
        """Start the step exactly once, even if the connection is lost meanwhile. Raises `Rejected` for an invalid `spec`.

        The runner reports `StepStarted` or `StepExited`, or `RequestRefused` when the name was used and forgotten before.
        """
        message = spec.encode()
        # The runner would create the directory too, but only the agent reuses one. What fails here fails there too.
        with contextlib.suppress(OSError):
            self._attempts.prepare(spec.name)
        self._starts[spec.name] = message
        self._send(message)

    def cancel(self, name: str, reason: str = "cancelled", *, is_forced: bool = False) -> None:
        """Stop the step with its stop signal and grace period, or kill it at once.

        `StepExited` reports when no process is left.
        """
        message = protocol.encode({"type": "cancel", "name": name, "reason": reason, "force": is_forced})
        self._cancels[name] = message
        self._send(message)

    def confirm(self, at: int) -> None:
        """Extend the leases: at this time of the boot clock the daemon knew that this agent was alive."""
        message = protocol.encode({"type": "confirm", "at": at})
        self._confirmation = [message]
        self._send(message)

    def end_job(self, job: str) -> None:
        """End what steps of this job have left behind. `JobEnded` reports when nothing of it is left."""
        message = protocol.encode({"type": "end-job", "job": job})
        self._job_ends[job] = message
        self._send(message)

    def forget(self, name: str) -> None:
        """Forget an ended step and remove its directory in the background."""
        self._starts.pop(name, None)
        self._cancels.pop(name, None)
        self._send(protocol.encode({"type": "forget", "name": name}))
        path = self._attempts.release(_checked(name))
        if path is None:
            return
        self._to_remove.append(path)
        if self._remover is None or self._remover.done():
            self._remover = asyncio.create_task(self._remove(), name="waterflow-attempts-removal")

    async def run_command(self, spec: StepSpec) -> StepResult:
        """Run a command of the agent itself, such as one that needs another user. Its result is not part of the reports.

        A cancelled call stops the command. Raises `Rejected` when the runner refuses it.
        """
        done: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        self._commands[spec.name] = done
        try:
            self.start(spec)
            return await done
        finally:
            self._commands.pop(spec.name, None)
            if not done.done() or done.cancelled():
                self.cancel(spec.name, is_forced=True)

    def stop_runner(self) -> None:
        """Ask the runner to exit, which it does when no step is running. For upgrades."""
        self._send(_STOP)

    # Reports.

    async def receive(self) -> list[RunnerReport]:
        """Return all received reports, and wait for one; none once closed. Raises what ended the connection for good."""
        while not self._reports:
            if self._failure is not None:
                raise self._failure
            if self._is_closed:
                return []
            self._has_reports.clear()
            await self._has_reports.wait()
        reports, self._reports = self._reports, []
        return reports

    # The connection.

    async def _open(self) -> _Connection:
        failures, deadline = 0, asyncio.get_running_loop().time() + START_S_MAX
        while True:
            try:
                return await self._connect_once()
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise errors.Retryable("WF341", f"the step runner does not answer: {error}") from error
            if self._starts_runner:
                await asyncio.to_thread(self._start_runner)
            failures += 1
            await asyncio.sleep(_BACKOFF.delay_s(failures))

    async def _connect_once(self) -> _Connection:
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        directory = os.open(self._data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"{self._data_dir}/runner.sock"
            if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
                path = f"/proc/self/fd/{directory}/runner.sock"
            await loop.sock_connect(sock, path)
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(directory)
        _, connection = await loop.create_unix_connection(lambda: _Connection(self), sock=sock)
        return connection

    def _start_runner(self) -> None:
        """Run the runner's command, which returns when the runner, or one that was running before, answers."""
        command = [sys.executable, "-P", "-m", "waterflow_agent.runner", "--data-dir", self._data_dir, "--detach"]
        command += ["--idle-exit-s", str(self._idle_exit_s), *self._runner_options]
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        if search := os.environ.get("PYTHONPATH"):
            # The runner has another working directory.
            environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, search.split(os.pathsep)))
        try:
            # Its output goes to a file, because a pipe would stay open with the detached process.
            with open(f"{self._data_dir}/runner.log", "ab") as log:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=environment,
                    timeout=START_S_MAX,
                    start_new_session=True,
                    check=False,
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise errors.Retryable("WF341", f"cannot start the step runner: {error}") from error
        if done.returncode not in (0, _ANOTHER_RUNNER):
            raise errors.Retryable(
                "WF341", f"the step runner exited with status {done.returncode}; see {self._data_dir}/runner.log"
            )

    def _on_connected(self) -> None:
        self._outgoing = [_STATUS, *self._confirmation, *self._starts.values(), *self._cancels.values()]
        self._outgoing += self._job_ends.values()
        self._connected_at = asyncio.get_running_loop().time()
        self._awaits_held = True
        self._flush()

    def on_lost(self, connection: _Connection) -> None:
        """Called by a connection that was lost."""
        if connection is not self._connection or self._is_closed:
            return
        self._connection = None
        self._outgoing.clear()
        if self._failure is None:
            logger.warning("connection to the step runner lost; reconnecting")
            is_steady = asyncio.get_running_loop().time() - self._connected_at > STEADY_S
            self._losses = 0 if is_steady else self._losses + 1
            self._keeper = asyncio.create_task(self._reconnect(), name="waterflow-runner-reconnect")

    async def _reconnect(self) -> None:
        await asyncio.sleep(_BACKOFF.delay_s(self._losses))
        while True:
            try:
                await self.connect()
            except errors.Retryable as error:
                logger.error("%s", error)
                await asyncio.sleep(error.after_s)
            else:
                return

    def _send(self, message: bytes) -> None:
        if self._connection is None:
            # Reused requests are sent after the connect; the others are obsolete by then.
            return
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        if self._connection is not None and self._outgoing:
            self._connection.write(self._outgoing)
            self._outgoing = []

    def on_messages(self, messages: list[protocol.Message]) -> None:
        """Called by the connection with messages of the runner."""
        for message in messages:
            if self._awaits_held and message["type"] in ("started", "output", "exited"):
                # `HeldSteps` contains what happened since the connect.
                continue
            report = self._read(cast("dict[str, Any]", message))
            if report is not None:
                self._reports.append(report)
        if self._reports:
            self._has_reports.set()

    def _read(self, message: dict[str, Any]) -> RunnerReport | None:
        match message["type"]:
            case "exited":
                name = message["name"]
                self._starts.pop(name, None)
                self._cancels.pop(name, None)
                if self._is_outdated:
                    self.stop_runner()
                result = StepResult.from_json(message["result"])
                return None if self._finish_command(name, result) else StepExited(name, result)
            case "started":
                self._starts.pop(message["name"], None)
                return StepStarted(message["name"], message["pid"], message["at"])
            case "output":
                return StepOutput(message["name"], message["bytes"])
            case "held":
                attempts = tuple(HeldStep.from_json(attempt) for attempt in message["attempts"])
                return self._on_held(HeldSteps(attempts, tuple(message.get("jobs", ()))))
            case "job-ended":
                self._job_ends.pop(message["job"], None)
                if self._is_outdated:
                    self.stop_runner()
                return JobEnded(message["job"], tuple(map(LeftProcess.from_json, message["processes"])))
            case "error":
                self._starts.pop(message["name"], None)
                self._cancels.pop(message["name"], None)
                command = self._commands.get(message["name"])
                if command is not None and not command.done():
                    command.set_exception(errors.Rejected("WF340", message["text"]))
                    return None
                return RequestRefused(message["name"], message["text"])
            case "leftovers":
                self._on_leftovers(message["count"])
            case "replaced":
                self._fail(
                    errors.Stalled("WF342", "another agent has connected to the step runner of this data directory")
                )
            case "hello":
                self._on_hello(message)
        return None

    def _finish_command(self, name: str, result: StepResult) -> bool:
        """Return whether `name` was a command of the agent itself, whose caller now has the result."""
        command = self._commands.get(name)
        if command is None:
            return False
        if not command.done():
            command.set_result(result)
        return True

    def _on_leftovers(self, count: int) -> None:
        if count > self.leftovers:
            logger.warning("ended processes that steps left behind: %d, %d in total", count - self.leftovers, count)
        self.leftovers = count

    def _on_hello(self, message: dict[str, Any]) -> None:
        if message["protocol"] != protocol.PROTOCOL:
            text = (
                f"the running step runner speaks protocol version {message['protocol']}, this agent {protocol.PROTOCOL}"
            )
            self._fail(errors.Stalled("WF343", f"{text}; stop it when no step is running"))
            return
        self.abilities = RunnerAbilities(can_switch=message["can_switch"], limits=frozenset(message["limits"]))
        self.leftovers = message["leftovers"]
        self._is_outdated = message["release"] != waterflow_agent.__version__
        if self._is_outdated:
            # An idle runner of another release exits and is replaced. A busy one refuses and is asked again after each step.
            self.stop_runner()

    def _on_held(self, held: HeldSteps) -> HeldSteps:
        self._awaits_held = False
        for step in held.attempts:
            if step.result is not None:
                self._finish_command(step.name, step.result)
        return HeldSteps(tuple(step for step in held.attempts if step.name not in self._commands), held.jobs)

    def _fail(self, failure: errors.WaterflowError) -> None:
        self._failure = failure
        self._has_reports.set()
        for command in self._commands.values():
            if not command.done():
                command.set_exception(failure)
        if self._connection is not None:
            self._connection.close()

    # Directories.

    async def _remove(self) -> None:
        while self._to_remove:
            paths, self._to_remove = self._to_remove, []
            await asyncio.to_thread(directory_pool.remove, paths)


class _Connection(asyncio.Protocol):
    """Frames on the runner's socket."""

    def __init__(self, client: RunnerClient) -> None:
        self._client = client
        self._decoder = protocol.Decoder()
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._client.on_messages(self._decoder.feed(data))
        except (protocol.BadMessage, KeyError, TypeError) as error:
            logger.error("cannot read a message of the step runner: %r", error)
            self.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed.set_result(None)
        self._client.on_lost(self)

    def write(self, messages: list[bytes]) -> None:
        """Send encoded messages, in one frame if they fit."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(protocol.frames(messages))

    async def finish(self) -> None:
        """Close, and give the runner a moment to read what is queued."""
        self.close()
        await asyncio.wait([self.closed], timeout=CLOSE_S_MAX)
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close after everything queued was written."""
        if self._transport is not None:
            self._transport.close()


def _checked(name: str) -> str:
    if not protocol.is_name(name):
        raise errors.Rejected("WF340", f"{name!r} is not a valid name of a step")
    return name
