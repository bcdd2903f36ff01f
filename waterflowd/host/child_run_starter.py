"""The starter: brings the runs that steps want into being, which takes reading and compiling a file first.

Rules of this file: what is wanted is asked of the runs again before each try and once more in the batch that starts the run, so
that a step which has ended meanwhile starts nothing. What can never be is the step's failure; what cannot be now is its reason
to wait, and is tried again until the time of its step, job or run is over.
"""

from __future__ import annotations

import asyncio
import logging

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.dsl.building.child_workflows import child_workflow_path
from waterflowd.dsl.reporting import codes
from waterflowd.engine import Run
from waterflowd.host import child_runs
from waterflowd.host.driver import Driver
from waterflowd.model.ids import AttemptId
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.ports import ChildWorkflows

#: Runs that are prepared at a time: one repository that hangs does not hold up the others.
_AT_ONCE = 8
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)
#: `Rejected` with this status means too many open runs, which passes.
_BUSY = 429

logger = logging.getLogger("waterflow.host")


class ChildRunStarter:
    """Starts what `state.child_runs` wants. `run` is its task."""

    def __init__(self, driver: Driver, workflows: ChildWorkflows) -> None:
        self._driver = driver
        self._state = driver.state
        self._workflows = workflows

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(_AT_ONCE):
                tasks.create_task(self._work(), name=f"starter {number}")

    async def _work(self) -> None:
        while True:
            place = await self._state.child_runs.next()
            try:
                await self._start(place)
            except Rejected as error:
                if error.status == _BUSY:
                    self._later(place, error)
                else:
                    given = child_runs.not_created(place, child_runs.refusal(error), is_refused=True)
                    self._driver.submit([(place.run, given)])
            except WaterflowError as error:
                self._later(place, error)
            except Exception as error:
                # The supervision point of steps that start runs: a fault met in one of them must not end the others.
                logger.exception("run %s, %s/%s: its run could not be started", place.run, place.job, place.step)
                self._later(place, Stalled("WF403", f"a fault in Waterflow: {type(error).__name__}"))

    async def _start(self, place: AttemptId) -> None:
        run = self._state.runs.get(place.run)
        attempt = run.attempt(place.job, place.step, place.number) if run is not None else None
        if run is None or attempt is None or attempt.params is None or not child_runs.is_wanted(run, place):
            return
        child_runs.check_depth(run)
        workflow, given = attempt.params["workflow"], attempt.params["inputs"]
        compiled = await self._plan(run, workflow)
        await self._driver.begin(place, child_runs.start_request(run, place, compiled, given))

    async def _plan(self, run: Run, workflow: str) -> bytes:
        path = child_workflow_path(run.plan.path, workflow)
        if path is None:
            text = f'"{workflow}" is no workflow of this repository: the path or the name of a .yml or .yaml file'
            raise Rejected(codes.WRONG_CALL, text)
        if run.repository is None or run.revision is None:
            text = "this run comes from no repository, so there is no other workflow; push it to a watched repository"
            raise Rejected(codes.WRONG_CALL, text)
        return await self._workflows.plan(run.repository, run.revision, path)

    def _later(self, place: AttemptId, error: WaterflowError) -> None:
        """Says why the step waits, and tries again after a while."""
        failures = self._state.child_runs.failed(place)
        if not failures:
            return
        delay_s = _BACKOFF.delay_s(failures)
        if isinstance(error, Retryable):
            delay_s = max(delay_s, min(error.after_s, _BACKOFF.max_s))
        logger.warning("run %s, %s/%s: its run is not started yet: %s", place.run, place.job, place.step, error)
        why = reason(ReasonCode.CHILD_RUN_STARTING, f"its run is not started yet: {error.text}", error=error.code)
        self._driver.submit([(place.run, child_runs.not_created(place, why, is_refused=False))])
        asyncio.get_running_loop().call_later(delay_s, self._state.child_runs.again, place)
