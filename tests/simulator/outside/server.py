"""A server: its disk, its runner, and one agent process after the other, made of the real components.

Rules of this file: what survives an agent and a reboot (disk, records) are attributes of the host; the runner survives
an agent only. Everything else is created again at each start, in the order of `waterflow_agent.agent`. A service manager
restarts an agent that has exited.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from tests.simulator.environment import Environment
from tests.simulator.loop import Process
from tests.simulator.outside.host import Host, ServerClock
from tests.simulator.outside.network import Dealer
from tests.simulator.outside.runner import Runner, SimRunnerClient
from tests.simulator.outside.storage import Journal
from waterflow_agent.checkout.blob_cache import blob_id
from waterflow_agent.checkout.file_list import FileEntry
from waterflow_agent.checkout.file_requests import FileRequests
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.core import Core
from waterflow_agent.errors import Rejected
from waterflow_agent.execution import process_steps
from waterflow_agent.execution.output import OutputSender
from waterflow_agent.execution.process_steps import NodeInput, ProcessSteps
from waterflow_agent.machine import Machine
from waterflow_agent.nodes import exits, schema
from waterflow_agent.nodes.outcome import NodeResult
from waterflow_agent.runner.reports import StepResult, StepSpec
from waterflow_agent.runner.spool import SpoolChunk
from waterflow_agent.session.handler import SessionHandler
from waterflow_agent.session.link import Link
from waterflow_agent.session.server_keys import ServerKeys
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId
from waterflow_agent.wire.session import Received

#: Time from the exit of an agent to its next start by the service manager, and of a whole boot; in seconds.
RESTART_S = (0.2, 2.0)
BOOT_S = (2.0, 8.0)
#: Time from the start of a runner until it answers: a Python process on an idle or a busy machine.
RUNNER_START_S = (0.03, 2.0)
#: How fast the boot clock of a server runs.
RATES = (0.99, 0.99, 1.0, 1.01)
#: How often a checkout finds none of the kept files.
KEPT_FILES_LOST = 0.1


class Server(Host):
    """One server: a host with its runner and its agent."""

    def __init__(self, environment: Environment, name: str, groups: tuple[str, ...], slots: int) -> None:
        super().__init__(name, groups, slots, ServerClock(environment.clock, environment.chance.clocks.choice(RATES)))
        self.runner: Runner | None = None
        self.agent: Agent | None = None
        self._environment = environment
        self._is_booting = False

    def make_room(self) -> None:
        """Makes room on the disk."""
        if self.disk.is_full:
            self.disk_full_at = self._environment.now_ms
        self.disk.is_full = False

    def start_runner(self) -> None:
        """Starts a new runner, which settles what the previous one left."""
        if self.runner is None or self.runner.is_dead:
            self.runner = Runner(self._environment, self, self.reboot)
            self.runner.answers_from = self._environment.loop.time() + self._environment.chance.delay_s(*RUNNER_START_S)

    def start_agent(self) -> None:
        """Starts the agent as the service manager does, unless it runs or the machine is down."""
        if self.agent is None and not self._is_booting and not self.is_scrapped:
            self.agent = Agent(self._environment, self)

    def kill_agent(self, reason: str) -> None:
        """Kills the agent with SIGKILL; it is started again some time later."""
        agent, self.agent = self.agent, None
        if agent is None:
            return
        environment = self._environment
        environment.note(f"{self.name}: agent killed {reason}")
        environment.loop.kill(agent.process)
        environment.network.agent_died(agent.process)
        agent.close_runner_connection()
        environment.loop.outside(environment.chance.delay_s(*RESTART_S), self.start_agent)

    def reboot(self) -> None:
        """Cuts the power; it returns later."""
        if self._is_booting:
            return
        environment = self._environment
        self._is_booting = True
        environment.note(f"{self.name}: power lost")
        self.power_lost_at = environment.now_ms
        self.kill_agent("by a power cut")
        if self.runner is not None:
            self.runner.power_lost()
            self.runner = None
        self.disk.lose_power(loses_tail=environment.chance.happens("journal tail lost"))
        environment.loop.outside(environment.chance.delay_s(*BOOT_S), self._booted)

    def scrap(self) -> None:
        """Cuts the power for good."""
        self.is_scrapped = True
        self._environment.note(f"{self.name}: never comes back")
        self.reboot()

    def _booted(self) -> None:
        self.boots += 1
        self._is_booting = False
        self._environment.note(f"{self.name}: booted")
        self.start_agent()


class Agent:
    """One process of the agent."""

    def __init__(self, environment: Environment, server: Server) -> None:
        self.process = Process(f"agent of {server.name}")
        self._environment = environment
        self._server = server
        environment.agents_started += 1
        self.instance = f"{server.name}-{environment.agents_started}"
        environment.note(f"{server.name}: agent {self.instance} starts")
        self.core: Core | None = None
        self.runner_client: SimRunnerClient | None = None
        self.process.run(self._build)

    def _build(self) -> None:
        environment, server = self._environment, self._server
        journal = Journal(environment, self.process, server.disk)
        self.runner_client = SimRunnerClient(
            environment, server, self.process, lambda: server.runner, server.start_runner
        )
        directories = _Directories(server)
        workspaces = _WorkingDirectories(environment, server)
        steps = _Steps(self.runner_client, workspaces, directories, {})  # type: ignore[arg-type]
        steps.server, steps.workspaces = server, workspaces
        link = Link(
            endpoint="tcp://daemon:7600",
            sockets=_Sockets(environment, server, self.process),  # type: ignore[arg-type]
            server_keys=ServerKeys(""),
            new_token=environment.new_token,
            clock=server.clock,
            dice=random.Random(f"{environment.chance.seed}/{self.instance}"),
        )
        checkouts = CheckoutService(_Trees(environment, server), FileRequests(link.send), workspaces)  # type: ignore[arg-type]
        core = self.core = Core(
            ledger=Ledger(boot_id=server.boot_id, instance=self.instance, slots=server.slots),
            journal=journal,
            steps=steps,
            checkouts=checkouts,
            sender=link,
            clock=server.clock,
            output_sender=OutputSender(open_spool=lambda path: _SpoolReader(server.disk.spools.setdefault(path, []))),  # type: ignore[arg-type, return-value]
            describe_machine=lambda: Machine(machine_id="", hostname="host", os="linux", arch="x86_64"),
        )
        core.restore()
        self._watch(self._handle_reports(self.runner_client, core), "runner-reports")
        self._watch(self._keep_connected(link, core), "link")
        core.failure.add_done_callback(self._failed)

    async def _handle_reports(self, runner: SimRunnerClient, core: Core) -> None:
        await runner.connect()
        while batch := await runner.receive():
            core.reports.on_reports(batch)

    async def _keep_connected(self, link: Link, core: Core) -> None:
        await core.executor.is_settled.wait()
        await link.run(_ObservedHandler(core.session, self._environment, self._server))
        if self._server.is_revoked:
            self._server.kill_agent(f"by itself: {link.state}")
            return
        self._environment.fail(f"the link of {self.instance} gave up: {link.state}")

    def _watch(self, work: Any, name: str) -> None:
        self._environment.loop.create_task(work, name=name).add_done_callback(self._failed)

    def _failed(self, ended: Any) -> None:
        """Handles a task that ended or failed: the agent's process ends with it."""
        if self.process.is_dead or ended.cancelled():
            return
        error = ended.exception()
        if _code(error) == "WF302":
            # The disk is full at startup: the process exits and is started again.
            self._server.kill_agent(f"by itself: {error}")
            return
        self._environment.fail(f"{self.process.name} ended: {error!r}", error)

    def close_runner_connection(self) -> None:
        """Closes the runner's socket, as the kernel does."""
        connection = self.runner_client._connection if self.runner_client is not None else None
        if connection is not None and connection._transport is not None:
            connection._transport.close()


def _code(error: BaseException | None) -> str:
    return getattr(error, "code", "")


class _Sockets:
    """Simulated sockets in place of `dealer.SocketFactory`."""

    def __init__(self, environment: Environment, server: Server, process: Process) -> None:
        self._environment = environment
        self._server = server
        self._process = process

    def open(self, server_key: str) -> Dealer:
        return Dealer(self._environment.network, self._server.name, self._server.public_key, self._process)

    def close(self) -> None:
        """Does nothing, because the sockets share nothing."""


class _ObservedHandler:
    """The real handler, observed for what the daemon acknowledged."""

    def __init__(self, handler: SessionHandler, environment: Environment, server: Server) -> None:
        self._handler = handler
        self._environment = environment
        self._server = server
        self.hello = handler.hello
        self.on_opened = handler.on_opened
        self.on_confirmed = handler.on_confirmed
        self.send_output = handler.send_output
        self.on_closed = handler.on_closed

    def on_received(self, received: Received) -> None:
        """Checks that what a frame acknowledges is durable at the daemon."""
        observer = self._environment.observer
        for message in received.acknowledged:
            observer.acknowledged(self._server, message)
        for loose in received.loose:
            if isinstance(loose, messages.OutputAck):
                observer.output_acknowledged(loose)
        self._handler.on_received(received)


class _SpoolReader:
    """`spool.SpoolReader` over the simulated disks."""

    def __init__(self, chunks: list[SpoolChunk]) -> None:
        self._chunks = chunks
        self._index = 0

    def read(self, from_offset: int, max_bytes: int, *, tail: bool = True) -> list[SpoolChunk]:
        """Returns the content of the spool from an offset on."""
        del tail
        if self._index >= len(self._chunks) or from_offset < self._chunks[self._index].offset:
            self._index = 0
        for index in range(self._index, len(self._chunks)):
            chunk = self._chunks[index]
            if chunk.end <= from_offset:
                continue
            self._index = index
            begin = max(0, from_offset - chunk.offset)
            return [SpoolChunk(chunk.offset + begin, chunk.at, chunk.stream, chunk.data[begin : begin + max_bytes])]
        return []


class _Steps(ProcessSteps):
    """The real steps without files: a script is passed to the simulated runner unchanged."""

    server: Server
    workspaces: _WorkingDirectories

    def start(self, task: messages.Task, node_input: NodeInput) -> None:
        """Passes the script to the simulated runner unchanged."""
        assert isinstance(node_input, schema.Shell), "the simulated runner knows scripts only"
        self.workspaces.enter(task)
        name = self.adopt(task.key)
        self.server.names[name] = task.key
        self.server.directories[name] = self._directory_numbers[task.key]
        spec = StepSpec(
            name=name,
            argv=["simulated", node_input.run],
            cwd="/",
            env={},
            timeout_ms=task.timeout_ms,
            lease_ms=task.lease_ms,
            stop_signal=process_steps._signal_number(task.stop_signal),
            grace_ms=task.grace_ms,
            output_bytes_max=task.output_bytes_max,
        )
        self._runner.start(spec)
        self._requested[task.key] = spec

    def collect(self, key: TaskId, result: StepResult, cancel_reason: str) -> NodeResult:
        """Returns the result of the ended process, with the outputs that it set."""
        end = exits.interpret(result, cancel_reason=cancel_reason)
        directory = self._directory_numbers.get(key)
        if result.reason not in exits.RAN or directory is None:
            return end
        return msgspec.structs.replace(end, outputs=dict(self.server.files.get(directory, {})))


class _Directories:
    """`stepdirs.StepDirectories` without files: numbers that are reused, with their content."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._taken: set[int] = set()

    def adopt(self, number: int) -> None:
        self._taken.add(number)

    def sweep(self) -> None:
        for number in list(self._server.files):
            if number not in self._taken:
                del self._server.files[number]

    def take(self) -> int:
        number = next(number for number in range(1, 1_000_000) if number not in self._taken)
        self._taken.add(number)
        return number

    def path(self, number: int) -> str:
        return f"/simulated/{self._server.name}/steps/{number}"

    def release(self, number: int) -> None:
        if number in self._taken:
            self._taken.discard(number)
            self._server.files.pop(number, None)


class _Directory:
    """A directory that is being filled, as `store.PartialTree` is on disk."""

    def __init__(self, entries: list[FileEntry]) -> None:
        self.path = self
        self.entries = entries
        self.files: dict[str, bytes] = {}
        self.missing: dict[bytes, list[FileEntry]] = {}


class _Trees:
    """`trees.store.TreeStore` without files. Reused files are sometimes gone, as if space had run out."""

    def __init__(self, environment: Environment, server: Server) -> None:
        self._environment = environment
        self._blobs = server.blobs

    def begin(self, tree: messages.Tree, entries: list[FileEntry]) -> _Directory:
        making = _Directory(entries)
        if self._environment.chance.files.random() < KEPT_FILES_LOST:
            self._blobs.clear()
        for entry in entries:
            content = self._blobs.get(entry.blob)
            if content is None:
                making.missing.setdefault(entry.blob, []).append(entry)
            else:
                making.files[entry.path.decode()] = content
        return making

    def add(self, making: _Directory, arrived: list[tuple[bytes, bytes]]) -> None:
        for blob, content in arrived:
            assert blob_id(content) == blob, "the daemon sends what was asked for"
            self._blobs[blob] = content
            for entry in making.missing.pop(blob):
                making.files[entry.path.decode()] = content

    def finish(self, making: _Directory) -> None:
        assert not making.missing, "a checkout ends with all of its files"

    def drop(self, making: _Directory) -> None:
        making.files.clear()

    def prepare_spare(self, tree: messages.Tree, files: dict[str, bytes]) -> None:
        """Does nothing: a spare directory has no part in a simulation."""


class _WorkingDirectories:
    """`WorkingDirectories` without files: which jobs have a directory on the server."""

    def __init__(self, environment: Environment, server: Server) -> None:
        self._environment = environment
        self._jobs = server.workspaces

    def enter(self, task: messages.Task) -> None:
        files = self._jobs.setdefault((task.key.attempt.run, task.key.attempt.job), {})
        self._environment.observer.entered(task, files)

    def has(self, run: str, job: str) -> bool:
        return (run, job) in self._jobs

    def paths(self, run: str, job: str) -> dict[str, str]:
        """Returns none: no simulated workflow uses the paths of its server."""
        return {}

    def adopt(self, run: str, job: str, directory: _Directory) -> None:
        self._environment.expect((run, job) not in self._jobs, f"{job} of {run} got a second directory")
        self._jobs[run, job] = directory.files

    def jobs(self) -> list[tuple[str, str]]:
        return list(self._jobs)

    def release(self, run: str, job: str, *, is_kept: bool = False) -> None:
        """Drops the directory: in a simulation there is never space for those that a server keeps."""
        self._environment.observer.released(run, job)
        self._jobs.pop((run, job), None)

    def take_over(self, run: str, job: str, earlier: messages.JobName) -> None:
        if self.has(run, job):
            return
        files = self._jobs.pop((earlier.run, earlier.job), None)
        if files is None:
            raise Rejected("WF754", f"the directory of job {earlier.job} of run {earlier.run} is not on this server")
        self._jobs[run, job] = files
