"""Decides whether a second process with an agent's key is the restarted agent or a clone. Pure; time is an argument.

A restarted agent looks like a second one as long as its old connection is not known to be dead, and so does a virtual machine
that was cloned while it ran. (A copied data directory is rejected before: host/agents/identities.py.) The difference: the older
process of a clone keeps sending. So the newer process waits for two keep-alive intervals of the older one. If the older one is
silent, the newer one is accepted; a frame means that both are alive, and the newer one is rejected for good.
"""

from __future__ import annotations

from waterflow_agent.wire import messages
from waterflowd.dispatch import handshake

#: When a clone may connect again: one of the servers has to be fixed first.
CLONE_RETRY_MS = 60_000


class CloneDetector:
    """Observes a newer process under the key of an agent that has a session, from its first `Hello` at `now`."""

    def __init__(self, hello: messages.Hello, now: int, silence_ms: int) -> None:
        self.hello = hello
        self.is_clone = False
        #: Keep-alives are sent every third of the silence limit, so a live peer sends two of them in this time.
        self._decided_at = now + silence_ms * 2 // 3
        #: An earlier frame of the older process may have been in transit: it does not prove that the process is alive.
        self._proof_from = now + silence_ms // 6

    def frame_received(self, now: int) -> bool:
        """The older process sent a frame. True when that proves, for the first time, that both processes are alive."""
        if self.is_clone or now < self._proof_from:
            return False
        self.is_clone = True
        return True

    def rejection(self, now: int) -> messages.Reject | None:
        """The answer to the newer process's `Hello`; None when the older one is silent and must be replaced."""
        if self.is_clone:
            text = (
                "another connected server uses this agent's key; if its state directory was copied, "
                "remove the key here and enroll this server again"
            )
            return handshake.reject(self.hello, "WF211", text, after_ms=CLONE_RETRY_MS)
        left = self._decided_at - now
        if left <= 0:
            return None
        text = "an older process with this agent's key may still be connected; try again in a moment"
        return handshake.reject(self.hello, "WF211", text, after_ms=left)
