"""The leases of running steps: until when each of them may run without news from the daemon.

A step has a lease when something else may start elsewhere once the daemon gives up its server: the next try of its job, or
the next holder of a concurrency group. Such a step must have ended by then, whatever has become of the network and of the
agent. So the runner, which outlives the agent, stops it.

A lease is counted from the moment at which the agent sent the newest message that the daemon has confirmed. The daemon cannot
have received that message earlier, and counts from its last news; so the step ends before the daemon stops waiting. All times
are of the boot clock, which also counts while the machine is suspended. This module has no clock and no input or output.
"""

from __future__ import annotations


class Leases:
    """The leases of one runner's steps, by name."""

    __slots__ = ("_confirmed_at", "_lengths_ms")

    def __init__(self) -> None:
        self._confirmed_at = 0
        self._lengths_ms: dict[str, int] = {}

    def confirm(self, at: int, now: int) -> None:
        """The daemon knew the agent to be alive at `at`. An earlier time than before changes nothing, nor does the future."""
        self._confirmed_at = max(self._confirmed_at, min(at, now))

    def has_ended(self, length_ms: int, now: int) -> bool:
        """Whether a lease of this length has ended, so that its step must not start."""
        return now >= self._confirmed_at + length_ms

    def add(self, name: str, length_ms: int) -> None:
        """The step has started."""
        self._lengths_ms[name] = length_ms

    def drop(self, name: str) -> None:
        """The step has ended, or is being stopped."""
        self._lengths_ms.pop(name, None)

    def ended(self, now: int) -> list[str]:
        """Return the steps whose lease has ended."""
        return [name for name, length_ms in self._lengths_ms.items() if self.has_ended(length_ms, now)]

    @property
    def next_end_at(self) -> int | None:
        """When the first lease ends, if nothing is confirmed until then; None without leases."""
        if not self._lengths_ms:
            return None
        return self._confirmed_at + min(self._lengths_ms.values())
