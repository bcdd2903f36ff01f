"""Values of parameters that several nodes share: durations, file modes and owners."""

from __future__ import annotations

import contextlib
import grp
import pwd
import re

from waterflow_agent import durations
from waterflow_agent.nodes.node import NodeFailure

#: Mode of a new file if the step sets none.
DEFAULT_MODE = 0o644


def duration_s(value: str | int | float, name: str) -> float:
    """The duration of the parameter `name`: `500ms`, `30s`, `1h30m`, `2d`, or a number of seconds. Raises `NodeFailure`."""
    if isinstance(value, int | float):
        if value > 0:
            return float(value)
    else:
        with contextlib.suppress(ValueError):
            return durations.parse(value) / 1000
    raise NodeFailure(f"{name}: expected a duration such as 30s or a number of seconds, not {value!r}")


def file_mode(text: str | None) -> int | None:
    """The mode, or None if the step sets none. Raises `NodeFailure`."""
    if text is None:
        return None
    if not re.fullmatch(r"0?[0-7]{3,4}", text):
        raise NodeFailure(f'mode: expected an octal mode such as "0644", not "{text}"')
    return int(text, 8)


def file_owner(text: str | None) -> tuple[int, int]:
    """Numeric user and group; -1 keeps that of the file. Raises `NodeFailure` for a name unknown to this server."""
    if text is None:
        return -1, -1
    user, _, group = text.partition(":")
    try:
        uid = -1 if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise NodeFailure(f"owner: {error.args[0]}") from None
    return uid, gid
