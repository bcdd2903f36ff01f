"""The parts of an agent between its two connections, to the daemon and to the step runner, wired together.

`agent` runs a `Core` with real connections; the simulator, the tests and the benchmarks bring their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from waterflow_agent import machine
from waterflow_agent.artifacts.relay import ArtifactRelay
from waterflow_agent.background import BackgroundTasks
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.clock import Clock
from waterflow_agent.execution.attempt_executor import AttemptExecutor
from waterflow_agent.execution.attempt_output import AttemptOutput
from waterflow_agent.execution.output import OutputSender
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.execution.report_handler import RunnerReportHandler
from waterflow_agent.nodes.own.catalog import NodeCatalog
from waterflow_agent.session.handler import SessionHandler
from waterflow_agent.session.link import MessageSender
from waterflow_agent.state import status
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.journal_writer import JournalWriter
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.wire.messages import DockerEngine


class Core:
    """Executor and handlers over one ledger and one journal. Call `restore` before anything is passed to the handlers."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        journal: Journal,
        steps: ProcessSteps,
        checkouts: CheckoutService,
        artifacts: ArtifactRelay | None = None,
        sender: MessageSender,
        secrets: SecretStore | None = None,
        nodes: NodeCatalog | None = None,
        labels: dict[str, str] | None = None,
        clock: Clock | None = None,
        output_sender: OutputSender | None = None,
        installation: str = "",
        describe_machine: Callable[[], machine.Machine] = machine.describe,
        pause: Callable[[], str] = lambda: "",
        docker: Callable[[], DockerEngine | None] = lambda: None,
    ) -> None:
        """`pause` says why nothing new should be started although it could be, or is empty; `docker` is what is reported
        of the engine.
        """
        clock = clock or Clock()
        nodes = nodes or NodeCatalog()
        self.ledger = ledger
        self._journal = journal
        self._steps = steps
        self._artifacts = artifacts or ArtifactRelay(sender.send)
        self._pause = pause
        self._background = BackgroundTasks()
        self._writer = JournalWriter(journal, ledger, self._background.spawn)
        self._output = AttemptOutput(output_sender or OutputSender(), secrets or SecretStore(None), steps.spool_path)
        self.executor = AttemptExecutor(
            ledger=ledger,
            journal=self._writer,
            steps=steps,
            checkouts=checkouts,
            output=self._output,
            nodes=nodes,
            sender=sender,
            background=self._background,
            clock=clock,
        )
        self.reports = RunnerReportHandler(
            ledger=ledger,
            executor=self.executor,
            steps=steps,
            output=self._output,
            background=self._background,
            clock=clock,
        )
        self.session = SessionHandler(
            ledger=ledger,
            executor=self.executor,
            steps=steps,
            output=self._output,
            checkouts=checkouts,
            artifacts=self._artifacts,
            nodes=nodes,
            sender=sender,
            labels=labels or {},
            clock=clock,
            installation=installation,
            describe_machine=describe_machine,
            problem=lambda: self.problem,
            docker=docker,
        )

    @property
    def failure(self) -> asyncio.Future[None]:
        """Fails with the error of a background task, after which the agent has to stop."""
        return self._background.failure

    @property
    def problem(self) -> str:
        """Why nothing is started now, or ""."""
        return self._writer.problem or self._pause()

    def restore(self) -> None:
        """Restores the ledger from the journal. The runner's first report then settles it."""
        self.ledger.restore(*self._journal.read())
        self._steps.restore(self.ledger)
        self._output.restore(list(self.ledger))

    def attempts(self) -> list[status.AttemptStatus]:
        """Returns the attempts that are held, for the status file."""
        return [
            status.AttemptStatus(
                run=entry.key.attempt.run,
                job=entry.key.attempt.job,
                step=entry.key.attempt.step,
                step_name=entry.step_name or entry.key.attempt.step,
                attempt=entry.key.attempt.number,
                state=entry.state.value,
                started_at=entry.started_at,
            )
            for entry in self.ledger
        ]

    async def close(self) -> None:
        """Waits for the background tasks, so that the journal may be closed."""
        self._writer.close()
        await self.executor.close()
        await self._artifacts.close()
        await self._background.close()
