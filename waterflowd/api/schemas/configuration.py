"""What a reload of the configuration has changed."""

from __future__ import annotations

import msgspec

from waterflowd.admin.ports import KeyChange


class KeyChangeSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A key that differs from what the daemon runs with: `added`, `changed` or `removed`; not applied: it needs a restart."""

    key: str
    change: str
    applied: bool

    @classmethod
    def of(cls, change: KeyChange) -> KeyChangeSchema:
        """The change."""
        return cls(key=change.key, change=change.change, applied=change.is_applied)


class ReloadSchema(msgspec.Struct, frozen=True, kw_only=True):
    """The file that was read, and the keys that differ."""

    source: str
    changes: list[KeyChangeSchema]
