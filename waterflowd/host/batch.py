"""A batch: the contents of one transaction, built from inputs, and the messages to send after it.

Rules of this file:

- Turns (turn.py) advance the driver's own runs at once; nothing of it is visible elsewhere until the batch is durable.
- What the live state knows is answered within the turn (answers.py); what one run causes for another is fed in the same batch.
- Outgoing messages are built now, from the state that they belong to, and sent only after the commit.
- A secret that is still being read delays only what needs it: no slot is requested, or the offer is deferred
  (`LiveState.awaiting_secrets`), and both are repeated when there is news.
- If the turn of a run raises an exception, only that run stalls: it leaves the live state; its log and error stay visible.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.dispatch import lowering
from waterflowd.engine import Run, commands, events, fold, inputs
from waterflowd.host import child_runs, fleet_requests, turn
from waterflowd.host.answers import LiveAnswers
from waterflowd.host.fleet_requests import attempt_id
from waterflowd.host.live_state import LiveState
from waterflowd.host.recovery import DeferredCommand, outstanding_near
from waterflowd.host.run_summary import counts, summary
from waterflowd.host.secret_uses import secret_uses
from waterflowd.model import records
from waterflowd.model.ids import AUDIT, AgentId, AttemptId, RunId, StreamName, run_stream

#: Events after which a run's row in the index is rewritten, as after those that change what it counts.
_INDEXED = frozenset(
    (events.RunCreated, events.RunStarted, events.CancelRequested, events.RunTimedOut, events.RunCompleted)
)


class BatchBuilder:
    """One transaction in the making."""

    def __init__(self, state: LiveState, now: int, log: ports.Journal) -> None:
        self._state = state
        self._now = now
        self._log = log
        self.contents = records.Batch(appends=[], plans={}, summaries=[], keys={}, counters={})
        self._appends: dict[StreamName, records.StreamAppend] = {}
        self._rows: dict[RunId, records.RunSummary] = {}
        self._late: set[AttemptId] = set()
        self._removed: set[RunId] = set()
        self.outbox: dict[AgentId, list[messages.DaemonMessage]] = {}
        #: Agents whose settlement, right after the commit, sends everything outstanding.
        self.settled: set[AgentId] = set()
        self.completed: list[RunId] = []
        #: Inputs that one run caused for other runs; they are fed before the batch is sealed.
        self._others: deque[tuple[RunId, inputs.Input]] = deque()
        self._answers = LiveAnswers(state, self._others)
        self.touched: dict[RunId, None] = {}

    def feed(self, run_id: RunId, item: inputs.Input) -> bool:
        """Takes a turn of the run with this input. False when the run is not open."""
        run = self._state.runs.get(run_id)
        if run is None:
            return False
        self._take(run, (item,))
        return True

    def _take(self, run: Run, arrived: Sequence[inputs.Input], outstanding: Sequence[commands.Command] = ()) -> None:
        before, counted = run.seq, counts(run)
        taken = turn.take(run, arrived, self._now, self._answers, outstanding)
        if taken.facts:
            self._append(run_stream(run.id), before, taken.facts)
            self.touched[run.id] = None
            if not _INDEXED.isdisjoint(map(type, taken.facts)) or counts(run) != counted:
                self._index(run if taken.error is None else self._recorded(run))
        if taken.error is not None:
            self._state.stall(run, taken.error)
            return
        try:
            for command in taken.commands:
                self._carry_out(run, command)
        except Exception as error:  # noqa: BLE001  supervision point: one run's failure must not stop the others
            self._state.stall(run, error)

    def _index(self, run: Run) -> None:
        self._rows[run.id] = summary(run)
        if run.is_completed:
            self.completed.append(run.id)
            self._others.extend(
                (attempt.run, child_runs.ended(attempt, run)) for attempt in self._state.child_runs.waiting_for(run.id)
            )

    def _recorded(self, run: Run) -> Run:
        """The run as its log will describe it, after a turn that raised."""
        stream = run_stream(run.id)
        history = [record.event for record in self._log.read(stream)]
        return fold(run.id, run.plan, [*history, *self._appends[stream].events])

    def _append(self, stream: StreamName, before: int, facts: Sequence[Any]) -> None:
        append = self._appends.get(stream)
        if append is None:
            append = records.StreamAppend(stream=stream, expected=before, at=self._now, events=[])
            self._appends[stream] = append
            self.contents.appends.append(append)
        append.events.extend(facts)

    def record(self, stream: StreamName, facts: Sequence[Any]) -> None:
        """Adds facts to a stream that is not a run's."""
        if facts:
            turn.check_storable(facts)
            self._append(stream, self._log.head(stream), facts)

    def remove(
        self, pieces: Sequence[records.RemovedPiece], entry: Callable[[Sequence[records.RemovedPiece]], Any]
    ) -> list[records.RemovedPiece]:
        """Adds pieces of completed runs that are to be removed, with their entry in the audit trail; returns the added ones."""
        added = [
            (removal, memory)
            for removal, memory in pieces
            if removal.run not in self._state.runs and run_stream(removal.run) not in self._appends
        ]
        for removal, memory in added:
            if isinstance(memory, records.RemovedRun):
                self._removed.add(removal.run)
                self.contents.removed_runs.append((removal, memory))
            else:
                self.contents.removed_output.append((removal, memory))
        if added:
            self.record(AUDIT, [entry(added)])
        return added

    def record_evidence(self, run: Run, evidence: Sequence[events.RunEvent]) -> None:
        """Adds late reports to the stream of a completed run, one per attempt and batch."""
        if run.id in self._removed:
            return
        for event in evidence:
            assert isinstance(event, events.LateReport), "a completed run accepts only late reports"
            attempt = AttemptId(run.id, event.job, event.step, event.attempt)
            if attempt not in self._late:
                self._late.add(attempt)
                turn.check_storable([event])
                self._append(run_stream(run.id), run.seq, [event])

    # Commands ---------------------------------------------------------------------------------------------------------

    def _carry_out(self, run: Run, command: commands.Command) -> None:
        state = self._state
        # The most frequent ones first.
        match command:
            case commands.SendTask():
                self._offer(run, command)
            case commands.ArmTimer(timer=timer):
                state.timers.arm(run.id, timer)
            case commands.DropTimer(timer=timer):
                state.timers.drop(run.id, timer)
            case commands.ReleaseJob(agent=agent, job=job, is_kept=is_kept):
                state.started_jobs.end(run.id, job)
                self._send(agent, messages.Release(run.id, job, is_kept))
            case commands.CancelTask(agent=agent):
                task = messages.TaskId(AttemptId(run.id, command.job, command.step, command.attempt), command.epoch)
                self._send(agent, messages.Cancel(task, command.is_forced, command.reason))
            case commands.CancelChildRun():
                # If it is still open.
                self._others.append((command.run, child_runs.cancel(run.id, is_forced=command.is_forced)))

    def _offer(self, run: Run, command: commands.SendTask) -> None:
        self._state.started_jobs.start(command.agent, run.id, command.job)
        draft = lowering.draft(run, command)
        offer = self._state.offer(draft, command)
        if offer is None:
            return
        self._send(command.agent, offer)
        if offer.task.secrets:
            self.record_secret_use(run, command, draft)

    def record_secret_use(self, run: Run, command: commands.SendTask, draft: lowering.Draft) -> None:
        """Records in the audit trail that the secrets of an attempt are sent."""
        attempt = run.attempt(command.job, command.step, command.attempt)
        assert attempt is not None, "it was drafted"
        self.record(AUDIT, secret_uses(draft, command.agent, attempt.agent_name, self._now))

    def _send(self, agent: AgentId, message: messages.DaemonMessage) -> None:
        self.outbox.setdefault(agent, []).append(message)

    def carry_out_deferred(self, deferred: Sequence[tuple[RunId, DeferredCommand]]) -> None:
        """Carries out commands that were deferred by recovery or by unread secrets, as far as they are still outstanding."""
        for run_id, command in deferred:
            run = self._state.runs.get(run_id)
            # A timer may have ended the attempt since, or the run may have been folded again and deferred twice.
            outstanding = () if run is None else outstanding_near(run, command)
            if run is None or command not in outstanding:
                continue
            if isinstance(command, commands.SendTask):
                # And again a cancel, which may have left before the agent knew the attempt.
                repeated = [item for item in outstanding if isinstance(item, commands.SendTask | commands.CancelTask)]
                self._take(run, (), repeated)
            elif not isinstance(command, commands.RequestSlot) or not self._state.placement.knows(
                attempt_id(run_id, command)
            ):
                self._take(run, (), (command,))

    # The end of a batch -----------------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Gives free slots and locks to waiting runs, and feeds changed reasons to those that keep waiting."""
        placement = self._state.placement
        while self._state.hosts_runs:
            self._feed_others()
            for request, server in placement.assign():
                if not self.feed(request.attempt.run, fleet_requests.slot_granted(self._state, request, server)):
                    placement.free(server.agent, request.attempt)
            for request, cause in placement.changed_reasons():
                key = request.attempt
                self.feed(key.run, inputs.SlotPending(job=key.job, step=key.step, attempt=key.number, reason=cause))
            for list_request, found in placement.changed_lists():
                self.feed(list_request.run, fleet_requests.servers_listed(list_request, found))
            for answer in self._state.locks.news():
                self._others.append((answer.holder.run, fleet_requests.lock_answer(answer)))
            if not self._others:
                return

    def _feed_others(self) -> None:
        while self._others:
            run_id, item = self._others.popleft()
            if not self.feed(run_id, item) and isinstance(item, inputs.LockAcquired):
                self._state.locks.forget(run_id)

    def seal(self) -> records.Batch:
        """The complete contents of the batch."""
        self.contents.summaries.extend(self._rows.values())
        return self.contents
