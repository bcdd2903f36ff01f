"""What happens to the place of a join token that no agent can use again.

A token is needed once, and a used one that stays on disk looks like a secret that matters. So once the server says that it lets
no more agents in, its file is removed; where the folder cannot be changed (`ProtectSystem=strict`), the file is emptied. What
cannot be done is said once, at the enrollment.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from waterflow_agent import join_token
from waterflow_agent.errors import Rejected


def read(path: Path) -> str:
    """The text of the file. Raises `Rejected` WF230."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise Rejected("WF230", f"cannot read the join token in {path}: {error.strerror}") from error


def discard(path: Path) -> str:
    """Removes the file, or empties it. Returns what it did, or why it could not do it and what to do; one sentence.

    "" for a pipe or a device: it keeps nothing.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        if path.is_symlink():
            return f"the join token in {path} is used up, and is not removed because that is a link; remove it"
        path.unlink()
    except OSError as error:
        if not path.exists():
            return ""
        return _emptied(path, error)
    return f"removed the join token in {path}, which is used up"


def _emptied(path: Path, cause: OSError) -> str:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, 0)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        return f"the join token in {path} is used up, but cannot be removed ({cause.strerror}); remove it"
    return f"emptied {path}: its join token is used up"


def discard_spent(path: Path, token_id: str) -> None:
    """Removes the file if it still has this token, whose agent was killed between its enrollment and the removal."""
    if not token_id:
        return
    with contextlib.suppress(Rejected):
        if join_token.decode(read(path)).token_id == token_id:
            discard(path)
