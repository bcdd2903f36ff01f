"""Addresses that a fetch may connect to, in every notation."""

from __future__ import annotations

import pytest

from waterflowd.gitsource.remote import address_policy


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe",
        "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "240.0.0.1",
    ],
)  # fmt: skip
def test_metadata_services_and_special_addresses_are_refused(address: str) -> None:
    """This includes IPv6 addresses that embed an IPv4 one."""
    assert address_policy.refusal(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd00::1", "192.0.2.1", "2001:db8::1"]
)
def test_private_and_loopback_addresses_are_allowed(address: str) -> None:
    """The daemon's configuration names them."""
    assert address_policy.refusal(address) is None


def test_loopback_is_recognized_in_every_notation() -> None:
    """No other address is loopback."""
    assert all(map(address_policy.is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1")))
    assert not any(map(address_policy.is_loopback, ("10.0.0.1", "2002:7f00:1::", "::ffff:10.0.0.1", "64:ff9b::7f00:1")))
