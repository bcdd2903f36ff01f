"""The delays between retries."""

from __future__ import annotations

import pytest

from waterflow_agent.backoff import Backoff

BACKOFF = Backoff(first_s=0.5, max_s=60.0)


@pytest.mark.parametrize(
    ("failures", "delay_s"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (10_000, 60.0)]
)
def test_the_delay_doubles_up_to_the_maximum(failures: int, delay_s: float) -> None:
    """Without a failure there is no delay."""
    assert BACKOFF.delay_s(failures) == delay_s


@pytest.mark.parametrize(("jitter", "delay_s"), [(0.0, 0.5), (0.5, 1.25), (1.0, 2.0)])
def test_jitter_picks_a_delay_between_the_first_and_the_full_one(jitter: float, delay_s: float) -> None:
    """The random number is passed as an argument."""
    assert BACKOFF.delay_s(3, jitter=jitter) == delay_s
