"""Two processes under one key: is the newcomer the same agent started again, or a clone? Pure; time is an argument.

An agent that was restarted looks like a second one for as long as its old connection is not known to be dead; a server copied
with its state directory looks the same. What tells them apart: the older process of a clone goes on talking. So the newcomer
waits for two keep-alives of the older one. Silence lets it in; a frame means that both live, and it is refused for good.
"""

from __future__ import annotations

from waterflow_agent.wire import messages
from waterflowd.dispatch import handshake

#: When a clone may ask again: a person has to act first, on either server.
CLONE_RETRY_MS = 60_000


class CloneDetector:
    """A newcomer under the key of an agent that has a session, since its first `Hello` at `now`."""

    def __init__(self, hello: messages.Hello, now: int, silence_ms: int) -> None:
        self.hello = hello
        self.is_clone = False
        #: Keep-alives come every third of the silence, so a living peer speaks twice in this time.
        self._decided_at = now + silence_ms * 2 // 3
        #: A frame of the older process that comes sooner may have been on the way before: no proof that it lives.
        self._proof_from = now + silence_ms // 6

    def is_exposed(self, now: int) -> bool:
        """A frame of the older process came now: whether that shows, for the first time, that both live."""
        if self.is_clone or now < self._proof_from:
            return False
        self.is_clone = True
        return True

    def refusal(self, now: int) -> messages.Reject | None:
        """The answer to the newcomer's `Hello` now; None when the older process is silent and must make way."""
        if self.is_clone:
            text = (
                "another server uses this agent's key and is connected: a copy of its state directory? "
                "Remove the key here and enroll again"
            )
            return handshake.reject(self.hello, "WF211", text, after_ms=CLONE_RETRY_MS)
        left = self._decided_at - now
        if left <= 0:
            return None
        text = "an older process with this agent's key may still be connected; asking again in a moment will tell"
        return handshake.reject(self.hello, "WF211", text, after_ms=left)
