"""Stores the secrets of each attempt where a restarted agent finds them, but never on a disk.

A step continues when its agent is killed or replaced, and the next process must mask the output that it sends. The journal must
not contain secrets, so each attempt's secrets are in a file on an in-memory file system. A reboot deletes it together with the
attempts. Without such a file system the secrets are only in the memory of this process.

Rules of this file: a directory on a disk is never used. A failed write is logged once and has no effect now. When secrets
cannot be found later, `get` returns None, and the caller must withhold everything that the attempt has printed and returned.

What steps mask themselves is in the same directory; see `job_masks`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from waterflow_agent.execution.masking import Masks
from waterflow_agent.execution.process_steps import attempt_name
from waterflow_agent.state.job_masks import PREFIX, JobMasks
from waterflow_agent.wire.messages import JobName, Task, TaskId

logger = logging.getLogger(__name__)

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_decoder = msgspec.msgpack.Decoder(list[str])


class SecretStore:
    """The secrets of all attempts of one agent, as masks. For the loop's thread; calls take less than a millisecond."""

    def __init__(self, directory: Path | None) -> None:
        """`directory` is what `find_directory` returned; it is created with the first secret and deleted with the last."""
        self._directory = directory
        self._masks: dict[TaskId, Masks] = {}
        self._jobs = JobMasks(directory)

    def keep(self, key: TaskId, values: list[str]) -> Masks:
        """Stores the secrets of an attempt before it starts."""
        masks = self._masks[key] = Masks(values)
        if self._directory is not None:
            try:
                _make_private(self._directory)
                path = self._directory / attempt_name(key)
                path.unlink(missing_ok=True)
                with open(os.open(path, _MAKE, 0o600), "wb") as file:
                    file.write(msgspec.msgpack.encode(values))
            except OSError as error:
                logger.warning(
                    "cannot use %s (%s): if this agent restarts, the output of running steps with secrets will be withheld",
                    self._directory,
                    error.strerror,
                )
                self._directory = None
        return masks

    def get(self, key: TaskId) -> Masks | None:
        """Returns the attempt's masks, or None when its secrets are lost."""
        masks = self._masks.get(key)
        if masks is None and self._directory is not None:
            try:
                _check_private(self._directory)
                content = (self._directory / attempt_name(key)).read_bytes()
                masks = self._masks[key] = Masks(_decoder.decode(content))
            except (OSError, msgspec.MsgspecError):
                return None
        return masks

    def drop(self, key: TaskId) -> None:
        """Deletes the secrets of an attempt."""
        if self._masks.pop(key, None) is not None and self._directory is not None:
            _remove(self._directory, [attempt_name(key)])

    def with_job(self, task: Task) -> Task:
        """Returns a task whose secrets include what earlier steps of its job have masked."""
        masked = self._jobs.of(JobName(task.key.attempt.run, task.key.attempt.job))
        if task.continues is not None:
            masked = [*masked, *self._jobs.of(task.continues)]
        return msgspec.structs.replace(task, secrets=[*task.secrets, *masked]) if masked else task

    def keep_for_job(self, key: TaskId, values: Collection[str]) -> int:
        """Stores what an attempt has masked, for later steps of its job. Returns how many values exceed the limit of a job."""
        if self._directory is not None:
            with contextlib.suppress(OSError):
                _make_private(self._directory)
        return self._jobs.add(JobName(key.attempt.run, key.attempt.job), values)

    def release_job(self, job: JobName, *, kept_at: int | None) -> None:
        """Deletes what the steps of a job have masked; with `kept_at` (ms, wall clock), only once its directory may be gone."""
        if kept_at is not None:
            self._jobs.keep(job, kept_at)
            return
        self._jobs.drop(job)
        if self._directory is not None:
            _remove(self._directory, [])

    def sweep(self, keys: Iterable[TaskId]) -> None:
        """Deletes the secrets of all attempts except these. Called once, when the agent starts."""
        if self._directory is None:
            return
        kept = set(map(attempt_name, keys))
        try:
            _check_private(self._directory)
            self._jobs.load()
            names = os.listdir(self._directory)
            _remove(self._directory, [name for name in names if name not in kept and not name.startswith(PREFIX)])
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("cannot use %s: %s", self._directory, error.strerror)
            self._directory = None


def find_directory(data_dir: Path, environment: Mapping[str, str]) -> Path | None:
    """Returns the directory for the secrets of this agent, or None when every candidate is on a disk.

    systemd sets `$RUNTIME_DIRECTORY` for a service and `$XDG_RUNTIME_DIR` for a user who is logged in.
    """
    digest = hashlib.sha256(os.fsencode(os.path.realpath(data_dir))).hexdigest()[:20]
    runtime = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    for parent in (runtime, environment.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):
        if parent and os.path.isabs(parent) and os.access(parent, os.W_OK | os.X_OK) and _is_in_memory(parent):
            return Path(parent, f"waterflow-agent-{os.geteuid()}-{digest}")
    return None


def _is_in_memory(path: str) -> bool:
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    device_number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split(" ")[2:3] == [device_number]:
            return kind.split(" ")[0] in _IN_MEMORY
    return False


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        _check_private(directory)


def _check_private(directory: Path) -> None:
    """Raises `OSError` for a directory that another user may have created, which is possible in `/dev/shm`."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(1, "not a private directory of this user")


def _remove(directory: Path, names: Iterable[str]) -> None:
    try:
        for name in names:
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
    except OSError:
        # Other attempts still use it, or it does not exist.
        return
