"""Retry arithmetic: whether to retry, after which delay, and when to stop."""

from __future__ import annotations

import pytest

from waterflowd.engine.rules import retry
from waterflowd.model.ids import StepId
from waterflowd.model.plan import OnLost, RetryPolicy, StepPlan
from waterflowd.model.statuses import Outcome

STEADY = RetryPolicy(max_attempts=5, initial_interval_ms=100, backoff_coefficient=2.0, max_interval_ms=500, jitter=0.0)


def step(policy: RetryPolicy | None, on_lost: OnLost = OnLost.FAIL) -> StepPlan:
    return StepPlan(id=StepId("1"), name="s", node="shell", retry=policy, on_lost=on_lost)


def delays(policy: RetryPolicy, count: int) -> list[int | None]:
    return [retry.delay_ms(step(policy), Outcome.FAILURE, 1, attempts, "seed") for attempts in range(1, count + 1)]


def test_intervals_grow_up_to_the_maximum_and_end_with_the_attempts() -> None:
    """The delays are 100, 200, 400 and 500 ms, and nothing follows the fifth attempt."""
    assert delays(STEADY, 6) == [100, 200, 400, 500, None, None]


def test_nothing_is_retried_without_a_policy() -> None:
    """Only the author may decide that a step is run twice."""
    for outcome in Outcome:
        assert retry.delay_ms(step(None), outcome, 1, 1, "seed") is None


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.CANCELLED, Outcome.REFUSED])
def test_only_failures_are_retried(outcome: Outcome) -> None:
    """Success and cancellation are final, and a refused attempt has its own rule."""
    assert retry.delay_ms(step(STEADY), outcome, None, 1, "seed") is None


def test_a_lost_attempt_is_retried_only_if_the_file_allows_it() -> None:
    """Either `on-lost: retry` or `lost` in the policy's `on` is needed; without a policy there are three attempts in total."""
    lost = Outcome.LOST
    assert retry.delay_ms(step(STEADY), lost, None, 1, "seed") is None
    named = RetryPolicy(max_attempts=2, on=("lost",), jitter=0.0)
    assert retry.delay_ms(step(named), lost, None, 1, "seed") == 1000
    plain = step(None, OnLost.RETRY)
    assert [retry.delay_ms(plain, lost, None, attempts, "seed") is None for attempts in (1, 2, 3)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("on", "never_on", "exit_code", "is_tried"),
    [
        (("failure",), (), 7, True),
        (("exit:7",), (), 7, True),
        (("exit:7",), (), 8, False),
        (("timeout",), (), 7, False),
        (("failure",), ("exit:7",), 7, False),
        (("failure",), ("failure",), 7, False),
    ],
)
def test_outcomes_and_exit_codes_select_retries(
    on: tuple[str, ...], never_on: tuple[str, ...], exit_code: int, is_tried: bool
) -> None:
    """`on` includes and `never-on` excludes, and `never-on` takes precedence."""
    policy = RetryPolicy(max_attempts=3, on=on, never_on=never_on)
    delay = retry.delay_ms(step(policy), Outcome.FAILURE, exit_code, 1, "seed")
    assert (delay is not None) == is_tried


def test_jitter_spreads_within_its_share_and_repeats_itself() -> None:
    """The same seed gives the same delay; other seeds give other delays within the configured share."""
    policy = RetryPolicy(max_attempts=2, initial_interval_ms=1000, jitter=0.5)
    found = [retry.delay_ms(step(policy), Outcome.FAILURE, 1, 1, f"run-{number}") for number in range(100)]
    assert found == [retry.delay_ms(step(policy), Outcome.FAILURE, 1, 1, f"run-{number}") for number in range(100)]
    assert len(set(found)) > 50
    assert all(delay is not None and 500 <= delay <= 1500 for delay in found)


def test_a_large_exponent_gives_the_maximum_delay() -> None:
    """The thousandth attempt of a steep policy waits for the maximum delay."""
    policy = RetryPolicy(max_attempts=10_000, backoff_coefficient=1000.0, max_interval_ms=777, jitter=0.0)
    assert retry.delay_ms(step(policy), Outcome.FAILURE, 1, 9_000, "seed") == 777


def test_consecutive_refusals_double_the_delay_up_to_a_limit() -> None:
    """A refused attempt never ran, so it is offered again; at the limit the step fails."""
    assert [retry.refused_delay_ms(count) for count in range(1, 8)] == [100, 200, 400, 800, 1600, None, None]
