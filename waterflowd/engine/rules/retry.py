"""Whether and when a step or job is retried.

Rules of this file: pure arithmetic on a policy and one result. Jitter is not random: it is a hash of the retried part, so
that replays and tests are deterministic; it spreads the steps of many runs as well as random numbers would.
"""

from __future__ import annotations

import hashlib

from waterflowd.model.plan import OnLost, RetryPolicy, StepPlan
from waterflowd.model.statuses import Conclusion, Outcome

#: How many attempts in a row agents may refuse, for temporary reasons, before the step fails.
REFUSALS_MAX = 6
REFUSED_DELAY_MS = 100

#: Attempts of a step with `on-lost: retry` and without a `retry`.
LOST_ATTEMPTS_MAX = 3

_WORDS = {Outcome.FAILURE: "failure", Outcome.TIMED_OUT: "timeout", Outcome.LOST: "lost"}
_JOB_WORDS = {Conclusion.FAILURE: "failure", Conclusion.TIMED_OUT: "timeout", Conclusion.LOST: "lost"}


def delay_ms(plan: StepPlan, outcome: Outcome, exit_code: int | None, attempts: int, seed: str) -> int | None:
    """Milliseconds until the next attempt after `attempts` of them, or None if the step is not retried."""
    word = _WORDS.get(outcome)
    if word is None:
        return None
    policy = plan.retry
    if outcome is Outcome.LOST and plan.on_lost is OnLost.RETRY:
        policy = policy or RetryPolicy(max_attempts=LOST_ATTEMPTS_MAX)
    elif policy is None or not _matches(policy.on, word, exit_code):
        return None
    if attempts >= policy.max_attempts or _matches(policy.never_on, word, exit_code):
        return None
    return _interval_ms(policy, attempts, seed)


def job_delay_ms(policy: RetryPolicy, conclusion: Conclusion, number: int, seed: str) -> int | None:
    """Milliseconds until the next try of a job after `number` of them, or None if the job is not retried."""
    word = _JOB_WORDS[conclusion]
    if number >= policy.max_attempts or word not in policy.on or word in policy.never_on:
        return None
    return _interval_ms(policy, number, seed)


def refused_delay_ms(refusals: int) -> int | None:
    """Milliseconds until the next attempt after agents refused `refusals` attempts in a row, or None at the limit.

    An attempt that never started can be repeated without a `retry` policy, because nothing is done twice. It does not count
    towards `max-attempts`.
    """
    return None if refusals >= REFUSALS_MAX else REFUSED_DELAY_MS << (refusals - 1)


def _matches(words: tuple[str, ...], word: str, exit_code: int | None) -> bool:
    return word in words or (word == "failure" and exit_code is not None and f"exit:{exit_code}" in words)


def _interval_ms(policy: RetryPolicy, attempts: int, seed: str) -> int:
    # The exponent is bounded to avoid an overflow; the delay is limited to the maximum anyway.
    factor = policy.backoff_coefficient ** min(attempts - 1, 64)
    interval = min(policy.initial_interval_ms * factor, policy.max_interval_ms)
    share = int.from_bytes(hashlib.blake2b(f"{seed}/{attempts}".encode(), digest_size=4).digest(), "big") / 0xFFFFFFFF
    return max(0, round(interval * (1 + policy.jitter * (2 * share - 1))))
