"""Modes and owners of files, as the parameters `mode` and `owner` give them."""

from __future__ import annotations

import grp
import pwd
import re

from waterflow_agent.nodes.node import NodeFailure

#: Of a new file whose step says nothing.
DEFAULT_MODE = 0o644


def mode(text: str | None) -> int | None:
    """The mode, or None for none. Raises `NodeFailure`."""
    if text is None:
        return None
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise NodeFailure(f'mode: expected something such as "0644", not "{text}"')
    return int(text, 8)


def owner(text: str | None) -> tuple[int, int]:
    """User and group by number; -1 is what the file has. Raises `NodeFailure` for a name that this server does not know."""
    if text is None:
        return -1, -1
    user, _, group = text.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise NodeFailure(f"owner: {error.args[0]}") from None
    return uid, gid
