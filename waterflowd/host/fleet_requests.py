"""Requests to the fleet: engine commands become requests for slots, server lists and locks; answers become engine inputs.

Rules of this file: a request is answered inside the batch, because its answer is an input of the same batch. A job keeps its
server, so its first slot request names the nodes of all its steps. A node of the repository comes with the task, so its server
only needs an agent that accepts such tasks. An attempt gets a slot only if its job may use the group and read the secrets, and
only when all of its secrets can be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.nodes.schema import FROM_REPOSITORY
from waterflowd import expr
from waterflowd.access.policy import AccessPolicy, Origin, Refusal, job_origin
from waterflowd.dispatch import lowering
from waterflowd.engine import Run, commands, inputs
from waterflowd.engine.rules import contexts
from waterflowd.engine.state.blocks import SERVERLESS_NODES
from waterflowd.engine.state.runs import Job
from waterflowd.fleet.locks import Holder, LockAnswer, LockRequest
from waterflowd.fleet.placement import Placement, Server, ServerListRequest, SlotRequest
from waterflowd.fleet.registry import ALL_SERVERS, Enrolled, Registry
from waterflowd.host.live_state import LiveState
from waterflowd.model.ids import AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.plan import CONTAINERS_NODE, Plan, StepPlan
from waterflowd.model.reasons import Reason, ReasonCode, reason

_AttemptCommand = (
    inputs.SlotGranted
    | commands.RequestSlot
    | commands.SendTask
    | commands.FreeSlot
    | commands.CancelSlotRequest
    | commands.StartChildRun
    | commands.WatchChildRun
    | commands.DropChildRun
    | commands.CancelChildRun
)


def attempt_id(run: RunId, command: _AttemptCommand) -> AttemptId:
    """The attempt that a command or an input is about."""
    return AttemptId(run, JobId(command.job), StepId(command.step), AttemptNo(command.attempt))


# Slots ----------------------------------------------------------------------------------------------------------------


def request_slot(state: LiveState, run: Run, command: commands.RequestSlot) -> inputs.Input:
    """Requests a slot for an attempt; returns the answer as an input."""
    job, step, number = command.job, command.step, command.attempt
    refusal = slot_refusal(state.registry, state.access, run, command)
    if refusal is not None:
        return inputs.SlotDenied(job=job, step=step, attempt=number, reason=refusal.reason)
    if command.secrets:
        obstacle = _secrets_obstacle(state, run, command)
        if obstacle is not None:
            return obstacle
    request = slot_requirements(run, command)
    answer = state.placement.request(request)
    if isinstance(answer, Server):
        return slot_granted(state, request, answer)
    return inputs.SlotPending(job=job, step=step, attempt=number, reason=answer)


def slot_refusal(registry: Registry, access: AccessPolicy, run: Run, command: commands.RequestSlot) -> Refusal | None:
    """Why the job may not use the group, its server, or one of the attempt's secrets; None if it may use all of them."""
    job = run.jobs_by_id[command.job]
    origin = job_origin(run, job)
    entry = registry.agents.get(command.agent) if command.agent is not None and command.group == ALL_SERVERS else None
    if entry is not None:
        refusal = access.server_refusal(origin, entry.groups)
    else:
        refusal = access.group_refusal(origin, command.group)
    if refusal is None and command.secrets:
        refusal = _secret_refusal(access, origin, job, command)
    return refusal


def slot_granted(state: LiveState, request: SlotRequest, server: Server) -> inputs.SlotGranted:
    """A granted slot, as an input."""
    entry = state.registry.agents[server.agent]
    return inputs.SlotGranted(
        job=request.attempt.job,
        step=request.attempt.step,
        attempt=request.attempt.number,
        epoch=state.epoch,
        agent=server.agent,
        agent_name=entry.name,
        boot_id=server.boot_id,
        facts=server.facts,
        node_version=server.version_of(request.node),
        lease_ms=state.lease_ms,
    )


def slot_requirements(run: Run, command: commands.RequestSlot) -> SlotRequest:
    """What the attempt requires of its server."""
    node = _required_node(run.plan, command.node)
    job = run.jobs_by_id[command.job]
    later: frozenset[str] = frozenset()
    if command.agent is None:
        later = frozenset(_required_nodes(run.plan, job.plan.steps)) - {node}
    key = attempt_id(run.id, command)
    is_first = job.agent is None
    return SlotRequest(
        key,
        command.group,
        node,
        command.agent,
        command.labels,
        command.avoid,
        later,
        is_first,
        needs_docker=command.agent is None and _has_containers(run, job, command),
    )


def _has_containers(run: Run, job: Job, command: commands.RequestSlot) -> bool:
    """Whether the step starts a container: the expression of an image may yield an empty text, which means none."""
    if command.node != CONTAINERS_NODE:
        return False
    params = job.steps_by_id[command.step].plan.params
    containers = [params.get("container"), *params.get("services", {}).values()]
    images = [container.get("image") for container in containers if container is not None]
    try:
        # Such an expression sees nothing that changes while the job waits; what time it is makes no image empty.
        env = contexts.for_job(run, job, job.ready_at or 0)
        return any(expr.render(image, env) not in (None, "") for image in images)
    except Rejected:
        # The step will say what is wrong.
        return True


def _required_node(plan: Plan, node: str) -> str:
    return node if plan.node(node) is None else FROM_REPOSITORY


def _required_nodes(plan: Plan, steps: Iterable[StepPlan]) -> Iterator[str]:
    """Nodes that these steps, and the steps inside them, need on the server."""
    for step in steps:
        if step.node not in SERVERLESS_NODES:
            yield _required_node(plan, step.node)
        for block in step.blocks:
            yield from _required_nodes(plan, block.steps)


def _secrets_obstacle(state: LiveState, run: Run, command: commands.RequestSlot) -> inputs.Input | None:
    """Why the attempt's secrets prevent a slot, for now or for good; None when all can be read."""
    job, step, number = command.job, command.step, command.attempt
    request = lowering.secret_request(run, job, command.secrets)
    try:
        missing = [] if request is None else list(state.missing_secrets(request))
    except Retryable as error:
        state.awaiting_secrets.append((run.id, command))
        cause = reason(ReasonCode.SECRET_WAITING, error.text)
        return inputs.SlotPending(job=job, step=step, attempt=number, reason=cause)
    except Rejected as error:
        cause = reason(ReasonCode.SECRET_UNREADABLE, str(error), error=error.code)
        return inputs.SlotDenied(job=job, step=step, attempt=number, reason=cause)
    if not missing:
        return None
    text = f"no source has the secret {', '.join(missing)}; set it in the daemon's secrets"
    cause = reason(ReasonCode.SECRET_MISSING, text, secrets=missing)
    return inputs.SlotDenied(job=job, step=step, attempt=number, reason=cause)


def _secret_refusal(access: AccessPolicy, origin: Origin, job: Job, command: commands.RequestSlot) -> Refusal | None:
    """Why the job may not read one of the attempt's secrets; None if it may read all."""
    for name in command.secrets:
        outer = job.scope.secret(name)
        refusal = access.secret_refusal(origin, command.group, outer) if outer is not None else None
        if refusal is not None:
            return refusal
    return None


# Server lists ---------------------------------------------------------------------------------------------------------


def list_servers(
    placement: Placement, access: AccessPolicy, run: Run, command: commands.ListServers
) -> inputs.ServersListed:
    """Lists the servers of a group that the run may use, as an input."""
    origin, group = job_origin(run, run.jobs_by_id[command.job]), command.group
    request = ServerListRequest(run.id, command.job)
    if group == ALL_SERVERS:
        return servers_listed(
            request,
            placement.list_servers(
                request, group, command.labels, lambda entry: access.server_refusal(origin, entry.groups) is None
            ),
        )
    refusal = access.group_refusal(origin, group)
    if refusal is not None:
        return inputs.ServersListed(job=command.job, servers=[], reason=refusal.reason, is_refused=True)
    return servers_listed(request, placement.list_servers(request, group, command.labels))


def servers_listed(request: ServerListRequest, found: Sequence[Enrolled] | Reason) -> inputs.ServersListed:
    """The servers of a group, as an input."""
    if isinstance(found, Reason):
        return inputs.ServersListed(job=request.job, servers=[], reason=found)
    return inputs.ServersListed(job=request.job, servers=[(entry.agent, entry.name) for entry in found])


# Locks ----------------------------------------------------------------------------------------------------------------


def lock_request(run: Run, command: commands.AcquireLock) -> LockRequest:
    """The request of a run or job for its concurrency group."""
    lock = run.lock if command.job is None else run.jobs_by_id[command.job].lock
    requested_at = lock.requested_at if lock is not None else 0
    return LockRequest(
        Holder(run.id, command.job), command.group, run.repository or "", command.limit, command.queue, requested_at
    )


def lock_answer(answer: LockAnswer) -> inputs.Input:
    """The answer of a concurrency group, as an input."""
    if answer.is_granted:
        return inputs.LockAcquired(job=answer.holder.job)
    assert answer.reason is not None
    return inputs.LockNotAcquired(job=answer.holder.job, is_refused=answer.is_refused, reason=answer.reason)


def lock_cancellations(holders: Iterable[Holder], request: LockRequest) -> Iterator[tuple[RunId, inputs.Input]]:
    """The cancels of those who hold the group's slots (`cancel-in-progress`), with the run that each of them is for."""
    by = f"run {request.holder.run}"
    for holder in holders:
        if holder.job is None:
            yield holder.run, inputs.CancelRun(by=by)
        else:
            text = f'replaced by {by} in concurrency group "{request.group}"'
            cause = reason(ReasonCode.SUPERSEDED, text, group=request.group, run=request.holder.run)
            yield holder.run, inputs.CancelJob(job=holder.job, reason=cause)
