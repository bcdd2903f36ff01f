"""What gateways answer to the orders of runs, in tests that play them."""

from __future__ import annotations

from waterflow_agent.attempts import AttemptId
from waterflow_agent.wire.messages import TaskId
from waterflowd.engine import inputs
from waterflowd.model.ids import AgentId
from waterflowd.model.statuses import Outcome

AGENT = AgentId("SHA256:one")


def granted(
    attempt: AttemptId, agent: AgentId = AGENT, *, name: str = "web-1", epoch: int = 1, lease_ms: int = 0
) -> inputs.SlotGranted:
    """A slot on this agent."""
    return inputs.SlotGranted(
        job=attempt.job,
        step=attempt.step,
        attempt=attempt.number,
        epoch=epoch,
        agent=agent,
        agent_name=name,
        boot_id="boot",
        facts={},
        lease_ms=lease_ms,
    )


def ended(
    task: TaskId,
    agent: AgentId = AGENT,
    outcome: Outcome = Outcome.SUCCESS,
    *,
    at: int = 1,
    outputs: dict[str, str] | None = None,
) -> inputs.TaskFinished:
    """The agent's report of the end of an attempt."""
    return inputs.TaskFinished(
        job=task.attempt.job,
        step=task.attempt.step,
        attempt=task.attempt.number,
        epoch=task.epoch,
        agent=agent,
        outcome=outcome,
        exit_code=0 if outcome is Outcome.SUCCESS else 1,
        outputs=outputs or {},
        started_at=at,
        finished_at=at,
    )
