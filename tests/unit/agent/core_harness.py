"""A `Core` with a scripted runner, and a link that remembers sent messages."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

from tests.patience import PATIENCE_S
from waterflow_agent.checkout.file_requests import FileRequests
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.checkout.tree_store import TreeStore
from waterflow_agent.core import Core
from waterflow_agent.errors import Retryable
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.runner.reports import HeldSteps, RunnerAbilities, RunnerReport, StepResult, StepSpec
from waterflow_agent.runner.spool import SpoolWriter
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.testing import FakeClock, task_id
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import TaskId
from waterflow_agent.wire.session import Received


class FakeRunner:
    """Remembers its requests and starts nothing."""

    def __init__(self, root: Path, changed: asyncio.Event) -> None:
        self.root = root
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.forgotten: list[str] = []
        self.confirmed: list[int] = []
        self.ended_jobs: list[str] = []
        self._changed = changed

    @property
    def abilities(self) -> RunnerAbilities:
        return RunnerAbilities(can_switch=False, limits=frozenset())

    def directory(self, name: str) -> Path:
        return self.root / name

    def start(self, spec: StepSpec) -> None:
        self.started.append(spec.name)
        self._changed.set()

    def cancel(self, name: str, *, is_forced: bool = False) -> None:
        self.cancelled.append(name)

    def end_job(self, job: str) -> None:
        self.ended_jobs.append(job)

    def confirm(self, at: int) -> None:
        self.confirmed.append(at)

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    async def receive(self) -> list[RunnerReport]:
        return []


class FakeLink:
    """Remembers sent messages."""

    def __init__(self, changed: asyncio.Event) -> None:
        self.sent: list[messages.AgentMessage] = []
        self.acknowledged = 0
        self._changed = changed

    def send(self, message: messages.AgentMessage) -> None:
        self.sent.append(message)
        self._changed.set()

    def acknowledge(self, number: int) -> None:
        self.acknowledged = number

    def wake(self) -> None:
        return

    def results(self) -> list[messages.Finished]:
        return [message for message in self.sent if isinstance(message, messages.Finished)]

    def file_requests(self) -> list[messages.FileRequest]:
        return [message for message in self.sent if isinstance(message, messages.FileRequest)]


class CoreBench:
    """A core and everything around it."""

    def __init__(self, root: Path, secrets: SecretStore | None = None) -> None:
        self._changed = asyncio.Event()
        self.root = root
        self.clock = FakeClock()
        self.runner = FakeRunner(root / "attempts", self._changed)
        self.link = FakeLink(self._changed)
        self.journal = Journal(root / "journal")
        #: What the agent knows of its Docker engine.
        self.docker: messages.DockerEngine | None = None
        self.ledger = Ledger(boot_id="boot", instance="instance", slots=4)
        workspaces = WorkingDirectories(root / "work", self.clock)
        steps = ProcessSteps(self.runner, workspaces, StepDirectories(root / "steps", workspaces.discard), {})
        store = TreeStore(root / "trees", 1 << 20, workspaces.discard)
        self.core = Core(
            ledger=self.ledger,
            journal=self.journal,
            steps=steps,
            checkouts=CheckoutService(store, FileRequests(self.link.send), workspaces),
            sender=self.link,
            secrets=secrets,
            clock=self.clock,
            docker=lambda: self.docker,
        )

    def settle(self) -> None:
        """Starts with a runner that has no attempts."""
        self.core.restore()
        self.report(HeldSteps(()))

    def report(self, *reports: RunnerReport) -> None:
        """Passes reports of the runner to their handler."""
        self.core.reports.on_reports(reports)

    def receive(self, received: Received) -> None:
        """Passes a frame of the daemon to its handler."""
        self.core.session.on_received(received)

    def offer(
        self, key: TaskId, *, secrets: tuple[str, ...] = (), tree: messages.Tree | None = None, **params: object
    ) -> None:
        """Offers an attempt of the node that has these parameters."""
        node = "log" if "message" in params else "set-outputs" if "outputs" in params else "shell"
        task = messages.Task(
            key=key,
            node=node,
            params=dict(params),
            env={},
            step_name="",
            working_directory=None,
            timeout_ms=1_000,
            stop_signal="TERM",
            grace_ms=1,
            output_bytes_max=1_000,
            boot_id=self.ledger.boot_id,
            instance=self.ledger.instance,
            secrets=list(secrets),
            tree=tree,
        )
        self.receive(Received(numbered=[(self.link.acknowledged + 1, messages.Offer(task))]))

    def output(self) -> bytes:
        """Returns all output that was sent."""
        self.core.session.send_output(0)
        outputs = [message for message in self.link.sent if isinstance(message, messages.Output)]
        return b"".join(chunk.data for output in outputs for chunk in output.chunks)

    def spool(self, printed: bytes) -> StepResult:
        """Writes the output of the step that was started last. Returns its exit."""
        directory = self.runner.root / self.runner.started[-1]
        directory.mkdir(parents=True)
        writer = SpoolWriter(str(directory / "output"), 1_000)
        writer.append(1, memoryview(printed), 1)
        writer.close(1)
        return dataclasses.replace(exited(), output_bytes=len(printed))

    def journal_bytes(self) -> bytes:
        """Returns the content of all segments of the journal."""
        return b"".join(path.read_bytes() for path in (self.root / "journal").iterdir())

    async def until(self, is_true: Callable[[], object]) -> None:
        """Waits for a condition that becomes true when something is sent or started."""
        async with asyncio.timeout(PATIENCE_S):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    async def close(self) -> None:
        """Waits for the background tasks and closes the journal."""
        await self.core.close()
        self.journal.close()


def attempt(number: int = 1) -> TaskId:
    """Returns the attempt of the step with this number."""
    return task_id("run", "job", f"s{number}", 1, 1)


def exited(reason: str = "exited", exit_code: int | None = 0) -> StepResult:
    """Returns the exit of a step without output."""
    return StepResult(
        exit_code=exit_code, signal=None, reason=reason, started_at=1, finished_at=2, output_bytes=0, output_dropped=0
    )


def no_space(*_: object) -> None:
    """Raises the error of a journal on a full disk."""
    raise Retryable("WF302", "no space left", after_s=1)
