"""Carries out what the ledger decides: starts attempts, stops them, and delivers their results.

    offer ─▶ StartAttempt ─▶ journal ─▶ checkout ─▶ command ─▶ runner ─▶ exit ─▶ ReportResult ─▶ journal ─▶ `Finished`

The handlers of messages and reports pass the ledger's actions to `carry_out` and call `commit` at the end of each turn of the
loop. `commit` writes all records of the turn in one write; only then are processes started and results sent.

Rules of this file:

- Everything runs on the loop's thread and nothing waits. A checkout runs as a background task.
- A node that runs inside the agent has a single record, its result: it cannot be half done.
- A result is masked before it is recorded, so neither the journal nor a message ever holds a secret.
- An attempt that waits for its job's files is accepted but not started: it can be cancelled, and is refused after a restart.
- Nothing is written or sent before the runner has reported what it holds (`is_settled`).
"""

from __future__ import annotations

import asyncio

from waterflow_agent.attempts import Outcome
from waterflow_agent.background import BackgroundTasks
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.clock import Clock
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.attempt_output import AttemptOutput
from waterflow_agent.execution.output import OutputLog, chunks_of, truncate
from waterflow_agent.execution.process_steps import NodeInput, ProcessSteps
from waterflow_agent.nodes import instant, parameters, schema
from waterflow_agent.nodes.outcome import NodeResult, failure
from waterflow_agent.nodes.own.catalog import NodeCatalog
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.runner.reports import StepResult
from waterflow_agent.session.link import MessageSender
from waterflow_agent.state.journal import DISK_FULL_ERRORS
from waterflow_agent.state.journal_writer import JournalWriter
from waterflow_agent.state.ledger import (
    Ledger,
    LedgerAction,
    LedgerEntry,
    ReleaseAttempt,
    ReportResult,
    StartAttempt,
    StopAttempt,
    records,
)
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, TaskId


class AttemptExecutor:
    """Executes the attempts of one agent."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        journal: JournalWriter,
        steps: ProcessSteps,
        checkouts: CheckoutService,
        output: AttemptOutput,
        nodes: NodeCatalog,
        sender: MessageSender,
        background: BackgroundTasks,
        clock: Clock,
    ) -> None:
        #: Set once the runner has reported what it holds, and the journal agrees with it.
        self.is_settled = asyncio.Event()
        self._ledger = ledger
        self._journal = journal
        self._steps = steps
        self._checkouts = checkouts
        self._output = output
        self._nodes = nodes
        self._sender = sender
        self._background = background
        self._clock = clock
        # The work of this turn, in the order in which `commit` does it.
        self._records: list[records.LedgerRecord | records.ReleasedRecord] = []
        self._starts: list[tuple[messages.Task, NodeInput]] = []
        self._outgoing: list[messages.Started | messages.Finished] = []
        self._released: list[TaskId] = []
        #: Attempts that wait for their job's files.
        self._waiting: dict[TaskId, asyncio.Task[None]] = {}

    def carry_out(self, action: LedgerAction | None) -> None:
        """Takes an action of the ledger; `commit` completes it."""
        if isinstance(action, StartAttempt):
            self._start(action.task)
        elif isinstance(action, ReportResult):
            self._stop_waiting(action.record.result.key)
            self._records.append(action.record)
            self._outgoing.append(action.record.result)
        elif isinstance(action, ReleaseAttempt):
            self._stop_waiting(action.key)
            self._records.append(records.ReleasedRecord(action.key))
            self._released.append(action.key)
        elif isinstance(action, StopAttempt):
            self._steps.stop(action.key, is_forced=action.is_forced)

    def report_started(self, entry: LedgerEntry) -> None:
        """Tells the daemon that an attempt is running."""
        if entry.state is AttemptState.STARTED and entry.started_at is not None:
            self._records.append(records.StartedRecord(entry.key, entry.started_at))
            self._outgoing.append(messages.Started(entry.key, entry.started_at))

    def send_undelivered(self) -> None:
        """Sends everything again that the daemon has not acknowledged."""
        self._outgoing += self._ledger.undelivered()

    def settle(self) -> None:
        """Notes that the ledger agrees with the runner. The first time, the journal starts with what the ledger holds."""
        if not self.is_settled.is_set():
            self._records.clear()
            self._journal.begin()
            self.is_settled.set()

    def is_waiting(self, key: TaskId) -> bool:
        """Whether the attempt waits for its job's files."""
        return key in self._waiting

    def commit(self) -> None:
        """Writes the records of this turn, then starts processes and sends messages."""
        if not self.is_settled.is_set():
            return
        while self._records or self._starts or self._outgoing or self._released:
            written, self._records = self._records, []
            starts, self._starts = self._starts, []
            outgoing, self._outgoing = self._outgoing, []
            released, self._released = self._released, []
            is_written = self._journal.write(written)
            for task, node_input in starts:
                self._start_written(task, node_input, is_written=is_written)
            for message in outgoing:
                self._sender.send(message)
                if is_written and isinstance(message, messages.Finished):
                    self._steps.release_files(message.key)
            for key in released:
                self._output.release(key)
                self._steps.release(key)
        if self._output.sender.has_ready:
            self._sender.wake()

    def finish_process(
        self, entry: LedgerEntry, result: StepResult, end: NodeResult, log_bytes: int, log: OutputLog | None = None
    ) -> None:
        """Ends an attempt whose process has exited; what it printed has `log_bytes` in its log (`log`, if it was read)."""
        if self._ledger.get(entry.key) is not entry or not entry.is_live:
            # Reported twice, or released while its output was measured.
            return
        now = self._clock.wall_ms()
        end = self._output.mask(entry, end, log)
        printed = chunks_of(end.printed, now)
        total = log_bytes + sum(len(chunk.data) for chunk in printed)
        has_spool = self._output.open(entry)
        # A mask is shorter than what it replaces: an unchanged size means that nothing was masked. Commands may print more.
        is_unchanged = log_bytes == result.output_bytes and not result.output_dropped
        is_clean = entry.has_secrets and is_unchanged and not result.has_commands
        is_acknowledged = self._output.finish_process(entry, printed, total, is_clean=is_clean)
        started_at = entry.started_at if result.started_at is None else result.started_at
        finished = _result_message(
            entry.key,
            end,
            started_at=now if started_at is None else started_at,
            finished_at=result.finished_at,
            output_bytes=total,
            output_dropped=result.output_dropped,
            annotations=[] if log is None else log.annotations,
        )
        self.carry_out(self._ledger.finish(finished, printed, has_spool=has_spool))
        if is_acknowledged:
            self.carry_out(self._ledger.output_acknowledged(entry.key))

    def finish_unstarted(self, key: TaskId, end: NodeResult, output_bytes_max: int | None = None) -> None:
        """Ends an attempt that has no process, or whose process is lost."""
        now = self._clock.wall_ms()
        entry = self._ledger.get(key)
        if entry is not None:
            end = self._output.mask(entry, end)
        printed, dropped = truncate(chunks_of(end.printed, now), output_bytes_max)
        total = sum(len(chunk.data) for chunk in printed)
        if total:
            self._output.finish_unstarted(key, printed, total)
        finished = _result_message(
            key, end, started_at=now, finished_at=now, output_bytes=total, output_dropped=dropped
        )
        self.carry_out(self._ledger.finish(finished, printed))

    async def close(self) -> None:
        """Cancels the checkouts that attempts wait for."""
        for key in list(self._waiting):
            self._stop_waiting(key)
        await self._checkouts.close()

    # Starting an attempt.

    def _start(self, task: messages.Task) -> None:
        if task.secrets:
            self._output.keep_secrets(task.key, task.secrets)
        task = self._steps.with_paths(task)
        try:
            node_input = self._node_input(task)
        except Rejected as error:
            is_unknown = error.code == "WF701"
            end = NodeResult(
                outcome=Outcome.REFUSED if is_unknown else Outcome.FAILURE,
                reason_code="refused" if is_unknown else "node-error",
                reason_text=error.text,
            )
            self.finish_unstarted(task.key, end)
            return
        if isinstance(node_input, instant.RECORDS):
            self.finish_unstarted(task.key, instant.run(node_input), task.output_bytes_max)
        else:
            directory = self._steps.reserve_directory(task.key)
            self._records.append(self._ledger.prepare(task.key, directory, self._clock.wall_ms()))
            self._starts.append((task, node_input))

    def _node_input(self, task: messages.Task) -> NodeInput:
        """Returns the node's parameters, or the code that checks them itself. Raises `Rejected` WF701 or WF702."""
        if schema.find(task.node) is None:
            if task.source:
                return Code(name=task.node, path=schema.path_of(task.node), text=task.source)
            code = self._nodes.code(task.node)
            if code is not None:
                return code
        node = parameters.find(task.node)
        return parameters.convert(task.node, node.parameters, task.params)

    def _start_written(self, task: messages.Task, node_input: NodeInput, *, is_written: bool) -> None:
        entry = self._ledger.get(task.key)
        if entry is None or not entry.is_live:
            # Cancelled or released in the same turn.
            return
        if not is_written:
            text = "no space left in the agent's data directory"
            self.finish_unstarted(
                task.key, NodeResult(outcome=Outcome.REFUSED, reason_code="refused", reason_text=text)
            )
            return
        try:
            self._steps.continue_job(task)
        except (Rejected, OSError) as error:
            self._finish_unprepared(task.key, error)
            return
        if task.tree is None or self._checkouts.has(task.key):
            self._start_process(entry, task, node_input)
        else:
            work = self._check_out(entry, task, task.tree, node_input)
            self._waiting[task.key] = self._background.spawn(work, "checkout")

    async def _check_out(
        self, entry: LedgerEntry, task: messages.Task, tree: messages.Tree, node_input: NodeInput
    ) -> None:
        """Fetches the job's files, then starts the attempt. Cancelled when the attempt ends."""
        failed: Rejected | OSError | None = None
        try:
            await self._checkouts.make(task.key, tree, self._steps.account(task))
        except (Rejected, OSError) as error:
            failed = error
        self._waiting.pop(task.key, None)
        if failed is not None:
            self._finish_unprepared(task.key, failed)
        else:
            self._start_process(entry, task, node_input)
        self.commit()

    def _stop_waiting(self, key: TaskId) -> None:
        task = self._waiting.pop(key, None)
        if task is not None:
            task.cancel()

    def _start_process(self, entry: LedgerEntry, task: messages.Task, node_input: NodeInput) -> None:
        try:
            self._steps.start(task, node_input)
        except (Rejected, OSError) as error:
            self._finish_unprepared(task.key, error)
        else:
            self._ledger.hand_over(task.key)
            self._output.open(entry)

    def _finish_unprepared(self, key: TaskId, error: Rejected | OSError) -> None:
        """Ends an attempt whose files, or whose job's files, could not be created; nothing of it ran."""
        if isinstance(error, Rejected):
            self.finish_unstarted(key, failure("node-error", error.text))
            return
        where = f" ({error.filename})" if error.filename else ""
        text = f"cannot prepare the step's files: {error.strerror}{where}"
        if error.errno in DISK_FULL_ERRORS:
            # The step itself is fine: it is offered again, when there may be room.
            self.finish_unstarted(key, NodeResult(outcome=Outcome.REFUSED, reason_code="refused", reason_text=text))
        else:
            self.finish_unstarted(key, failure("spawn-failed", text))


def _result_message(
    key: TaskId,
    end: NodeResult,
    *,
    started_at: int,
    finished_at: int,
    output_bytes: int,
    output_dropped: int,
    annotations: list[str] | None = None,
) -> messages.Finished:
    return messages.Finished(
        key=key,
        outcome=end.outcome,
        exit_code=end.exit_code,
        reason_code=end.reason_code,
        reason_text=end.reason_text,
        outputs=end.outputs,
        env=end.env,
        started_at=started_at,
        finished_at=finished_at,
        output_bytes=output_bytes,
        output_dropped=output_dropped,
        summary=end.summary.kept(),
        annotations=annotations or [],
    )
