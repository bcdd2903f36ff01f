"""Turns names into addresses inside a fetch child, and refuses those that nothing may connect to.

Theory: a name that is looked at first and resolved again for the connection may lead elsewhere the second time. So the one
place where this process resolves names is replaced, and every connection that it makes goes through the check. OpenSSH
resolves by itself in a process of its own; there the check comes before, and the host's key proves the rest.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from waterflowd.gitsource.remote import address_policy
from waterflowd.gitsource.remote.fetch_errors import FetchError, unreachable
from waterflowd.reconcile import codes

_resolve: Callable[..., list[Any]] = socket.getaddrinfo


def guard(*, loopback_only: bool) -> None:
    """From now on this process resolves checked addresses only; with `loopback_only` none but those of this machine."""

    def checked(host: Any, *arguments: Any, **options: Any) -> list[Any]:
        found = _resolve(host, *arguments, **options)
        for *_, address in found:
            check(str(host), str(address[0]), loopback_only=loopback_only)
        return found

    socket.getaddrinfo = checked


def check_host(host: str, port: int) -> None:
    """Resolves and checks a name for a program that resolves it again."""
    try:
        found = _resolve(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise unreachable(f"the host {host} is not known: {error.strerror}") from error
    for *_, address in found:
        check(host, str(address[0]), loopback_only=False)


def check(host: str, address: str, *, loopback_only: bool) -> None:
    """Raises `FetchError` WF502 when the address must not be connected to."""
    why = address_policy.refusal(address)
    if why is None and loopback_only and not address_policy.is_loopback(address):
        why = "is not on this machine, and http is for tests on this machine alone: use https"
    if why is not None:
        raise FetchError(codes.URL_REFUSED, f"the address of {host}, {address}, {why}")
