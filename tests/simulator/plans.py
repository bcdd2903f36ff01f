"""Workflows of a simulation, made from its seed: jobs with needs and conditions, retries, timeouts, sleeps, and lost
attempts.

Plans are made directly, not compiled from a file: the language has its own tests, and making a plan directly costs a
hundredth of compiling one.
"""

from __future__ import annotations

import random

import msgspec

from waterflowd.model.ids import JobId, StepId
from waterflowd.model.plan import ConcurrencyPlan, JobPlan, OnLost, Plan, RetryPolicy, StepPlan, StopPolicy

_CONDITIONS = (None, None, None, None, "always()", "failure()", "success()", "cancelled()", "always()")


def make(dice: random.Random, number: int, groups: tuple[str, ...]) -> Plan:
    """Returns one workflow."""
    jobs: list[JobPlan] = []
    for index in range(dice.choice((1, 1, 2, 2, 3, 4))):
        known = [job.id for job in jobs]
        needs = tuple(dice.sample(known, min(len(known), dice.choice((0, 1, 1, 2))))) if known else ()
        jobs.append(_job(dice, index, needs, groups))
    return Plan(
        name=f"workflow {number}",
        path=f"workflows/{number}.yml",
        timeout_ms=dice.choice((25_000, 60_000, 60_000, 90_000)),
        jobs=tuple(jobs),
    )


def make_long(dice: random.Random, groups: tuple[str, ...]) -> Plan:
    """Returns a workflow whose step outlives a long cut and is retried when lost: its attempts must not overlap."""
    step = StepPlan(
        id=StepId("1"),
        is_named=True,
        name="long",
        node="shell",
        params={"run": f"d={dice.choice((12_000, 30_000))} p=40 x=0 {dice.choice(('stubborn', ''))}"},
        on_lost=OnLost.RETRY,
        stop=StopPolicy(grace_ms=1_500),
    )
    jobs = tuple(
        JobPlan(id=JobId(f"j{index}"), name="long", group=group, timeout_minutes=2.0, steps=(step,))
        for index, group in enumerate(groups)
    )
    return Plan(name="long", path="workflows/long.yml", timeout_ms=150_000, jobs=jobs)


def make_exclusive(dice: random.Random, number: int, groups: tuple[str, ...]) -> Plan:
    """Returns a workflow with long steps that may start elsewhere: the job moves to another server, or holds a lock."""
    kind = dice.choice(("moves", "moves", "job", "run"))
    step = StepPlan(
        id=StepId("1"),
        is_named=True,
        name="exclusive",
        node="shell",
        params={"run": f"d={dice.choice((3_000, 20_000, 60_000))} p=3 x=0 {dice.choice(('stubborn', ''))}"},
        on_lost=dice.choice((OnLost.FAIL, OnLost.FAIL, OnLost.RETRY)),
        stop=StopPolicy(grace_ms=dice.choice((0, 1_500, 4_000))),
    )
    lock = ConcurrencyPlan(group="deploy" if kind == "job" else "release")
    policy = RetryPolicy(max_attempts=3, initial_interval_ms=0, on=dice.choice((("lost",), ("lost", "timeout"))))
    job = JobPlan(
        id=JobId("j0"),
        name="exclusive",
        group=dice.choice(groups),
        timeout_minutes=dice.choice((0.5, 2.0)),
        retry=policy if kind == "moves" else None,
        concurrency=lock if kind == "job" else None,
        steps=(step, msgspec.structs.replace(step, id=StepId("2"), params={"run": "d=30 p=1 x=0"})),
    )
    return Plan(
        name=f"exclusive {number}",
        path=f"workflows/exclusive-{number}.yml",
        timeout_ms=200_000,
        jobs=(job,),
        concurrency=lock if kind == "run" else None,
    )


def make_pushed(dice: random.Random, groups: tuple[str, ...]) -> Plan:
    """Returns the plan of the repository's files, triggers aside: a short job, so that many can run."""
    step = StepPlan(
        id=StepId("1"),
        is_named=True,
        name="pushed",
        node="shell",
        params={"run": f"d={dice.choice((10, 80, 700))} p=1 x=0"},
        on_lost=OnLost.FAIL,
        stop=StopPolicy(grace_ms=200),
    )
    job = JobPlan(id=JobId("j0"), name="pushed", group=dice.choice(groups), timeout_minutes=1.0, steps=(step,))
    return Plan(name="pushed", path="workflows/pushed.yml", timeout_ms=90_000, jobs=(job,))


def _job(dice: random.Random, index: int, needs: tuple[JobId, ...], groups: tuple[str, ...]) -> JobPlan:
    steps = tuple(_step(dice, number) for number in range(1, dice.choice((1, 2, 2, 3, 4)) + 1))
    return JobPlan(
        id=JobId(f"j{index}"),
        name=f"job {index}",
        group=dice.choice(groups),
        needs=needs,
        condition=dice.choice(_CONDITIONS) if needs else None,
        timeout_minutes=dice.choice((0.1, 0.4, 0.4, 1.0, 1.0)),
        start_timeout_ms=dice.choice((8_000, 40_000, 40_000)),
        continue_on_error=dice.random() < 0.15,
        outputs={"made": "${{ steps['1'].outputs.made }}"} if dice.random() < 0.2 else {},
        steps=steps,
    )


def _step(dice: random.Random, number: int) -> StepPlan:
    kind = dice.random()
    node, params = "shell", {"run": script(dice)}
    if kind < 0.10:
        node, params = "sleep", {"duration": f"{dice.choice((300, 1500, 4000))}ms"}
    elif kind < 0.18:
        node, params = "log", {"message": f"step {number} says {dice.random()}"}
    elif kind < 0.21:
        node, params = "fail", {"message": "as written"}
    return StepPlan(
        id=StepId(str(number)),
        is_named=True,
        name=f"step {number}",
        node=node,
        params=params,
        condition=dice.choice(_CONDITIONS) if dice.random() < 0.3 else None,
        timeout_minutes=dice.choice((None, None, 0.02, 0.1)),
        continue_on_error=dice.random() < 0.15,
        retry=retry(dice) if dice.random() < 0.4 else None,
        on_lost=dice.choice((OnLost.FAIL, OnLost.FAIL, OnLost.RETRY, OnLost.RETRY, OnLost.HOLD)),
        stop=StopPolicy(grace_ms=dice.choice((0, 200, 1_500))),
    )


def script(dice: random.Random) -> str:
    """Returns a step's script: how long it runs, how much it prints, how it ends in each attempt."""
    duration_ms = dice.choice((1, 10, 30, 30, 80, 80, 200, 200, 700, 700, 2_000, 2_000, 5_000, 5_000, 25_000))
    words = [f"d={duration_ms}", f"p={dice.choice((0, 0, 1, 3, 8))}"]
    codes = dice.choice(("0", "0", "0", "0", "0", "1", "1,0", "1,1,0", "7"))
    words.append(f"x={codes}")
    if dice.random() < 0.15:
        words.append("stubborn")
    if dice.random() < 0.5:
        words.append("o")
    return " ".join(words)


def retry(dice: random.Random) -> RetryPolicy:
    """Returns the retry policy of a step."""
    return RetryPolicy(
        max_attempts=dice.choice((2, 3, 5)),
        initial_interval_ms=dice.choice((0, 100, 1_500)),
        on=dice.choice((("failure", "timeout"), ("failure",), ("lost", "failure"), ("exit:1", "lost"), ("timeout",))),
        never_on=dice.choice(((), (), ("exit:7",))),
    )
