"""The limits of artifacts, and how much of them is used."""

from __future__ import annotations

import msgspec

from waterflow_agent.display import size_text
from waterflow_agent.errors import Rejected

#: Of one run.
ARTIFACTS_MAX = 1_000
DAY_MS = 86_400_000
#: From this share of the space on, operators are told.
_NEARLY_FULL = 0.9


class ArtifactLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in bytes, and of files."""

    artifact_bytes: int = 10 << 30
    run_bytes: int = 20 << 30
    #: Of all blocks on disk.
    total_bytes: int = 100 << 30
    files: int = 250_000
    #: Must stay free on the disk.
    reserved_bytes: int = 1 << 30
    #: None: as long as the run exists.
    keep_ms: int | None = 90 * DAY_MS


class ArtifactUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The space that all artifacts take."""

    #: None while it is not known, soon after the start.
    stored_bytes: int | None
    free_bytes: int
    limits: ArtifactLimits
    #: In the bucket of `artifacts.storage`; None while it is not known, and without a bucket.
    bucket_bytes: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether hardly anything more is accepted."""
        is_disk_full = self.free_bytes < self.limits.reserved_bytes
        return is_disk_full or (self.stored_bytes or 0) >= self.limits.total_bytes * _NEARLY_FULL

    @property
    def problem(self) -> str | None:
        """What an operator should do about it, if no artifact is accepted, or soon none will be."""
        limits, stored = self.limits, max(self.stored_bytes or 0, self.bucket_bytes or 0)
        if not stored:
            return None
        if self.free_bytes < limits.reserved_bytes:
            return (
                f"artifacts: none is accepted, because only {size_text(self.free_bytes)} of the daemon's disk is free"
                f" (artifacts.reserved-bytes is {size_text(limits.reserved_bytes)}); free some space"
            )
        if stored >= limits.total_bytes * _NEARLY_FULL:
            return (
                f"artifacts: {size_text(stored)} of {size_text(limits.total_bytes)} is used (artifacts.max-bytes);"
                " delete some with `waterflowctl artifacts delete`, keep them for a shorter time, or raise the limit"
            )
        return None


def check_total(size: int, limits: ArtifactLimits) -> None:
    """Raises `Rejected` WF330 if all blocks together have too many bytes."""
    within("all artifacts may have", size, limits.total_bytes, "bytes", "artifacts.max-bytes")


def within(what: str, value: int, limit: int, unit: str, key: str) -> None:
    """Raises `Rejected` WF330 for more than the limit; `key` is the setting of the configuration."""
    if value > limit:
        setting = f" ({key})" if key else ""
        raise Rejected("WF330", f"{what} at most {limit:,} {unit}{setting}, and this would be {value:,}", status=429)
