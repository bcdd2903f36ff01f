"""What some simulations' workflows have besides sequences of steps: expanded jobs, gates, blocks, calls, and retries of
jobs.

Rules of this file: plans are made directly, with separate dice, so that simulations without these features stay unchanged. A
concurrency group has the same limit in all plans of a simulation, so the checkers know it by its name.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from tests.simulator import plans as rows
from waterflowd.fleet.registry import ALL_SERVERS
from waterflowd.model import plan as plans
from waterflowd.model.ids import StepId
from waterflowd.model.plan import BlockPlan, JobPlan, Offline, OnLost, Plan, Queue, RetryPolicy, StepPlan, StopPolicy

#: Limit of each concurrency group.
LIMITS = {"release": 1, "deploy": 1, "data": 2}
#: Possible approvers.
APPROVERS = ("alice", "bob")


def make(dice: random.Random, number: int, groups: tuple[str, ...]) -> Plan:
    """Returns a workflow with some of the language's features."""
    plan = rows.make(dice, number, groups)
    jobs = tuple(_job(dice, job, groups) for job in plan.jobs)
    concurrency = _concurrency(dice, ("release",)) if dice.random() < 0.25 else None
    return msgspec.structs.replace(plan, jobs=jobs, concurrency=concurrency)


def _job(dice: random.Random, job: JobPlan, groups: tuple[str, ...]) -> JobPlan:
    changes: dict[str, Any] = {"outputs": {}}
    kind = dice.random()
    if kind < 0.20:
        changes["strategy"] = plans.StrategyPlan(
            matrix=plans.MatrixPlan(dimensions={"x": list(range(dice.choice((1, 2, 3, 4))))}),
            max_parallel=dice.choice((None, 1, 2)),
            fail_fast=dice.random() < 0.6,
        )
    elif kind < 0.45:
        changes["target"] = _target(dice)
        if dice.random() < 0.5:
            changes["group"] = ALL_SERVERS
        if dice.random() < 0.15:
            matrix = plans.MatrixPlan(dimensions={"x": [1, 2]})
            changes["strategy"] = plans.StrategyPlan(matrix=matrix)
    elif kind < 0.55:
        changes["call"] = _call(dice, groups)
        changes["steps"] = ()
        changes["group"] = ""
    if dice.random() < 0.2:
        changes["concurrency"] = _concurrency(dice, ("deploy", "data"))
    if dice.random() < 0.15:
        changes["environment"] = plans.EnvironmentPlan(
            name="production", approvers=APPROVERS, minimum=dice.choice((1, 1, 2))
        )
    if "call" not in changes:
        if dice.random() < 0.25:
            changes["retry"] = RetryPolicy(
                max_attempts=dice.choice((2, 3)),
                initial_interval_ms=dice.choice((0, 200, 2_000)),
                on=dice.choice((("failure", "timeout"), ("failure", "lost"), ("lost",))),
            )
        changes["steps"] = tuple(_step(dice, step, 0) for step in job.steps)
    return msgspec.structs.replace(job, **changes)


def _target(dice: random.Random) -> plans.TargetPlan:
    return plans.TargetPlan(
        batch=dice.choice(((), (1,), (1, "100%"), ("50%",), (2, 1), (2,))),
        max_parallel=dice.choice((None, None, 1)),
        max_failures=dice.choice((None, None, 0, 1)),
        pause_ms=dice.choice((0, 0, 800)),
        offline=dice.choice((Offline.FAIL, Offline.SKIP, Offline.WAIT)),
        wait_ms=dice.choice((3_000, 20_000)),
    )


def _concurrency(dice: random.Random, names: tuple[str, ...]) -> plans.ConcurrencyPlan:
    name = dice.choice(names)
    return plans.ConcurrencyPlan(
        group=name,
        limit=LIMITS[name],
        queue=dice.choice((Queue.FIFO, Queue.FIFO, Queue.LATEST, Queue.REJECT)),
        cancel_in_progress=dice.random() < 0.2,
    )


def _call(dice: random.Random, groups: tuple[str, ...]) -> plans.CallPlan:
    inner = rows.make(dice, 9, groups)
    jobs = tuple(
        msgspec.structs.replace(job, outputs={}, steps=tuple(_step(dice, step, 1) for step in job.steps))
        for job in inner.jobs[:2]
    )
    return plans.CallPlan(path="workflows/callee.yml", name="callee", jobs=jobs)


def _step(dice: random.Random, step: StepPlan, depth: int) -> StepPlan:
    """Sometimes replaces the step by one that the engine executes, with similar steps inside."""
    kind = dice.random()
    if kind < 0.06:
        return _engine_step(step, "approval", params=_approval(dice))
    if depth >= 2 or kind < 0.72:
        return step
    changes: dict[str, Any] = {}
    if kind < 0.78:
        node = "condition"
        changes["params"] = {"if": dice.choice(("true", "false", "failure()"))}
        changes["blocks"] = tuple(_block(dice, name, depth) for name in ("then", "else")[: dice.choice((1, 2))])
    elif kind < 0.86:
        node = "loop"
        items = list(range(dice.choice((0, 1, 2, 3))))
        changes["params"] = {"items": items, "max-parallel": dice.choice((1, 1, 2, 3))}
        changes["blocks"] = (_block(dice, "steps", depth),)
    elif kind < 0.90:
        node = "loop"
        changes["params"] = {"while": f"loop.index < {dice.choice((1, 2, 5))}", "max-iterations": 3}
        changes["blocks"] = (_block(dice, "steps", depth),)
    elif kind < 0.97:
        node = "parallel"
        changes["blocks"] = tuple(_block(dice, str(index), depth) for index in range(dice.choice((2, 2, 3))))
    else:
        node = "composite"
        changes["blocks"] = (_block(dice, "steps", depth),)
    return _engine_step(step, node, **changes)


def _approval(dice: random.Random) -> dict[str, Any]:
    params: dict[str, Any] = {"minimum": dice.choice((1, 1, 2))}
    if dice.random() < 0.6:
        params["approvers"] = list(APPROVERS)
    if dice.random() < 0.5:
        params |= {"timeout": "3s", "default": dice.choice(("approve", "reject"))}
    return params


def _engine_step(step: StepPlan, node: str, **changes: Any) -> StepPlan:
    plain = StepPlan(
        id=step.id,
        is_named=True,
        name=step.name,
        node=node,
        condition=step.condition,
        timeout_minutes=step.timeout_minutes if node not in ("approval", "composite") else None,
        continue_on_error=step.continue_on_error,
    )
    return msgspec.structs.replace(plain, **changes)


def _block(dice: random.Random, name: str, depth: int) -> BlockPlan:
    steps = []
    for number in range(1, dice.choice((1, 1, 2)) + 1):
        plain = StepPlan(
            id=StepId(f"i{number}"),
            is_named=True,
            name=f"inner {number}",
            node="shell",
            params={"run": rows.script(dice)},
            condition=dice.choice((None, None, None, "always()", "failure()")),
            retry=rows.retry(dice) if dice.random() < 0.3 else None,
            on_lost=dice.choice((OnLost.FAIL, OnLost.RETRY)),
            stop=StopPolicy(grace_ms=dice.choice((0, 200, 1_500))),
        )
        steps.append(_step(dice, plain, depth + 1))
    return BlockPlan(name=name, steps=tuple(steps))


__all__ = ["APPROVERS", "LIMITS", "make"]
