"""Working directories of failed jobs, kept so that a re-run can continue such a job at a step: `work/.kept/<run>/<job>@<when>`.

A kept directory is the job's directory itself, renamed: same content, same owners, same permissions. It ends in one of four
ways: a re-run takes it; `KEPT_MS` have passed; it is the oldest when more than `KEPT_MAX` directories or `bytes_max` bytes are
kept; or the disk is almost full, which such a directory may have caused. The time is part of the name, so that it survives a
restart; it is the wall clock's, as it must survive a reboot.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from waterflow_agent.clock import Clock
from waterflow_agent.wire.messages import KEPT_MS

logger = logging.getLogger(__name__)

#: Nothing is kept with less free space than this, or than this part of a small disk.
FREE_BYTES_MIN = 1 << 30
_FREE_PART_MIN = 20
#: Directories that are kept at a time. More than a server with many failing jobs has in a day.
KEPT_MAX = 200
#: Does not occur in the names of runs and jobs (`directory_name`).
_SEPARATOR = "@"


class _Kept(NamedTuple):
    """One kept directory; in the order in which they were kept."""

    kept_at: int
    path: Path

    @property
    def subject(self) -> str:
        return f"job {self.path.name.partition(_SEPARATOR)[0]} of run {self.path.parent.name}"


class KeptDirectories:
    """The kept directories of one agent, below `root`. All paths are in one file system."""

    def __init__(self, root: Path, clock: Clock, bytes_max: int, discard: Callable[[Path], None]) -> None:
        """`discard` moves a directory to the trash. With `bytes_max` 0 nothing is kept."""
        self._root = root
        self._clock = clock
        self._bytes_max = bytes_max
        self._discard = discard
        #: Measured once: nothing changes a kept directory.
        self._sizes: dict[Path, int] = {}

    def keep(self, run: str, job: str, path: Path) -> None:
        """Keeps `path`, the directory of a job, under these names. Raises nothing: what cannot be kept goes to the trash."""
        if not self._bytes_max or not path.is_dir() or self._is_disk_low():
            self._discard(path)
            return
        target = self._root / run / f"{job}{_SEPARATOR}{self._clock.wall_ms()}"
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.rename(path, target)
        except OSError as error:
            logger.warning("cannot keep %s: %s", path, error.strerror)
            self._discard(path)
            return
        for kept in self._all()[:-KEPT_MAX]:
            self._remove(kept, f"more than {KEPT_MAX} directories of failed jobs are kept")

    def take(self, run: str, job: str, target: Path) -> bool:
        """Renames the newest directory of a job to `target`, whose parent exists. False if there is none. Raises `OSError`."""
        of_job = self._of_job(run, job)
        if not of_job or self._is_old(of_job[-1]):
            return False
        os.rename(of_job[-1].path, target)
        self._forget(of_job[-1].path)
        return True

    def paths(self, run: str, job: str) -> list[Path]:
        """Returns the kept directories of a job, oldest first."""
        return [kept.path for kept in self._of_job(run, job)]

    def measure(self) -> None:
        """Measures directories that are not measured yet. This may take long: call it in a thread, one call at a time."""
        for kept in self._all():
            if kept.path not in self._sizes:
                self._sizes[kept.path] = _bytes_below(kept.path)

    def prune(self) -> None:
        """Moves to the trash what is too old, and the oldest ones if they have too many bytes."""
        left = []
        is_disk_low = self._is_disk_low()
        for kept in self._all():
            if is_disk_low:
                self._remove(kept, "the disk is almost full")
            elif self._is_old(kept):
                self._remove(kept, f"it was kept for {KEPT_MS // 3_600_000} h")
            else:
                left.append(kept)
        total = sum(self._sizes.get(kept.path, 0) for kept in left)
        for kept in left:
            if total <= self._bytes_max:
                return
            total -= self._sizes.get(kept.path, 0)
            self._remove(kept, f"more than {self._bytes_max >> 20} MiB of failed jobs are kept")

    def _is_old(self, kept: _Kept) -> bool:
        # A clock that was set back must not keep a directory forever.
        return not -KEPT_MS < self._clock.wall_ms() - kept.kept_at < KEPT_MS

    def _is_disk_low(self) -> bool:
        disk = os.statvfs(self._root.parent)
        size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        return free < min(FREE_BYTES_MIN, size // _FREE_PART_MIN)

    def _remove(self, kept: _Kept, why: str) -> None:
        logger.info("removed the directory of %s: %s", kept.subject, why)
        self._discard(kept.path)
        self._forget(kept.path)

    def _forget(self, path: Path) -> None:
        self._sizes.pop(path, None)
        for parent in (path.parent, self._root):
            with contextlib.suppress(OSError):
                parent.rmdir()

    def _of_job(self, run: str, job: str) -> list[_Kept]:
        return [kept for kept in self._all() if kept.path.parent.name == run and _job_of(kept.path) == job]

    def _all(self) -> list[_Kept]:
        """Returns what is kept, oldest first."""
        found = []
        for run in os.listdir(self._root) if self._root.is_dir() else ():
            with contextlib.suppress(NotADirectoryError, FileNotFoundError):
                for name in os.listdir(self._root / run):
                    when = name.rpartition(_SEPARATOR)[2]
                    found.append(_Kept(int(when) if when.isdecimal() else 0, self._root / run / name))
        return sorted(found)


def _job_of(path: Path) -> str:
    return path.name.rpartition(_SEPARATOR)[0]


def _bytes_below(path: Path) -> int:
    """Returns the space that a tree occupies, as far as this user can read it."""
    total = 0
    for _, directories, files, directory_fd in os.fwalk(path, onerror=None, follow_symlinks=False):
        for name in (*directories, *files):
            with contextlib.suppress(OSError):
                total += os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_blocks * 512
    return total
