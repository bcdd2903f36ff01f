"""Steps that start child runs, in some simulations: their plans, and the files that they name.

Rules of this file: all choices use separate dice, so that simulations without such steps stay unchanged. A step starts a
short run, a run of a chain that starts itself up to the nesting limit, or a workflow that does not exist; never its own
workflow, which would grow without limit.
"""

from __future__ import annotations

import random

import msgspec

from tests.simulator import plans as rows
from tests.simulator.environment import Environment
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.model import plan as plans
from waterflowd.model.ids import JobId, StepId
from waterflowd.model.plan import JobPlan, Plan, StepPlan

#: The repository that all runs of such a simulation belong to; it has one commit.
REPOSITORY, REVISION = "own", "0" * 40
SHORT, CHAIN, MISSING = "workflows/short.yml", "workflows/chain.yml", "workflows/missing.yml"
NODE = "workflow/run"


def mix(dice: random.Random, plan: Plan) -> Plan:
    """Returns the plan with some of its steps replaced by steps that start runs."""
    jobs = [
        job
        if job.call is not None
        else msgspec.structs.replace(job, steps=tuple(_step(dice, step) for step in job.steps))
        for job in plan.jobs
    ]
    return msgspec.structs.replace(plan, jobs=tuple(jobs))


def _step(dice: random.Random, step: StepPlan) -> StepPlan:
    if dice.random() >= 0.4 or step.blocks:
        return step
    return StepPlan(
        id=step.id,
        is_named=True,
        name=step.name,
        node=NODE,
        params={"workflow": dice.choice((SHORT, SHORT, SHORT, CHAIN, MISSING)), "wait": dice.random() < 0.8},
        condition=step.condition,
        timeout_minutes=dice.choice((None, None, 0.01, 0.05, 0.2)),
        continue_on_error=step.continue_on_error,
        retry=rows.retry(dice) if dice.random() < 0.4 else None,
    )


def files(dice: random.Random, groups: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the workflows that steps start, by path."""
    short = msgspec.structs.replace(rows.make_pushed(dice, groups), path=SHORT, outputs={"made": "yes"})
    step = StepPlan(id=StepId("1"), is_named=True, name="next", node=NODE, params={"workflow": CHAIN})
    job = JobPlan(id=JobId("j0"), name="link", group=groups[0], timeout_minutes=1.0, steps=(step,))
    chain = Plan(name="chain", path=CHAIN, timeout_ms=60_000, jobs=(job,))
    return {plan.path: plans.encode(plan) for plan in (short, chain)}


class ChildWorkflows:
    """`ports.ChildWorkflows` of one daemon: sometimes slow, sometimes unreadable."""

    def __init__(self, environment: Environment, known: dict[str, bytes]) -> None:
        self._environment = environment
        self._known = known

    async def plan(self, repository: str, revision: str, path: str) -> bytes:
        """See the port."""
        chance = self._environment.chance
        await self._environment.sleep(chance.delay_s(0.001, 3.0 if chance.happens("target slow") else 0.05))
        if chance.happens("target unreadable"):
            raise Retryable("WF503", "the repository cannot be read")
        self._environment.expect((repository, revision) == (REPOSITORY, REVISION), f"{path} is asked of {repository}")
        if path not in self._known:
            raise Rejected("WF135", f"there is no workflow file {path}")
        return self._known[path]
