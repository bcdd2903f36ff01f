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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
#: Of what these commands print.
_PRINTED_BYTES_MAX = 300


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


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended: whether it succeeded, and the beginning of what it printed or why it did not run."""

    has_succeeded: bool
    text: str


class UserCommands:
    """Runs commands of the agent, such as copying and removing files, as the users of steps."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner
        self._numbers = itertools.count()

    async def copy(self, source: Path, target: Path, account: Account) -> None:
        """Copies what is in `source` into the directory `target`. Raises `Rejected` WF753."""
        end = await self._run_script(account, _COPY, str(source), str(target))
        if not end.has_succeeded:
            raise Rejected("WF753", f"cannot copy the job's files for user {account.name}: {end.text}")

    async def remove(self, path: Path, account: Account) -> str:
        """Removes everything in a directory. Returns what went wrong, or ""."""
        end = await self._run_script(account, _REMOVE, str(path))
        return "" if end.has_succeeded else end.text

    async def _run_script(self, account: Account, script: str, *arguments: str) -> CommandEnd:
        env = {"PATH": DEFAULT_PATH, "LC_ALL": "C.UTF-8"}
        return await self.run(account, ["/bin/sh", "-c", script, "sh", *arguments], env)

    async def run(
        self, account: Account | None, argv: Sequence[str], env: Mapping[str, str], timeout_s: float | None = None
    ) -> CommandEnd:
        """Runs a command with exactly this environment; None is the step runner's own user. Raises `Rejected`."""
        name = f"agent.{os.getpid()}.{next(self._numbers)}"
        spec = StepSpec(
            name=name,
            argv=argv,
            cwd="/",
            env=env,
            timeout_ms=None if timeout_s is None else round(timeout_s * 1000),
            user=None if account is None else account.name,
        )
        result = await self._runner.run_command(spec)
        try:
            chunks = SpoolReader(str(self._runner.directory(name) / "output")).read(0)
            lines = (
                b"".join(chunk.data for chunk in chunks)[:_PRINTED_BYTES_MAX].decode("utf-8", "replace").splitlines()
            )
        finally:
            self._runner.forget(name)
        printed = lines[0] if lines else ""
        if result.exit_code == 0:
            return CommandEnd(has_succeeded=True, text=printed)
        why = result.reason if result.exit_code is None else ""
        if result.reason == "timed-out" and timeout_s is not None:
            why = f"has not ended within {timeout_s:.0f} s"
        return CommandEnd(has_succeeded=False, text=result.error or printed or why or f"exit code {result.exit_code}")
