"""Who may connect to a port: limits by address, by key and in total. Pure; time is an argument.

Theory: a connection costs a stranger nothing, so no number of them may keep others out. A connection *waits* until its first
message has arrived, and is *active* afterwards.

- Beyond the limit of waiting connections the oldest one is closed: of the newcomer's address at the limit of an address, of
  the address with the most at the limit in total. So idle connections only ever displace their own kind, and a peer that says
  what it wants is not displaced.
- New connections of one address have a rate.
- Connections with one key have a limit, and so have active ones in total. There the newcomer is refused: a copied key must
  not displace the agent that uses it.

Addresses of one IPv6 network of 64 bits count as one address: everyone there can use all of them.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TypeVar

import msgspec

from waterflowd.rates import BucketPerName

_Name = TypeVar("_Name", str, bytes)

#: Addresses whose rate is remembered.
_ADDRESSES_MAX = 4_096


class PortLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one port."""

    #: Connections that have sent no message yet.
    waiting_max: int
    waiting_per_address_max: int
    #: Connections that have.
    active_max: int
    active_per_address_max: int
    per_key_max: int
    #: New connections of one address: at once, and per second.
    arrivals_burst: int
    arrivals_per_s: float
    #: A connection without a proven key, and one without a message, are closed after this time.
    handshake_s: float = 5.0
    idle_s: float = 30.0

    @property
    def total(self) -> int:
        """Connections at the same time, at most."""
        return self.waiting_max + self.active_max

    def within(self, descriptors: int) -> PortLimits:
        """These limits, reduced to what the process may open."""
        if self.total <= descriptors:
            return self
        waiting = min(self.waiting_max, max(1, descriptors // 4))
        return msgspec.structs.replace(self, waiting_max=waiting, active_max=max(1, descriptors - waiting))


class _Entry(msgspec.Struct):
    address: str
    key: bytes = b""
    is_active: bool = False


class Census:
    """Counts the connections of a port."""

    def __init__(self, limits: PortLimits) -> None:
        self._limits = limits
        self._entries: dict[int, _Entry] = {}
        #: Waiting connections by address, oldest first.
        self._waiting: dict[str, dict[int, None]] = {}
        self._waiting_count = 0
        self._active: Counter[str] = Counter()
        self._active_count = 0
        self._keys: Counter[bytes] = Counter()
        self._arrivals = BucketPerName(limits.arrivals_per_s, limits.arrivals_burst, _ADDRESSES_MAX)

    def __len__(self) -> int:
        return len(self._entries)

    def arrive(self, number: int, address: str, now: int) -> tuple[bool, int | None]:
        """A connection arrives: whether it may stay, and which waiting one has to be closed for it."""
        name = network_of(address)
        if not self._arrivals.take(name, now):
            return False, None
        victim: int | None = None
        own = self._waiting.get(name, {})
        if len(own) >= self._limits.waiting_per_address_max:
            victim = next(iter(own))
        elif self._waiting_count >= self._limits.waiting_max:
            # The address that has the most. Its connections are few thousand at most, and this is the exception.
            victim = next(iter(self._waiting[max(self._waiting, key=lambda one: len(self._waiting[one]))]))
        self._entries[number] = _Entry(name)
        self._waiting.setdefault(name, {})[number] = None
        self._waiting_count += 1
        return True, victim

    def prove(self, number: int, key: bytes) -> str:
        """A connection has proven its key. Returns why it may not stay; empty if it may."""
        if self._keys[key] >= self._limits.per_key_max:
            return f"more than {self._limits.per_key_max} connections with one key"
        self._entries[number].key = key
        self._keys[key] += 1
        return ""

    def activate(self, number: int) -> str:
        """A connection has sent its first message. Returns why it may not stay; empty if it may."""
        entry = self._entries[number]
        if self._active[entry.address] >= self._limits.active_per_address_max:
            return f"more than {self._limits.active_per_address_max} active connections of one address"
        if self._active_count >= self._limits.active_max:
            return f"more than {self._limits.active_max} active connections"
        self._no_longer_waits(number, entry)
        entry.is_active = True
        self._active[entry.address] += 1
        self._active_count += 1
        return ""

    def leave(self, number: int) -> None:
        """A connection is closed."""
        entry = self._entries.pop(number)
        if entry.key:
            _decrement(self._keys, entry.key)
        if entry.is_active:
            _decrement(self._active, entry.address)
            self._active_count -= 1
        else:
            self._no_longer_waits(number, entry)

    def _no_longer_waits(self, number: int, entry: _Entry) -> None:
        own = self._waiting[entry.address]
        del own[number]
        if not own:
            del self._waiting[entry.address]
        self._waiting_count -= 1


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def _decrement(counter: Counter[_Name], name: _Name) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
