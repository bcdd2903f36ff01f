"""Which secrets each attempt has: in memory, and where the memory of a later process of the agent can find them.

A step goes on when its agent is killed or replaced, and the next process must mask the output that it sends. The journal must
not hold a value, so each attempt's values are in a file of their own on a file system that is in memory, and nowhere on a
disk. A reboot takes it away, and the attempts with it. Where no such file system is, the values are in memory alone.

Rules of this file: a directory on a disk is never used. What cannot be written is told once and costs nothing now; what is
not found later is None, and whoever asks must then withhold all that the attempt has to say.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from waterflow_agent.execution.masking import Masks
from waterflow_agent.execution.process_steps import attempt_name
from waterflow_agent.wire.messages import TaskId

logger = logging.getLogger(__name__)

_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_decoder = msgspec.msgpack.Decoder(list[str])


class SecretStore:
    """The masks of all attempts of one agent that have secrets; for the loop's thread. Calls take less than a millisecond."""

    def __init__(self, directory: Path | None) -> None:
        """`directory` is what `find_directory` returned; it is created with the first secret and deleted with the last."""
        self._directory = directory
        self._masks: dict[TaskId, Masks] = {}

    def keep(self, key: TaskId, values: list[str]) -> Masks:
        """Takes the values of an attempt that is about to begin."""
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
                    "%s cannot be used (%s): what steps with secrets print is withheld when this agent starts anew",
                    self._directory,
                    error.strerror,
                )
                self._directory = None
        return masks

    def get(self, key: TaskId) -> Masks | None:
        """The attempt's masks; None when nobody knows its secrets any more."""
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
        """Nothing of the attempt will be said any more."""
        if self._masks.pop(key, None) is not None and self._directory is not None:
            _remove(self._directory, [attempt_name(key)])

    def sweep(self, keys: Iterable[TaskId]) -> None:
        """Removes the values of all attempts but these; once, when the agent starts."""
        if self._directory is None:
            return
        kept = set(map(attempt_name, keys))
        try:
            _check_private(self._directory)
            _remove(self._directory, [name for name in os.listdir(self._directory) if name not in kept])
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("%s cannot be used: %s", self._directory, error.strerror)
            self._directory = None


def find_directory(data_dir: Path, environment: Mapping[str, str]) -> Path | None:
    """Where the values of this agent's attempts are; None when every candidate is on a disk.

    `$RUNTIME_DIRECTORY` is systemd's for a service, `$XDG_RUNTIME_DIR` that of a person who is logged in.
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
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if mount.split(" ")[2:3] == [wanted]:
            return kind.split(" ")[0] in _IN_MEMORY
    return False


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        _check_private(directory)


def _check_private(directory: Path) -> None:
    """Raises `OSError` for a directory that somebody else may have made, as anybody may in `/dev/shm`."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(1, "it is not a private directory of this user")


def _remove(directory: Path, names: Iterable[str]) -> None:
    try:
        for name in names:
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()
    except OSError:
        # Others are still in it, or it is gone.
        return
