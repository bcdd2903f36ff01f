"""Handles what the step runner reports: steps that started, printed or exited, and what it holds after a reconnect.

Rules of this file:

- `Started` is lazy: it is sent when the attempt is still running after `STARTED_DELAY_MS`. `Finished` does not wait for output.
- The size of an output log is part of the result. A small log is measured at once, a large one in a thread.
- What the runner holds and the ledger does not know is stopped, or deleted if it has exited.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from waterflow_agent.attempts import Outcome
from waterflow_agent.background import BackgroundTasks
from waterflow_agent.clock import Clock
from waterflow_agent.display import missing_line
from waterflow_agent.execution.attempt_executor import AttemptExecutor
from waterflow_agent.execution.attempt_output import AttemptOutput
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.nodes import exits
from waterflow_agent.nodes.outcome import NodeResult
from waterflow_agent.runner import reports, spool
from waterflow_agent.state.ledger import Ledger, LedgerEntry, RunnerView
from waterflow_agent.wire.messages import AttemptState, TaskId

logger = logging.getLogger(__name__)

#: An attempt that ends within this needs no `Started`.
STARTED_DELAY_MS = 50
#: Logs up to this size are measured on the loop's thread, which takes less time than starting a thread.
MEASURED_AT_ONCE_BYTES = 64 << 10
#: A runner that is about to be replaced refuses to start steps; the next one answers within this time.
START_AGAIN_S = 0.2


class RunnerReportHandler:
    """Handles the reports of one runner."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        executor: AttemptExecutor,
        steps: ProcessSteps,
        output: AttemptOutput,
        background: BackgroundTasks,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._executor = executor
        self._steps = steps
        self._output = output
        self._background = background
        self._clock = clock
        #: Attempts that started a moment ago, and when to report that.
        self._started: deque[tuple[int, TaskId]] = deque()

    def on_reports(self, batch: Sequence[reports.RunnerReport]) -> None:
        """Handles reports, in order."""
        for report in batch:
            match report:
                case reports.StepOutput():
                    key = self._steps.key_of(report.name)
                    if key is not None:
                        self._output.sender.on_growth(key)
                case reports.StepExited():
                    self._on_exited(report.name, report.result)
                case reports.StepStarted():
                    self._on_started(report.name, report.at)
                case reports.HeldSteps():
                    self._on_held(report.attempts)
                    self._steps.held_jobs(report.jobs)
                case reports.JobEnded():
                    _log_ended_job(report)
                case reports.RequestRefused():
                    self._on_refused(report)
        self._executor.commit()

    def _on_started(self, name: str, at: int | None) -> None:
        key = self._steps.key_of(name)
        if key is not None and self._ledger.started(key, self._clock.wall_ms() if at is None else at):
            if not self._started:
                self._background.call_later(STARTED_DELAY_MS / 1_000, self._report_started)
            self._started.append((self._clock.boot_ms() + STARTED_DELAY_MS, key))

    def _report_started(self) -> None:
        """Reports the attempts that have been running for a while."""
        now = self._clock.boot_ms()
        while self._started and self._started[0][0] <= now:
            entry = self._ledger.get(self._started.popleft()[1])
            if entry is not None:
                self._executor.report_started(entry)
        if self._started:
            self._background.call_later(max(1, self._started[0][0] - now) / 1_000, self._report_started)
        self._executor.commit()

    def _on_exited(self, name: str, result: reports.StepResult) -> None:
        key = self._steps.key_of(name)
        entry = None if key is None else self._ledger.get(key)
        if entry is None:
            self._steps.forget_unknown(name)
            return
        if not entry.is_live:
            return
        end = self._steps.collect(entry.key, result, entry.cancel.reason if entry.cancel is not None else "")
        is_small = result.output_bytes <= MEASURED_AT_ONCE_BYTES
        is_rewritten = entry.has_secrets or result.has_commands
        if result.output_dropped or result.reason == "lost" or (is_rewritten and not is_small):
            self._background.spawn(self._measure_and_finish(entry, result, end), "output-measure")
        elif is_rewritten:
            log = self._output.log_to_measure(entry)
            self._executor.finish_process(entry, result, end, log.size(), log)
        else:
            self._executor.finish_process(entry, result, end, result.output_bytes)

    async def _measure_and_finish(self, entry: LedgerEntry, result: reports.StepResult, end: NodeResult) -> None:
        """Finishes an attempt whose log may differ in size from its spool, because of gaps, masks and commands."""
        log = self._output.log_to_measure(entry)
        size = await asyncio.to_thread(log.size)
        missing = result.output_bytes - log.spool_end
        if result.output_dropped and missing > 0:
            # The disk was still full at the exit, so the runner could not note in the spool that its end is missing.
            end = msgspec.structs.replace(end, printed=[(spool.STDERR, missing_line(missing)), *end.printed])
        self._executor.finish_process(entry, result, end, size, log)
        self._executor.commit()

    def _on_refused(self, report: reports.RequestRefused) -> None:
        key = None if report.name is None else self._steps.key_of(report.name)
        entry = None if key is None else self._ledger.get(key)
        logger.warning("the step runner refused a request: %s", report.text)
        if entry is None or entry.state is not AttemptState.ACCEPTED or not report.text.startswith("start:"):
            return
        if "stopping" in report.text:
            self._background.call_later(START_AGAIN_S, lambda: self._steps.start_again(entry.key))
            return
        # The name was used before: something of this attempt may have run, with an unknown outcome.
        text = f"the step runner refused to start it: {report.text}"
        self._executor.finish_unstarted(
            entry.key, NodeResult(outcome=Outcome.LOST, reason_code="outcome-unknown", reason_text=text)
        )

    def _on_held(self, held: Sequence[reports.HeldStep]) -> None:
        """Compares what the runner holds with the ledger."""
        unknown = {step.name: step for step in held}
        views: dict[TaskId, RunnerView] = {}
        exited: list[tuple[str, reports.StepResult]] = []
        for entry in self._ledger:
            name = self._steps.adopt(entry.key) if entry.is_live or entry.has_spool else None
            step = unknown.pop(name, None) if name is not None else None
            if not entry.is_live:
                continue
            if step is None:
                is_requested = self._steps.is_requested(entry.key) or self._executor.is_waiting(entry.key)
                is_pending = entry.state is AttemptState.ACCEPTED and is_requested
                views[entry.key] = RunnerView.PENDING if is_pending else RunnerView.UNKNOWN
                continue
            self._output.open(entry)
            self._output.sender.on_growth(entry.key)
            if step.result is not None:
                exited.append((step.name, step.result))
                views[entry.key] = RunnerView.ENDED
            else:
                self._on_started(step.name, step.at)
                views[entry.key] = RunnerView.RUNNING
        for action in self._ledger.settle(views, self._clock.wall_ms()):
            self._executor.carry_out(action)
        for exited_name, result in exited:
            self._on_exited(exited_name, result)
        self._drop_unknown(unknown.values())
        self._executor.settle()

    def _drop_unknown(self, unknown: Iterable[reports.HeldStep]) -> None:
        for step in unknown:
            if step.result is not None:
                self._steps.forget_unknown(step.name)
            else:
                logger.warning("stopping %s: it runs on this server, but the journal does not know it", step.name)
                self._steps.stop_unknown(step.name)


def _log_ended_job(report: reports.JobEnded) -> None:
    """Names what steps of a job have left behind and what was ended with it."""
    if report.processes:
        run, job = report.job.split("/")[-2:]
        logger.info(
            "job %s of run %s has ended, and with it what its steps had left behind: %s",
            job,
            run,
            exits.described(report.processes),
            extra={"run": run, "job": job},
        )
