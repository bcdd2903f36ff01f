"""Quotas of repositories: how many runs each may start per hour, and how much output the daemon stores for it per hour.

Rules of this file:

- A quota is a bucket that holds the amount of one hour. Starts and output take from it, and an empty one is full again after an
  hour. So a repository may use the amount at once, but not more than twice the amount within an hour.
- What is used is in counters of the log, so a restart forgets nothing: runs are counted in the transaction that starts them.
  Output is counted in memory, and recorded whenever a hundredth of the quota was used.
- Starts are refused once the bucket is empty. A push starts all its workflows or none, so it may take more than is left. The
  repository waits longer then, but about an hour at most: a quota delays a repository and never locks it.
- An output log may grow while it is not larger than what remains of the quota. So the largest logs are cut off first, and steps
  that print little keep their output beside one that floods.
- Quotas are separate for each repository; workflows that are sent to the API share one for output.
- No clock: `now` is the log's clock in ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd.model.records import StartRequest
from waterflowd.reconcile import codes

HOUR_MS = 3_600_000
#: Counters hold thousandths, so that slow refills are not lost by rounding.
_PARTS = 1000
#: Output is recorded after this share of the quota.
_RECORDED_SHARE = 100
#: Quotas have a text from this share on.
_NEAR = 0.8
#: The largest quota: used amounts stay within 64 bits.
QUOTA_MAX = 1 << 50

#: More than any log can grow.
OUTPUT_UNLIMITED = 1 << 62

RUNS_KEY = "runs-per-hour"
OUTPUT_KEY = "output-bytes-per-hour"


class RepositoryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The quotas of one repository; 0 for no limit."""

    runs_per_hour: int = 0
    output_bytes_per_hour: int = 0


class QuotaUse(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a quota is used, for people."""

    #: The key of the quota in the configuration.
    key: str
    used: int
    limit: int
    #: One sentence if it is nearly or completely used; else empty.
    text: str = ""
    is_exceeded: bool = False


class _Bucket(msgspec.Struct):
    used: float
    at: int
    #: What is in the counters.
    recorded: float
    #: When an output log was last cut off.
    cut_at: int | None = None


class RepositoryQuotas:
    """The quotas of all repositories. `counter` reads a counter of the log."""

    def __init__(
        self,
        default: RepositoryLimits | None = None,
        own: Mapping[str, RepositoryLimits] | None = None,
        counter: Callable[[str], int] = lambda name: 0,
    ) -> None:
        """Without `default` there are no limits."""
        self._default = default or RepositoryLimits()
        self._own = dict(own or {})
        self._counter = counter
        self._output: dict[str | None, _Bucket] = {}
        #: Starts that were refused, and bytes of output that were not stored, since the start of the daemon.
        self.starts_refused = 0
        self.output_bytes_dropped = 0

    def limits(self, repository: str | None) -> RepositoryLimits:
        """The limits of a repository; None for workflows that are sent to the API."""
        return self._default if repository is None else self._own.get(repository, self._default)

    def replace(self, default: RepositoryLimits, own: Mapping[str, RepositoryLimits]) -> None:
        """Other limits from now on. What is used stays counted."""
        self._default, self._own = default, dict(own)

    # Runs

    def take_runs(self, requests: Sequence[StartRequest], now: int, counters: MutableMapping[str, int]) -> None:
        """Counts starts in the counters of a transaction. Raises `Rejected` WF531 with status 429 before it counts any."""
        taken: dict[str, float] = {}
        for request in requests:
            limit = self.limits(request.repository).runs_per_hour
            if request.repository is None or not limit:
                continue
            if request.repository not in taken:
                taken[request.repository] = used = self._runs_used(request.repository, now, counters)
                if used + 1 > limit:
                    self.starts_refused += 1
                    raise _refusal(request.repository, limit, used, now)
            taken[request.repository] += 1
        for repository, used in taken.items():
            counters.update(_counters("runs", repository, used, now))

    def _runs_used(self, repository: str, now: int, counters: Mapping[str, int]) -> float:
        used, at = (
            counters[name] if name in counters else self._counter(name) for name in _counters("runs", repository, 0, 0)
        )
        return _used(used / _PARTS, at, now, self.limits(repository).runs_per_hour)

    # Output

    def room(self, repository: str | None, end: int, now: int) -> int:
        """By how many bytes an output log that ends at `end` may grow."""
        limit = self.limits(repository).output_bytes_per_hour
        if not limit:
            return OUTPUT_UNLIMITED
        return max(0, int(limit - self._bucket(repository, now, limit).used - end) // 2)

    def take_output(self, repository: str | None, added: int, now: int) -> dict[str, int]:
        """Counts output. Returns counters that are to be recorded now; mostly none."""
        limit = self.limits(repository).output_bytes_per_hour
        if not limit:
            return {}
        bucket = self._bucket(repository, now, limit)
        bucket.used += added
        if bucket.used - bucket.recorded < limit / _RECORDED_SHARE:
            return {}
        bucket.recorded = bucket.used
        return _counters("output", repository, bucket.used, now)

    def _bucket(self, repository: str | None, now: int, limit: int) -> _Bucket:
        bucket = self._output.get(repository)
        if bucket is None:
            used, at = (self._counter(name) for name in _counters("output", repository, 0, 0))
            # A lower limit counts from now on.
            used_now = min(limit, _used(used / _PARTS, at, now, limit))
            bucket = self._output[repository] = _Bucket(used=used_now, at=now, recorded=used_now)
        elif now > bucket.at:
            bucket.used = _used(bucket.used, bucket.at, now, limit)
            bucket.recorded = _used(bucket.recorded, bucket.at, now, limit)
            bucket.at = now
        return bucket

    def output_was_cut(self, repository: str | None, now: int) -> bool:
        """Notes that an output log was cut off; returns whether it is the first one for an hour."""
        bucket = self._bucket(repository, now, self.limits(repository).output_bytes_per_hour)
        before, bucket.cut_at = bucket.cut_at, now
        return before is None or now - before >= HOUR_MS

    # What is used

    def uses(self, repository: str | None, now: int) -> list[QuotaUse]:
        """The quotas of a repository and how much of them is used."""
        limits = self.limits(repository)
        found = []
        if repository is not None and limits.runs_per_hour:
            found.append(self._runs_use(repository, limits.runs_per_hour, now))
        if limits.output_bytes_per_hour:
            found.append(self._output_use(repository, limits.output_bytes_per_hour, now))
        return found

    def _runs_use(self, repository: str, limit: int, now: int) -> QuotaUse:
        used = self._runs_used(repository, now, {})
        is_exceeded = used + 1 > limit
        text = f"{math.ceil(used):,} of {limit:,} runs per hour used ({RUNS_KEY})"
        if is_exceeded:
            text += f"; the next run may start at {_time(now + _wait_ms(used, limit))}"
        shown = text if is_exceeded or used >= _NEAR * limit else ""
        return QuotaUse(key=RUNS_KEY, used=math.ceil(used), limit=limit, text=shown, is_exceeded=is_exceeded)

    def _output_use(self, repository: str | None, limit: int, now: int) -> QuotaUse:
        bucket = self._bucket(repository, now, limit)
        is_exceeded = bucket.cut_at is not None and now - bucket.cut_at < HOUR_MS
        text = f"{bucket.used / limit:.0%} of {limit:,} bytes of output per hour used ({OUTPUT_KEY})"
        if bucket.cut_at is not None and is_exceeded:
            text = f"output was cut off at {_time(bucket.cut_at)}; {text}"
        shown = text if is_exceeded or bucket.used >= _NEAR * limit else ""
        return QuotaUse(key=OUTPUT_KEY, used=math.ceil(bucket.used), limit=limit, text=shown, is_exceeded=is_exceeded)


def _counters(kind: str, repository: str | None, used: float, now: int) -> dict[str, int]:
    """The counters of a bucket: what is used, and when."""
    name = f"quota/{kind}/{repository or ''}"
    return {name: math.ceil(used * _PARTS), f"{name}/at": now}


def _used(used: float, at: int, now: int, limit: int) -> float:
    """What is still used of what was used at `at`; never more than two hours' amount."""
    return max(0.0, min(used, 2.0 * limit) - max(0, now - at) * limit / HOUR_MS)


def _wait_ms(used: float, limit: int) -> int:
    return max(0, math.ceil((used + 1 - limit) * HOUR_MS / limit))


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _refusal(repository: str, limit: int, used: float, now: int) -> Rejected:
    wait_ms = _wait_ms(used, limit)
    text = (
        f'repository "{repository}" has used its quota of {limit:,} runs per hour; the next run may start at'
        f" {_time(now + wait_ms)}; to allow more, raise {RUNS_KEY} in its quotas, or in [quotas], in waterflowd.toml"
    )
    return Rejected(codes.RUN_QUOTA, text, status=429, after_s=wait_ms / 1000)
