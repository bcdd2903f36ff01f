"""How long a token lives, as a client says it."""

from __future__ import annotations

from waterflow_agent.errors import Rejected
from waterflowd.model import durations

_LIFETIME_MS_MIN = 1_000
#: A token that lives longer is one that is never changed.
_LIFETIME_MS_MAX = 400 * 86_400_000


def lifetime_ms(ttl: str | int | None, *, default_ms: int) -> int:
    """Milliseconds of a duration like `1h` or a number of seconds; `Rejected` 400 for anything else."""
    if ttl is None:
        return default_ms
    try:
        milliseconds = ttl * 1000 if isinstance(ttl, int) else durations.parse(ttl)
    except ValueError as error:
        raise Rejected("WF605", f"`ttl`: {error}", where="ttl") from None
    if not _LIFETIME_MS_MIN <= milliseconds <= _LIFETIME_MS_MAX:
        raise Rejected("WF605", "`ttl` is 1 s to 400 days", where="ttl")
    return milliseconds
