"""Gives the user of a step access to what the step needs, and to nothing else.

Theory. The agent has no privileges, so it cannot give files away. It stays the owner of a job's directory and of the files of a
step, and grants the step's user access with an access control list (POSIX ACL). What the step creates in the job's directory
belongs to the step's user; only a process of that user can copy files into it, or remove a tree from it, so the runner starts
one. The directories above can be entered but not listed (mode 0711); everything else of the agent has mode 0700.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from pathlib import Path
from typing import Protocol

from waterflow_agent.errors import Rejected
from waterflow_agent.execution.step_policy import Account
from waterflow_agent.nodes.shell import DEFAULT_PATH
from waterflow_agent.runner.reports import StepResult, StepSpec
from waterflow_agent.runner.spool import SpoolReader

READ, WRITE, ENTER = 4, 2, 1
_ACL = "system.posix_acl_access"
_HEADER = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
#: The kinds of entries, in their order: owner, a user, the group, the mask, others.
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFF_FFFF
_COPY = 'cd "$1" && find . -mindepth 1 -maxdepth 1 -exec cp -dR --preserve=mode,timestamps,links -t "$2" {} +'
#: Directories without permissions must be opened up first.
_REMOVE = 'cd "$1" || exit; chmod -R u+rwX . 2>/dev/null; find . -mindepth 1 -xdev -delete'
#: Of an error message of these commands.
_ERROR_BYTES_MAX = 300


class CommandRunner(Protocol):
    """Runs commands as other users; implemented by `RunnerClient`."""

    def directory(self, name: str) -> Path:
        """Returns the directory with the command's `output`."""
        ...

    async def run_command(self, spec: StepSpec) -> StepResult:
        """Runs a command to its end."""
        ...

    def forget(self, name: str) -> None:
        """Deletes the files of the command."""
        ...


def grant(path: str | Path, uid: int, permissions: int) -> None:
    """Grants a user access to a file or directory of this process's user, and nobody else. Raises `OSError`."""
    own = READ | WRITE | (ENTER if os.path.isdir(path) else 0)
    entries = (
        (_OWNER, own, _NOBODY),
        (_USER, permissions, uid),
        (_GROUP, 0, _NOBODY),
        (_MASK, permissions, _NOBODY),
        (_OTHERS, 0, _NOBODY),
    )
    try:
        os.setxattr(path, _ACL, _HEADER + b"".join(_ENTRY.pack(*entry) for entry in entries), follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        text = "its file system has no access control lists, which steps of another user need"
        raise Rejected("WF711", f"cannot share {path}: {text}") from error


def share_files(directory: str, uid: int) -> None:
    """Grants a step access to the directory of its files, and to all files in it. Raises `OSError` and `Rejected`."""
    open_parent(Path(directory).parent)
    grant(directory, uid, READ | WRITE | ENTER)
    with os.scandir(directory) as entries:
        for entry in entries:
            grant(entry.path, uid, READ | WRITE)


def open_parent(path: Path) -> None:
    """Lets every user enter a directory, but not list it. Raises `OSError`."""
    if path.stat().st_mode & 0o777 != 0o711:
        path.chmod(0o711)


def foreign_owners(path: Path) -> set[int]:
    """Returns the other users who own something directly in a directory."""
    own = os.geteuid()
    try:
        with os.scandir(path) as entries:
            return {entry.stat(follow_symlinks=False).st_uid for entry in entries} - {own}
    except OSError:
        return set()


class UserCommands:
    """Copies and removes files as the users of steps."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner
        self._numbers = itertools.count()

    async def copy(self, source: Path, target: Path, account: Account) -> None:
        """Copies what is in `source` into the directory `target`. Raises `Rejected` WF753."""
        error = await self._run(account, _COPY, str(source), str(target))
        if error:
            raise Rejected("WF753", f"cannot copy the job's files for user {account.name}: {error}")

    async def remove(self, path: Path, account: Account) -> str:
        """Removes everything in a directory. Returns what went wrong, or ""."""
        return await self._run(account, _REMOVE, str(path))

    async def _run(self, account: Account, script: str, *arguments: str) -> str:
        name = f"agent.{os.getpid()}.{next(self._numbers)}"
        spec = StepSpec(
            name=name,
            argv=["/bin/sh", "-c", script, "sh", *arguments],
            cwd="/",
            env={"PATH": DEFAULT_PATH, "LC_ALL": "C.UTF-8"},
            user=account.name,
        )
        result = await self._runner.run_command(spec)
        try:
            if result.exit_code == 0:
                return ""
            chunks = SpoolReader(str(self._runner.directory(name) / "output")).read(0)
            lines = b"".join(chunk.data for chunk in chunks)[:_ERROR_BYTES_MAX].decode("utf-8", "replace").splitlines()
            return result.error or (lines[0] if lines else f"exit code {result.exit_code}")
        finally:
            self._runner.forget(name)
