"""The server's keys that an agent accepts: the current one, and old ones for a server that was set back.

Rules of this file:

- The agent connects with the current key. Only when a server does not prove that one does it try the old keys, in turns and
  each until its time has passed: a server that was restored from an older backup must be reachable.
- Only a connection with the current key changes what is accepted. A rotation may follow from a leak, so somebody else may have
  an old key: that one must not give the agent another key, nor keep an old one accepted.
- An old key is accepted only if this agent has used it as the current one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from waterflow_agent.keys import fingerprint
from waterflow_agent.wire.messages import KeyRotated, OldServerKey

logger = logging.getLogger(__name__)


class ServerKeys:
    """What this agent accepts; `store` makes a change durable."""

    def __init__(
        self,
        current: str,
        old: Sequence[OldServerKey] = (),
        *,
        wall_ms: Callable[[], int] = lambda: 0,
        store: Callable[[str, list[OldServerKey]], None] = lambda current, old: None,
    ) -> None:
        self.current = current
        self._old = list(old)
        self._wall_ms = wall_ms
        self._store = store
        self._is_stored = True
        self._turn = 0

    def choose(self) -> str:
        """The key for the next connection."""
        accepted = self._accepted()
        return accepted[self._turn % len(accepted)]

    def _accepted(self) -> list[str]:
        now = self._wall_ms()
        return [self.current, *(old.key for old in self._old if now < old.accepted_until)]

    def was_proven(self) -> None:
        """The server has proven the chosen key: the next connection begins with the current one."""
        self._turn = 0

    def was_not_proven(self) -> bool:
        """A server has answered, and not proven the chosen key: the next connection tries another one, if there is one.

        Returns whether a key is left that this server has not been asked for, so that each address is asked for every key.
        """
        self._turn += 1
        return self._turn % len(self._accepted()) != 0

    def accepted_until(self, key: str) -> int:
        """Until when an old key is accepted (ms, wall clock); 0 for the current one."""
        return next((old.accepted_until for old in self._old if old.key == key), 0)

    def rotate(self, used: str, rotated: KeyRotated) -> bool:
        """The server has announced its current key on a connection with the key `used`. Returns whether it is accepted."""
        if rotated.server_key == self.current:
            return True
        if used != self.current or not _is_key(rotated.server_key):
            return False
        self._keep([OldServerKey(used, 0), *self._old], rotated.old_server_keys)
        self.current = rotated.server_key
        self._write()
        return True

    def confirm(self, used: str, old_server_keys: Sequence[OldServerKey]) -> None:
        """The server has opened a session on a connection with the key `used`, and listed the old keys that it accepts."""
        if used != self.current:
            return
        before = self._old
        self._keep(before, old_server_keys)
        if self._old != before or not self._is_stored:
            self._write()

    def _keep(self, known: Sequence[OldServerKey], announced: Sequence[OldServerKey]) -> None:
        names = {old.key for old in known}
        self._old = [old for old in announced if old.key in names]

    def _write(self) -> None:
        # In the loop's thread: it happens once in a rotation, and the next connection must not be made before.
        try:
            self._store(self.current, self._old)
            self._is_stored = True
        except OSError as error:
            # It is used nevertheless, and stored when the next session opens.
            self._is_stored = False
            logger.warning("cannot store the server's new key: %s", error)


def _is_key(text: str) -> bool:
    try:
        fingerprint(text)
    except ValueError:
        return False
    return True
