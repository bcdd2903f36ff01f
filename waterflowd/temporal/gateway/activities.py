"""The activities of runs, as a gateway carries them out.

Rules of this file

- An order is sealed by a daemon for its run; it is carried out only under the id, and from the queue, that belong to it.
- Waiting takes as long as it takes, with heartbeats. When the session of the agent ends, or the gateway stops, the activity
  goes back to its queue.
- `attempt` ends here only if its result is known already. Otherwise the report of the agent completes it, by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from temporalio import activity
from temporalio.exceptions import ApplicationError

from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire.messages import Release, Task
from waterflowd import ports
from waterflowd.dispatch import lowering
from waterflowd.engine import inputs
from waterflowd.fleet.placement import Placement, Server, SlotRequest
from waterflowd.fleet.registry import Registry
from waterflowd.model.codec import UnreadableError
from waterflowd.model.ids import AgentId
from waterflowd.model.reasons import Reason, ReasonCode, reason
from waterflowd.model.statuses import Outcome
from waterflowd.temporal import orders, received_orders
from waterflowd.temporal.gateway.activity_client import away
from waterflowd.temporal.gateway.attempts import GatewayAttempts, Session
from waterflowd.temporal.gateway.slots import Slots

#: The interval of heartbeats while an activity waits.
WAIT_HEARTBEAT_S = 20.0

Found = TypeVar("Found")


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """How secrets are read here."""

    read: lowering.ReadSecret = lowering.no_secret
    missing: lowering.MissingSecrets = lowering.all_missing


class LeaseTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a granted slot says about the attempt's lease."""

    #: The fleet's generation.
    epoch: int
    lease_ms: int


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
        secrets: Secrets,
    ) -> None:
        self._attempts = attempts
        self._slots = slots
        self._placement = placement
        self._registry = registry
        self._link = link
        self._clock = clock
        self._terms = terms
        self._secrets = secrets
        self._secrets_read = asyncio.Event()

    @property
    def of_groups(self) -> list[Callable[..., Awaitable[Any]]]:
        """The activities of the queue of a group."""
        return [self.place]

    @property
    def of_agents(self) -> list[Callable[..., Awaitable[Any]]]:
        """The activities of the queue of an agent."""
        return [self.place, self.attempt, self.cancel, self.release]

    def secrets_read(self) -> None:
        """A secret was read, or could not be read."""
        self._secrets_read.set()
        self._secrets_read = asyncio.Event()

    # Slots ------------------------------------------------------------------------------------------------------------

    @activity.defn(name=orders.PLACE)
    async def place(self, content: bytes) -> bytes:
        """Grants a slot as soon as one is free; denies it to an attempt whose secrets have no value."""
        order = received_orders.read(content, orders.SlotOrder)
        queue = orders.group_queue(order.group) if order.agent is None else orders.agent_queue(order.agent)
        received_orders.check_activity(order.attempt.run, orders.attempt_activity(orders.PLACE, order.attempt), queue)
        async with _waiting(()):
            obstacle = await self._secrets_obstacle(order.secrets)
            if obstacle is not None:
                name = order.attempt
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
            )
            return orders.INPUTS.pack(self._granted(request, await self._slots.take(request)))

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

    async def _secrets_obstacle(self, request: lowering.SecretRequest | None) -> Reason | None:
        """Why the attempt's secrets prevent a slot for good; None when all have a value."""
        if request is None:
            return None
        try:
            missing = await self._read(lambda: self._secrets.missing(request))
        except Rejected as error:
            return reason(ReasonCode.SECRET_UNREADABLE, str(error), error=error.code)
        if not missing:
            return None
        text = f"no source has the secret {', '.join(missing)}; set it in the daemon's secrets"
        return reason(ReasonCode.SECRET_MISSING, text, secrets=list(missing))

    async def _read(self, call: Callable[[], Found]) -> Found:
        """What `call` returns once no secret is being read any longer."""
        while True:
            secrets_read = self._secrets_read
            try:
                return call()
            except Retryable:
                await secrets_read.wait()

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
        known = session.attempt(task)
        offer = None
        if known is None:
            async with _waiting(activity.info().heartbeat_details):
                offer = await self._offer(session, order)
            if offer is None and not progress.started_at and not order.is_started:
                return self._cancelled(order)
            if session.has_ended.is_set():
                raise away("the agent is no longer connected to this gateway")
        if not self._attempts.reports.is_ending(agent, task):
            self._attempts.attach(session, order, progress, offer)
        return None

    async def _offer(self, session: Session, order: orders.TaskOrder) -> Task | None:
        """The task to offer, once the agent has a slot for it and its secrets are read; None if it was cancelled before."""
        task = order.draft.task.key
        if task in session.cancels:
            return None
        preparing = session.preparing[task] = asyncio.create_task(self._prepare(session, order))
        try:
            return await preparing
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task in session.cancels and current is not None and not current.cancelling():
                return None
            raise
        finally:
            if session.preparing.get(task) is preparing:
                del session.preparing[task]

    async def _prepare(self, session: Session, order: orders.TaskOrder) -> Task:
        task = order.draft.task
        request = SlotRequest(attempt=task.key.attempt, group=task.group, node=task.node, agent=session.agent)
        server = await self._slots.take(request)
        return await self._read(lambda: lowering.fill(order.draft, server.instance, self._secrets.read))

    def _cancelled(self, order: orders.TaskOrder) -> bytes:
        """The end of an attempt that its agent never got."""
        task, now = order.draft.task.key, self._clock.now()
        name = task.attempt
        finished = inputs.TaskFinished(
            job=name.job,
            step=name.step,
            attempt=name.number,
            epoch=task.epoch,
            agent=order.agent,
            outcome=Outcome.CANCELLED,
            reason_code=ReasonCode.CANCEL_REQUESTED.value,
            reason_text="cancelled before it started",
            started_at=now,
            finished_at=now,
        )
        return orders.INPUTS.pack(finished)

    @activity.defn(name=orders.CANCEL)
    async def cancel(self, content: bytes) -> None:
        """Sends the agent a cancel. It is sent again when the agent, or the attempt, comes to another gateway."""
        order = received_orders.read(content, orders.CancelOrder)
        received_orders.check_activity(
            order.task.attempt.run,
            orders.attempt_activity(orders.CANCEL, order.task.attempt, is_forced=order.is_forced),
            orders.agent_queue(order.agent),
        )
        attempt = self._attempts.cancel(self._session(order.agent), order)
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
        self._link.send(order.agent, [Release(order.run, order.job)])

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
async def _waiting(details: Sequence[Any]) -> AsyncIterator[None]:
    """Sends heartbeats, with the details that they had; gives the activity back when the gateway stops waiting for it."""

    async def beat() -> None:
        while True:
            activity.heartbeat(*details)
            await asyncio.sleep(WAIT_HEARTBEAT_S)

    beating = asyncio.create_task(beat(), name="heartbeats of a waiting activity")
    try:
        yield
    except asyncio.CancelledError:
        cause = activity.cancellation_details()
        if cause is not None and cause.worker_shutdown:
            raise away("the gateway no longer takes activities from this queue") from None
        raise
    finally:
        beating.cancel()
