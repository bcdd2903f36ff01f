"""Which containers are removed while their job runs, and after it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from waterflow_agent.execution.job_containers import JobContainers
from waterflow_agent.execution.sharing import UserCommands
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.runner.reports import StepResult, StepSpec
from waterflow_agent.testing import FakeClock

INTERVAL_S = 3600


class SuccessfulRunner:
    """Runs no command, and reports that each has succeeded."""

    def directory(self, name: str) -> Path:
        return Path("/nonexistent", name)

    async def run_command(self, spec: StepSpec) -> StepResult:
        return StepResult(
            exit_code=0,
            signal=None,
            reason="exited",
            started_at=1,
            finished_at=2,
            output_bytes=0,
            output_dropped=0,
        )

    def forget(self, name: str) -> None:
        return


async def removed(containers: JobContainers, workspaces: WorkingDirectories, count: int) -> list[Path]:
    """Returns what one look removes, once that is as much as expected."""
    found: list[Path] = []
    is_complete = asyncio.Event()

    def remove(path: Path) -> None:
        workspaces.discard(path)
        found.append(path)
        if len(found) == count:
            is_complete.set()

    task = asyncio.create_task(containers.keep_removing(INTERVAL_S, remove))
    await is_complete.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return found


async def test_the_last_start_of_a_job_keeps_its_containers_whatever_an_earlier_one_does(tmp_path: Path) -> None:
    """The earlier container may still write into its directory, which makes that the one that was changed last."""
    workspaces = WorkingDirectories(tmp_path / "work", FakeClock())
    workspaces.enter("run", "a")
    containers = JobContainers(workspaces, UserCommands(SuccessfulRunner()), {})
    earlier = containers.create("run", "a", None)
    last = containers.create("run", "a", None)
    (earlier / "written-by-a-container").touch()

    assert await removed(containers, workspaces, 1) == [earlier]

    workspaces.discard(tmp_path / "work" / "run" / "a")
    assert await removed(containers, workspaces, 1) == [last]
    assert not (workspaces.containers / "run").exists()
