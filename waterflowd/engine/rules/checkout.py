"""The files that a job's working directory contains at first."""

from __future__ import annotations

from collections.abc import Iterable

from waterflowd import expr
from waterflowd.engine.rules import contexts, environment_variables
from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.plan import CheckoutPlan
from waterflowd.model.records import Checkout, CheckoutPart


def of_job(run: Run, job: Job) -> Checkout | None:
    """The files of the run's revision; None for an empty directory: no repository, or `checkout: false`."""
    chosen = job.plan.checkout
    if run.repository is None or run.revision is None or chosen is False:
        return None
    if job.plan.checkouts:
        env = contexts.for_end(run, job, job.root, 0, lambda: environment_variables.declared(run, job, 0))
        parts = parts_of(job.plan.checkouts, env, run.trigger.ref or "")
        return Checkout(repository=run.repository, revision=run.revision, parts=parts)
    return Checkout(
        repository=run.repository, revision=run.revision, patterns=chosen if isinstance(chosen, tuple) else ()
    )


def parts_of(plans: Iterable[CheckoutPlan], env: expr.Env, head: str) -> tuple[CheckoutPart, ...]:
    """The parts of a job's directory; `head` is the run's ref. Raises `ExpressionError`.

    They depend only on what a job knows before it starts, and never changes, so they are the same each time.
    """
    return tuple(
        CheckoutPart(
            repository=expr.to_text(expr.render(plan.repository, env)),
            ref=expr.to_text(expr.render(plan.ref, env)),
            patterns=plan.patterns,
            path=plan.path,
            history=plan.history,
            submodules=plan.submodules,
            head=head,
            shallow=plan.shallow,
            lfs=plan.lfs,
        )
        for plan in plans
    )
