"""The addresses of the server: one or more endpoints of the same server, separated by commas in a text.

Each agent begins at a random address, so that agents spread over them. It keeps the one that works, and takes the next one
after a failure.
"""

from __future__ import annotations

import random

#: More are a mistake; each costs up to ten seconds when none of them answers.
ADDRESSES_MAX = 16


def split(text: str) -> list[str]:
    """The addresses in a text, each once, in order."""
    return list(dict.fromkeys(part for part in map(str.strip, text.split(",")) if part))


def join(endpoints: list[str]) -> str:
    """The text with these addresses, each once."""
    return ",".join(dict.fromkeys(endpoints))


def host_of(endpoint: str) -> str:
    """The host of `tcp://host:port`."""
    return endpoint.removeprefix("tcp://").rpartition(":")[0]


def port_of(endpoint: str) -> int:
    """The port of `tcp://host:port`."""
    return int(endpoint.rpartition(":")[2])


class Addresses:
    """The addresses of one server, one of which is current."""

    def __init__(self, text: str, dice: random.Random) -> None:
        self._endpoints = split(text) or [""]
        self._index = dice.randrange(len(self._endpoints)) if len(self._endpoints) > 1 else 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._endpoints)

    @property
    def current(self) -> str:
        """The address to use now."""
        return self._endpoints[self._index]

    def take_next(self) -> None:
        """Makes the next address current, because this one has failed; the first one follows the last one."""
        self._index = (self._index + 1) % len(self._endpoints)
