"""The attempts' directories, from the agent's side: made before a start, used again or removed after `forget`.

Making and removing the directory of a short step costs more than its process (on ext4 five inodes, up to 250 µs each),
so a few that are as good as new are kept under `attempts/.free-<number>` and renamed into place. "As good as new" means:
the step left nothing in it but the files this package knows, and little output. Everything else is removed, whatever it
is. The runner ignores names that begin with a dot, so a kept directory is never an attempt.

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

#: More than slots of a large agent, so a steady load makes no directories.
FREE_MAX = 64
#: Cutting off more takes the file system long enough to be noticed by the loop.
OUTPUT_BYTES_MAX = 256 * 1024
_FREE = ".free-"
_KNOWN = frozenset({"record", "files", "output"})


class AttemptDirectoryPool:
    """The directories below `root`; for one agent, not thread-safe. Calls take microseconds."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._free: list[int] = []
        self._next = 0
        with contextlib.suppress(FileNotFoundError):
            # What an earlier agent kept: it was emptied before it got such a name.
            numbers = [name[len(_FREE) :] for name in os.listdir(root) if name.startswith(_FREE)]
            self._free = [int(number) for number in numbers if number.isdigit()]
            self._next = max(self._free, default=-1) + 1

    def path(self, name: str) -> str:
        """Where the attempt's directory is or will be."""
        return f"{self._root}/{name}"

    def prepare(self, name: str) -> str:
        """Make the attempt's directory unless it is there; returns its path. Raises `OSError`."""
        path = self.path(name)
        while self._free:
            try:
                os.rename(f"{self._root}/{_FREE}{self._free[-1]}", path)
            except FileNotFoundError:
                # Somebody tidied up; the root itself may be missing as well.
                self._free.pop()
                continue
            except OSError:
                # It is there already (and not empty, so the rename was refused).
                break
            self._free.pop()
            return path
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        attempt_directory.make(path)
        return path

    def release(self, name: str) -> str | None:
        """Keep the forgotten attempt's directory for another; returns the path that is to be removed instead, if so.

        That path has another name already, so the attempt is gone at once.
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
    """Empty the directory when that is cheap and makes it as good as new."""
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
            # To the first byte, which both kinds of file keep (see `directory` for why not to nothing).
            os.truncate(f"{path}/{name}", 1)
    return True


def remove(paths: Iterable[str]) -> None:
    """Remove directories, whatever is in them; takes as long as that takes, and reports what stays."""
    for path in paths:
        if sys.version_info >= (3, 12):
            shutil.rmtree(path, onexc=_report)
        else:
            shutil.rmtree(path, onerror=lambda function, path, failure: _report(function, path, failure[1]))


def _report(_function: object, path: str, failure: BaseException) -> None:
    if not isinstance(failure, FileNotFoundError):
        logger.warning("cannot remove %s: %s", path, failure)
