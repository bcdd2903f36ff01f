"""How many wrong signatures an address may send."""

from __future__ import annotations

from waterflowd.api.routes.webhooks import SignatureFailures


def test_wrong_signatures_of_an_address_have_a_rate_of_their_own() -> None:
    """A burst is answered, then the address is told to wait; others are not, and time heals it."""
    failures = SignatureFailures()
    answers = [failures.reject("192.0.2.1", 1_000).status for _ in range(25)]
    assert answers == [401] * 20 + [429] * 5
    assert failures.reject("192.0.2.2", 1_000).status == 401
    assert failures.reject("192.0.2.1", 2_000).status == 401
