"""Times in JSON: RFC 3339 in UTC with milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated

import msgspec

from waterflow_agent.errors import Rejected

#: `2026-01-02T03:04:05.678Z`.
Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]

#: The last instant that `datetime` can hold, in ms.
_INSTANT_MAX = 253_402_300_799_999
#: Naive, because the zone is always UTC and its text is added afterwards.
_EPOCH = datetime(1970, 1, 1)


def format_timestamp(at: int) -> str:
    """Milliseconds since 1970 as text. What no calendar holds is moved to the nearest instant that it does."""
    second, millisecond = divmod(min(max(at, 0), _INSTANT_MAX), 1000)
    return f"{_second_text(second)}.{millisecond:03d}Z"


@lru_cache(maxsize=4_096)
def _second_text(second: int) -> str:
    # An answer has up to a few thousand times, and most of them are in the same few seconds.
    return (_EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds")


def timestamp(at: int | None) -> str | None:
    """The same for a time that may be missing."""
    return format_timestamp(at) if at is not None else None


def parse_timestamp(text: str, where: str = "since") -> int:
    """Milliseconds of an RFC 3339 time or of a number of milliseconds; `Rejected` 400 for anything else."""
    if text.isascii() and text.isdecimal() and len(text) <= 15:
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
        return round((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        expected = "an RFC 3339 time such as 2026-01-02T03:04:05Z, or milliseconds since 1970"
        raise Rejected("WF605", f"{where} must be {expected}", where=where) from None
