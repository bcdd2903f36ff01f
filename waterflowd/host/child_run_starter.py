"""Starts the child runs that steps request, which requires reading and compiling a workflow file first.

Rules of this file: the request is checked before each try, and again in the batch that starts the run, so that a step that has
ended meanwhile starts nothing. A permanent error fails the step; a temporary one is shown as the step's reason to wait, and
retried until the step, its job or its run times out.
"""

from __future__ import annotations

import asyncio
import logging

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.engine import Run
from waterflowd.host import child_runs
from waterflowd.host.driver import Driver
from waterflowd.model.ids import AttemptId
from waterflowd.ports import ChildWorkflows

#: Concurrent starts: one repository that hangs does not block the others.
_CONCURRENCY = 8
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)

logger = logging.getLogger("waterflow.host")


class ChildRunStarter:
    """Starts the child runs that `LiveState.child_runs` requests. `run` is its task."""

    def __init__(self, driver: Driver, workflows: ChildWorkflows) -> None:
        self._driver = driver
        self._state = driver.state
        self._workflows = workflows

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(_CONCURRENCY):
                tasks.create_task(self._work(), name=f"starter {number}")

    async def _work(self) -> None:
        while True:
            attempt = await self._state.child_runs.next()
            try:
                await self._start(attempt)
            except Rejected as error:
                if error.is_limit:
                    self._retry_later(attempt, error)
                else:
                    answer = child_runs.not_started(attempt, child_runs.refusal(error), is_refused=True)
                    self._driver.submit([(attempt.run, answer)])
            except WaterflowError as error:
                self._retry_later(attempt, error)
            except Exception as error:
                # The supervision point of child runs: a bug in one start must not stop the others.
                where = f"{attempt.job}/{attempt.step}"
                logger.exception("run %s, %s: internal error while starting the child run", attempt.run, where)
                self._retry_later(attempt, Stalled("WF403", f"internal error: {type(error).__name__}"))

    async def _start(self, attempt: AttemptId) -> None:
        run = self._state.runs.get(attempt.run)
        if run is None or not child_runs.is_requested(run, attempt):
            return
        state = run.attempt(attempt.job, attempt.step, attempt.number)
        if state is None or state.params is None:
            return
        child_runs.check_depth(run)
        compiled = await self._plan(run, state.params["workflow"])
        request = child_runs.start_request(run, attempt, compiled, state.params["inputs"])
        await self._driver.start_child_run(attempt, request)

    async def _plan(self, run: Run, workflow: str) -> bytes:
        path = child_runs.workflow_path(run, workflow)
        assert run.repository is not None, "a run without one has no path"
        assert run.revision is not None, "a run of a repository has a revision"
        return await self._workflows.plan(run.repository, run.revision, path)

    def _retry_later(self, attempt: AttemptId, error: WaterflowError) -> None:
        """Shows why the step waits, and schedules the next try."""
        failures = self._state.child_runs.failed(attempt)
        if not failures:
            return
        delay_s = _BACKOFF.delay_s(failures)
        if isinstance(error, Retryable | Rejected):
            delay_s = max(delay_s, min(error.after_s, _BACKOFF.max_s))
        where = f"{attempt.job}/{attempt.step}"
        logger.warning("run %s, %s: cannot start the child run yet: %s", attempt.run, where, error)
        cause = child_runs.delay(error)
        self._driver.submit([(attempt.run, child_runs.not_started(attempt, cause, is_refused=False))])
        asyncio.get_running_loop().call_later(delay_s, self._state.child_runs.retry, attempt)
