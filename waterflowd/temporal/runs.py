"""Starts, cancels and decides runs on Temporal. Implements `ports.Runs`.

Rules of this file:

- Decide first, then do under a fixed name: the id, number and trigger key of a run are in the daemon's own log before its
  workflow is started, so that a start which is repeated, also after a crash, starts it once.
- Temporal deletes a run some time after its end, but its key must not start another one: the log has which runs were started.
- The facts of a repository are recorded after the runs that follow from them were started. A crash in between repeats the
  starts with the same keys.
- A request to an open run is an update: its turn answers with the row, or with a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflowd.engine import Run, inputs, step
from waterflowd.host import turn
from waterflowd.host.driver import Driver, ReservedRun, started_key
from waterflowd.host.run_summary import summary
from waterflowd.model import plan
from waterflowd.model.ids import JobId, RunId, StepId, StreamName, run_stream
from waterflowd.model.records import RunSummary, StartRequest
from waterflowd.temporal import messages, orders, run_turns, updates
from waterflowd.temporal.history import TemporalHistory
from waterflowd.temporal.stream_reader import NotFoundError, reported
from waterflowd.temporal.updates import NoAnswerError, ask


class TemporalRuns:
    """See the file's docstring."""

    def __init__(self, client: Client, driver: Driver, history: TemporalHistory) -> None:
        self._client = client
        self._driver = driver
        self._history = history

    async def start(self, request: StartRequest, run: RunId | None = None) -> RunSummary:
        """See `ports.Runs`. `run` is the id, if it is decided already."""
        known = await self._known(request)
        row = await self._history.run(known) if known is not None else None
        if known is not None and row is not None:
            # The daemon may have ended between the start and its record.
            if not await self._was_started(known):
                await self._driver.confirm(known)
            return row
        if known is not None and await self._was_started(known):
            text = f"this trigger key has started run {known}, which Temporal no longer keeps; use a new key"
            raise Rejected("WF606", text, status=409)
        [reserved] = await self._driver.reserve([request], run)
        return await self._start(reserved)

    async def apply(self, stream: StreamName, facts: Sequence[Any], starts: Sequence[StartRequest]) -> list[RunId]:
        """See `ports.Runs`. Every start has a trigger key, because it may be repeated."""
        started = []
        for request in starts:
            known = await self._known(request)
            if known is None or not await self._was_started(known):
                known = (await self.start(request)).id
            started.append(known)
        await self.record(stream, facts)
        return started

    async def _known(self, request: StartRequest) -> RunId | None:
        """The run that one of the request's trigger keys was reserved for."""
        for key in (request.trigger.key, *request.earlier_keys):
            known = await self._history.run_for_key(key, request.repository) if key is not None else None
            if known is not None:
                return known
        return None

    async def _was_started(self, run: RunId) -> bool:
        return await self._history.run_for_key(started_key(run), None) is not None

    async def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """See `ports.Runs`."""
        await self._driver.record(stream, facts)

    async def decide(
        self, run: RunId, job: JobId, step: StepId | None, by: str, *, is_approved: bool, comment: str = ""
    ) -> RunSummary:
        """See `ports.Runs`."""
        decision = inputs.DecideApproval(job=job, step=step, by=by, is_approved=is_approved, comment=comment)
        return await self._request(run, decision)

    async def cancel(self, run: RunId, by: str, *, is_forced: bool = False) -> RunSummary:
        """See `ports.Runs`."""
        return await self._request(run, inputs.CancelRun(by=by, is_forced=is_forced))

    async def _start(self, reserved: ReservedRun) -> RunSummary:
        row = _first_row(reserved)
        first = messages.SignalReceived(number=1, content=orders.INPUTS.pack(reserved.start))
        begin = messages.Begin(subject=reserved.plan, inputs=[first], number=1)
        try:
            with reported():
                await self._client.start_workflow(
                    messages.WORKFLOW_TYPE,
                    begin,
                    id=run_stream(reserved.run),
                    task_queue=orders.STREAMS_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    memo={run_turns.ROW_MEMO: run_turns.ROWS.pack(row)},
                    search_attributes=_attributes(run_turns.attributes(row)),
                    static_summary=f"{row.name} #{row.number}",
                )
        except WorkflowAlreadyStartedError:
            row = await self._history.run(reserved.run) or row
        except NotFoundError as error:
            raise Stalled("WF805", f"the namespace of temporal.namespace does not exist: {error}") from error
        if reserved.start.trigger.key is not None:
            await self._driver.confirm(reserved.run)
        return row

    async def _request(self, run: RunId, item: inputs.Input) -> RunSummary:
        """What the run's turn answers. Raises `Rejected` for a refusal, and for a run that is not open."""
        turn.check_storable([item])
        content = orders.INPUTS.pack(item)
        try:
            answered = await ask(self._client, run_stream(run), content)
        except NotFoundError:
            raise await self._not_open(run) from None
        except NoAnswerError:
            raise await self._no_answer(run) from None
        answer: run_turns.Answer = run_turns.ANSWERS.unpack(answered)
        if answer.refusal is not None:
            raise answer.refusal.error
        assert answer.row is not None, "an answer is a row or a refusal"
        return answer.row

    async def _not_open(self, run: RunId) -> Rejected:
        if await self._history.run(run) is None:
            return Rejected("WF604", f"there is no run {run}", status=404)
        return Rejected("WF606", f"run {run} is already completed", status=409)

    async def _no_answer(self, run: RunId) -> Rejected | Retryable:
        reason = await self._history.stalled(run)
        if reason:
            return Rejected("WF606", f"run {run} is stalled: {reason}", status=409)
        return Retryable(
            "WF802",
            f"run {run} has not answered within {updates.ANSWER_S_MAX:g} s; it may still take the request;"
            f" next: look at the run before you repeat the request",
        )


def _first_row(reserved: ReservedRun) -> RunSummary:
    """The row of a run that has just been created, as its first turn will see it."""
    run = Run(reserved.run, plan.decode(reserved.plan))
    try:
        step(run, reserved.start, reserved.at)
    except Exception as error:  # a bug that would stall the run: it is not started at all
        raise Stalled("WF403", f"run {reserved.run} could not be started: {error}") from error
    return summary(run)


def _attributes(values: dict[str, str | int]) -> TypedSearchAttributes:
    return TypedSearchAttributes(
        [
            SearchAttributePair(SearchAttributeKey.for_keyword(name), value)
            if isinstance(value, str)
            else SearchAttributePair(SearchAttributeKey.for_int(name), value)
            for name, value in values.items()
        ]
    )
