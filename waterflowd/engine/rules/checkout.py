"""The files that a job's working directory contains at first."""

from __future__ import annotations

from waterflowd.engine.state.runs import Job, Run
from waterflowd.model.records import Checkout


def of_job(run: Run, job: Job) -> Checkout | None:
    """The files of the run's revision; None for an empty directory: no repository, or `checkout: false`."""
    chosen = job.plan.checkout
    if run.repository is None or run.revision is None or chosen is False:
        return None
    return Checkout(
        repository=run.repository, revision=run.revision, patterns=chosen if isinstance(chosen, tuple) else ()
    )
