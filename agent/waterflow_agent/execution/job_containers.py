"""Which jobs have containers on this server, and the removal of those whose job has ended.

Theory. A directory `work/.containers/<run>/<job>@<random>` is made before a job's containers are, and deleted only when they
are gone. Its path is a label of the containers and their network. So nothing is forgotten, whatever ends meanwhile: the step,
the agent, the server, or the engine. Containers are not needed any longer when their job's directory is gone, or when the job
has started again. An agent whose jobs have no containers never asks for an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from waterflow_agent.execution.step_policy import Account
from waterflow_agent.execution.working_directories import WorkingDirectories, directory_name
from waterflow_agent.nodes.node_process import package_environment

logger = logging.getLogger(__name__)

#: The engine may have to end many processes; a removal that takes longer is tried again.
_REMOVAL_S_MAX = 300


class JobContainers:
    """The containers of one agent's jobs."""

    def __init__(self, workspaces: WorkingDirectories, environment: Mapping[str, str]) -> None:
        self._workspaces = workspaces
        self._root = workspaces.containers
        self._environment = environment
        self._changed = asyncio.Event()
        #: What was logged last for each directory, so that an engine that is away is one line.
        self._problems: dict[Path, str] = {}

    def create(self, run: str, job: str, account: Account | None) -> Path:
        """Makes the directory of a job's containers, before they are started. Raises `OSError` and `Rejected`."""
        path = self._root / directory_name(run) / f"{directory_name(job)}@{os.urandom(8).hex()}"
        path.mkdir(mode=0o700, parents=True)
        self._workspaces.share(path, account)
        if account is None:
            # Only the container sees it; its scripts may run as any user there.
            path.chmod(0o755)
        else:
            self._workspaces.open_above(path)
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
        with contextlib.suppress(OSError):
            path.parent.rmdir()

    def _unused(self) -> list[Path]:
        """Returns directories of ended jobs, and of earlier starts of jobs."""
        found: list[Path] = []
        for run in _entries(self._root):
            starts: dict[str, list[Path]] = {}
            for path in _entries(run):
                starts.setdefault(path.name.rpartition("@")[0], []).append(path)
            for job, paths in starts.items():
                paths.sort(key=lambda path: path.stat().st_ctime_ns)
                found += paths[:-1] if self._workspaces.has_directory(run.name, job) else paths
        return found

    async def _remove(self, path: Path) -> str:
        """Removes the containers of a directory. Returns what went wrong, or ""."""
        argv = [sys.executable, "-P", "-m", "waterflow_agent.nodes.containers.removal", str(path)]
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=package_environment(self._environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            printed, _ = await asyncio.wait_for(process.communicate(), _REMOVAL_S_MAX)
        except TimeoutError:
            return f"the Docker engine has not removed them within {_REMOVAL_S_MAX} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode == 0:
            return ""
        lines = printed.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {process.returncode}"


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
