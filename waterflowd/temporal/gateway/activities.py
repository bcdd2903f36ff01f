"""The activities of runs, as a gateway carries them out.

Rules of this file

- An order is sealed by a daemon for its run; it is carried out only under the id, and from the queue, that belong to it.
- Waiting takes as long as it takes, with heartbeats. When the session of the agent ends, or the gateway stops, the activity
  goes back to its queue.
- `attempt` ends here only if its result is known already. Otherwise the report of the agent completes it, by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
from temporalio import activity
from temporalio.exceptions import ApplicationError

from waterflow_agent.attempts import AttemptId
from waterflow_agent.wire.messages import Release
from waterflowd import ports
from waterflowd.engine import inputs
from waterflowd.fleet.placement import Placement, Server, SlotRequest
from waterflowd.fleet.registry import Registry
from waterflowd.model.codec import UnreadableError
from waterflowd.model.ids import AgentId
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders, received_orders
from waterflowd.temporal.gateway import offers
from waterflowd.temporal.gateway.activity_client import away
from waterflowd.temporal.gateway.attempts import GatewayAttempts
from waterflowd.temporal.gateway.offers import Offers
from waterflowd.temporal.gateway.other_gateways import OtherGateways
from waterflowd.temporal.gateway.secret_reader import SecretReader
from waterflowd.temporal.gateway.sessions import Prepared, Session
from waterflowd.temporal.gateway.slots import Slots
from waterflowd.temporal.gateway.waits import Wait, WaitNotices
from waterflowd.temporal.own_slots import LeaseTerms

#: The interval of heartbeats while an activity waits.
WAIT_HEARTBEAT_S = 20.0
#: How long a request for any server of a group waits here before another gateway gets it, if there is one.
GIVE_BACK_S = 1.0
#: How long it stays in the queue then: twice as long each time, as probably none of them can grant it.
GIVEN_BACK_S = 0.1
GIVEN_BACK_S_MAX = 10.0
#: How long a cancel waits for its attempt before it returns to its queue: less than its timeout (`run_commands.SHORT_MS`).
ARRIVAL_S = 8.0

Found = TypeVar("Found")


class GatewayActivities:
    """The activities of one gateway."""

    def __init__(
        self,
        attempts: GatewayAttempts,
        slots: Slots,
        placement: Placement,
        registry: Registry,
        link: ports.Link,
        clock: ports.Clock,
        *,
        terms: LeaseTerms,
        secrets: SecretReader,
        offers: Offers,
        notices: WaitNotices,
        others: OtherGateways,
    ) -> None:
        self._attempts = attempts
        self._slots = slots
        self._placement = placement
        self._registry = registry
        self._link = link
        self._clock = clock
        self._terms = terms
        self._secrets = secrets
        self._offers = offers
        self._notices = notices
        self._others = others

    @property
    def of_groups(self) -> list[Callable[..., Awaitable[Any]]]:
        """The activities of the queue of a group."""
        return [self.place]

    @property
    def of_agents(self) -> list[Callable[..., Awaitable[Any]]]:
        """The activities of the queue of an agent."""
        return [self.place, self.attempt, self.cancel, self.release]

    # Slots ------------------------------------------------------------------------------------------------------------

    @activity.defn(name=orders.PLACE)
    async def place(self, content: bytes) -> bytes:
        """Grants a slot as soon as one is free; denies it to an attempt whose secrets have no value."""
        order = received_orders.read(content, orders.SlotOrder)
        queue = orders.group_queue(order.group) if order.agent is None else orders.agent_queue(order.agent)
        received_orders.check_activity(order.attempt.run, orders.attempt_activity(orders.PLACE, order.attempt), queue)
        name = order.attempt
        async with _waiting(), self._notices.telling(name, lambda wait: self._cause(name, wait)):
            obstacle = await self._secrets.obstacle(name, order.secrets)
            if obstacle is not None:
                denied = inputs.SlotDenied(job=name.job, step=name.step, attempt=name.number, reason=obstacle)
                return orders.INPUTS.pack(denied)
            request = SlotRequest(
                attempt=order.attempt,
                group=order.group,
                node=order.node,
                agent=order.agent,
                labels=order.labels,
                avoid=order.avoid,
                later=frozenset(order.later),
                needs_docker=order.needs_docker,
            )
            return orders.INPUTS.pack(self._granted(request, await self._server(request, queue)))

    def _cause(self, attempt: AttemptId, wait: Wait) -> Reason | None:
        """What a request waits for. The turn has said that it waits for a server, so that is only told after something else."""
        return self._secrets.delay(attempt) or (self._slots.reason(attempt) if wait.is_known else None)

    async def _server(self, request: SlotRequest, queue: str) -> Server:
        """Waits for a slot. A request for any server of a group goes back if others could grant it, and nothing here can."""
        taking = asyncio.create_task(self._slots.take(request), name=f"slot of {request.attempt}")
        try:
            while request.agent is None:
                await asyncio.wait([taking], timeout=GIVE_BACK_S)
                if taking.done():
                    break
                if await self._others.poll(queue) and not taking.done():
                    delay_s = min(GIVEN_BACK_S_MAX, GIVEN_BACK_S * 2 ** min(activity.info().attempt, 10))
                    raise away("no server of this gateway can take it", timedelta(seconds=delay_s))
            return await taking
        finally:
            taking.cancel()

    def _granted(self, request: SlotRequest, server: Server) -> inputs.SlotGranted:
        entry = self._registry.agents[server.agent]
        return inputs.SlotGranted(
            job=request.attempt.job,
            step=request.attempt.step,
            attempt=request.attempt.number,
            epoch=self._terms.epoch,
            agent=server.agent,
            agent_name=entry.name,
            boot_id=server.boot_id,
            facts=server.facts,
            node_version=server.version_of(request.node),
            lease_ms=self._terms.lease_ms,
        )

    # Attempts ---------------------------------------------------------------------------------------------------------

    @activity.defn(name=orders.ATTEMPT)
    async def attempt(self, content: bytes) -> bytes:
        """Offers an attempt to its agent, or finds that the agent has it. The agent's report completes the activity."""
        order = received_orders.read(content, orders.TaskOrder)
        agent, task = order.agent, order.draft.task.key
        received_orders.check_activity(task.attempt.run, orders.task_activity(task, agent), orders.agent_queue(agent))
        result = self._attempts.reports.result(agent, task) or await self._begin(order)
        if result is None:
            # The agent's report completes it.
            activity.raise_complete_async()
        return result

    async def _begin(self, order: orders.TaskOrder) -> bytes | None:
        """Lets the agent have the attempt; returns its end if it is over already."""
        agent, task = order.agent, order.draft.task.key
        session = self._session(agent)
        progress = _progress()
        if session.attempt(task) is None:
            async with _given_back_at_the_end():
                found = await self._prepare(session, order, progress)
            if isinstance(found, bytes):
                return found
            if session.has_ended.is_set():
                raise away("the agent is no longer connected to this gateway")
        else:
            # Whatever was noted before: the agent has it.
            found = Prepared(None, msgspec.structs.replace(progress, boot_id=progress.boot_id or None))
        if not self._attempts.reports.is_ending(agent, task):
            self._attempts.attach(session, order, found)
        return None

    async def _prepare(
        self, session: Session, order: orders.TaskOrder, progress: orders.AttemptProgress
    ) -> Prepared | bytes:
        """The attempt, when it may be offered; or its end, because it was cancelled or a secret of it has no value."""
        has_started = bool(progress.started_at) or order.is_started
        # Only the first delivery of an order that is not repeated can have no predecessor.
        was_offered = has_started or order.is_repeated or activity.info().attempt > 1
        prepared = await self._offers.prepare(session, order, progress, was_offered=was_offered)
        if isinstance(prepared, Prepared):
            return prepared
        if prepared is not None:
            return offers.refused(order, Outcome.FAILURE, prepared, self._clock.now())
        if has_started:
            # The agent has lost its record of it: that is for the settlement.
            return Prepared(None, progress)
        cause = reason(ReasonCode.CANCEL_REQUESTED, "cancelled before it started")
        return offers.refused(order, Outcome.CANCELLED, cause, self._clock.now())

    @activity.defn(name=orders.CANCEL)
    async def cancel(self, content: bytes) -> None:
        """Sends the agent a cancel. It is sent again when the agent, or the attempt, comes to another gateway.

        One that arrives before its attempt waits for it: only what is noted with the attempt's activity outlives the session.
        """
        order = received_orders.read(content, orders.CancelOrder)
        received_orders.check_activity(
            order.task.attempt.run,
            orders.attempt_activity(orders.CANCEL, order.task.attempt, is_forced=order.is_forced),
            orders.agent_queue(order.agent),
        )
        session = self._session(order.agent)
        is_prepared = order.task in session.preparing
        attempt = self._attempts.cancel(session, order)
        has_ended = order.is_ended or is_prepared or self._attempts.reports.result(order.agent, order.task) is not None
        if attempt is None and not has_ended:
            attempt = await session.arrival(order.task, ARRIVAL_S)
            if attempt is None:
                raise away("the attempt that is to be cancelled has not arrived at this gateway")
        if attempt is not None:
            await self._attempts.note(order.agent, attempt)

    @activity.defn(name=orders.RELEASE)
    async def release(self, content: bytes) -> None:
        """Lets the agent remove a job's directory."""
        order = received_orders.read(content, orders.ReleaseOrder)
        received_orders.check_activity(
            order.run, orders.job_activity(orders.RELEASE, order.job, order.agent), orders.agent_queue(order.agent)
        )
        self._session(order.agent)
        self._link.send(order.agent, [Release(order.run, order.job, order.is_kept)])

    def _session(self, agent: AgentId) -> Session:
        session = self._attempts.session(agent)
        if session is None:
            raise away("the agent is not connected to this gateway")
        return session


def _progress() -> orders.AttemptProgress:
    details = activity.info().heartbeat_details
    if not details or not isinstance(details[0], bytes):
        return orders.AttemptProgress()
    try:
        found: orders.AttemptProgress = orders.PROGRESS.unpack(details[0])
    except UnreadableError as error:
        raise ApplicationError(str(error.stalled("the progress of an attempt")), type="WF401") from error
    return found


@asynccontextmanager
async def _waiting() -> AsyncIterator[None]:
    """Sends heartbeats; gives the activity back when the gateway stops waiting for it."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(WAIT_HEARTBEAT_S)
            activity.heartbeat()

    beating = asyncio.create_task(beat(), name="heartbeats of a waiting activity")
    try:
        async with _given_back_at_the_end():
            yield
    finally:
        beating.cancel()


@asynccontextmanager
async def _given_back_at_the_end() -> AsyncIterator[None]:
    """Gives the activity back when the gateway stops waiting for it."""
    try:
        yield
    except asyncio.CancelledError:
        cause = activity.cancellation_details()
        if cause is not None and cause.worker_shutdown:
            raise away("the gateway no longer takes activities from this queue") from None
        raise
