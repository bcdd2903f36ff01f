"""The terms of leases on Temporal, for tests that do not care about them."""

from __future__ import annotations

from waterflowd.temporal.own_slots import LeaseTerms

TERMS = LeaseTerms(epoch=1, lease_ms=10_000)
