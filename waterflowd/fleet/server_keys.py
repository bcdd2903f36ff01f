"""Which agents have followed a rotation of the server's key: those that have opened a session with the current one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from waterflowd.fleet.registry import Enrolled, Registry

#: How long before the end of an old key the agents that still use it are reported.
WARNING_MS = 7 * 24 * 3_600_000


class ServerKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the server: its fingerprint and its times (ms), not the key itself."""

    fingerprint: str
    created_at: int
    #: Until when an old key is accepted; 0 for the current one.
    accepted_until: int


def is_behind(entry: Enrolled, current: ServerKey) -> bool:
    """Whether an agent has not connected with the server's current key.

    An agent that was enrolled after the key was created, and has not connected yet, got it with the enrollment.
    """
    return entry.server_key != current.fingerprint and (
        bool(entry.server_key) or entry.approved_at < current.created_at
    )


def agents_behind(registry: Registry, current: ServerKey) -> list[Enrolled]:
    """The agents that have not connected with the server's current key, by name."""
    return sorted(
        (entry for entry in registry.agents.values() if is_behind(entry, current)), key=lambda entry: entry.name
    )


def ends_at(entry: Enrolled, keys: Sequence[ServerKey], now: int) -> int | None:
    """When an agent that is behind is cut off, if that is soon; 0 if it is already, None if it is not soon.

    `keys` are all keys of the server, the current one first.
    """
    if not is_behind(entry, keys[0]):
        return None
    # Before its first session it is not known which key an agent has, so the one that ends first counts.
    accepted = [
        old.accepted_until for old in keys[1:] if now < old.accepted_until and entry.server_key in ("", old.fingerprint)
    ]
    until = min(accepted, default=0)
    return until if until - now <= WARNING_MS else None
