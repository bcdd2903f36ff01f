"""Files that hold a key: read by the daemon, by nobody else, and not beside the data that they open."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from waterflow_agent.errors import Rejected

#: A token has a hundred bytes, a file of identities a few lines.
KEY_BYTES_MAX = 64 << 10


def read(path: Path, key: str, data_dir: Path) -> str:
    """The text of the file that the configuration's `key` names. Blocks; raises `Rejected` WF622 with a sentence.

    A file of another owner may be read by its group: that is how root gives it to the daemon.
    """
    try:
        place = path.resolve(strict=True)
        status = place.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _unusable(key, path, "is no file")
        if place.is_relative_to(data_dir.resolve()):
            # Who gets hold of a backup of the data directory would have the key with it.
            raise _unusable(key, path, f"lies in the data directory; keep it outside of {data_dir}")
        if status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007):
            raise _unusable(key, path, f"may be read by others; next: chmod 600 {path}")
        with place.open("rb") as file:
            return file.read(KEY_BYTES_MAX).decode("utf-8")
    except OSError as error:
        raise _unusable(key, path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _unusable(key, path, "is no text") from None


def _unusable(key: str, path: Path, why: str) -> Rejected:
    return Rejected("WF622", f"{key}: {path} {why}")
