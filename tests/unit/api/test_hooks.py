"""The rate limit for invalid webhook signatures."""

from __future__ import annotations

from waterflowd.api.routes.administration.webhooks import SignatureFailures


def test_wrong_signatures_are_rate_limited_per_address() -> None:
    """After a burst the address gets a 429; other addresses are not affected, and the limit resets after a while."""
    failures = SignatureFailures()
    answers = [failures.reject("192.0.2.1", 1_000).status for _ in range(25)]
    assert answers == [401] * 20 + [429] * 5
    assert failures.reject("192.0.2.2", 1_000).status == 401
    assert failures.reject("192.0.2.1", 2_000).status == 401
