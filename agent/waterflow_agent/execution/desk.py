"""Carries out what the ledger decides: the desk of the link, and the ear of the step runner.

A turn: messages or reports come in, the ledger answers with moves, their records go to the journal in one write, and only
then are processes started, results sent and the daemon's messages acknowledged.

    offer ─▶ StartAttempt ─▶ journal ─▶ checkout ─▶ script, command ─▶ runner ─▶ exited ─▶ outputs ─▶ journal ─▶ Finished

Rules of this file:

- Everything runs on the loop's thread and nothing waits, except to measure an output log that has gaps.
- A node that runs inside the agent is one record, `Finished`: it cannot be half done.
- `Started` is lazy: sent when the attempt still runs after `STARTED_LAZY_MS`. `Finished` waits for no output.
- An end is masked before it becomes a result, so neither the journal nor a message has ever held a secret.
- An attempt that waits for its job's files is accepted and not begun: it can be cancelled, and a next process refuses it.
- Until the runner has said what it holds (`settled`), nothing is written and no session is to be opened.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Protocol

import waterflow_agent
from waterflow_agent import machine
from waterflow_agent.background import BackgroundTasks
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.config import Config
from waterflow_agent.errors import Rejected
from waterflow_agent.execution.output import OutputLog, OutputSender, chunks_of, missing_line
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.nodes import instant, parameters, schema
from waterflow_agent.nodes.outcome import NodeResult, failure, masked, withheld
from waterflow_agent.nodes.own.catalog import NodeCatalog
from waterflow_agent.nodes.own.code import Code
from waterflow_agent.runner import reports
from waterflow_agent.state import status
from waterflow_agent.state.journal import FULL, Journal
from waterflow_agent.state.journal_writer import JournalWriter
from waterflow_agent.state.ledger import (
    Ledger,
    LedgerAction,
    LedgerEntry,
    ReleaseAttempt,
    ReportResult,
    RunnerView,
    StartAttempt,
    StopAttempt,
    records,
)
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, Outcome, OutputChunk, TaskKey
from waterflow_agent.wire.session import Received

logger = logging.getLogger(__name__)

#: An attempt that ends within this needs no `Started`.
STARTED_LAZY_MS = 50
#: Up to this an output log is measured on the loop's thread, in less time than a thread takes to begin.
MEASURED_AT_ONCE_BYTES = 64 << 10
#: A runner that is about to be replaced refuses to start; the next one answers within this.
START_AGAIN_S = 0.2


class Sender(Protocol):
    """The desk's way out; `link.Link` is the real one."""

    def send(self, message: messages.AgentMessage) -> None:
        """Queues for the end of the turn; without a session it is owed, not queued."""
        ...

    def acknowledge(self, number: int) -> None:
        """The daemon's messages up to `number` are in the journal."""
        ...

    def wake(self) -> None:
        """Has `fill` called at the end of the turn."""
        ...


class Desk:
    """Ledger, journal, runner, output and link of one agent, tied together. Set `link` before the first session."""

    def __init__(
        self,
        *,
        config: Config,
        ledger: Ledger,
        journal: Journal,
        steps: ProcessSteps,
        checkouts: CheckoutService,
        book: SecretStore | None = None,
        catalog: NodeCatalog | None = None,
    ) -> None:
        self.ledger = ledger
        self.link: Sender | None = None
        #: Set once the runner has said what it holds, and the journal agrees.
        self.settled = asyncio.Event()
        self.groups: list[str] = []
        self._config = config
        self._background = BackgroundTasks()
        self._journal = JournalWriter(journal, ledger, self._background.spawn)
        self._steps = steps
        self._checkouts = checkouts
        self._book = SecretStore(None) if book is None else book
        self._catalog = NodeCatalog() if catalog is None else catalog
        self._offered: list[messages.OwnNode] = []
        self._pump = OutputSender()
        # What this turn has to do, in this order.
        self._facts: list[records.LedgerRecord | records.ReleasedRecord] = []
        self._starts: list[tuple[messages.Task, schema.Parameters | Code]] = []
        self._outgoing: list[messages.Started | messages.Finished] = []
        self._released: list[TaskKey] = []
        self._is_same_boot = True
        self._young: deque[tuple[int, TaskKey]] = deque()
        #: Attempts that wait for their job's files.
        self._waiting: dict[TaskKey, asyncio.Task[None]] = {}
        self._generation = 0

    @property
    def failure(self) -> asyncio.Future[None]:
        """Fails with what makes it impossible to go on."""
        return self._background.failure

    def restore(self, boot_id: str, facts: list[records.LedgerRecord | records.ReleasedRecord]) -> None:
        """Takes over what the journal says of an earlier start; `on_reports` with the runner's first word settles it."""
        self._is_same_boot = boot_id == self.ledger.boot_id
        for fact in facts:
            self.ledger.replay(fact)
        self._book.sweep(entry.key for entry in self.ledger if entry.has_secrets)
        for entry in self.ledger:
            if entry.result is None or entry.has_spool:
                # A finished one's directory may be another attempt's by now.
                self._steps.adopt(entry.key, entry.place if entry.result is None else 0)
            if entry.result is not None and entry.result.output_bytes:
                if entry.has_spool:
                    is_known = self._open_output(entry)
                else:
                    self._pump.open(entry.key, None)
                    is_known = True
                self._pump.finish(entry.key, entry.printed if is_known else [], entry.result.output_bytes)
        self._steps.ready()

    def hello(self, session: str) -> messages.Hello:
        """The opening of a session, with all that is held."""
        system, architecture = machine.system()
        self._offered = self._catalog.reported
        return messages.Hello(
            session=session,
            protocol=messages.PROTOCOL_VERSION,
            protocol_min=messages.PROTOCOL_VERSION_MIN,
            agent_version=waterflow_agent.__version__,
            instance=self.ledger.instance,
            machine_id=machine.machine_id(),
            boot_id=self.ledger.boot_id,
            slots=self.ledger.slots,
            hostname=machine.host_name(),
            os=system,
            arch=architecture,
            labels=self._config.labels,
            nodes=[*parameters.runnable(), schema.FROM_REPOSITORY, *self._catalog.names],
            held=self.ledger.held(),
            jobs=self._steps.jobs(),
            own_nodes=self._offered,
        )

    @property
    def is_outdated(self) -> bool:
        """Whether the last `hello` told of other nodes than there are now."""
        return self._offered != self._catalog.reported

    def opened(self, welcome: messages.Welcome) -> None:
        """Drops what the daemon does not want, and sends what is owed."""
        if welcome.generation < self._generation:
            logger.warning("the server's data is older than before: it was restored from a backup")
        self._generation = welcome.generation
        self.groups = welcome.groups
        self._steps.agent_name = welcome.name
        for move in self.ledger.forget(welcome.forget):
            self._carry_out(move)
        self._outgoing += self.ledger.owed()
        self._pump.rewind()
        self._checkouts.opened()
        self._commit()

    def received(self, received: Received) -> None:
        """One frame: what is acknowledged, how far the output came, offers and cancels."""
        now = _boot_ms()
        for message in received.acknowledged:
            if isinstance(message, messages.Finished):
                self._carry_out(self.ledger.result_taken(message.key))
        for loose in received.loose:
            if isinstance(loose, messages.FileResponse):
                self._checkouts.answered(loose)
            elif isinstance(loose, messages.OutputAck) and self._pump.acknowledge(loose.key, loose.offset, now):
                self._carry_out(self.ledger.output_taken(loose.key))
        for _, message in received.numbered:
            if isinstance(message, messages.Offer):
                self._carry_out(self.ledger.offer(message.task, _wall_ms()))
            elif isinstance(message, messages.Cancel):
                self._carry_out(self.ledger.cancel(message, _wall_ms()))
            elif isinstance(message, messages.Release):
                self._steps.release_job(message.run, message.job)
        self._commit()
        if received.numbered and self.link is not None:
            self.link.acknowledge(received.numbered[-1][0])

    def fill(self, now: int) -> int | None:
        """Sends the output that fits its window; gives when to ask again."""
        outputs, broken = self._pump.take(now)
        for output in outputs:
            self._send(output)
        for key in broken:
            logger.warning("%s: its output was removed on this server before it was sent", key)
            self._carry_out(self.ledger.output_taken(key))
        if broken:
            self._commit()
        return self._pump.next_wake_at()

    def closed(self, text: str) -> None:
        """Nothing to do: what was not acknowledged is owed again when the next session opens."""
        logger.debug("session closed: %s", text)

    def on_reports(self, batch: list[reports.RunnerReport]) -> None:
        """What the runner has to say, in order."""
        for report in batch:
            if isinstance(report, reports.StepOutput):
                key = self._steps.key_of(report.name)
                if key is not None:
                    self._pump.grown(key)
            elif isinstance(report, reports.StepExited):
                self._on_exited(report.name, report.result)
            elif isinstance(report, reports.StepStarted):
                self._on_started(report.name, report.at)
            elif isinstance(report, reports.HeldSteps):
                self._on_held(report)
            else:
                self._on_refused(report)
        self._commit()

    def _on_started(self, name: str, at: int | None) -> None:
        key = self._steps.key_of(name)
        if key is not None and self.ledger.started(key, _wall_ms() if at is None else at):
            if not self._young:
                self._background.call_later(STARTED_LAZY_MS / 1_000, self._announce)
            self._young.append((_boot_ms() + STARTED_LAZY_MS, key))

    def _announce(self) -> None:
        """Tells of attempts that have run for a while."""
        now = _boot_ms()
        while self._young and self._young[0][0] <= now:
            entry = self.ledger.get(self._young.popleft()[1])
            if entry is not None and entry.state is AttemptState.STARTED and entry.started_at is not None:
                self._facts.append(records.StartedRecord(entry.key, entry.started_at))
                self._outgoing.append(messages.Started(entry.key, entry.started_at))
        if self._young:
            self._background.call_later(max(1, self._young[0][0] - now) / 1_000, self._announce)
        self._commit()

    def _on_exited(self, name: str, result: reports.StepResult) -> None:
        key = self._steps.key_of(name)
        entry = None if key is None else self.ledger.get(key)
        if entry is None:
            self._steps.forget_unknown(name)
            return
        if not entry.is_live:
            return
        end = self._steps.collect(entry.key, result, entry.cancel.reason if entry.cancel is not None else "")
        is_small = result.output_bytes <= MEASURED_AT_ONCE_BYTES
        if result.output_dropped or result.reason == "lost" or (entry.has_secrets and not is_small):
            self._background.spawn(self._measure_and_finish(entry, result, end), "output-measure")
        elif entry.has_secrets:
            self._finish_process(entry, result, end, self._output_log(entry).size())
        else:
            self._finish_process(entry, result, end, result.output_bytes)

    async def _measure_and_finish(self, entry: LedgerEntry, result: reports.StepResult, end: NodeResult) -> None:
        """A spool with gaps has marks in the log, and masks are of another length than what they mask: both are counted."""
        size = await asyncio.to_thread(self._output_log(entry).size)
        self._finish_process(entry, result, end, size)
        self._commit()

    def _finish_process(self, entry: LedgerEntry, result: reports.StepResult, end: NodeResult, spool_size: int) -> None:
        if self.ledger.get(entry.key) is not entry or not entry.is_live:
            # Told twice, or dropped while its output was measured.
            return
        now = _wall_ms()
        end = self._masked(entry, end)
        printed = chunks_of(end.printed, now)
        total = spool_size + sum(len(chunk.data) for chunk in printed)
        has_spool = self._open_output(entry)
        if entry.has_secrets and spool_size == result.output_bytes and not result.output_dropped:
            # A mask is shorter than what it stands for, so there was none.
            self._pump.mark_clean(entry.key)
        is_output_taken = self._pump.finish(entry.key, printed, total)
        started_at = result.started_at if result.started_at is not None else entry.started_at
        times = (started_at if started_at is not None else now, result.finished_at)
        finished = _finished(entry.key, end, times, (total, result.output_dropped))
        self._carry_out(self.ledger.finish(finished, printed, has_spool=has_spool))
        if is_output_taken:
            self._carry_out(self.ledger.output_taken(entry.key))

    def _on_refused(self, report: reports.RequestRefused) -> None:
        key = None if report.name is None else self._steps.key_of(report.name)
        entry = None if key is None else self.ledger.get(key)
        logger.warning("the step runner refused: %s", report.text)
        if entry is None or entry.state is not AttemptState.ACCEPTED or not report.text.startswith("start:"):
            return
        if "stopping" in report.text:
            self._background.call_later(START_AGAIN_S, lambda: self._steps.begin_again(entry.key))
            return
        # The name was used: something of this attempt may have run, and nobody knows how it ended.
        end = NodeResult(
            outcome=Outcome.LOST, reason_code="outcome-unknown", reason_text=f"the step runner: {report.text}"
        )
        self._finish_unstarted(entry.key, end)

    def _on_held(self, held: reports.HeldSteps) -> None:
        """Compares what the runner has with what is held here."""
        attempts = {attempt.name: attempt for attempt in held.attempts}
        views: dict[TaskKey, RunnerView] = {}
        ended: list[reports.HeldStep] = []
        for entry in self.ledger:
            if not entry.is_live:
                if entry.has_spool:
                    attempts.pop(self._steps.adopt(entry.key), None)
                continue
            attempt = attempts.pop(self._steps.adopt(entry.key), None)
            if attempt is None:
                is_waited_for = self._steps.is_asked_for(entry.key) or entry.key in self._waiting
                is_pending = entry.state is AttemptState.ACCEPTED and is_waited_for
                views[entry.key] = RunnerView.PENDING if is_pending else RunnerView.UNKNOWN
                continue
            self._open_output(entry)
            self._pump.grown(entry.key)
            if attempt.result is not None:
                ended.append(attempt)
                views[entry.key] = RunnerView.ENDED
            else:
                self._on_started(attempt.name, attempt.at)
                views[entry.key] = RunnerView.RUNNING
        for move in self.ledger.settle(views, _wall_ms(), is_same_boot=self._is_same_boot):
            self._carry_out(move)
        for attempt in ended:
            if attempt.result is not None:
                self._on_exited(attempt.name, attempt.result)
        self._drop_unknown(attempts)
        self._on_settled()

    def _drop_unknown(self, attempts: dict[str, reports.HeldStep]) -> None:
        for attempt in attempts.values():
            if attempt.result is not None:
                self._steps.forget_unknown(attempt.name)
            else:
                logger.warning("%s runs here and is in no journal: it is stopped", attempt.name)
                self._steps.stop_unknown(attempt.name)

    def _on_settled(self) -> None:
        if self.settled.is_set():
            return
        # The ledger has all of it: one snapshot takes the place of what the journal said before.
        self._facts.clear()
        self._journal.begin()
        self._is_same_boot = True
        self.settled.set()

    def _carry_out(self, move: LedgerAction | None) -> None:
        """Notes what a move asks for; `_commit` does it."""
        if isinstance(move, StartAttempt):
            self._begin(move.task)
        elif isinstance(move, ReportResult):
            self._stop_waiting(move.record.result.key)
            self._facts.append(move.record)
            self._outgoing.append(move.record.result)
        elif isinstance(move, ReleaseAttempt):
            self._stop_waiting(move.key)
            self._facts.append(records.ReleasedRecord(move.key))
            self._released.append(move.key)
        elif isinstance(move, StopAttempt):
            self._steps.stop(move.key, is_forced=move.is_forced)

    def _begin(self, task: messages.Task) -> None:
        if task.secrets:
            self._book.keep(task.key, task.secrets)
        try:
            given = self._given(task)
        except Rejected as error:
            is_unknown = error.code == "WF701"
            end = NodeResult(
                outcome=Outcome.REFUSED if is_unknown else Outcome.FAILURE,
                reason_code="refused" if is_unknown else "node-error",
                reason_text=error.text,
            )
            self._finish_unstarted(task.key, end)
            return
        if not isinstance(given, instant.RECORDS):
            self._facts.append(self.ledger.placed(task.key, self._steps.reserve(task.key), _wall_ms()))
            self._starts.append((task, given))
        else:
            self._finish_unstarted(task.key, instant.run(given), task.output_bytes_max)

    def _given(self, task: messages.Task) -> schema.Parameters | Code:
        """What the node needs: its parameters, or the code that will look at them. Raises `Rejected` WF701 or WF702."""
        if schema.find(task.node) is None:
            if task.source:
                return Code(name=task.node, path=schema.path_of(task.node), text=task.source)
            code = self._catalog.code(task.node)
            if code is not None:
                return code
        node = parameters.find(task.node)
        return parameters.convert(task.node, node.parameters, task.params)

    def _finish_unstarted(self, key: TaskKey, end: NodeResult, output_bytes_max: int | None = None) -> None:
        """Ends an attempt that is no process (any more)."""
        now = _wall_ms()
        entry = self.ledger.get(key)
        if entry is not None:
            end = self._masked(entry, end)
        printed = chunks_of(end.printed, now)
        total = sum(len(chunk.data) for chunk in printed)
        dropped = 0
        if output_bytes_max is not None and total > output_bytes_max:
            printed, dropped = _cut(printed, output_bytes_max), total - output_bytes_max
            total = sum(len(chunk.data) for chunk in printed)
        finished = _finished(key, end, (now, now), (total, dropped))
        if total:
            self._pump.drop(key)
            self._pump.open(key, None)
            self._pump.finish(key, printed, total)
        self._carry_out(self.ledger.finish(finished, printed))

    def _commit(self) -> None:
        """Writes what this turn has found out, then acts on it."""
        if not self.settled.is_set():
            return
        while self._facts or self._starts or self._outgoing or self._released:
            facts, self._facts = self._facts, []
            starts, self._starts = self._starts, []
            outgoing, self._outgoing = self._outgoing, []
            released, self._released = self._released, []
            is_written = self._journal.write(facts)
            for task, given in starts:
                self._start(task, given, may_start=is_written)
            for message in outgoing:
                self._send(message)
                if is_written and isinstance(message, messages.Finished):
                    self._steps.collected(message.key)
            for key in released:
                self._pump.drop(key)
                self._steps.release(key)
                self._book.drop(key)
        if self.link is not None and self._pump.has_ready:
            self.link.wake()

    def _start(self, task: messages.Task, given: schema.Parameters | Code, *, may_start: bool) -> None:
        entry = self.ledger.get(task.key)
        if entry is None or not entry.is_live:
            # Cancelled, or not wanted any more, in the same turn.
            return
        if not may_start:
            text = "no space left in the agent's data directory"
            self._finish_unstarted(
                task.key, NodeResult(outcome=Outcome.REFUSED, reason_code="refused", reason_text=text)
            )
            return
        if task.tree is None or self._checkouts.has(task.key):
            self._start_process(entry, task, given)
        else:
            self._waiting[task.key] = self._background.spawn(self._check_out(entry, task, task.tree, given), "checkout")

    async def _check_out(
        self, entry: LedgerEntry, task: messages.Task, tree: messages.Tree, given: schema.Parameters | Code
    ) -> None:
        """Gives the job its files, and begins the attempt; cancelled when the attempt is over."""
        failed: Rejected | OSError | None = None
        try:
            await self._checkouts.make(task.key, tree)
        except (Rejected, OSError) as error:
            failed = error
        self._waiting.pop(task.key, None)
        if failed is not None:
            self._on_unprepared(task.key, failed)
        else:
            self._start_process(entry, task, given)
        self._commit()

    def _stop_waiting(self, key: TaskKey) -> None:
        task = self._waiting.pop(key, None)
        if task is not None:
            task.cancel()

    def _start_process(self, entry: LedgerEntry, task: messages.Task, given: schema.Parameters | Code) -> None:
        try:
            self._steps.begin(task, given, time.monotonic())
        except (Rejected, OSError) as error:
            self._on_unprepared(task.key, error)
        else:
            self.ledger.given(task.key)
            self._open_output(entry)

    def _on_unprepared(self, key: TaskKey, error: Rejected | OSError) -> None:
        """Nothing of the attempt ran: its files or its job's could not be made."""
        if isinstance(error, Rejected):
            self._finish_unstarted(key, failure("node-error", error.text))
            return
        place = f" ({error.filename})" if error.filename else ""
        text = f"cannot prepare the step's files: {error.strerror}{place}"
        if error.errno in FULL:
            # Nothing is wrong with the step: it is made again when there may be room.
            self._finish_unstarted(key, NodeResult(outcome=Outcome.REFUSED, reason_code="refused", reason_text=text))
        else:
            self._finish_unstarted(key, failure("spawn-failed", text))

    def _open_output(self, entry: LedgerEntry) -> bool:
        """Begins to send what the process prints; False when that is withheld."""
        masks = self._book.of(entry.key) if entry.has_secrets else None
        is_known = masks is not None or not entry.has_secrets
        self._pump.open(entry.key, self._steps.spool_path(entry.key) if is_known else None, masks)
        return is_known

    def _output_log(self, entry: LedgerEntry) -> OutputLog:
        """For measuring. Masking costs, so what was read for sending is not read again."""
        if not entry.has_secrets:
            return OutputLog(self._steps.spool_path(entry.key))
        self._open_output(entry)
        log = self._pump.rest(entry.key)
        assert log is not None, "it was opened just now"
        return log

    def _masked(self, entry: LedgerEntry, end: NodeResult) -> NodeResult:
        if not entry.has_secrets:
            return end
        masks = self._book.of(entry.key)
        return withheld(end) if masks is None else masked(end, masks)

    def _send(self, message: messages.AgentMessage) -> None:
        if self.link is not None:
            self.link.send(message)

    def attempts(self) -> list[status.Attempt]:
        """What is held, for people."""
        return [
            status.Attempt(
                run=entry.key.run,
                job=entry.key.job,
                step=entry.key.step,
                step_name=entry.step_name or entry.key.step,
                attempt=entry.key.attempt,
                state=entry.state.value,
                started_at=entry.started_at,
            )
            for entry in self.ledger
        ]

    async def close(self) -> None:
        """Waits for what is on its way in the background, so that the journal may be closed."""
        self._journal.close()
        for key in list(self._waiting):
            self._stop_waiting(key)
        await self._checkouts.close()
        await self._background.close()


def _finished(key: TaskKey, end: NodeResult, times: tuple[int, int], output: tuple[int, int]) -> messages.Finished:
    """The message; `times` are start and end, `output` is the log's size and what its cap left out."""
    return messages.Finished(
        key=key,
        outcome=end.outcome,
        exit_code=end.exit_code,
        reason_code=end.reason_code,
        reason_text=end.reason_text,
        outputs=end.outputs,
        env=end.env,
        started_at=times[0],
        finished_at=times[1],
        output_bytes=output[0],
        output_dropped=output[1],
    )


def _cut(printed: list[OutputChunk], bytes_max: int) -> list[OutputChunk]:
    """The first `bytes_max` bytes, and a line that counts the rest."""
    kept: list[OutputChunk] = []
    total = sum(len(chunk.data) for chunk in printed)
    left = bytes_max
    for chunk in printed:
        if left > 0:
            kept.append(OutputChunk(chunk.at, chunk.stream, chunk.data[:left]))
        left -= len(chunk.data)
    return [*kept, OutputChunk(printed[0].at, 2, missing_line(total - bytes_max))]


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
