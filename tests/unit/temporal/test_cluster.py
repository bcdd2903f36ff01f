"""The client's own log entries."""

from __future__ import annotations

import logging

from waterflowd.temporal.cluster import QUIET_S, OutageFilter


def entry(level: int) -> logging.LogRecord:
    return logging.LogRecord("client", level, __file__, 1, "gRPC call retried", (), None)


def test_a_cluster_that_is_away_does_not_fill_the_log() -> None:
    """One warning says it, then one in a while; an error is always written."""
    now = 100.0
    quiet = OutageFilter(lambda: now)
    passed = [quiet.filter(entry(logging.WARNING)) for _ in range(1000)]
    assert passed == [True, *[False] * 999]
    assert quiet.filter(entry(logging.ERROR))
    assert not quiet.filter(entry(logging.WARNING))
    now += QUIET_S
    assert quiet.filter(entry(logging.WARNING))
