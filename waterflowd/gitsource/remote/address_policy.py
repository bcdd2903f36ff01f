"""Which addresses a fetch may connect to.

Theory: the URL comes from the daemon's configuration, so it may name a server in the private network or on this machine.
But the owner of a host name chooses its address, and a cloud's metadata service gives credentials to any client on this
machine. So the addresses of such services, and those that no server can have, are refused after the name was resolved.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Metadata services outside the link-local networks.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
)
#: Why a repository that was added through the API may not be on this machine.
LOOPBACK_REFUSED = "is on this machine; to allow that, set loopback = true in [added-repositories] of waterflowd.toml"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def refusal(text: str) -> str | None:
    """Why an address is refused, or None if it is allowed. The zone of an address does not matter."""
    address = ipaddress.ip_address(text.partition("%")[0])
    for meant in _with_embedded(address):
        if meant in _METADATA:
            return "is a cloud's metadata service"
        if meant.is_link_local:
            return "is link-local, the range of metadata services"
        if (
            meant.is_unspecified
            or meant.is_multicast
            or (isinstance(meant, ipaddress.IPv4Address) and meant.is_reserved)
        ):
            return "is not a server's address"
    return None


def is_loopback(text: str) -> bool:
    """True for a loopback address, in any notation."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _with_embedded(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 addresses that it embeds."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    for meant in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())):
        if meant is not None:
            yield meant
    if address in _NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
