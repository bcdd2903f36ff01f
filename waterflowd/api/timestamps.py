"""Instants as clients write them."""

from __future__ import annotations

from datetime import UTC, datetime

from waterflow_agent.errors import Rejected


def parse_instant(text: str) -> int:
    """Milliseconds of an RFC 3339 time or of a number of milliseconds; `Rejected` 400 for anything else."""
    if text.isascii() and text.isdecimal() and len(text) <= 15:
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
        return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Rejected("WF605", "since is a time like 2026-01-02T03:04:05Z, or milliseconds", where="since") from None
