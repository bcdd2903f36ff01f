"""Starts, cancels and decides runs on Temporal. Implements `ports.Runs`.

Rules of this file:

- Decide first, then do under a fixed name: the id, number and trigger key of a run are in the stream of its repository before
  its workflow is started, together with the facts from which it follows. If the daemon ends in between, the leader of the
  repository starts the run.
- Temporal deletes a run some time after its end, but its key must not start another one as long as it is remembered.
- A request to an open run is an update: its turn answers with the row, or with a refusal.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from typing import Any

from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.engine import Run, inputs, step
from waterflowd.host import turn
from waterflowd.host.driver import OPEN_RUNS_MAX, Driver, check_share, runs_left
from waterflowd.host.run_summary import summary
from waterflowd.model import plan
from waterflowd.model.ids import JobId, RunId, StepId, StreamName, run_stream
from waterflowd.model.records import RunSummary, StartRequest
from waterflowd.temporal import orders, run_turns, updates
from waterflowd.temporal.reading.history import TemporalHistory
from waterflowd.temporal.reading.stream_reader import NotFoundError, reported
from waterflowd.temporal.repositories.ledger import DecidedRun, PreparedRun
from waterflowd.temporal.repositories.streams import RepositoryStream, RepositoryStreams
from waterflowd.temporal.updates import NoAnswerError, ask
from waterflowd.temporal.workflow import messages

logger = logging.getLogger("waterflow.temporal")


class TemporalRuns:
    """See the file's docstring."""

    def __init__(
        self, client: Client, driver: Driver, history: TemporalHistory, repositories: RepositoryStreams
    ) -> None:
        """`driver` checks starts, and records what is not on Temporal yet."""
        self._client = client
        self._driver = driver
        self._history = history
        self._repositories = repositories

    async def start(self, request: StartRequest, run: RunId | None = None) -> RunSummary:
        """See `ports.Runs`. `run` is the id, if it is decided already."""
        stream = self._repositories.of(request.repository)
        known = self._known(stream, request)
        if known is None:
            await self._check_open_runs(request.repository)
            [known] = await self._record(stream, (), [request], run)
        decided = stream.ledger.unstarted.get(known)
        row = await self._history.run(known)
        if row is None and decided is not None:
            row = await self.start_decided(decided)
        if row is None:
            text = f"this trigger key has started run {known}, which Temporal no longer keeps; use a new key"
            raise Rejected("WF606", text, status=409)
        return row

    async def _check_open_runs(self, repository: str | None) -> None:
        """As the log engine does. Runs that were started within the last second may not be counted yet."""
        left = runs_left(await self._history.count_open(), 1)
        if repository is not None and 2 * left < OPEN_RUNS_MAX:
            check_share(repository, await self._history.count_open(repository), 1, left)

    async def apply(self, stream: StreamName, facts: Sequence[Any], starts: Sequence[StartRequest]) -> list[RunId]:
        """See `ports.Runs`. Once they are recorded, the runs are started, now or by the leader."""
        repository = self._repositories.of_stream(stream)
        assert repository is not None, "facts of a repository are in its stream"
        decided = await self._record(repository, facts, starts)
        try:
            for run in decided:
                if run in repository.ledger.unstarted:
                    await self.start_decided(repository.ledger.unstarted[run])
        except WaterflowError as error:
            logger.warning("repository %s: a decided run is delayed: %s", repository.name, error)
        return decided

    def _known(self, stream: RepositoryStream, request: StartRequest) -> RunId | None:
        """The run that one of the request's trigger keys has started, as far as this daemon knows."""
        for key in (request.trigger.key, *request.earlier_keys):
            known = stream.ledger.run_for_key(key) if key is not None else None
            if known is not None:
                return known
        return None

    async def _record(
        self, stream: RepositoryStream, facts: Sequence[Any], starts: Sequence[StartRequest], run: RunId | None = None
    ) -> list[RunId]:
        """Records facts together with the runs that follow from them; returns their ids. Raises as `ports.Runs.start` does."""
        known = [self._known(stream, request) for request in starts]
        fresh = [request for request, found in zip(starts, known, strict=True) if found is None]
        prepared = [
            PreparedRun(
                decided=DecidedRun(
                    run=run or item.run, path=item.path, start=item.start, plan=zlib.compress(item.plan), at=item.at
                ),
                keys=tuple(key for key in (request.trigger.key, *request.earlier_keys) if key is not None),
            )
            for request, item in zip(fresh, await self._driver.prepare(fresh) if fresh else (), strict=True)
        ]
        recorded = iter(await stream.record(facts, prepared))
        return [found or next(recorded) for found in known]

    async def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """See `ports.Runs`."""
        repository = self._repositories.of_stream(stream)
        if repository is not None:
            await repository.record(facts)
        else:
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

    async def start_decided(self, decided: DecidedRun) -> RunSummary:
        """Starts a decided run; one that exists is a success."""
        row = _first_row(decided)
        first = messages.SignalReceived(number=1, content=orders.INPUTS.pack(decided.start))
        begin = messages.Begin(subject=decided.compiled, inputs=[first], number=1)
        try:
            with reported():
                await self._client.start_workflow(
                    messages.WORKFLOW_TYPE,
                    begin,
                    id=run_stream(decided.run),
                    task_queue=orders.STREAMS_QUEUE,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    memo={run_turns.ROW_MEMO: run_turns.ROWS.pack(row)},
                    search_attributes=_attributes(run_turns.attributes(row)),
                    static_summary=f"{row.name} #{row.number}",
                )
        except WorkflowAlreadyStartedError:
            row = await self._history.run(decided.run) or row
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


def _first_row(decided: DecidedRun) -> RunSummary:
    """The row of a run that has just been created, as its first turn will see it."""
    run = Run(decided.run, plan.decode(decided.compiled))
    try:
        step(run, decided.start, decided.at)
    except Exception as error:  # a bug that would stall the run: it is not started at all
        raise Stalled("WF403", f"run {decided.run} could not be started: {error}") from error
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
