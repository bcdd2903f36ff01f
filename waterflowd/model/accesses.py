"""What the jobs of a plan use that the daemon's configuration may restrict: groups, environments and secrets.

Rules of this file: pure. It reads a plan before a run exists, so a name that is an expression is only known as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from waterflowd.model.plan import JobPlan, Plan, StepPlan


class JobAccess(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one job uses; also part of the facts about a workflow file."""

    #: The job, with the jobs that call it: `deploy/check`.
    job: str
    #: Line of the job in the workflow file, or of the job that calls it; 0 if unknown.
    line: int = 0
    #: As written: may be an expression.
    group: str = ""
    #: Its own environment and those of the jobs that call it, as written.
    environments: tuple[str, ...] = ()
    #: Names outside all calls; a secret that a caller does not pass is not included.
    secrets: tuple[str, ...] = ()


def is_expression(text: str) -> bool:
    """Whether a group or the name of an environment is only known at run time."""
    return "${{" in text


def of_plan(plan: Plan) -> tuple[JobAccess, ...]:
    """What the jobs of the plan use, including those of called workflows, in the order of the file."""
    return tuple(_of_jobs(plan.jobs, "", 0, (), ()))


def _of_jobs(
    jobs: Iterable[JobPlan],
    prefix: str,
    line: int,
    environments: tuple[str, ...],
    calls: tuple[dict[str, str] | None, ...],
) -> Iterator[JobAccess]:
    for job in jobs:
        name, at = f"{prefix}{job.id}", line or job.line
        known = environments if job.environment is None else (job.environment.name, *environments)
        if job.call is not None:
            yield from _of_jobs(job.call.jobs, f"{name}/", at, known, (job.call.secrets, *calls))
            continue
        secrets = dict.fromkeys(_of_steps(job.steps))
        outer = (_outside(secret, calls) for secret in secrets)
        yield JobAccess(
            job=name,
            line=at,
            group=job.group,
            environments=known,
            secrets=tuple(dict.fromkeys(secret for secret in outer if secret is not None)),
        )


def _of_steps(steps: Iterable[StepPlan]) -> Iterator[str]:
    for step in steps:
        yield from step.secrets
        for block in step.blocks:
            yield from _of_steps(block.steps)


def _outside(name: str, calls: tuple[dict[str, str] | None, ...]) -> str | None:
    """The name of a secret outside all calls, innermost call first; None if a caller does not pass it."""
    found: str | None = name
    for secrets in calls:
        if secrets is not None and found is not None:
            found = secrets.get(found)
    return found
