"""The turns of runs: the engine, as the shell of a run's stream sees it.

Rules of this file:

- A turn only computes. A run in memory is valid for one sequence of facts, which `state` names; a turn that is repeated, or
  that comes after another daemon's, is cold and gets all facts.
- If an input raises, those before it are the result of the turn, and the next turn begins with it: so nothing else is lost when
  it stalls the run. The run in memory is ahead of the facts then, so it is folded again.
- A request (an update) is answered with the run's row, or with a refusal; it never stalls a run.
- The slots of jobs that have ended are not outstanding, but an execution may end before it has freed them. So the next one
  frees the newest ones again; otherwise the group's lock would keep such a slot until the run has ended.
- A run that has completed still releases its jobs and locks. Temporal drops the activities of a workflow that completes, so
  the stream ends when they have, or after `CLOSE_MS`.
"""

from __future__ import annotations

import heapq
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from waterflow_agent.errors import Rejected, Stalled
from waterflowd.access.policy import AccessPolicy
from waterflowd.engine import Run, commands, events, fold, inputs, outstanding
from waterflowd.engine.commands import RequestSlot, SendTask
from waterflowd.engine.outstanding import needs_server_list
from waterflowd.engine.rules import approvals
from waterflowd.fleet.placement import Placement, ServerListRequest
from waterflowd.fleet.registry import Registry
from waterflowd.host import fleet_requests, turn
from waterflowd.host.fleet_requests import attempt_id
from waterflowd.host.metrics import RunMetrics
from waterflowd.host.run_logging import log_events
from waterflowd.host.run_summary import summary
from waterflowd.model import plan
from waterflowd.model.codec import UnreadableError, ValueCodec
from waterflowd.model.ids import JobId, RunId, repository_stream
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import RunSummary
from waterflowd.model.statuses import Status
from waterflowd.temporal import facts, orders, own_slots, run_commands
from waterflowd.temporal.coordination import child_run_commands
from waterflowd.temporal.own_slots import LeaseTerms
from waterflowd.temporal.repositories import ledger
from waterflowd.temporal.workflow import messages

logger = logging.getLogger("waterflow.temporal")

#: The prefix of the streams of runs.
PREFIX = "run/"
#: The memo with the run's row, for lists.
ROW_MEMO = "row"
#: Content of the inputs that one turn takes, if there is more than one: all of its facts and commands must fit into a marker.
INPUT_BYTES_MAX = 500_000
#: Runs in memory; about 1 KB for each step.
RUNS_CACHED = 1000
#: How long a completed run waits until its last activities have ended.
CLOSE_MS = 60_000
#: How often a job looks for servers while its group has none.
LIST_AGAIN_MS = 30_000
#: How often a run or job repeats the request for its slot, also while it holds it. The lock knows, unless an operator has
#: terminated its stream.
LOCK_AGAIN_MS = 600_000

#: Slots of ended jobs that a new execution frees again. Few are still being freed when an execution ends.
UNLOCKS_MAX = 200

FACTS = facts.FactCodec("run", events.RunEvent)
_CLOSE_TIMER = "close"
_LIST_TIMER = "list-servers/"
_LOCK_TIMER = "lock"
#: Clusters with an SQL database cannot index longer texts. They are left out; the row has them.
KEYWORD_LENGTH_MAX = 255
#: Events after which the row has changed.
_INDEXED = frozenset(
    (events.RunCreated, events.RunStarted, events.CancelRequested, events.RunTimedOut, events.RunCompleted)
)
#: Activities that a completed run waits for.
_COURTESIES = (orders.CANCEL, orders.RELEASE, orders.UNLOCK)


class Refusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was refused."""

    code: str
    text: str
    where: str = ""
    status: int = 400

    @property
    def error(self) -> Rejected:
        """The error for the sender of the request."""
        return Rejected(self.code, self.text, where=self.where or None, status=self.status)


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a request: the run's row after the turn that took it, or a refusal."""

    row: RunSummary | None = None
    refusal: Refusal | None = None


#: How answers and rows are stored.
ANSWERS = ValueCodec("answer", Answer)
ROWS = ValueCodec("row", RunSummary)


@dataclass
class _Live:
    """A run in memory, and the name of the facts that it was folded from."""

    run: Run
    state: bytes
    #: Releases and cancels whose activities have not ended, as far as this daemon knows.
    courtesies: set[str] = field(default_factory=set)


@dataclass
class _Result:
    """A turn in the making."""

    now: int
    was_completed: bool
    facts: list[events.RunEvent] = field(default_factory=list)
    commands: list[commands.Command] = field(default_factory=list)
    #: What the shell does besides.
    others: list[messages.AnyCommand] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    updates: dict[str, Rejected | None] = field(default_factory=dict)
    #: Tasks that an earlier execution has ordered already, and requests for servers that are connected here.
    repeated: frozenset[SendTask] = frozenset()
    connected: set[RequestSlot] = field(default_factory=set)


class _InputError(Exception):
    """An input raised."""

    def __init__(self, index: int, cause: Exception) -> None:
        super().__init__()
        self.index = index
        self.cause = cause


class RunTurns:
    """Implements `messages.Turn` for the streams of runs."""

    def __init__(
        self, registry: Registry, placement: Placement, access: AccessPolicy, *, lost_after_ms: int, terms: LeaseTerms
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._access = access
        self._lost_after_ms = lost_after_ms
        self._terms = terms
        self._runs: OrderedDict[str, _Live] = OrderedDict()
        #: Runs in memory with jobs that wait for servers to be listed; `changed_lists` forgets the others.
        self._unlisted: set[RunId] = set()
        #: Runs whose last turn on this daemon has failed, with the reason.
        self.failing: dict[RunId, str] = {}
        #: What the turns of this daemon have decided.
        self.metrics = RunMetrics()

    async def __call__(self, request: messages.TurnRequest) -> messages.TurnResult:
        """See `messages.Turn`."""
        run_id = RunId(request.stream.removeprefix(PREFIX))
        try:
            result = self._turn(request)
        except Exception as error:
            logger.error("a turn of run %s failed; other runs continue", run_id, exc_info=error, extra={"run": run_id})
            self.failing[run_id] = f"stalled after event {request.seq}: {error}"
            raise
        self.failing.pop(run_id, None)
        return result

    def _report(self, run: Run, found: Sequence[events.RunEvent]) -> None:
        # A turn whose result is lost is repeated, which is rare enough for metrics and for the daemon's output.
        for event in found:
            self.metrics.add_event(event)
        log_events(run.id, found, lambda: summary(run))

    def _turn(self, request: messages.TurnRequest) -> messages.TurnResult:
        # Whatever happens now, it is no longer valid for what it was.
        live = self._runs.pop(request.stream, None)
        if request.past is not None:
            live = self._fold(request.stream, request.past)
        elif live is None or live.run.seq != request.seq or live.state != request.state:
            return messages.TurnResult(is_cold=True, seq=request.seq)
        try:
            result = self._take(live, request, _fitting(request.inputs))
        except _InputError as failed:
            if failed.index == 0:
                raise failed.cause from None
            if request.past is None:
                return messages.TurnResult(is_cold=True, seq=request.seq)
            live = self._fold(request.stream, request.past)
            result = self._take(live, request, failed.index)
        packed = [FACTS.pack(request.now, event) for event in result.facts]
        live.state = facts.chain(live.state, packed)
        issued = self._commands(live, request, result)
        self._keep(request.stream, live)
        self._report(live.run, result.facts)
        return messages.TurnResult(
            facts=packed, commands=issued, taken=result.taken, seq=live.run.seq, state=live.state
        )

    def _keep(self, stream: str, live: _Live) -> None:
        self._runs[stream] = live
        if len(self._runs) > RUNS_CACHED:
            self._runs.popitem(last=False)

    @staticmethod
    def _fold(stream: str, past: messages.Past) -> _Live:
        try:
            compiled = plan.decode(past.subject)
        except msgspec.MsgspecError as error:
            raise Stalled("WF401", f"the plan of {stream} cannot be read: {error}; upgrade Waterflow") from error
        history = [FACTS.unpack(stream, fact).event for fact in past.facts]
        run = fold(RunId(stream.removeprefix(PREFIX)), compiled, history)
        return _Live(run, facts.chain(facts.NO_FACTS, past.facts))

    # Inputs -----------------------------------------------------------------------------------------------------------

    def _take(self, live: _Live, request: messages.TurnRequest, count: int) -> _Result:
        """Takes the first inputs. Raises `_InputError` for one that raises; the run in memory is then ahead of the facts."""
        result = _Result(request.now, was_completed=live.run.is_completed)
        if request.begins:
            issued = list(outstanding(live.run))
            result.repeated = frozenset(command for command in issued if isinstance(command, SendTask))
            self._feed(live, (), result, outstanding=[*issued, *_freed_slots(live.run)])
        for index, item in enumerate(request.inputs[:count]):
            try:
                self._take_one(live, item, result)
            except Exception as error:
                raise _InputError(index, error) from error
            result.taken.append(item.number)
        return result

    def _take_one(self, live: _Live, item: messages.AnyInput, result: _Result) -> None:
        run = live.run
        match item:
            case messages.SignalReceived():
                content = _unpack(run, item.content)
                self._feed(live, (content,), result)
                if isinstance(content, inputs.LockAcquired):
                    _return_unwanted(run, content, result)
            case messages.UpdateReceived():
                self._answer_request(live, item, result)
            case messages.TimerFired(id=identifier):
                self._feed(live, self._due(live, identifier, result), result)
            case messages.ActivityCompleted():
                live.courtesies.discard(item.id)
                self._feed(live, (_unpack(run, item.content),) if item.content else (), result)
            case messages.ActivityFailed():
                live.courtesies.discard(item.id)
                self._feed(live, self._failed(run, item), result)
            case messages.CancelRequested(reason=text):
                by = f"Temporal's operator: {text}" if text else "Temporal's operator"
                self._feed(live, (inputs.CancelRun(by=by),), result)
            case messages.SignalNotDelivered():
                # Who does not exist does not wait for it.
                pass

    def _answer_request(self, live: _Live, item: messages.UpdateReceived, result: _Result) -> None:
        content: inputs.Input | None = None
        result.updates[item.id] = None
        try:
            if item.content:
                content = orders.INPUTS.unpack(item.content)
                _check_request(live.run, content)
        except Rejected as error:
            result.updates[item.id] = error
        except UnreadableError as error:
            result.updates[item.id] = Rejected("WF401", f"this daemon cannot read the request: {error}")
        else:
            self._feed(live, () if content is None else (content,), result)

    def _feed(
        self,
        live: _Live,
        arrived: Sequence[inputs.Input],
        result: _Result,
        outstanding: Sequence[commands.Command] = (),
    ) -> None:
        taken = turn.take(live.run, arrived, result.now, _Answers(self, result), outstanding)
        if taken.error is not None:
            raise taken.error
        result.facts += taken.facts
        result.commands += taken.commands

    def _due(self, live: _Live, identifier: str, result: _Result) -> Sequence[inputs.Input]:
        if identifier == _CLOSE_TIMER:
            live.courtesies.clear()
            return ()
        again = _to_repeat(live.run, identifier)
        if again is None:
            return (inputs.TimerFired(timer=run_commands.timer_of(identifier)),)
        self._feed(live, (), result, outstanding=again)
        return ()

    def _failed(self, run: Run, item: messages.ActivityFailed) -> Sequence[inputs.Input]:
        """What an activity's failure means. Those of a cancel and of a release mean nothing: the handshake settles them."""
        for command in outstanding(run):
            if isinstance(command, commands.SendTask):
                if run_commands.task_activity(run, command) == item.id:
                    return (self._lost(run, command, item),)
            elif isinstance(command, commands.RequestSlot) and (
                orders.attempt_activity(orders.PLACE, attempt_id(run.id, command)) == item.id
            ):
                if item.timeout == "schedule-to-start":
                    return (_away(run, command),)
                text = f"no daemon could look for a server: {item.text} ({item.code})"
                cause = reason(ReasonCode.NO_SERVER_CONNECTED, text)
                return (inputs.SlotDenied(job=command.job, step=command.step, attempt=command.attempt, reason=cause),)
        return ()

    def _lost(self, run: Run, command: commands.SendTask, item: messages.ActivityFailed) -> inputs.TaskLost:
        name = attempt_id(run.id, command)
        attempt = run.attempt(name.job, name.step, name.number)
        assert attempt is not None, "its task is outstanding"
        if item.timeout == "schedule-to-start":
            away_s = run_commands.lost_ms(run, name, self._lost_after_ms) // 1000
            text = f"server {attempt.agent_name}: not connected for {away_s} s"
            cause = reason(ReasonCode.SERVER_LOST, text, agent=attempt.agent_name)
        else:
            text = f"the step's report could not be delivered: {item.text} ({item.code})"
            cause = reason(ReasonCode.OUTCOME_UNKNOWN, text, agent=attempt.agent_name)
        return inputs.TaskLost(
            job=name.job,
            step=name.step,
            attempt=name.number,
            epoch=command.epoch,
            agent=command.agent,
            reason=cause,
        )

    # Commands ---------------------------------------------------------------------------------------------------------

    def _commands(self, live: _Live, request: messages.TurnRequest, result: _Result) -> list[messages.AnyCommand]:
        run = live.run
        known = run_commands.Known(result.repeated, frozenset(result.connected))
        issued = [*run_commands.carried_out(run, result.commands, self._lost_after_ms, known), *result.others]
        if run.seq and (request.begins or not _INDEXED.isdisjoint(map(type, result.facts))):
            issued += _announced(summary(run))
        row = summary(run) if run.seq else None
        for identifier, error in result.updates.items():
            answer = Answer(row=row) if error is None else Answer(refusal=_refusal(error))
            issued.append(messages.AnswerUpdate(id=identifier, content=ANSWERS.pack(answer)))
        if run.is_completed and (request.begins or not result.was_completed):
            issued += child_run_commands.report(run)
            issued += _report_end(run, request.now)
        _note_courtesies(live, issued)
        if run.is_completed:
            if not live.courtesies:
                issued.append(messages.Complete(content=ROWS.pack(summary(run))))
            elif not result.was_completed:
                issued.append(messages.StartTimer(id=_CLOSE_TIMER, due_at=request.now + CLOSE_MS))
        return issued

    # What is known at once --------------------------------------------------------------------------------------------

    def answer(self, run: Run, command: commands.Command, result: _Result) -> Sequence[inputs.Input] | None:
        """See `turn.Answers`."""
        match command:
            case commands.RequestSlot(job=job, step=step, attempt=number):
                refusal = fleet_requests.slot_refusal(self._registry, self._access, run, command)
                if refusal is not None:
                    return (inputs.SlotDenied(job=job, step=step, attempt=number, reason=refusal.reason),)
                granted = own_slots.granted(run, command, self._registry, self._placement, self._terms, result.now)
                if granted is not None:
                    return (granted,)
                obstacle = self._placement.obstacle(fleet_requests.slot_requirements(run, command))
                if obstacle is None:
                    result.connected.add(command)
                    return None
                if obstacle.code is not ReasonCode.SERVER_LOST and not run.jobs_by_id[job].may_await_server:
                    # It may be connected to another daemon: if no gateway takes the request, it is away.
                    return None
                # The gateways are asked all the same; this only tells people what the attempt waits for.
                result.commands.append(command)
                return (inputs.SlotPending(job=job, step=step, attempt=number, reason=obstacle),)
            case commands.FreeSlot(job=job, step=step, attempt=number, agent=agent):
                # The gateway frees the slot; if its attempt has ended, what is left of its activities ends as well.
                attempt = run.attempt(job, step, number)
                return None if attempt is not None and attempt.agent == agent and not attempt.is_open else ()
            case commands.ListServers():
                return (self._list_servers(run, command, result),)
            case commands.DropServerList(job=job):
                result.others.append(messages.CancelTimer(id=_list_timer(job)))
                return ()
            case commands.AcquireLock(job=owner):
                timer = messages.StartTimer(id=_lock_timer(owner), due_at=result.now + LOCK_AGAIN_MS)
                result.others.append(timer)
            case commands.ReleaseLock(job=owner):
                result.others.append(messages.CancelTimer(id=_lock_timer(owner)))
            case commands.StartChildRun():
                impossible = child_run_commands.refusal(run, command)
                return None if impossible is None else (impossible,)
            case commands.WatchChildRun():
                result.others += child_run_commands.watch(run, command, result.now)
                return ()
        return None

    def changed_lists(self) -> list[tuple[RunId, inputs.ServersListed]]:
        """Lists of servers that jobs have waited for, once there are some. The run may have moved on, and ignores them then."""
        found: list[tuple[RunId, inputs.ServersListed]] = []
        for run_id in sorted(self._unlisted):
            live = self._runs.get(f"{PREFIX}{run_id}")
            jobs = [] if live is None else [job for job in live.run.jobs if needs_server_list(job)]
            if live is None or not jobs:
                self._unlisted.discard(run_id)
                continue
            for job in jobs:
                command = commands.ListServers(job=job.id, group=job.group, labels=tuple(job.labels.items()))
                answer = fleet_requests.list_servers(self._placement, self._access, live.run, command)
                self._placement.drop_list_request(ServerListRequest(run_id, job.id))
                if answer.reason is None:
                    found.append((run_id, answer))
        return found

    def _list_servers(self, run: Run, command: commands.ListServers, result: _Result) -> inputs.ServersListed:
        answer = fleet_requests.list_servers(self._placement, self._access, run, command)
        self._placement.drop_list_request(ServerListRequest(run.id, command.job))
        if answer.reason is not None and not answer.is_refused:
            # A daemon that has the run in memory tells it when servers have changed. If none has it, the job looks again.
            self._unlisted.add(run.id)
            timer = messages.StartTimer(id=_list_timer(command.job), due_at=result.now + LIST_AGAIN_MS)
            result.others.append(timer)
        return answer


@dataclass
class _Answers:
    """Implements `turn.Answers` for one turn."""

    turns: RunTurns
    result: _Result

    def answer(self, run: Run, command: commands.Command) -> Sequence[inputs.Input] | None:
        """See `turn.Answers`."""
        return self.turns.answer(run, command, self.result)


def _report_end(run: Run, now: int) -> Iterator[messages.SendSignal]:
    """Tells the run's repository, whose workflows may run after this one."""
    if run.repository is None or run.conclusion is None:
        return
    fact = ledger.RunEnded(at=now, run=run.id, conclusion=run.conclusion, reason=run.reason)
    content = ledger.FACTS.pack(now, fact)
    yield messages.SendSignal(id="ended-in-repository", workflow_id=repository_stream(run.repository), content=content)


def _fitting(arrived: Sequence[messages.AnyInput]) -> int:
    """How many of the inputs one turn takes: at least one."""
    left = INPUT_BYTES_MAX
    for index, item in enumerate(arrived):
        if isinstance(item, messages.SignalReceived | messages.UpdateReceived | messages.ActivityCompleted):
            left -= len(item.content)
        if left < 0 and index:
            return index
    return len(arrived)


def _unpack(run: Run, content: bytes) -> inputs.Input:
    try:
        found: inputs.Input = orders.INPUTS.unpack(content)
    except UnreadableError as error:
        raise error.stalled(f"an input of run {run.id}") from error
    return found


def _away(run: Run, command: commands.RequestSlot) -> inputs.SlotPending:
    name = run.jobs_by_id[command.job].pinned_name
    cause = reason(ReasonCode.SERVER_UNREACHABLE, f'server "{name}" is not connected', agent=name)
    return inputs.SlotPending(job=command.job, step=command.step, attempt=command.attempt, reason=cause)


def _to_repeat(run: Run, timer: str) -> list[commands.Command] | None:
    """The commands to carry out once more when this timer is due, as far as they are outstanding; None for other timers."""
    if timer.startswith(_LIST_TIMER):
        return [
            item
            for item in outstanding(run)
            if isinstance(item, commands.ListServers) and _list_timer(item.job) == timer
        ]
    if timer.startswith(_LOCK_TIMER):
        return [
            item
            for item in outstanding(run)
            if isinstance(item, commands.AcquireLock) and _lock_timer(item.job) == timer
        ]
    if timer.startswith(orders.LOOK_AT_CHILD_RUN):
        return [
            item
            for item in outstanding(run)
            if isinstance(item, commands.WatchChildRun)
            and child_run_commands.timer_id(attempt_id(run.id, item)) == timer
        ]
    return None


def _list_timer(job: JobId) -> str:
    return f"{_LIST_TIMER}{job}"


def _lock_timer(job: JobId | None) -> str:
    return _LOCK_TIMER if job is None else f"{_LOCK_TIMER}/{job}"


def _freed_slots(run: Run) -> list[commands.ReleaseLock]:
    """The slots of the jobs that ended last. Freeing one a second time changes nothing."""
    if run.is_completed:
        # The lock finds out that the run has ended.
        return []
    ended = [job for job in run.jobs if job.lock is not None and job.status is Status.COMPLETED]
    newest = heapq.nlargest(UNLOCKS_MAX, ended, key=lambda job: job.completed_at or 0)
    return [commands.ReleaseLock(job=job.id, group=job.lock.group) for job in newest if job.lock is not None]


def _return_unwanted(run: Run, item: inputs.LockAcquired, result: _Result) -> None:
    """Gives back a slot that the run or job no longer wants: its request has arrived after its release, or was repeated."""
    owner = run if item.job is None else run.jobs_by_id.get(item.job)
    if owner is None or owner.lock is None:
        return
    if not any(isinstance(other, commands.AcquireLock) and other.job == item.job for other in outstanding(run)):
        result.commands.append(commands.ReleaseLock(job=item.job, group=owner.lock.group))


def _check_request(run: Run, content: inputs.Input) -> None:
    """Raises `Rejected` for a request that the run cannot accept, as the log engine does."""
    if isinstance(content, inputs.DecideApproval):
        approvals.check(run, content)
    elif isinstance(content, inputs.TaskReport):
        # A gateway believes an agent as to what it holds; its report about another one's attempt is not even evidence.
        attempt = run.attempt(content.job, content.step, content.attempt)
        if attempt is None or attempt.agent != content.agent:
            raise Rejected(
                "WF215", f"a report about {content.job}/{content.step}: the agent does not have it", status=403
            )
    elif run.is_completed:
        raise Rejected("WF606", f"run {run.id} is already completed", status=409)


def _note_courtesies(live: _Live, issued: Sequence[messages.AnyCommand]) -> None:
    for command in issued:
        if isinstance(command, messages.ScheduleActivity) and command.name in _COURTESIES:
            live.courtesies.add(command.id)
        elif isinstance(command, messages.CancelActivity):
            live.courtesies.discard(command.id)


def _refusal(error: Rejected) -> Refusal:
    return Refusal(code=error.code, text=error.text, where=error.where or "", status=error.status)


def attributes(row: RunSummary) -> dict[str, str | int]:
    """What Temporal can search for, readable for everyone who may use the namespace."""
    values: dict[str, str | int | None] = {
        "WaterflowRepository": row.repository,
        "WaterflowPath": row.path,
        "WaterflowStatus": row.status.value,
        "WaterflowConclusion": row.conclusion.value if row.conclusion is not None else None,
        "WaterflowTrigger": row.trigger.kind.value,
        "WaterflowRevision": row.revision,
        "WaterflowNumber": row.number,
    }
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (isinstance(value, str) and len(value) > KEYWORD_LENGTH_MAX)
    }


def _announced(row: RunSummary) -> list[messages.AnyCommand]:
    """The row, sealed, and what Temporal can search for."""
    return [
        messages.SetAttributes(values=attributes(row)),
        messages.SetMemo(name=ROW_MEMO, content=ROWS.pack(row)),
    ]
