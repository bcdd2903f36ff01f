"""The identity of an agent's installation: a random id of its data directory, which a copy does not share.

The file `installation` contains the id and the inode numbers of itself and of the data directory. A copy of the directory, on
the same machine or on another one, has other inodes, so it gets another id. The daemon refuses the key of an agent that comes
back with another id, machine or boot than it knows, until a person accepts it. The lock of the data directory excludes two
agents, and the runner's lock two runners, with the same id.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from waterflow_agent.errors import Stalled
from waterflow_agent.state.journal import DISK_FULL_ERRORS

FILE = "installation"


def load_or_create(data_dir: Path) -> str:
    """Returns the id of this data directory.

    Raises `OSError` when the disk is full, otherwise `Stalled` WF317 when the file cannot be written.
    """
    path = data_dir / FILE
    try:
        return _load(path) or _create(path)
    except OSError as error:
        if error.errno in DISK_FULL_ERRORS:
            raise
        raise Stalled("WF317", f"cannot use {path}: {error.strerror}; make it writable for the agent's user") from error


def _load(path: Path) -> str:
    """Returns the stored id; "" when there is none, or when it was stored in another place."""
    try:
        stored = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return ""
    if not isinstance(stored, dict) or not isinstance(stored.get("id"), str):
        return ""
    is_original = stored.get("inodes") == [path.parent.stat().st_ino, path.stat().st_ino]
    return stored["id"] if is_original else ""


def _create(path: Path) -> str:
    new, identity = path.with_suffix(".new"), os.urandom(16).hex()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w") as file:
        inodes = [path.parent.stat().st_ino, os.fstat(file.fileno()).st_ino]
        file.write(json.dumps({"id": identity, "inodes": inodes}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)
    return identity
