"""Roles on the unix socket, by the uid that the kernel reports.

Rules of this file: the socket's file mode decides who may connect, this table decides what they may do. Root and the daemon's
own user could change the table anyway, so they are admins unless the table names them.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from waterflow_agent.errors import Rejected
from waterflowd.access.roles import ROLE_NAMES, Role

#: Instead of a role: may connect, but every request is rejected.
NONE = "none"


class PeerRoles:
    """Roles by uid. Everyone else has the role `default`, or none when it is None."""

    def __init__(self, default: Role | None = Role.ADMIN, by_uid: Mapping[int, Role | None] | None = None) -> None:
        self._default = default
        self._by_uid: dict[int, Role | None] = {0: Role.ADMIN, os.geteuid(): Role.ADMIN, **(by_uid or {})}

    @classmethod
    def of(cls, default: str, users: Mapping[str, str]) -> PeerRoles:
        """From the configuration: `users` maps names or uids to roles. `Rejected` WF620 for an unknown user or role."""
        return cls(
            _role(default, "api.socket-role"),
            {_uid(user): _role(word, f"api.socket-users.{user}") for user, word in users.items()},
        )

    def replace(self, other: PeerRoles) -> None:
        """Takes over the roles of another one, for everybody who holds this one."""
        self._default, self._by_uid = other._default, other._by_uid

    def of_uid(self, uid: int) -> Role | None:
        """The role of a uid, or None."""
        return self._by_uid.get(uid, self._default)


def _role(word: str, key: str) -> Role | None:
    if word == NONE:
        return None
    if word not in ROLE_NAMES:
        raise Rejected("WF620", f"{key}: expected {', '.join(ROLE_NAMES)} or {NONE}, found {word!r}")
    return Role(word)


def _uid(user: str) -> int:
    if user.isascii() and user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise Rejected("WF620", f"api.socket-users: user {user!r} does not exist on this machine") from None
