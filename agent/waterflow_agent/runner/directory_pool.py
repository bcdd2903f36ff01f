"""The directories of attempts on the agent's side: created before a start, and reused or removed after `forget`.

Creating and removing the directory of a short step costs more than its process (on ext4 five inodes, up to 250 µs each), so a
few clean directories are kept as `attempts/.free-<number>` and renamed into place. A directory is clean when the step left only
files that this package knows, and little output. All others are removed, whatever they contain. The runner ignores names that
begin with a dot, so a free directory is never taken for an attempt.

Not part of the runner's process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
import sys
from typing import TYPE_CHECKING

from waterflow_agent.runner import attempt_directory

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

#: More than a large agent has slots, so that a steady load creates no directories.
FREE_MAX = 64
#: Truncating larger files would block the loop noticeably.
OUTPUT_BYTES_MAX = 256 * 1024
_FREE = ".free-"
_KNOWN = frozenset({"record", "files", "output"})


class AttemptDirectoryPool:
    """The directories below `root`, for one agent. Not thread-safe; calls take microseconds."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._free: list[int] = []
        self._next = 0
        with contextlib.suppress(FileNotFoundError):
            # Reused by an earlier agent: a directory is emptied before it gets such a name.
            numbers = [name[len(_FREE) :] for name in os.listdir(root) if name.startswith(_FREE)]
            self._free = [int(number) for number in numbers if number.isdigit()]
            self._next = max(self._free, default=-1) + 1

    def path(self, name: str) -> str:
        """Return the path of the attempt's directory, which need not exist yet."""
        return f"{self._root}/{name}"

    def prepare(self, name: str) -> str:
        """Create the attempt's directory unless it exists, and return its path. Raises `OSError`."""
        path = self.path(name)
        while self._free:
            try:
                os.rename(f"{self._root}/{_FREE}{self._free[-1]}", path)
            except FileNotFoundError:
                # It was deleted; the root may be missing too.
                self._free.pop()
                continue
            except OSError:
                # The directory exists and is not empty, so the rename failed.
                break
            self._free.pop()
            return path
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        attempt_directory.make(path)
        return path

    def release(self, name: str) -> str | None:
        """Free the directory of a forgotten attempt. Returns the path to remove if it cannot be reused.

        That path has been renamed already, so the attempt no longer exists.
        """
        path = self.path(name)
        number, self._next = self._next, self._next + 1
        try:
            is_reusable = len(self._free) < FREE_MAX and _empty(path)
            target = f"{self._root}/{_FREE if is_reusable else '.old-'}{number}"
            os.rename(path, target)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cannot remove %s now: %s", path, error)
            return path
        if is_reusable:
            self._free.append(number)
            return None
        return target


def _empty(path: str) -> bool:
    """Empty the directory if that is cheap and makes it clean. Returns whether it is clean."""
    names = os.listdir(path)
    if not _KNOWN.issuperset(names) or "files" not in names or "record" not in names:
        return False
    if os.listdir(f"{path}/files"):
        return False
    for name in names:
        if name == "files":
            continue
        status = os.lstat(f"{path}/{name}")
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_size > OUTPUT_BYTES_MAX:
            return False
        if status.st_size > 1:
            # Truncated to one byte, as in an empty file of either kind; `attempt_directory` explains why not to zero bytes.
            os.truncate(f"{path}/{name}", 1)
    return True


def remove(paths: Iterable[str]) -> None:
    """Remove directories with everything in them, and log what cannot be removed. May take long."""
    for path in paths:
        if sys.version_info >= (3, 12):
            shutil.rmtree(path, onexc=_report)
        else:
            shutil.rmtree(path, onerror=lambda function, path, failure: _report(function, path, failure[1]))


def _report(_function: object, path: str, failure: BaseException) -> None:
    if not isinstance(failure, FileNotFoundError):
        logger.warning("cannot remove %s: %s", path, failure)
