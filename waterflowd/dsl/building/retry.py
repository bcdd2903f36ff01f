"""`retry` of a job or a step as the plan has it."""

from __future__ import annotations

from waterflowd.dsl import models
from waterflowd.dsl.building import lints
from waterflowd.dsl.building.source import Source
from waterflowd.dsl.reading.tree import Path
from waterflowd.model.plan import RetryPolicy


def retry_policy(source: Source, path: Path, retry: models.Retry | None) -> RetryPolicy | None:
    """The policy that stands at `path`."""
    if retry is None:
        return None
    lints.warn_retry(source, path, retry.max_attempts)
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_interval_ms=retry.initial_interval,
        backoff_coefficient=retry.backoff_coefficient,
        max_interval_ms=retry.max_interval,
        jitter=retry.jitter,
        on=tuple(retry.on),
        never_on=tuple(retry.never_on),
    )
