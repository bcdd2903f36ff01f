"""The attempts of the agents that are connected here: those whose activity has arrived, and those that agents say they hold.

Rules of this file

- What an agent says that it holds is believed as far as it concerns the agent itself: its slots are occupied, and its reports
  are passed on under its name. Its output is stored once the activity, or the facts of the run, say that it has the attempt:
  also that of attempts which it no longer names, because it has the acknowledgement of their results.
  The rest is known when the activity arrives: at the handshake it is returned to its queue, from whichever gateway had it,
  and this one takes it.
- While an activity is here it gets a heartbeat every `HEARTBEAT_S`, with what the next gateway must know.
- An attempt is stopped only when it is certain that no run waits for it: its activity was cancelled, the run has ended, or its
  execution has not had the activity for `MISSING_S`, although it was able to schedule it. For the moment in which a run
  continues as a new execution, no activity is there.
- Temporal ends an attempt when its activity has had no heartbeat, and was not taken again, for long enough. So a session is
  confirmed, which extends leases, only while heartbeats are answered and the activities of the agent's attempts are here.
- When a session ends, its activities go back to their queue. If the agent does not return, `schedule-to-start` ends them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from waterflow_agent.errors import Retryable
from waterflow_agent.wire.messages import AttemptState, Cancel, DaemonMessage, Hello, Offer, TaskId
from waterflowd import ports
from waterflowd.dispatch import lowering
from waterflowd.engine import inputs
from waterflowd.engine.rules import leases
from waterflowd.fleet.registry import Registry
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId, run_stream
from waterflowd.model.records import Checkout, HeldAttempt
from waterflowd.temporal import orders
from waterflowd.temporal.gateway.activity_client import ActivityClient, Lease, OpenActivities, confirmed
from waterflowd.temporal.gateway.reports import Reports
from waterflowd.temporal.gateway.sessions import REMEMBERED_MAX, Attempt, Prepared, Session
from waterflowd.temporal.gateway.slots import Slots

logger = logging.getLogger("waterflow.gateway")

#: A third of the time after which Temporal gives an activity without a heartbeat to another gateway.
HEARTBEAT_S = 20.0
#: Less than the time after which Temporal returns an activity without a heartbeat to its queue.
CONFIRM_S = 45.0
#: A run hears of the start of an attempt that lasts longer than this.
STARTED_AFTER_S = 5.0
#: An execution that follows another one begins with a delay of a second, and schedules its activities in its first task.
MISSING_S = 60.0
#: Between attempts to return the activities of a session that has ended. The next session of the agent begins afterwards.
GIVE_BACK_DELAYS_S = (0.5, 1.0)
#: When an attempt was dispatched whose activity has not arrived: later than everything.
_UNKNOWN_AT = 1 << 62

#: Offers an attempt whose activity has arrived, or finds that it is lost: the agent, the attempt, and its state at the agent.
Arrived = Callable[[AgentId, HeldAttempt, AttemptState | None], None]


class GatewayAttempts:
    """Implements `ports.Attempts`. Set `arrived` and `poll` before the first session."""

    def __init__(
        self,
        activities: ActivityClient,
        slots: Slots,
        registry: Registry,
        link: ports.Link,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        started_after_s: float = STARTED_AFTER_S,
        missing_s: float = MISSING_S,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self._activities = activities
        self._slots = slots
        self._registry = registry
        self._link = link
        self._heartbeat_s = heartbeat_s
        self._started_after_s = started_after_s
        self._missing_s = missing_s
        self._confirm_s = confirm_s
        #: When the newest heartbeats were sent that were all answered, by the loop's clock.
        self._answered_at = asyncio.get_running_loop().time()
        self.reports = Reports(activities, self._deliver_start, self._ended)
        self.arrived: Arrived = lambda agent, attempt, state: None
        #: Takes activities from the queue of an agent until it is cancelled.
        self.poll: Callable[[AgentId], Awaitable[None]] = _poll_nothing
        #: Called when the queue of an agent is no longer polled: Temporal may have answered the last poll, which nobody read.
        self.left: Callable[[], None] = lambda: None
        self._sessions: dict[AgentId, Session] = {}
        #: What serves the newest session of each agent; the next one begins when it has ended.
        self._serving: dict[AgentId, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Sends heartbeats until it is cancelled."""
        while True:
            await asyncio.sleep(self._heartbeat_s)
            await self.beat()

    async def close(self) -> None:
        """Ends all sessions, and gives their activities back."""
        for agent in list(self._sessions):
            self.session_ended(agent)
        await asyncio.gather(*self._serving.values(), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reports.close()
        self._slots.close()

    # Sessions ---------------------------------------------------------------------------------------------------------

    def settle(self, agent: AgentId, hello: Hello, call: Callable[[], None]) -> None:
        """See the port."""
        self.session_ended(agent)
        session = self._sessions[agent] = Session(agent, hello)
        for attempt in session.attempts.values():
            if attempt.is_open:
                self._slots.claim(agent, attempt.task)
        serving = self._start(self._serve(session, self._serving.get(agent), call), f"session of {agent}")
        self._serving[agent] = serving
        serving.add_done_callback(lambda done: self._forget(agent, done))

    def _forget(self, agent: AgentId, serving: asyncio.Task[None]) -> None:
        if self._serving.get(agent) is serving:
            del self._serving[agent]

    def session_ended(self, agent: AgentId) -> None:
        """See the port."""
        session = self._sessions.pop(agent, None)
        if session is None:
            return
        session.has_ended.set()
        self.reports.session_ended(agent)
        for attempt in session.attempts.values():
            self._free(session, attempt)

    async def _serve(self, session: Session, previous: asyncio.Task[None] | None, call: Callable[[], None]) -> None:
        if previous is not None:
            await asyncio.wait([previous])
        polling = asyncio.create_task(self._settle_and_poll(session, call), name=f"queue of {session.agent}")
        try:
            await session.has_ended.wait()
        finally:
            polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        await self._give_back(session)
        self.left()

    async def _settle_and_poll(self, session: Session, call: Callable[[], None]) -> None:
        try:
            await self._look_at_runs(session)
            claimed = [attempt.task for attempt in session.attempts.values() if attempt.is_open]
            await asyncio.gather(*(self._adopt(session.agent, task) for task in claimed))
            call()
            await self.poll(session.agent)
        except Exception:
            # A supervision point: other agents are not affected. This one gets nothing until it connects again.
            logger.exception("the session of agent %s failed; it gets nothing until it connects again", session.agent)

    async def _adopt(self, agent: AgentId, task: TaskId) -> None:
        """Takes an activity from the gateway that had the agent before, through the queue and with all that belongs to it."""
        text = "its agent has opened a session with another gateway"
        await confirmed(lambda: self._activities.give_back(agent, task, text))

    async def _look_at_runs(self, session: Session) -> None:
        """Finds the runs that have ended: what the agent holds of them is unwanted."""
        named = [*(name.run for name in session.attempts), *(RunId(run) for run, _ in session.hello.jobs)]
        await asyncio.gather(*(self._look_at_run(session, run) for run in dict.fromkeys(named)))
        for name, attempt in session.attempts.items():
            attempt.is_unwanted |= name.run in session.closed_runs
        session.expected = {name for name in session.expected if name.run not in session.closed_runs}

    async def _look_at_run(self, session: Session, run: RunId) -> None:
        if await confirmed(lambda: self._activities.look(run)) is None:
            session.closed_runs.add(run)

    async def _give_back(self, session: Session) -> None:
        text = "its agent is not connected"
        attached = [
            attempt
            for attempt in session.attempts.values()
            if attempt.is_attached and not self.reports.is_ending(session.agent, attempt.task)
        ]
        calls = (self._try_to_give_back(session.agent, each.task, text) for each in attached)
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.warning("cannot give an activity of agent %s back: %s", session.agent, outcome)

    async def _try_to_give_back(self, agent: AgentId, task: TaskId, text: str) -> None:
        """What cannot be returned now goes back when its heartbeats are missed."""
        for delay_s in GIVE_BACK_DELAYS_S:
            try:
                await self._activities.give_back(agent, task, text)
                return
            except Retryable:
                await asyncio.sleep(delay_s)
        await self._activities.give_back(agent, task, text)

    # Activities -------------------------------------------------------------------------------------------------------

    def session(self, agent: AgentId) -> Session | None:
        """The open session of the agent."""
        return self._sessions.get(agent)

    def is_attached(self, stream: str, identifier: str) -> bool:
        """Whether an agent carries out the activity, or its report is on its way."""
        return any(
            attempt.is_attached
            and run_stream(name.run) == stream
            and orders.task_activity(attempt.task, session.agent) == identifier
            for session in self._sessions.values()
            for name, attempt in session.attempts.items()
        )

    def attach(self, session: Session, order: orders.TaskOrder, prepared: Prepared) -> None:
        """The activity of an attempt has arrived: offers it to the agent, unless the agent has it or it is lost.

        The agent must have a slot for it.
        """
        task = order.draft.task.key
        attempt = session.attempt(task)
        state = None if attempt is None else attempt.state
        if attempt is None:
            attempt = session.attempts[task.attempt] = Attempt(task=task)
        elif attempt.order is None:
            self._slots.drop_claim(session.agent, task)
        session.expected.discard(task.attempt)
        self._slots.hold(session.agent, task.attempt)
        is_repeated = attempt.order is not None
        if (arrival := session.arrivals.get(task)) is not None:
            arrival.set()
        attempt.order, attempt.is_attached, attempt.missed_in, attempt.is_foreign = order, True, "", False
        attempt.progress = _merged(attempt.progress, prepared.progress, session.cancels.pop(task, None))
        if is_repeated and state is None:
            # It was offered in this session, which delivers the offer.
            return
        attempt.offer, attempt.is_wait_known = prepared.offer, prepared.is_wait_known
        if state is AttemptState.STARTED and not attempt.progress.is_start_known:
            self._start(self._tell_start(session, attempt), f"start of {task.attempt}")
        self.arrived(session.agent, self._held(session, attempt), state)

    def cancel(self, session: Session, order: orders.CancelOrder) -> Attempt | None:
        """The agent must stop an attempt. Returns the attempt if its activity is here; else the cancel waits for it."""
        attempt = session.attempt(order.task)
        if attempt is None or attempt.order is None:
            session.cancels[order.task] = (order.is_forced, order.reason)
            if len(session.cancels) > REMEMBERED_MAX:
                session.cancels.popitem(last=False)
            preparing = session.preparing.get(order.task)
            if preparing is not None:
                preparing.cancel()
        else:
            attempt.progress = _merged(attempt.progress, orders.AttemptProgress(), (order.is_forced, order.reason))
        if attempt is not None:
            self._link.send(session.agent, [Cancel(order.task, order.is_forced, order.reason)])
        return attempt if attempt is not None and attempt.is_attached else None

    async def note(self, agent: AgentId, attempt: Attempt) -> None:
        """Leaves the attempt's progress for the next gateway. Raises `Retryable`."""
        await self._activities.heartbeat(agent, attempt.task, orders.PROGRESS.pack(attempt.progress))

    async def beat(self) -> None:
        """One heartbeat for each activity that is here, and a look at the runs of attempts whose activity is not."""
        checks = [
            self._check(session, attempt)
            for session in self._sessions.values()
            for attempt in session.attempts.values()
            if attempt.is_open and not self.reports.is_ending(session.agent, attempt.task)
        ]
        now = asyncio.get_running_loop().time()
        if all(await asyncio.gather(*checks)):
            self._answered_at = now

    async def _check(self, session: Session, attempt: Attempt) -> bool:
        """Whether Temporal has answered."""
        try:
            if attempt.is_attached:
                content = orders.PROGRESS.pack(attempt.progress)
                lease = await self._activities.heartbeat(session.agent, attempt.task, content)
                if lease is Lease.HELD:
                    return True
                attempt.is_attached = False
                if lease is Lease.CANCELLED:
                    self._stop(session, attempt)
                    return True
            found = await self._activities.look(attempt.task.attempt.run)
        except Retryable as error:
            logger.warning("no heartbeat for %s: %s", attempt.task.attempt, error)
            return False
        if attempt.is_open and not attempt.is_attached and (found is None or self._is_missing(session, attempt, found)):
            self._stop(session, attempt)
        return True

    def _is_missing(self, session: Session, attempt: Attempt, found: OpenActivities) -> bool:
        now = asyncio.get_running_loop().time()
        is_there = orders.task_activity(attempt.task, session.agent) in found.ids
        missed_in = found.execution if found.is_complete and not is_there else ""
        if missed_in != attempt.missed_in:
            attempt.missed_in, attempt.missed_since = missed_in, now
        return bool(missed_in) and now >= attempt.missed_since + self._missing_s

    def _stop(self, session: Session, attempt: Attempt) -> None:
        """No run waits for the attempt. Its slot is free when the agent has reported its end."""
        if session.has_ended.is_set():
            return
        logger.warning("stopping %s on agent %s: no run waits for it", attempt.task.attempt, session.agent)
        attempt.is_unwanted = True
        session.expected.discard(attempt.task.attempt)
        self._link.send(session.agent, [Cancel(attempt.task, True, "no run waits for this attempt any longer")])

    # Reports ----------------------------------------------------------------------------------------------------------

    def report(
        self,
        agent: AgentId,
        reports: Sequence[tuple[RunId, inputs.TaskReport]],
        durable: Callable[[], None] = lambda: None,
    ) -> None:
        """See the port."""
        session = self._sessions.get(agent)
        for run, report in reports:
            task = TaskId(AttemptId(run, report.job, report.step, report.attempt), report.epoch)
            attempt = session.attempt(task) if session is not None else None
            if attempt is None:
                continue
            if isinstance(report, inputs.TaskStarted):
                if attempt.state is not AttemptState.FINISHED:
                    attempt.state = AttemptState.STARTED
                    attempt.progress = msgspec.structs.replace(attempt.progress, started_at=report.started_at)
            else:
                attempt.state, attempt.offer = AttemptState.FINISHED, None
                attempt.output_bytes = report.output_bytes if isinstance(report, inputs.TaskFinished) else 0
            if self.reports.result(agent, task) is not None:
                # An agent that did not get the acknowledgement.
                self._ended(agent, task)
        self.reports.add(agent, reports, durable)

    async def _deliver_start(self, agent: AgentId, task: TaskId) -> None:
        session = self._sessions.get(agent)
        attempt = session.attempt(task) if session is not None else None
        if session is None or attempt is None or attempt.state is not AttemptState.STARTED:
            return
        await self.note(agent, attempt)
        if not attempt.progress.is_start_known:
            self._start(self._tell_start(session, attempt), f"start of {task.attempt}")

    async def _tell_start(self, session: Session, attempt: Attempt) -> None:
        """Tells the run that the attempt has started, if it lasts."""
        # A run that was told that it waits must not believe that for longer.
        await asyncio.sleep(0 if attempt.is_wait_known else self._started_after_s)
        task, progress = attempt.task, attempt.progress
        if attempt.state is not AttemptState.STARTED or progress.is_start_known or session.has_ended.is_set():
            return
        name = task.attempt
        started = inputs.TaskStarted(
            job=name.job,
            step=name.step,
            attempt=name.number,
            epoch=task.epoch,
            agent=session.agent,
            started_at=progress.started_at,
        )
        content = orders.INPUTS.pack(started)
        await confirmed(lambda: self._activities.signal(name.run, content))
        attempt.progress = msgspec.structs.replace(attempt.progress, is_start_known=True)

    def _ended(self, agent: AgentId, task: TaskId) -> None:
        """The run has the end of the attempt."""
        session = self._sessions.get(agent)
        attempt = session.attempt(task) if session is not None else None
        if session is None or attempt is None:
            return
        del session.attempts[task.attempt]
        session.expected.discard(task.attempt)
        session.note_ended(attempt)
        self._free(session, attempt)

    def _free(self, session: Session, attempt: Attempt) -> None:
        if attempt.order is None:
            self._slots.drop_claim(session.agent, attempt.task)
            self._slots.assign()
        else:
            self._slots.free(session.agent, attempt.task.attempt)

    # The rest of the port ---------------------------------------------------------------------------------------------

    def find(self, agent: AgentId, name: AttemptId) -> HeldAttempt | None:
        """See the port."""
        session = self._sessions.get(agent)
        attempt = None if session is None else session.attempts.get(name) or session.ended.get(name)
        return None if session is None or attempt is None or attempt.is_foreign else self._held(session, attempt)

    def is_foreign(self, agent: AgentId, key: TaskId) -> bool:
        """See the port. What the session does not know may be the agent's: its result was taken before the session began."""
        session = self._sessions.get(agent)
        attempt = None if session is None else session.attempts.get(key.attempt) or session.ended.get(key.attempt)
        return attempt is not None and (attempt.is_foreign or (attempt.is_certain and attempt.task != key))

    async def confirm(self, agent: AgentId, keys: Sequence[TaskId]) -> list[HeldAttempt | None]:
        """See the port."""
        found = await self._activities.recorded(agent, keys)
        session = self._sessions.get(agent)
        for key, held in zip(keys, found, strict=True):
            if session is None:
                break
            attempt = session.attempts.get(key.attempt) or session.ended.get(key.attempt)
            if attempt is not None and attempt.task == key:
                attempt.recorded, attempt.is_foreign = held, held is None and attempt.order is None
            elif attempt is None and held is not None:
                # The agent has not named it, so it has the acknowledgement of its result.
                ended = Attempt(task=key, state=AttemptState.FINISHED, recorded=held, output_bytes=held.output_bytes)
                session.note_ended(ended)
        return found

    def open_attempts(self, agent: AgentId) -> list[HeldAttempt]:
        """See the port."""
        session = self._sessions.get(agent)
        if session is None:
            return []
        return [self._held(session, attempt) for attempt in session.attempts.values() if not attempt.is_unwanted]

    def ended(self, agent: AgentId, keys: Sequence[TaskId]) -> list[TaskId]:
        """See the port. It takes a question to each run, so nothing is known yet."""
        return []

    def has_job_ended(self, agent: AgentId, run_id: RunId, job_id: JobId) -> bool:
        """See the port. The jobs of open runs are released by an activity."""
        session = self._sessions.get(agent)
        return session is not None and run_id in session.closed_runs

    def is_stalled(self, run: RunId) -> bool:
        """See the port. A report to a stalled run waits until a person has intervened."""
        return False

    def checkout(self, agent: AgentId, key: TaskId) -> Checkout | None:
        """See the port."""
        session = self._sessions.get(agent)
        attempt = session.attempt(key) if session is not None else None
        if attempt is None or not attempt.is_open:
            return None
        if attempt.order is None:
            raise Retryable("WF219", "the run's activity of this attempt has not arrived yet", after_s=1.0)
        tree = attempt.order.draft.task.tree
        return None if tree is None else lowering.checkout_of(tree)

    def outstanding(self, agent: AgentId, key: TaskId, *, is_held: bool) -> list[DaemonMessage]:
        """See the port."""
        session = self._sessions.get(agent)
        attempt = session.attempt(key) if session is not None else None
        if attempt is None:
            return []
        outgoing: list[DaemonMessage] = []
        if attempt.offer is not None and not is_held:
            outgoing.append(Offer(attempt.offer))
        attempt.offer = None
        if attempt.progress.cancel_reason is not None:
            outgoing.append(Cancel(key, attempt.progress.is_forced, attempt.progress.cancel_reason))
        return outgoing

    def confirms(self, agent: AgentId) -> bool:
        """See the port. An activity that is not in its queue after a while is not ended by Temporal either."""
        session = self._sessions.get(agent)
        if session is None:
            return False
        now = asyncio.get_running_loop().time()
        are_here = not session.expected or now >= session.opened_at + self._missing_s
        return are_here and now < self._answered_at + self._confirm_s

    def servers_changed(self) -> None:
        """See the port."""
        self._slots.assign()

    def _held(self, session: Session, attempt: Attempt) -> HeldAttempt:
        order, name = attempt.order, attempt.task.attempt
        entry = self._registry.agents.get(session.agent)
        draft = None if order is None else order.draft.task
        source = order or attempt.recorded
        return HeldAttempt(
            name=name,
            epoch=attempt.task.epoch,
            agent=session.agent,
            agent_name=order.agent_name if order is not None else entry.name if entry is not None else "",
            boot_id=attempt.progress.boot_id or (session.hello.boot_id if draft is None else draft.boot_id),
            dispatched_at=_UNKNOWN_AT if source is None else source.dispatched_at,
            repository=None if source is None else source.repository,
            is_open=attempt.is_open,
            is_started=bool(
                attempt.state is AttemptState.STARTED
                or attempt.progress.started_at
                or (order is not None and order.is_started)
            ),
            output_bytes=attempt.output_bytes,
            output_bytes_max=_output_bytes_max(attempt),
            lease_over_ms=leases.over_after_ms(draft.lease_ms, draft.grace_ms) if draft and draft.lease_ms else 0,
            is_certain=attempt.is_certain,
        )

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _merged(
    own: orders.AttemptProgress, other: orders.AttemptProgress, cancel: tuple[bool, str] | None
) -> orders.AttemptProgress:
    """Everything that is known of an attempt. A forced cancel is stronger than a plain one."""
    cancels = [
        *((each.is_forced, each.cancel_reason) for each in (own, other) if each.cancel_reason is not None),
        *([cancel] if cancel is not None else []),
    ]
    is_forced, reason = max(cancels, key=lambda each: each[0], default=(False, None))
    return orders.AttemptProgress(
        started_at=own.started_at or other.started_at,
        is_start_known=own.is_start_known or other.is_start_known,
        cancel_reason=reason,
        is_forced=is_forced,
        boot_id=own.boot_id if other.boot_id is None else other.boot_id,
    )


def _output_bytes_max(attempt: Attempt) -> int:
    if attempt.order is not None:
        return attempt.order.draft.task.output_bytes_max
    # While its run was not asked, no output is stored.
    return attempt.recorded.output_bytes_max if attempt.recorded is not None else 0


async def _poll_nothing(agent: AgentId) -> None:
    """Takes the place of the queues of a gateway that has none."""
