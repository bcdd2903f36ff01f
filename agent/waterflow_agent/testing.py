"""For tests of agents and nodes, in this project or others: a scripted daemon, a clock, and `run_node`.

`ScriptedDaemon` is the other end of the link: a real socket with CURVE and authentication, and a wire session, but no runs, no
store and no decisions. It offers what a test tells it to offer, and remembers what it receives.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
import zmq
import zmq.asyncio
from zmq.utils import z85

from waterflow_agent import enrollment, keys
from waterflow_agent.attempts import AttemptId, AttemptNo, JobId, Outcome, RunId, StepId
from waterflow_agent.clock import Clock
from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import parameters, schema
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.nodes.shell import Command
from waterflow_agent.runner.reports import StepResult
from waterflow_agent.wire import codec, messages
from waterflow_agent.wire.codec import Side
from waterflow_agent.wire.messages import TaskId
from waterflow_agent.wire.session import Session

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"


def task_id(run: str, job: str, step: str, number: int, epoch: int) -> TaskId:
    """The id of a task, from plain values."""
    return TaskId(attempt_id(run, job, step, number), epoch)


def attempt_id(run: str, job: str, step: str, number: int) -> AttemptId:
    """The id of an attempt, from plain values."""
    return AttemptId(RunId(run), JobId(job), StepId(step), AttemptNo(number))


class NodeRun(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a node, and its output."""

    outcome: Outcome
    exit_code: int | None
    #: Why it failed.
    text: str
    outputs: dict[str, Any]
    printed: str


class FakeClock(Clock):
    """Clocks that advance only when a test says so."""

    def __init__(self, boot_ms: int = 1_000, wall_ms: int = 1_700_000_000_000) -> None:
        self._boot_ms = boot_ms
        self._wall_ms = wall_ms

    def boot_ms(self) -> int:
        """Returns the time since boot."""
        return self._boot_ms

    def wall_ms(self) -> int:
        """Returns the time since 1970."""
        return self._wall_ms

    def advance(self, by_ms: int) -> None:
        """Advances both clocks."""
        self._boot_ms += by_ms
        self._wall_ms += by_ms


class ScriptedDaemon:
    """A server for one agent. Every list is in the order in which messages were received."""

    def __init__(self, like: ScriptedDaemon | None = None) -> None:
        """`like` has the server's key already: then this is another daemon of the same server."""
        public, secret = zmq.curve_keypair()
        self.server_key: str = like.server_key if like is not None else public.decode("ascii")
        self._secret: bytes = like._secret if like is not None else secret
        self._clock = Clock()
        self._context = zmq.asyncio.Context()
        self._socket = self._new_socket()
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind(_ZAP_ENDPOINT)
        self._session: Session | None = None
        self._routing_id = b""
        self._tasks: list[asyncio.Task[None]] = []
        self._received = asyncio.Condition()
        # For the test to change.
        self.is_approving = True
        self.is_acknowledging = True
        self.is_taking_output = True
        self.silence_ms = 6_000
        self.forget: list[TaskId] = []
        #: Code, text and time of a `Reject` in place of a `Welcome`.
        self.rejection: tuple[str, str, int] | None = None
        self._is_mute = False
        # What was received.
        self.refused_handshakes = 0
        self.hellos: list[messages.Hello] = []
        self.started: list[messages.Started] = []
        self.finished: list[messages.Finished] = []
        self.outputs: dict[TaskId, bytearray] = {}
        #: The kinds of messages in each frame.
        self.frames: list[list[str]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._authenticate(), name="scripted-zap"),
            asyncio.create_task(self._read(), name="scripted-reader"),
            asyncio.create_task(self._tick(), name="scripted-ticker"),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def die(self) -> None:
        """Closes everything, as the end of a process does."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    # Sending.

    def offer(self, *tasks: messages.Task) -> None:
        """Offers tasks in one frame."""
        session = self._open_session()
        for task in tasks:
            session.queue(messages.Offer(task))
        self._flush()

    def cancel(self, key: TaskId, *, force: bool = False, reason: str = "cancelled by a test") -> None:
        """Cancels an attempt."""
        self._open_session().queue(messages.Cancel(key, force, reason))
        self._flush()

    def mute(self) -> None:
        """Sends nothing more in this session, as if the way back were interrupted, until the next hello."""
        self._is_mute = True

    def reset(self) -> None:
        """Forgets the session, like a restarted daemon."""
        self._session = None
        frame = codec.encode_frame("", 0, 1, [], [codec.encode_message(messages.Reset("restarted"))])
        self._send(frame)

    def task(self, number: int, node: str = "shell", **fields: object) -> messages.Task:
        """Returns a task for the agent that said hello last; `fields` are those of `Task`, and `run` for a script."""
        hello = self.hellos[-1]
        params = {"run": fields.pop("run")} if "run" in fields else {}
        task = messages.Task(
            key=task_id("01TESTRUN", "job", f"step{number}", 1, 1),
            node=node,
            params=params,
            env={},
            step_name=f"step {number}",
            working_directory=None,
            timeout_ms=600_000,
            stop_signal="SIGTERM",
            grace_ms=60_000,
            output_bytes_max=1 << 20,
            boot_id=hello.boot_id,
            instance=hello.instance,
        )
        return msgspec.structs.replace(task, **fields)

    # Waiting.

    async def until(self, is_so: Callable[[], object], deadline_s: float = 60.0) -> None:
        """Waits until the condition holds after something was received. Raises `TimeoutError`."""
        async with asyncio.timeout(deadline_s), self._received:
            await self._received.wait_for(lambda: bool(is_so()))

    async def session_opened(self, count: int = 1) -> messages.Hello:
        """Waits for a session, and returns its hello, the `count`th one."""
        await self.until(lambda: len(self.hellos) >= count and self._session is not None)
        return self.hellos[count - 1]

    async def result(self, key: TaskId) -> messages.Finished:
        """Waits for the attempt's result and returns it."""
        await self.until(lambda: any(finished.key == key for finished in self.finished))
        return next(finished for finished in self.finished if finished.key == key)

    async def output(self, key: TaskId) -> bytes:
        """Waits for the attempt's result and all of its output, and returns the output."""
        finished = await self.result(key)
        await self.until(lambda: len(self.outputs.get(key, b"")) >= finished.output_bytes)
        return bytes(self.outputs.get(key, b""))

    async def run(self, task: messages.Task) -> tuple[messages.Finished, bytes]:
        """Offers a task and returns its result and output."""
        self.offer(task)
        output = await self.output(task.key)
        return await self.result(task.key), output

    # The other end of the link.

    def _new_socket(self) -> zmq.asyncio.Socket:
        sock = self._context.socket(zmq.ROUTER)
        sock.linger = 0
        sock.curve_server = True
        sock.curve_publickey = self.server_key.encode("ascii")
        sock.curve_secretkey = self._secret
        sock.setsockopt(zmq.ZAP_DOMAIN, b"test")
        return sock

    def _open_session(self) -> Session:
        assert self._session is not None, "no agent is connected"
        return self._session

    async def _authenticate(self) -> None:
        while True:
            parts = await self._zap.recv_multipart()
            if self.is_approving:
                key = z85.encode(parts[6])
                await self._zap.send_multipart([b"1.0", parts[1], b"200", b"OK", key, b""])
            else:
                await self._zap.send_multipart([b"1.0", parts[1], b"400", b"no", b"", b""])
                async with self._received:
                    self.refused_handshakes += 1
                    self._received.notify_all()

    async def _read(self) -> None:
        while True:
            routing_id, frame = await self._socket.recv_multipart()
            decoded = codec.decode_frame(frame, Side.AGENT)
            self._routing_id = routing_id
            self._note(decoded)
            if self._session is not None:
                self._take(self._session, decoded)
                self._flush()
            async with self._received:
                self._received.notify_all()

    def _note(self, frame: codec.Frame) -> None:
        self.frames.append([type(message).__name__ for message in (*frame.numbered, *frame.loose)])
        for message in frame.loose:
            if isinstance(message, messages.Hello) and self.rejection is not None:
                self.hellos.append(message)
                reject = codec.encode_message(messages.Reject(message.session, *self.rejection))
                self._send(codec.encode_frame(message.session, 0, 1, [], [reject]))
            elif isinstance(message, messages.Hello):
                self._is_mute = False
                self.hellos.append(message)
                self._session = Session(message.session, Side.AGENT, self._clock.boot_ms())
                welcome = messages.Welcome(message.session, 1, 1, "scripted", ["tests"], self.silence_ms, self.forget)
                self._session.queue(welcome)

    def _take(self, session: Session, frame: codec.Frame) -> None:
        received = session.take(frame, self._clock.boot_ms())
        for _, message in received.numbered:
            if isinstance(message, messages.Finished):
                self.finished.append(message)
            elif isinstance(message, messages.Started):
                self.started.append(message)
        if received.numbered and self.is_acknowledging:
            session.acknowledge(received.numbered[-1][0], self._clock.boot_ms())
        for loose in received.loose:
            if isinstance(loose, messages.Output) and self.is_taking_output:
                self._take_output(session, loose)

    def _take_output(self, session: Session, output: messages.Output) -> None:
        log = self.outputs.setdefault(output.key, bytearray())
        data = b"".join(chunk.data for chunk in output.chunks)
        if output.offset <= len(log):
            log += data[len(log) - output.offset :]
        session.queue(messages.OutputAck(output.key, len(log)))

    def _flush(self) -> None:
        if self._session is not None:
            for frame in self._session.frames(self._clock.boot_ms()):
                self._send(frame)

    def _send(self, frame: bytes) -> None:
        if self._is_mute:
            return
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart([self._routing_id, frame], flags=zmq.NOBLOCK)

    async def _tick(self) -> None:
        # Keep-alives and late acknowledgements; a test needs no better timing.
        while True:
            await asyncio.sleep(0.05)
            self._flush()


def enrolled(data_dir: Path, daemon: ScriptedDaemon) -> None:
    """Makes `data_dir` the data directory of an agent that is enrolled at `daemon`."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = enrollment.Server(
        server_key=daemon.server_key, work_endpoint=daemon.endpoint, name="scripted", groups=["tests"]
    )
    keys.write_private(data_dir / "server.json", msgspec.json.encode(server))


async def end_runner(data_dir: Path) -> None:
    """Stops the step runner of a data directory and all of its steps."""
    for pid in runner_pids(data_dir):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with contextlib.suppress(ProcessLookupError):
            # The second signal kills the steps without their grace period.
            os.kill(pid, signal.SIGTERM)
            await asyncio.sleep(0.01)
            os.kill(pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await _readable(pidfd)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
        finally:
            os.close(pidfd)


def runner_pids(data_dir: Path) -> list[int]:
    """Returns the processes of the step runner of a data directory: one or none."""
    directory = os.fsencode(os.path.realpath(data_dir / "runner"))
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"waterflow_agent.runner" in arguments and directory in arguments:
            found.append(int(entry))
    return found


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


def run_node(
    name: str | Path,
    params: dict[str, Any],
    *,
    directory: Path,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> NodeRun:
    """Runs a node as an agent does, in its own process with `directory` as working directory, and returns its result.

        ended = run_node("file/write", {"path": "a", "content": "b"}, directory=tmp_path)
        assert ended.outcome is Outcome.SUCCESS
        assert ended.outputs["changed"]

    `name` is a built-in node, or the path of a file with your own node: `Path("nodes/demo/greet.py")`. A node that does not
    end within `timeout_s` is stopped like a step that timed out.
    """
    import tempfile

    from waterflow_agent.execution import process_steps
    from waterflow_agent.nodes import exits, node_process, shell, step_files

    task = messages.Task(
        key=task_id("run", "job", "step", 1, 1), node=str(name), params=params, env=dict(env or {}),
        step_name=str(name), working_directory=None, timeout_ms=round(timeout_s * 1000), stop_signal="SIGTERM", grace_ms=10_000,
        output_bytes_max=1 << 20, boot_id="", instance="",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as files:
        os.mkdir(f"{files}/temp", 0o700)
        location = shell.AttemptLocation(files=files, workspace=str(directory), temp=f"{files}/temp", agent="test")
        try:
            node_input = _node_input(name, params)
            command = process_steps.prepare(task, node_input, location, shell.inherited(os.environ))
        except Rejected as error:
            return NodeRun(outcome=Outcome.FAILURE, exit_code=None, text=error.text, outputs={}, printed="")
        result, printed = _run_to_end(command, directory, timeout_s)
        end = exits.interpret(result)
        end = (
            node_process.finish(end, files)
            if node_process.is_node_directory(files)
            else shell.finish(end, step_files.locate(files), command.env["PATH"])
        )
    return NodeRun(
        outcome=end.outcome, exit_code=end.exit_code, text=end.reason_text, outputs=end.outputs, printed=printed
    )


def _node_input(name: str | Path, params: dict[str, Any]) -> schema.Parameters | Code:
    if isinstance(name, Path):
        return Code(name=f"{name.absolute().parent.name}/{name.stem}", path=str(name), text=name.read_text("utf-8"))
    return parameters.convert(name, parameters.find(name).parameters, params)


def _run_to_end(command: Command, directory: Path, timeout_s: float) -> tuple[StepResult, str]:
    """Runs the command. Returns its result as the runner would report it, and its output."""
    process = subprocess.Popen(
        command.argv, cwd=directory, env=command.env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    reason = "exited"
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            printed, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
        reason = "timed-out"
    result = StepResult(
        reason=reason,
        exit_code=process.returncode if process.returncode >= 0 else None,
        signal=-process.returncode if process.returncode < 0 else None,
        started_at=None,
        finished_at=0,
        output_bytes=len(printed),
        output_dropped=0,
    )
    return result, printed.decode("utf-8", "replace")
