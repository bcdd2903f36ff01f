"""Who may do what on the unix socket: roles by the uid that the kernel reports.

Rules of this file: the socket's file mode says who may connect, this table what they may do then. Root and the daemon's own
user can change the table anyway, so they are admins unless it names them.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from waterflow_agent.errors import Rejected
from waterflowd.access.registry import ROLES, Role

#: In place of a role: may connect, and is refused.
NONE = "none"


class PeerRoles:
    """Roles by uid; `default` (None for no role at all) for everybody who is not named."""

    def __init__(self, default: Role | None = Role.ADMIN, by_uid: Mapping[int, Role | None] | None = None) -> None:
        self._default = default
        self._by_uid: dict[int, Role | None] = {0: Role.ADMIN, os.geteuid(): Role.ADMIN, **(by_uid or {})}

    @classmethod
    def of(cls, default: str, users: Mapping[str, str]) -> PeerRoles:
        """From the configuration: `users` are names or uids, and their roles. `Rejected` WF620 for what there is not."""
        return cls(
            _role(default, "api.socket-role"),
            {_uid(user): _role(word, f"api.socket-users.{user}") for user, word in users.items()},
        )

    def of_uid(self, uid: int) -> Role | None:
        """The role of a uid, None when it has none."""
        return self._by_uid.get(uid, self._default)


def _role(word: str, key: str) -> Role | None:
    if word == NONE:
        return None
    if word not in ROLES:
        raise Rejected("WF620", f"{key}: expected {', '.join(ROLES)} or {NONE}, found {word!r}")
    return ROLES[word]


def _uid(user: str) -> int:
    if user.isascii() and user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Rejected("WF620", f"api.socket-users: this machine has no user {user!r}") from None
