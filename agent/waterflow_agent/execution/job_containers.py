"""Which jobs have containers on this server, and the removal of those whose job has ended.

Theory. A directory `work/.containers/<run>/<job>@<random>` is made before a job's containers are, and deleted only when they
are gone. Its path is a label of the containers and their network. So nothing is forgotten, whatever ends meanwhile: the step,
the agent, the server, or the engine. Containers are not needed any longer when their job's directory is gone, or when the job
has started again.

The user of the job's steps removes them, because the agent's own user may have no access to the engine. Another user than the
agent's is a part of the directory's name, which no container can change: `<job>@<random>.<uid>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from waterflow_agent.errors import Rejected
from waterflow_agent.execution.sharing import UserCommands
from waterflow_agent.execution.step_policy import Account, account_of
from waterflow_agent.execution.working_directories import WorkingDirectories, directory_name
from waterflow_agent.nodes import node_process

logger = logging.getLogger(__name__)

#: The engine may have to end many processes; a removal that takes longer is tried again.
_REMOVAL_S_MAX = 300


class JobContainers:
    """The containers of one agent's jobs."""

    def __init__(self, workspaces: WorkingDirectories, commands: UserCommands, environment: Mapping[str, str]) -> None:
        """`environment` is what steps inherit."""
        self._workspaces = workspaces
        self._commands = commands
        self._root = workspaces.containers
        self._environment = environment
        self._changed = asyncio.Event()
        #: The last start of each job, by the names of the run's and the job's directories. A container may change the times
        #: of its directory, which tell the starts apart after a restart of the agent.
        self._last: dict[tuple[str, str], Path] = {}
        #: What was logged last for each directory, so that an engine that is away is one line.
        self._problems: dict[Path, str] = {}

    def create(self, run: str, job: str, account: Account | None) -> Path:
        """Makes the directory of a job's containers, before they are started. Raises `OSError` and `Rejected`."""
        user = "" if account is None else f".{account.uid}"
        path = self._root / directory_name(run) / f"{directory_name(job)}@{os.urandom(8).hex()}{user}"
        path.mkdir(mode=0o700, parents=True)
        self._last[_job_of(path)] = path
        self._workspaces.share(path, account)
        # Scripts may run as any user of the container. On the server, others may not enter the directories above, or do not
        # know this one's name, and cannot list it.
        path.chmod(0o755 if account is None else 0o771)
        return path

    def job_ended(self) -> None:
        """Has unused containers removed soon."""
        self._changed.set()

    async def keep_removing(self, interval_s: float, remove: Callable[[Path], None]) -> None:
        """Removes containers that are not needed any longer, and passes their directories to `remove`."""
        while True:
            self._changed.clear()
            for path in self._unused():
                problem = await self._remove(path)
                if not problem:
                    remove(path)
                elif problem != self._problems.get(path):
                    logger.warning("cannot remove the containers of an ended job (%s) yet: %s", path.name, problem)
                self._note(path, problem)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), interval_s)

    def _note(self, path: Path, problem: str) -> None:
        if problem:
            self._problems[path] = problem
            return
        self._problems.pop(path, None)
        if self._last.get(_job_of(path)) == path:
            del self._last[_job_of(path)]
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def _unused(self) -> list[Path]:
        """Returns directories of ended jobs, and of earlier starts of jobs."""
        found: list[Path] = []
        for run in _entries(self._root):
            starts: dict[tuple[str, str], list[Path]] = {}
            for path in _entries(run):
                starts.setdefault(_job_of(path), []).append(path)
            for job, paths in starts.items():
                last = self._last.get(job) or max(paths, key=lambda path: path.stat().st_ctime_ns)
                found += [path for path in paths if path != last or not self._workspaces.has_directory(*job)]
        return found

    async def _remove(self, path: Path) -> str:
        """Removes the containers of a directory. Returns what went wrong, or ""."""
        uid = path.name.rpartition(".")[2] if "." in path.name.rpartition("@")[2] else ""
        account = account_of(int(uid)) if uid else None
        if uid and account is None:
            return f"user {uid}, who has started them, is unknown"
        environment = {**self._environment, **(account.environment if account is not None else {})}
        moved = self._workspaces.remains(*_job_of(path))
        argv = [sys.executable, "-P", "-m", "waterflow_agent.nodes.containers.removal", str(path), *map(str, moved)]
        try:
            end = await self._commands.run(account, argv, node_process.package_environment(environment), _REMOVAL_S_MAX)
        except Rejected as error:
            return error.text
        return "" if end.has_succeeded else end.text


def _job_of(path: Path) -> tuple[str, str]:
    """The names of the run's and the job's directories, of the directory of a start."""
    return path.parent.name, path.name.rpartition("@")[0]


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
