"""Key files: readable only by the daemon, and not stored together with the data that they decrypt."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from waterflow_agent.errors import Rejected

#: A token has about a hundred bytes, an identity file a few lines.
KEY_BYTES_MAX = 64 << 10


def read(path: Path, key: str, data_dir: Path) -> str:
    """The text of the file that the configuration's `key` names. Blocks; raises `Rejected` WF622.

    A file of another owner may be readable by its group: that is how root hands it to the daemon.
    """
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(key, path, "is not a regular file")
        if resolved.is_relative_to(data_dir.resolve()):
            # A backup of the data directory would contain the key.
            raise _unusable(key, path, f"is in the data directory; keep it outside of {data_dir}")
        if status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007):
            raise _unusable(key, path, f"can be read by other users; next: chmod 600 {path}")
        with resolved.open("rb") as file:
            return file.read(KEY_BYTES_MAX).decode("utf-8")
    except OSError as error:
        raise _unusable(key, path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _unusable(key, path, "is not UTF-8 text") from None


def _unusable(key: str, path: Path, problem: str) -> Rejected:
    return Rejected("WF622", f"{key}: {path} {problem}")
