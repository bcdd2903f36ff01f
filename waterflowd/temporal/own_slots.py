"""The slot of a job's own server, answered in the turn: the attempt waits for the slot at its gateway, before it is offered.

Rules of this file:

- Pure. It is answered only for a server that is connected as far as is known: to this daemon, or it has reported about the job
  within `REPORTED_MS`. An attempt that no gateway takes is lost after `lost-after`; a request for a slot waits for longer.
- The boot of the server may be an earlier one. The gateway that offers the attempt knows the current one.
"""

from __future__ import annotations

import msgspec

from waterflow_agent.nodes import schema
from waterflowd.engine import Run, commands, inputs
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry

#: Usually the job's last step has just ended there.
REPORTED_MS = 10_000


class LeaseTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What a granted slot says about the attempt's lease."""

    #: The fleet's generation.
    epoch: int
    lease_ms: int


def granted(
    run: Run, command: commands.RequestSlot, registry: Registry, placement: Placement, terms: LeaseTerms, now: int
) -> inputs.SlotGranted | None:
    """The answer to a request for a slot on the server that the job has already; None if gateways must answer."""
    job = run.jobs_by_id[command.job]
    agent = command.agent
    entry = registry.agents.get(agent) if agent is not None and agent == job.agent else None
    if entry is None:
        return None
    known = placement.servers.get(entry.agent)
    server = known if known is not None and known.is_connected else None
    if server is None and (now - job.agent_reported_at > REPORTED_MS or _is_of_the_server(run, command.node)):
        return None
    return inputs.SlotGranted(
        job=command.job,
        step=command.step,
        attempt=command.attempt,
        epoch=terms.epoch,
        agent=entry.agent,
        agent_name=entry.name,
        boot_id=job.agent_boot_id if server is None else server.boot_id,
        facts={},
        node_version="" if server is None else server.version_of(command.node),
        lease_ms=terms.lease_ms,
    )


def _is_of_the_server(run: Run, node: str) -> bool:
    """Whether the server provides the node, so that only its gateway knows the version."""
    return schema.find(node) is None and run.plan.node(node) is None
