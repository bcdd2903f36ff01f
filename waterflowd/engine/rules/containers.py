"""The containers of a job: what its first step has reported about them."""

from __future__ import annotations

from typing import Any

from waterflowd.engine.state.runs import Job
from waterflowd.model.ids import StepId
from waterflowd.model.plan import CONTAINERS_NODE, SETUP_STEP

#: The nodes that run in the job's container; all others run on the server itself.
SCRIPT_NODES = frozenset({"shell", "script"})
#: Why a script of a job whose container was not started cannot run.
NOT_STARTED = 'the job\'s container was not started, so no script of the job can run; see the step "Start containers"'


def facts(job: Job) -> dict[str, Any]:
    """`container` and `services` of the context `job`."""
    started = job.steps_by_id.get(StepId(SETUP_STEP))
    if started is None or started.plan.node != CONTAINERS_NODE:
        return {"container": {}, "services": {}}
    return {name: started.outputs.get(name) or {} for name in ("container", "services")}


def of_step(job: Job, node: str) -> str | None:
    """The id of the container in which a step with this node runs, "" for the server itself; None if it was not started."""
    started = job.steps_by_id.get(StepId(SETUP_STEP))
    if node not in SCRIPT_NODES or started is None:
        return ""
    if started.plan.node != CONTAINERS_NODE or "container" not in started.plan.params:
        return ""
    found = started.outputs.get("container")
    # An image that is an empty text means that there is no container.
    return str(found.get("id", "")) if isinstance(found, dict) else None
