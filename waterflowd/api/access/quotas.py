"""What the API can do at the same time, and who may use how much of it: requests, streams and connections.

Rules of this file:

- TCP and the unix socket have separate pools, so that nothing on the network keeps the administrator of the machine out.
- In each pool there is a limit for one client (a principal; without one, an address), and one for all together. Beyond the
  latter a client that holds nothing is still admitted, from a reserve: several clients together cannot keep another out either.
- A refusal is a 429 that says which limit was reached.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from waterflow_agent.errors import Rejected
from waterflowd.api.loop_time import LoopShare, Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one pool."""

    #: Open connections, and those of one address or uid.
    connections: int
    connections_per_source: int
    #: Requests that are being answered, except streams. Each may hold a body of 2 MiB in memory.
    requests: int = 128
    requests_per_client: int = 32
    #: Open streams; each costs a task or two. A dashboard needs one or two of them.
    streams: int = 256
    streams_per_client: int = 32
    #: Searches of output, each of which is a stream, too; one thread works on all of them in turn.
    searches: int = 16
    searches_per_client: int = 4


TCP = Limits(connections=512, connections_per_source=256)
UNIX = Limits(connections=128, connections_per_source=96, requests=64, streams=64)


class Quota:
    """Counts what clients hold of one kind: `limit` of it in total, `per_client` for each, and a quarter more in reserve."""

    def __init__(self, what: str, limit: int, per_client: int) -> None:
        self._what = what
        self._limit = limit
        self._per_client = per_client
        self._held: Counter[str] = Counter()
        self.count = 0

    def take(self, client: str) -> None:
        """Counts one more; raises `Rejected` WF609 with status 429 beyond a limit."""
        held = self._held[client]
        if held >= self._per_client:
            text = f"you have {held} open {self._what}, which is the limit; wait until one of them ends"
            raise Rejected("WF609", text, status=429)
        if self.count >= self._limit and (held or self.count >= self._limit + self._limit // 4):
            text = f"the limit of {self._limit} open {self._what} of all clients is reached; try again later"
            raise Rejected("WF609", text, status=429)
        self._held[client] += 1
        self.count += 1

    def release(self, client: str) -> None:
        """Counts one less."""
        self.count -= 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]


class Pool:
    """The requests and streams of TCP, or of the unix socket, and their share of the event loop."""

    def __init__(self, limits: Limits, is_busy: Callable[[], bool]) -> None:
        self.limits = limits
        self.share = LoopShare(is_busy)
        self.requests = Quota("requests", limits.requests, limits.requests_per_client)
        self.streams = Quota("streams", limits.streams, limits.streams_per_client)
        self.searches = Quota("searches of output", limits.searches, limits.searches_per_client)


class Pools:
    """All pools."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        """`is_busy` tells whether the daemon's own work is under way."""
        self.tcp = Pool(TCP, is_busy)
        self.unix = Pool(UNIX, is_busy)


class Admission:
    """What one request holds: a place among the requests, and once it is a stream, one among the streams instead."""

    def __init__(self, pool: Pool, client: str, meter: Meter) -> None:
        """Takes a place; raises `Rejected` 429 when there is none. `meter` is what its time is charged to."""
        self._pool = pool
        self.client = client
        self.meter = meter
        pool.requests.take(client)
        self._quota: Quota | None = pool.requests
        self._is_search = False

    def becomes_stream(self) -> None:
        """Changes to a stream; raises `Rejected` 429 when there is no place for another one."""
        if self._quota is self._pool.streams:
            return
        self._pool.streams.take(self.client)
        self._release_place()
        self._quota = self._pool.streams

    def becomes_search(self) -> None:
        """Changes to a stream that searches output; raises `Rejected` 429 when there is no place for another one."""
        self._pool.searches.take(self.client)
        self._is_search = True
        self.becomes_stream()

    def release(self) -> None:
        """Frees the place. Idempotent."""
        if self._is_search:
            self._is_search = False
            self._pool.searches.release(self.client)
        self._release_place()

    def _release_place(self) -> None:
        quota, self._quota = self._quota, None
        if quota is not None:
            quota.release(self.client)


def source_of_address(host: str) -> str:
    """The address as far as one client can choose it: a /64 of IPv6 is one source."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
