"""The working directories of jobs: `<data-dir>/work/<run>/<job>`, created by a job's first step, empty or with a checkout.

A job's directory is deleted when the daemon releases the job, or kept for a while if the job failed (`kept_directories`).
Between two steps of a job the agent may hold nothing of it for days, and may restart. Directories that the daemon never
releases are deleted after `KEEP_S` without use. A directory is first renamed into `work/.trash`, so that a slow or failed
removal cannot affect a new step; a failed removal is tried again later. Removal runs in a thread, follows no links and does not
enter mounted file systems.

Beside it a job has a directory for temporary files, `work/.temp/<run>/<job>`, which is removed with it.

The directory of a job whose steps have another user belongs to the agent, too; what its steps create belongs to that user, and
`owned_by_steps` names what only that user can remove.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Collection
from pathlib import Path

from waterflow_agent import server_paths
from waterflow_agent.clock import Clock
from waterflow_agent.errors import Rejected
from waterflow_agent.execution import sharing
from waterflow_agent.execution.kept_directories import KeptDirectories
from waterflow_agent.execution.step_policy import Account
from waterflow_agent.wire.messages import JobName

logger = logging.getLogger(__name__)

#: Longer than the longest run. Only directories that the daemon has forgotten, as after a restored backup, reach this age.
KEEP_S = 40 * 24 * 3600
#: Directories listed in one `Hello`; a later session lists the others.
JOBS_MAX = 10_000
#: What a new agent keeps of failed jobs, in bytes.
KEPT_BYTES = 4 << 30
#: The trash is emptied at least once a minute.
_REMAINS_MAX = 20
_TRASH = ".trash"
_KEPT = ".kept"
_TEMP = ".temp"
_CONTAINERS = ".containers"
#: Names in the root that are not those of runs.
_RESERVED = (_TRASH, _KEPT, _TEMP, _CONTAINERS)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_UNMOUNT_S_MAX = 10
#: `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS` on 64-bit machines, and the immutable and append-only flags.
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_FIXED_FLAGS = 0x10 | 0x20


class WorkingDirectories:
    """All working directories of one agent."""

    def __init__(self, root: Path, clock: Clock, kept_bytes_max: int = KEPT_BYTES) -> None:
        self._root = root
        self._clock = clock
        self._trash = root / _TRASH
        self._trash.mkdir(mode=0o700, parents=True, exist_ok=True)
        #: Where the directories of jobs' containers are.
        self.containers = root / _CONTAINERS
        #: The directories of failed jobs.
        self.kept = KeptDirectories(root / _KEPT, clock, kept_bytes_max, self.discard)
        #: When the agent last held an attempt of each run, in milliseconds of the boot clock.
        self._used_at: dict[str, int] = {}
        self._made: set[tuple[str, str]] = set()
        self._discard_unfinished()

    def enter(self, run: str, job: str, account: Account | None = None) -> Path:
        """Returns the job's directory, which is created if necessary, and shared. Raises `OSError` and `Rejected`."""
        path = self._root / directory_name(run) / directory_name(job)
        self._used_at[directory_name(run)] = self._clock.boot_ms()
        if (run, job) not in self._made or not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.share(path, account)
            self._made.add((run, job))
        return path

    def paths(self, run: str, job: str) -> dict[str, str]:
        """Returns the paths of a job by their names in values, whether they exist yet or not."""
        parent, name = self._root / directory_name(run), directory_name(job)
        temp = self._root / _TEMP / directory_name(run) / name
        return {
            server_paths.WORKSPACE: str(parent / name),
            server_paths.TEMP: str(temp),
            server_paths.PARENT: str(parent),
        }

    def temporary(self, run: str, job: str, account: Account | None = None) -> Path:
        """Returns the directory for temporary files of the job, which is created if necessary. Raises `OSError`."""
        path = self._root / _TEMP / directory_name(run) / directory_name(job)
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.share(path, account)
            if account is not None:
                sharing.open_parent(self._root / _TEMP)
        return path

    def prepare(self, run: str, job: str, account: Account, files: Path) -> tuple[Path, Path]:
        """Prepares a job's directory for a copy of `files`, which the account can read then. Returns where they are, and an
        empty directory for `adopt`. Raises `OSError`, `Rejected`.
        """
        parent = self._root / directory_name(run)
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        source, target = (parent / f".{kind}-{os.urandom(6).hex()}" for kind in ("files", "new"))
        os.rename(files, source)
        sharing.grant(source, account.uid, sharing.READ | sharing.ENTER)
        target.mkdir(mode=0o700)
        self.share(target, account)
        return source, target

    def has(self, run: str, job: str) -> bool:
        """Whether the job has a directory."""
        return (run, job) in self._made or (self._root / directory_name(run) / directory_name(job)).is_dir()

    def has_directory(self, run_name: str, job_name: str) -> bool:
        """Whether there is a directory with these names (`directory_name`)."""
        return (self._root / run_name / job_name).is_dir()

    def adopt(self, run: str, job: str, directory: Path) -> None:
        """Renames a directory of this file system to be the job's. Raises `OSError`."""
        path = self._root / directory_name(run) / directory_name(job)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.rename(directory, path)
        self._made.add((run, job))

    def share(self, path: Path, account: Account | None) -> None:
        """Gives the user of a step access to a directory. Raises `OSError` and `Rejected`."""
        if account is None:
            return
        sharing.grant(path, account.uid, sharing.READ | sharing.WRITE | sharing.ENTER)
        self.open_above(path)

    def open_above(self, path: Path) -> None:
        """Lets every user enter the directories of the agent above a directory. Raises `OSError`."""
        for parent in path.parents:
            if not parent.is_relative_to(self._root.parent):
                break
            sharing.open_parent(parent)

    def jobs(self) -> list[tuple[str, str]]:
        """Returns run and job of each directory, `JOBS_MAX` at most."""
        runs = (name for name in os.listdir(self._root) if name not in _RESERVED)
        return list(itertools.islice(((run, job) for run in runs for job in _names(self._root / run)), JOBS_MAX))

    def release(self, run: str, job: str, *, is_kept: bool = False) -> None:
        """Moves a job's directory to the trash, or to those that are kept, and its run's directory if that was the last."""
        self._made.discard((run, job))
        path = self._root / directory_name(run)
        self._discard_temporary(directory_name(run), directory_name(job))
        if is_kept:
            self.kept.keep(directory_name(run), directory_name(job), path / directory_name(job))
        else:
            self.discard(path / directory_name(job))
        self._drop_if_empty(path)

    def take_over(self, run: str, job: str, earlier: JobName) -> None:
        """Gives a job the directory of an earlier one, unless it has one already. Raises `Rejected` WF754 and `OSError`."""
        if self.has(run, job):
            return
        names = directory_name(earlier.run), directory_name(earlier.job)
        target = self._root / directory_name(run) / directory_name(job)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.kept.take(*names, target):
            return
        # The daemon starts such a job only when the earlier one has ended, so its directory is free, released or not.
        path = self._root.joinpath(*names)
        if path.is_dir():
            self._made.discard((earlier.run, earlier.job))
            os.rename(path, target)
            self._drop_if_empty(path.parent)
            return
        self._drop_if_empty(target.parent)
        text = (
            f"the directory of job {earlier.job} of run {earlier.run} is not on this server any longer: another re-run has "
            "taken it, or it was removed after 24 h or to free space; "
            f"next: waterflowctl rerun {earlier.run} --from {shlex.quote(earlier.job)}"
        )
        raise Rejected("WF754", text)

    def _discard_temporary(self, run: str, job: str) -> None:
        path = self._root / _TEMP / run
        self.discard(path / job)
        with contextlib.suppress(OSError):
            path.rmdir()

    def _drop_if_empty(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.rmdir()
            self._used_at.pop(path.name, None)

    def retire_unused(self, held_runs: Collection[str]) -> None:
        """Moves directories to the trash that were not used for `KEEP_S`. Must run in the thread that calls `enter`."""
        now = self._clock.boot_ms()
        held = {directory_name(run) for run in held_runs}
        for name in os.listdir(self._root):
            if name in _RESERVED:
                continue
            if name in held:
                self._used_at[name] = now
            elif now - self._used_at.setdefault(name, now) >= KEEP_S * 1_000:
                self._retire(name)

    def discard(self, path: Path) -> None:
        """Moves a directory of the agent to the trash."""
        try:
            os.rename(path, self._trash / f"{path.name}.{os.urandom(6).hex()}")
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("cannot move %s to the trash: %s", path, error.strerror)

    def empty_trash(self) -> None:
        """Removes everything in the trash. This may take long: call it in a thread, one call at a time."""
        for name in os.listdir(self._trash):
            remove_tree(self._trash / name)

    def remains(self, run_name: str, job_name: str) -> list[Path]:
        """Returns where the directories of an ended job may be by now: kept, or in the trash, with those of its namesakes."""
        trash = (self._trash / name for name in sorted(os.listdir(self._trash)) if name.rpartition(".")[0] == job_name)
        return [*self.kept.paths(run_name, job_name), *itertools.islice(trash, _REMAINS_MAX)]

    def owned_by_steps(self) -> list[tuple[Path, int]]:
        """Returns the directories of the trash in which other users own something, with each of these users' ids."""
        places = [self._trash / name for name in os.listdir(self._trash)]
        found = [(place, uid) for place in places for uid in sharing.foreign_owners(place)]
        if found:
            sharing.open_parent(self._trash)
        return found

    def _discard_unfinished(self) -> None:
        """Moves directories to the trash that an earlier process of the agent had only begun to copy."""
        for run in _names(self._root / _TEMP):
            for job in _names(self._root / _TEMP / run):
                if not (self._root / run / job).is_dir():
                    self._discard_temporary(run, job)
        for run in os.listdir(self._root):
            if run in _RESERVED or not (self._root / run).is_dir():
                continue
            for name in os.listdir(self._root / run):
                if name.startswith("."):
                    self.discard(self._root / run / name)

    def _retire(self, name: str) -> None:
        self._used_at.pop(name, None)
        self._made = {(run, job) for run, job in self._made if directory_name(run) != name}
        self.discard(self._root / _TEMP / name)
        self.discard(self._root / name)


def _names(path: Path) -> list[str]:
    try:
        # A name that begins with a dot is a directory that is not complete yet.
        return [name for name in os.listdir(path) if not name.startswith(".")]
    except (NotADirectoryError, FileNotFoundError):
        return []


def resolve(workspace: Path, requested: str | None, account: Account | None = None) -> Path:
    """Returns the directory in which a step runs: its `working-directory`, which must be inside the job's directory.

    The path may come from an expression, so it is not trusted. Raises `Rejected` WF703 if it leads out of the job's directory,
    does not exist, or is not a directory. What another user's steps have created may be closed to this process: then the step's
    own process checks it when it enters it.
    """
    if not requested:
        return workspace
    if "\0" in requested:
        raise Rejected("WF703", "working-directory: a NUL byte")
    if account is not None:
        return workspace / requested
    # Symbolic links are resolved, because an earlier step may have created one that leads out.
    path, root = Path(os.path.realpath(workspace / requested)), Path(os.path.realpath(workspace))
    if not path.is_relative_to(root):
        raise Rejected("WF703", f"working-directory: {requested!r} leaves the job's directory")
    if not path.is_dir():
        raise Rejected("WF703", f"working-directory: {requested!r} is not a directory on this server")
    return path


def directory_name(name: str) -> str:
    """Returns `name` as one safe path component; different names have different components."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60].strip("-") or "x"
    # Plain names contain no tilde, so the two forms cannot be equal.
    return f"{slug}~{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def remove_tree(path: Path) -> bool:
    """Removes `path` and everything below it, whatever a step did to it; returns False, and logs, if something is left."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    for mount in _mounts_below(path):
        _unmount(mount)
    if _mounts_below(path):
        logger.warning("%s has a mounted file system in it and is left as it is", path)
        return False
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        # A second walk, because directories without permissions and immutable files are rare.
        _loosen(path)
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        logger.warning("cannot remove all of %s yet", path)
        return False
    return True


def _loosen(path: Path) -> None:
    """Gives this user all permissions on the directories below `path` and removes immutable flags."""
    for _, directories, files, directory_fd in os.fwalk(path, onerror=None, follow_symlinks=False):
        _loosen_directory(directory_fd)
        for name in directories:
            # Before the walk enters the directory, which requires the permission.
            _chmod_no_link(directory_fd, name)
        for name in files:
            _clear_flags_of(name, directory_fd)


def _loosen_directory(fd: int) -> None:
    _clear_flags(fd)
    try:
        os.fchmod(fd, 0o700)
    except OSError as error:
        logger.debug("cannot change a directory's mode: %s", error)


def _chmod_no_link(directory_fd: int, name: str) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode):
            os.chmod(name, 0o700, dir_fd=directory_fd)
    except OSError as error:
        logger.debug("cannot change the mode of %s: %s", name, error)


def _clear_flags_of(name: str, directory_fd: int) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory_fd)
    except OSError:
        return
    try:
        _clear_flags(fd)
    finally:
        os.close(fd)


def _clear_flags(fd: int) -> None:
    try:
        found = fcntl.ioctl(fd, _GET_FLAGS, b"\0" * 8)
        flags = int.from_bytes(found, "little")
        if flags & _FIXED_FLAGS:
            fcntl.ioctl(fd, _SET_FLAGS, (flags & ~_FIXED_FLAGS).to_bytes(8, "little"))
    except OSError:
        # Not every file system has flags, and only root may remove them.
        return


def _mounts_below(path: Path) -> list[str]:
    """Returns the mount points below `path`, innermost first."""
    prefix = os.path.realpath(path) + "/"
    found: list[str] = []
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                fields = line.split(b" ", 5)
                point = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal.group(1), 8)]), fields[4])
                if os.fsdecode(point).startswith(prefix):
                    found.append(os.fsdecode(point))
    except OSError:
        return []
    return sorted(found, key=len, reverse=True)


def _unmount(point: str) -> None:
    command = ["umount", "--lazy", "--", point]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_UNMOUNT_S_MAX, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("cannot unmount %s, which a step left behind: %s", point, error)
