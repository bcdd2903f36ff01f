"""Resolves names inside a fetch child, and refuses addresses that `address_policy` refuses.

Theory: a name that is checked first and resolved again for the connection may give another address the second time. So this
process's resolver is replaced, and every connection goes through the check. OpenSSH resolves names in its own process;
there the check comes before, and the host key proves the rest.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from waterflowd.gitsource.remote import address_policy
from waterflowd.gitsource.remote.fetch_errors import FetchError, unreachable
from waterflowd.reconcile import codes

_resolve: Callable[..., list[Any]] = socket.getaddrinfo


def guard(*, loopback_only: bool, allow_loopback: bool = True) -> None:
    """From now on this process resolves only allowed addresses; with `loopback_only` only those of this machine."""

    def checked(host: Any, *arguments: Any, **options: Any) -> list[Any]:
        found = _resolve(host, *arguments, **options)
        for *_, address in found:
            check(str(host), str(address[0]), loopback_only=loopback_only, allow_loopback=allow_loopback)
        return found

    socket.getaddrinfo = checked


def check_host(host: str, port: int, *, allow_loopback: bool = True) -> None:
    """Resolves and checks a name for a program that resolves it again."""
    try:
        found = _resolve(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise unreachable(f"cannot resolve host {host}: {error.strerror}") from error
    for *_, address in found:
        check(host, str(address[0]), loopback_only=False, allow_loopback=allow_loopback)


def check(host: str, address: str, *, loopback_only: bool, allow_loopback: bool = True) -> None:
    """Raises `FetchError` WF502 for an address that is refused."""
    problem = address_policy.refusal(address)
    if problem is None and loopback_only and not address_policy.is_loopback(address):
        problem = "is not on this machine, and http is only for tests on this machine; use https"
    if problem is None and not allow_loopback and address_policy.is_loopback(address):
        problem = address_policy.LOOPBACK_REFUSED
    if problem is not None:
        raise FetchError(codes.URL_REFUSED, f"address {address} of {host} {problem}")
