"""Delivers the reports of agents to their runs, and calls back once Temporal has confirmed them.

Rules of this file

- The end of an attempt completes its activity. If the run does not have that activity, because it has given the attempt up or
  is between two executions, the run itself gets the report as a request, and a turn decides. If the run has ended, the report
  stands in the daemon's log alone.
- Acknowledgements are cumulative, so the callbacks of one agent are called in order, each when all reports before it are
  confirmed. A report that cannot be delivered, for example to a stalled run, holds back those after it.
- A report is delivered once at a time: what an agent sends again joins the delivery that is in progress.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from waterflow_agent.errors import Retryable
from waterflow_agent.wire.messages import TaskId
from waterflowd.engine import inputs
from waterflowd.model.ids import AgentId, AttemptId, RunId
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders
from waterflowd.temporal.gateway.activity_client import BACKOFF, ActivityClient

logger = logging.getLogger("waterflow.gateway")

#: Results that are remembered, in case their activity arrives once more. A result is a few hundred bytes.
REMEMBERED_MAX = 10_000

#: The limit of what one attempt reports, after deflating. At most 1.5 MB are stored with one turn, which contains the report as
#: a fact, and often once more in the task of a following step.
RESULT_BYTES_MAX = 700_000

#: Delivers the report of a start. Raises `Retryable`.
DeliverStart = Callable[[AgentId, TaskId], Awaitable[None]]
#: Called when the run has the end of an attempt.
Ended = Callable[[AgentId, TaskId], None]


@dataclass
class _Batch:
    """Reports that are acknowledged together."""

    durable: Callable[[], None]
    waits_for: int = 0


#: The agent, the attempt, and the kind of the report: an attempt that was given up as lost may still report its end.
_Key = tuple[AgentId, TaskId, type[inputs.TaskReport]]


class Reports:
    """See the module's docstring."""

    def __init__(self, activities: ActivityClient, deliver_start: DeliverStart, ended: Ended) -> None:
        self._activities = activities
        self._deliver_start = deliver_start
        self._ended = ended
        self._batches: dict[AgentId, deque[_Batch]] = {}
        self._in_progress: dict[_Key, list[_Batch]] = {}
        self._results: OrderedDict[tuple[AgentId, TaskId], bytes] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(
        self, agent: AgentId, reports: Sequence[tuple[RunId, inputs.TaskReport]], durable: Callable[[], None]
    ) -> None:
        """Delivers reports of the agent; calls `durable` when Temporal has confirmed them, and all earlier ones."""
        batch = _Batch(durable)
        self._batches.setdefault(agent, deque()).append(batch)
        for run, report in reports:
            task = TaskId(AttemptId(run, report.job, report.step, report.attempt), report.epoch)
            known = self._results.get((agent, task))
            # What an agent reports about an attempt that was given up is still delivered, as evidence.
            if known is not None and (isinstance(report, inputs.TaskStarted) or known == orders.INPUTS.pack(report)):
                continue
            key = (agent, task, type(report))
            waiting = self._in_progress.get(key)
            if waiting is None:
                waiting = self._in_progress[key] = []
                delivery = asyncio.create_task(self._deliver(key, report), name=f"report of {task.attempt}")
                self._tasks.add(delivery)
                delivery.add_done_callback(self._tasks.discard)
            waiting.append(batch)
            batch.waits_for += 1
        self._acknowledge(agent)

    def is_ending(self, agent: AgentId, task: TaskId) -> bool:
        """Whether the end of the attempt is on its way to the run."""
        return any((agent, task, kind) in self._in_progress for kind in (inputs.TaskFinished, inputs.TaskLost))

    def result(self, agent: AgentId, task: TaskId) -> bytes | None:
        """The end of the attempt that was delivered already; None if there is none, or it was long ago."""
        return self._results.get((agent, task))

    def session_ended(self, agent: AgentId) -> None:
        """Nothing is acknowledged in the agent's session any longer. Deliveries continue."""
        self._batches.pop(agent, None)

    async def close(self) -> None:
        """Stops. What is not confirmed is not acknowledged, so agents keep it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, key: _Key, report: inputs.TaskReport) -> None:
        agent, task, _ = key
        failures, text = 0, ""
        while True:
            try:
                if isinstance(report, inputs.TaskStarted):
                    await self._deliver_start(agent, task)
                else:
                    await self._deliver_end(agent, task, report)
                    self._ended(agent, task)
                break
            except Retryable as error:
                failures += 1
                if error.text != text:
                    text = error.text
                    logger.warning("cannot deliver a report about %s yet, will retry: %s", task.attempt, error)
            except Exception:
                # A supervision point: the agent keeps the report, and other reports are not affected.
                logger.exception("cannot deliver a report about %s; its agent keeps it", task.attempt)
                del self._in_progress[key]
                return
            await asyncio.sleep(BACKOFF.delay_s(failures))
        for batch in self._in_progress.pop(key):
            batch.waits_for -= 1
        self._acknowledge(agent)

    async def _deliver_end(self, agent: AgentId, task: TaskId, report: inputs.TaskReport) -> None:
        result = orders.INPUTS.pack(report)
        if len(result) > RESULT_BYTES_MAX:
            result = await asyncio.to_thread(_storable, report, result)
        if not await self._activities.complete(agent, task, result):
            # An agent may report the end of an attempt after the daemon has given it up: that is another request.
            name = "lost" if isinstance(report, inputs.TaskLost) else "report"
            identifier = f"{name}/{orders.task_activity(task, agent)}"
            if not await self._activities.request(task.attempt.run, identifier, result):
                logger.warning("dropped a report about %s: the run has ended", task.attempt)
        self._results.setdefault((agent, task), result)
        if len(self._results) > REMEMBERED_MAX:
            self._results.popitem(last=False)

    def _acknowledge(self, agent: AgentId) -> None:
        batches = self._batches.get(agent, deque())
        while batches and not batches[0].waits_for:
            batches.popleft().durable()


def _storable(report: inputs.TaskReport, content: bytes) -> bytes:
    """The report as it is stored; one that is too large becomes a failure without outputs. Takes milliseconds."""
    size = len(zlib.compress(content))
    if size <= RESULT_BYTES_MAX or not isinstance(report, inputs.TaskFinished):
        return content
    text = (
        f"the step's outputs and variables have {size:,} bytes after compression, and a step can pass on {RESULT_BYTES_MAX:,}"
        f" with the engine on Temporal [WF812]; next: pass large data in files"
    )
    failed = msgspec.structs.replace(
        report,
        outcome=Outcome.FAILURE if report.outcome is Outcome.SUCCESS else report.outcome,
        reason_code=ReasonCode.LIMIT.value,
        reason_text=text,
        outputs={},
        env={},
    )
    return orders.INPUTS.pack(failed)
