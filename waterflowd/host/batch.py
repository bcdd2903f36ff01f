"""A batch: what one transaction is made of, from the inputs that have arrived to the messages that leave after it.

Rules of this file:

- Steps advance the driver's own runs at once; nothing of it is visible to anybody until the batch is durable.
- Placement is answered in here: `Place` goes to the fleet, and its answer is fed back as an input of the same batch.
- Outgoing messages are made now, from the state that they belong to, and leave only after the commit.
- A secret that is still being read holds up what needs it and nothing else: no slot is asked for, or the offer waits
  (`LiveState.unread`), and both are asked for again when there is news.
- A run whose step raises is stalled alone: it leaves the driver, its place in the log and the error are shown.
- What the log could not hold never gets into a batch: it would fail together with everybody else's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire import messages
from waterflowd.engine import Run, commands, events, inputs, outstanding, step
from waterflowd.engine.outstanding import owed_to_block, owed_to_job_alone
from waterflowd.fleet.locks import Answer, Ask, Holder, Locks
from waterflowd.fleet.placement import Placement, Server, ServerListRequest, SlotRequest
from waterflowd.fleet.registry import ALL_SERVERS, Enrolled, Registry
from waterflowd.host import child_runs, slot_requests
from waterflowd.host.child_runs import ChildRunRegistry
from waterflowd.host.timers import Timers
from waterflowd.model import records
from waterflowd.model.ids import AgentId, AttemptId, AttemptNo, JobId, RunId, StepId, StreamName, run_stream
from waterflowd.model.plan import Plan
from waterflowd.model.reasons import Reason, ReasonCode, reason

logger = logging.getLogger("waterflow.host")

_encode = msgspec.msgpack.Encoder().encode

#: Raises `Retryable` while a secret of the task is being read.
Lower = Callable[[Run, commands.SendTask, str], messages.Task]
#: Those of the secrets, by the names under which a job of the run knows them, that no source has. Raises `Retryable` while some
#: are being read, `Rejected` when one cannot be.
MissingSecrets = Callable[[Run, JobId, Sequence[str]], list[str]]
#: What waits for secrets.
Unread = tuple[RunId, commands.RequestSlot | commands.SendTask]

#: Events after which a run's row in the index is written anew.
_INDEXED = frozenset(
    (events.RunCreated, events.RunStarted, events.CancelRequested, events.RunTimedOut, events.RunCompleted)
)


async def _no_digests(repository: str, revision: str, calls: Sequence[str]) -> dict[str, str]:
    """Without repositories nothing is chosen."""
    return {}


def all_missing(run: Run, job: JobId, names: Sequence[str]) -> list[str]:
    """Without sources there is no secret."""
    return list(names)


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """What all batches work on: the driver's live state. The single writer owns it."""

    runs: dict[RunId, Run]
    #: Runs that cannot go on, and why.
    stalled: dict[RunId, str]
    placement: Placement
    locks: Locks
    registry: Registry
    timers: Timers
    #: Runs that steps start and wait for.
    child_runs: ChildRunRegistry = msgspec.field(default_factory=ChildRunRegistry)
    lower: Lower
    missing_secrets: MissingSecrets = all_missing
    #: Asked for again when some secret was read, or could not be.
    unread: list[Unread] = msgspec.field(default_factory=list)
    #: Whether runs of the repository (None: of no repository) may use the group; asked again for each attempt, because some
    #: groups are known only then.
    may_use: Callable[[str | None, str], bool] = lambda repository, group: True
    #: What `hashFiles` gives for these calls over a commit of a repository.
    digests: Callable[[str, str, Sequence[str]], Awaitable[dict[str, str]]] = _no_digests
    #: What the configuration asks of the environments that a new run may enter.
    policies: Callable[[records.StartRequest, Plan], dict[str, events.Policy]] = lambda request, plan: {}
    #: Generation of the data directory; the epoch of the leases that are given now.
    epoch: int


class Batch:
    """One transaction in the making."""

    def __init__(self, state: LiveState, now: int) -> None:
        self._state = state
        self._now = now
        self.contents = records.Batch(appends=[], plans={}, summaries=[], keys={}, counters={})
        self._appends: dict[StreamName, records.StreamAppend] = {}
        self._rows: dict[RunId, records.RunSummary] = {}
        self._late: set[AttemptId] = set()
        self.outbox: dict[AgentId, list[messages.DaemonMessage]] = {}
        #: Agents that hear what is owed to them by their settlement, right after the commit.
        self.settled: set[AgentId] = set()
        self.completed: list[RunId] = []
        #: What one run's turn has brought to others: they have theirs before the batch is sealed.
        self._others: deque[tuple[RunId, inputs.Input]] = deque()
        self.touched: dict[RunId, None] = {}

    def feed(self, run_id: RunId, given: inputs.Input) -> bool:
        """Feeds an input and everything that it leads to inside the batch. False when the run is not open."""
        run = self._state.runs.get(run_id)
        if run is None:
            return False
        waiting = deque([given])
        try:
            while waiting:
                self._step(run, waiting.popleft(), waiting)
        except Exception as error:  # noqa: BLE001  supervision point: one run's failure must not stop the others
            stall(self._state, run, error)
        return True

    def _step(self, run: Run, given: inputs.Input, waiting: deque[inputs.Input]) -> None:
        before = run.seq
        progress = step(run, given, self._now)
        if progress.events:
            self._append(run_stream(run.id), before, progress.events)
            self.touched[run.id] = None
            if not _INDEXED.isdisjoint(map(type, progress.events)):
                self._rows[run.id] = summary(run)
            if run.is_completed and before < run.seq:
                self.completed.append(run.id)
                self._others.extend(
                    (place.run, child_runs.ended(place, run)) for place in self._state.child_runs.waiting(run.id)
                )
        if isinstance(given, inputs.SlotGranted) and not _is_held(run, given):
            # The slot was taken for an attempt that does not want it any more.
            self._state.placement.free(given.agent, _key(run.id, given))
        for command in progress.commands:
            self._carry_out(run, command, waiting)

    def _append(self, stream: StreamName, before: int, happened: Sequence[Any]) -> None:
        check_storable(happened)
        append = self._appends.get(stream)
        if append is None:
            append = records.StreamAppend(stream=stream, expected=before, at=self._now, events=[])
            self._appends[stream] = append
            self.contents.appends.append(append)
        append.events.extend(happened)

    def record(self, stream: StreamName, head: int, facts: Sequence[Any]) -> None:
        """Adds facts to a stream that is no run's and stands at `head` on disk; without facts nothing is added."""
        if facts:
            self._append(stream, head, facts)

    def record_evidence(self, run: Run, evidence: Sequence[events.RunEvent]) -> None:
        """Adds late reports to the stream of a completed run, one for each attempt: those of this batch count already."""
        for event in evidence:
            assert isinstance(event, events.LateReport), "nothing else happens to a completed run"
            attempt = AttemptId(run.id, event.job, event.step, event.attempt)
            if attempt not in self._late:
                self._late.add(attempt)
                self._append(run_stream(run.id), run.seq, [event])

    def _carry_out(self, run: Run, command: commands.Command, waiting: deque[inputs.Input]) -> None:
        state = self._state
        # The most frequent ones first.
        match command:
            case commands.RequestSlot():
                answer = self.place(run.id, command)
                waiting.append(answer)
            case commands.SendTask(agent=agent):
                for message in offer(state, run, command):
                    self._send(agent, message)
            case commands.FreeSlot(agent=agent):
                state.placement.free(agent, _key(run.id, command))
            case commands.ListServers(job=job, group=group, labels=labels):
                waiting.append(self._survey(run.id, job, group, labels))
            case commands.DropServerList(job=job):
                state.placement.drop_list_request(ServerListRequest(run.id, job))
            case commands.AcquireLock():
                self._lock(run, command)
            case commands.ReleaseLock(job=job):
                state.locks.release(Holder(run.id, job))
            case commands.StartChildRun():
                state.child_runs.want(_key(run.id, command))
            case commands.WatchChildRun():
                waiting.extend(self._watch(run.id, command))
            case commands.CancelChildRun():
                self._cancel_child_run(run.id, command)
            case commands.DropChildRun():
                state.child_runs.drop(_key(run.id, command))
            case commands.CancelSlotRequest():
                state.placement.cancel(_key(run.id, command))
            case commands.CancelTask(agent=agent):
                key = messages.TaskId(AttemptId(run.id, command.job, command.step, command.attempt), command.epoch)
                self._send(agent, messages.Cancel(key, command.is_forced, command.reason))
            case commands.ReleaseJob(agent=agent, job=job):
                self._send(agent, messages.Release(run.id, job))
            case commands.ArmTimer(timer=timer):
                state.timers.arm(run.id, timer)
            case commands.DropTimer(timer=timer):
                state.timers.drop(run.id, timer)

    def _send(self, agent: AgentId, message: messages.DaemonMessage) -> None:
        self.outbox.setdefault(agent, []).append(message)

    def ask(self, owed: Sequence[tuple[RunId, Question]]) -> None:
        """Asks for what is owed to runs since they were folded, or while secrets were read: slots, lists of servers, offers."""
        for run_id, command in owed:
            run = self._state.runs.get(run_id)
            # A timer may have ended the attempt since, or the run may have been folded again and asked for twice.
            still = () if run is None else _owed(run, command)
            if run is None or command not in still:
                continue
            match command:
                case commands.SendTask():
                    self._offer_again(run, still)
                case commands.RequestSlot() if not self._state.placement.knows(_key(run_id, command)):
                    self.feed(run_id, self.place(run_id, command))
                case commands.ListServers(job=job, group=group, labels=labels):
                    self.feed(run_id, self._survey(run_id, job, group, labels))
                case commands.WatchChildRun():
                    for answer in self._watch(run_id, command):
                        self.feed(run_id, answer)
                case commands.CancelChildRun():
                    self._cancel_child_run(run_id, command)
                case _:
                    pass

    def _offer_again(self, run: Run, owed: Sequence[commands.Command]) -> None:
        """The offer that waited, and the cancel that may have left before it, about nothing that the agent knew."""
        try:
            for command in owed:
                if isinstance(command, commands.SendTask | commands.CancelTask):
                    self._carry_out(run, command, deque())
        except Exception as error:  # noqa: BLE001  supervision point: one run's failure must not stop the others
            stall(self._state, run, error)

    def _watch(self, run_id: RunId, command: commands.WatchChildRun) -> list[inputs.Input]:
        """Waits for the end of a run; gives it when it is there already."""
        place, state = _key(run_id, command), self._state
        found = state.runs.get(command.run)
        if found is None and command.run not in state.stalled:
            found = state.child_runs.look(command.run)
            if found is None:
                return [child_runs.gone(place, command.run)]
        if found is not None and found.is_completed:
            return [child_runs.ended(place, found)]
        state.child_runs.watch(place, command.run)
        return []

    def _cancel_child_run(self, run_id: RunId, command: commands.CancelChildRun) -> None:
        """The run that a step started must end; one that is over is no longer there to hear it."""
        self._others.append((command.run, inputs.CancelRun(by=f"run {run_id}", is_forced=command.is_forced)))

    def _survey(
        self, run_id: RunId, job: JobId, group: str, labels: tuple[tuple[str, str], ...]
    ) -> inputs.ServersListed:
        repository, may_use = self._state.runs[run_id].repository, self._state.may_use
        if group != ALL_SERVERS and not may_use(repository, group):
            return inputs.ServersListed(job=job, servers=[], reason=_not_allowed(repository, group), is_refused=True)
        request = ServerListRequest(run_id, job)
        if group != ALL_SERVERS or may_use(repository, ALL_SERVERS):
            return servers_listed(request, self._state.placement.list_servers(request, group, labels))

        def accept(entry: Enrolled) -> bool:
            return any(may_use(repository, name) for name in entry.groups)

        return servers_listed(request, self._state.placement.list_servers(request, group, labels, accept))

    def _may_use(self, repository: str | None, group: str, agent: AgentId | None) -> bool:
        """Whether a run of the repository may use the group; of every server, whether it may use this one."""
        may_use = self._state.may_use
        entry = self._state.registry.agents.get(agent) if agent is not None and group == ALL_SERVERS else None
        return may_use(repository, group) or (entry is not None and any(may_use(repository, of) for of in entry.groups))

    def _lock(self, run: Run, command: commands.AcquireLock) -> None:
        locks = self._state.locks
        ask = asked(run, command)
        is_waiting = False
        for answer in locks.ask(ask):
            self._answer(answer)
            is_waiting |= answer.holder == ask.holder and not answer.is_granted and not answer.is_refused
        if is_waiting and command.cancel_in_progress:
            self._cancel(locks.holders(ask.repository, ask.group), ask)

    def _cancel(self, holders: Sequence[Holder], ask: Ask) -> None:
        who = f"run {ask.holder.run}"
        for holder in holders:
            if holder.job is None:
                self._others.append((holder.run, inputs.CancelRun(by=who)))
            else:
                text = f'{who} takes its place in concurrency group "{ask.group}"'
                why = reason(ReasonCode.SUPERSEDED, text, group=ask.group, run=ask.holder.run)
                self._others.append((holder.run, inputs.CancelJob(job=holder.job, reason=why)))

    def _answer(self, answer: Answer) -> None:
        self._others.append((answer.holder.run, answered(answer)))

    def place(self, run_id: RunId, command: commands.RequestSlot) -> inputs.Input:
        """Asks the fleet for a slot and gives the answer as an input."""
        repository = self._state.runs[run_id].repository
        if not self._may_use(repository, command.group, command.agent):
            why = _not_allowed(repository, command.group)
            return inputs.SlotDenied(job=command.job, step=command.step, attempt=command.attempt, reason=why)
        obstacle = self._without_secrets(run_id, command) if command.secrets else None
        if obstacle is not None:
            return obstacle
        request = slot_requests.of(self._state.runs[run_id], command, _key(run_id, command))
        answer = self._state.placement.request(request)
        if isinstance(answer, Server):
            return self._granted(request, answer)
        return inputs.SlotPending(job=command.job, step=command.step, attempt=command.attempt, reason=answer)

    def _without_secrets(self, run_id: RunId, command: commands.RequestSlot) -> inputs.Input | None:
        """Why the attempt gets no slot yet, or never; None when all of its secrets are at hand."""
        job, name, number = command.job, command.step, command.attempt
        try:
            missing = self._state.missing_secrets(self._state.runs[run_id], job, command.secrets)
        except Retryable as error:
            self._state.unread.append((run_id, command))
            why = reason(ReasonCode.SECRET_WAITING, error.text)
            return inputs.SlotPending(job=job, step=name, attempt=number, reason=why)
        except Rejected as error:
            why = reason(ReasonCode.SECRET_UNREADABLE, str(error), error=error.code)
            return inputs.SlotDenied(job=job, step=name, attempt=number, reason=why)
        if not missing:
            return None
        text = f"no source has the secret {', '.join(missing)}; next: give it a value in the daemon's secrets"
        why = reason(ReasonCode.SECRET_MISSING, text, secrets=missing)
        return inputs.SlotDenied(job=job, step=name, attempt=number, reason=why)

    def _granted(self, request: SlotRequest, server: Server) -> inputs.SlotGranted:
        entry = self._state.registry.agents[server.agent]
        return inputs.SlotGranted(
            job=request.attempt.job,
            step=request.attempt.step,
            attempt=request.attempt.number,
            epoch=self._state.epoch,
            agent=server.agent,
            agent_name=entry.name,
            boot_id=server.boot_id,
            facts=server.facts,
            node_version=server.version_of(request.node),
        )

    def assign(self) -> None:
        """Gives what came free to those who wait, and tells those that wait on why, where that has changed."""
        while True:
            self._settle_others()
            for request, server in self._state.placement.assign():
                if not self.feed(request.attempt.run, self._granted(request, server)):
                    self._state.placement.free(server.agent, request.attempt)
            for request, why in self._state.placement.changed_reasons():
                attempt = request.attempt
                given = inputs.SlotPending(job=attempt.job, step=attempt.step, attempt=attempt.number, reason=why)
                self.feed(attempt.run, given)
            for list_request, found in self._state.placement.changed_lists():
                self.feed(list_request.run, servers_listed(list_request, found))
            for answer in self._state.locks.news():
                self._answer(answer)
            if not self._others:
                return

    def _settle_others(self) -> None:
        while self._others:
            run_id, given = self._others.popleft()
            if not self.feed(run_id, given) and isinstance(given, inputs.LockAcquired):
                self._state.locks.forget(run_id)

    def seal(self) -> records.Batch:
        """The batch's contents, complete."""
        self.contents.summaries.extend(self._rows.values())
        return self.contents


_OfAttempt = (
    inputs.SlotGranted
    | commands.RequestSlot
    | commands.FreeSlot
    | commands.CancelSlotRequest
    | commands.StartChildRun
    | commands.WatchChildRun
    | commands.DropChildRun
)


def _key(run: RunId, named: _OfAttempt) -> AttemptId:
    return AttemptId(run, JobId(named.job), StepId(named.step), AttemptNo(named.attempt))


def _is_held(run: Run, given: inputs.SlotGranted) -> bool:
    """Whether the attempt has the slot: by this answer, or by another one to the same question."""
    attempt = run.attempt(given.job, given.step, given.attempt)
    return attempt is not None and attempt.is_open and attempt.agent == given.agent


def _owed(run: Run, question: Question) -> tuple[commands.Command, ...]:
    """What is owed where the question comes from."""
    job = run.jobs_by_id.get(question.job)
    if job is None:
        # A full disk has undone the batch that had made it.
        return ()
    if isinstance(question, commands.ListServers):
        return owed_to_job_alone(run, job)
    step = job.steps_by_id.get(question.step)
    is_open = step is not None and step.block.number in job.blocks
    return owed_to_block(run, job, step.block) if step is not None and is_open else ()


def _not_allowed(repository: str | None, group: str) -> Reason:
    text = f'runs of the repository "{repository}" may not use the group "{group}"; its `groups` in the configuration say so'
    return reason(ReasonCode.GROUP_NOT_ALLOWED, text, group=group, repository=repository)


def servers_listed(request: ServerListRequest, found: Sequence[Enrolled] | Reason) -> inputs.ServersListed:
    """The servers of a group, as an input."""
    if isinstance(found, Reason):
        return inputs.ServersListed(job=request.job, servers=[], reason=found)
    return inputs.ServersListed(job=request.job, servers=[(entry.agent, entry.name) for entry in found])


def answered(answer: Answer) -> inputs.Input:
    """What a concurrency group says, as an input."""
    if answer.is_granted:
        return inputs.LockAcquired(job=answer.holder.job)
    assert answer.reason is not None
    return inputs.LockNotAcquired(job=answer.holder.job, is_refused=answer.is_refused, reason=answer.reason)


def asked(run: Run, command: commands.AcquireLock) -> Ask:
    """What a run or job asks of its concurrency group."""
    lock = run.lock if command.job is None else run.jobs_by_id[command.job].lock
    asked_at = lock.requested_at if lock is not None else 0
    return Ask(Holder(run.id, command.job), command.group, run.repository or "", command.limit, command.queue, asked_at)


def check_storable(content: Sequence[Any]) -> None:
    """Raises `Rejected` WF605 for what has no bytes: a number of more than 64 bits, half a character, endless nesting."""
    try:
        _encode(content)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Rejected("WF605", f"a value cannot be stored: {error}") from error


def offer(state: LiveState, run: Run, command: commands.SendTask) -> Iterator[messages.Offer]:
    """The offer of an attempt; none while a secret of it is being read: it is made when there is news."""
    instance = state.placement.server(command.agent).instance
    try:
        yield messages.Offer(state.lower(run, command, instance))
    except Retryable:
        state.unread.append((run.id, command))


def stall(state: LiveState, run: Run, error: Exception) -> None:
    """The run cannot go on until a person has looked: it leaves the live state, its place in the log stays, others go on."""
    logger.error("run %s is stalled; the other runs go on", run.id, exc_info=error, extra={"run": run.id})
    state.stalled[run.id] = f"stalled after event {run.seq}: {error}"
    drop(state, run.id)


def drop(state: LiveState, run: RunId) -> None:
    """The run leaves the live state: its slots, wants, places and timers with it."""
    state.runs.pop(run, None)
    state.timers.drop_run(run)
    state.placement.forget(run)
    state.locks.forget(run)
    state.child_runs.forget(run)


#: What is asked in the batch after a run was folded, or a secret was read.
Question = (
    commands.RequestSlot | commands.ListServers | commands.SendTask | commands.WatchChildRun | commands.CancelChildRun
)


def owe(state: LiveState, run: Run) -> list[Question]:
    """Takes up what the host owes a run that was folded from the log; gives what is still to be asked for.

    Tasks that are on agents hold their slots; what the agents lack is sent when they connect.
    """
    questions: list[Question] = []
    for command in outstanding(run):
        match command:
            case commands.ArmTimer(timer=timer):
                state.timers.arm(run.id, timer)
            case commands.SendTask(agent=agent, job=job, step=name, attempt=number):
                state.placement.hold(agent, AttemptId(run.id, job, name, number))
            case commands.AcquireLock(job=job):
                lock = run.lock if job is None else run.jobs_by_id[job].lock
                if lock is not None and lock.is_held:
                    state.locks.hold(asked(run, command))
                else:
                    # At once: whoever comes from now on is behind them.
                    state.locks.wait(asked(run, command))
            case commands.StartChildRun():
                state.child_runs.want(_key(run.id, command))
            case commands.RequestSlot() | commands.ListServers() | commands.WatchChildRun() | commands.CancelChildRun():
                questions.append(command)
            case _:
                pass
    return questions


def summary(run: Run) -> records.RunSummary:
    """The run's row in the index."""
    return records.RunSummary(
        id=run.id,
        number=run.number,
        name=run.plan.name,
        path=run.plan.path,
        repository=run.repository,
        revision=run.revision,
        trigger=_without_payload(run.trigger),
        status=run.status,
        conclusion=run.conclusion,
        reason=run.reason,
        created_at=run.created_at,
        started_at=run.started_at,
        completed_at=run.completed_at,
        seq=run.seq,
        rerun_of=run.rerun_of,
    )


def _without_payload(trigger: records.Trigger) -> records.Trigger:
    """The trigger for a row: a payload may be a megabyte, and stands in the run's first event."""
    return msgspec.structs.replace(trigger, payload={}) if trigger.payload else trigger
