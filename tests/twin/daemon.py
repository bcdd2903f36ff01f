"""A daemon's worker for streams, one step at a time: it may be killed, or be too slow, between any two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Coroutine
from typing import Any

import temporalio.activity
from temporalio.api.failure.v1 import Failure
from temporalio.bridge.proto.activity_result.activity_result_pb2 import ActivityResolution, Success
from temporalio.bridge.proto.activity_result.activity_result_pb2 import Failure as Failed
from temporalio.bridge.proto.workflow_commands.workflow_commands_pb2 import ScheduleLocalActivity
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from tests.twin.cluster import Cluster, Execution, Started
from tests.twin.core import CONVERTER, NAMESPACE, Core, TaskRun, Violation
from waterflowd.temporal.workflow import messages
from waterflowd.temporal.workflow.turns import StreamActivities

_ARGUMENTS = {messages.TURN: messages.TurnRequest, messages.CHECK_SIZE: messages.Begin}
_INFORMATION = dataclasses.replace(ActivityEnvironment.default_info(), namespace=NAMESPACE, is_local=True)


class Daemon:
    """Takes tasks of streams, and carries out one at a time."""

    def __init__(
        self,
        cluster: Cluster,
        engine: messages.Turn,
        *,
        is_single_batch: bool = False,
        converter: DataConverter = CONVERTER,
    ) -> None:
        self._cluster = cluster
        self._activities = StreamActivities(engine, converter)
        self._is_single_batch = is_single_batch
        self._cores: dict[str, Core] = {}
        self._task: tuple[Execution, Started, TaskRun] | None = None
        self._attempts = 0

    @property
    def is_busy(self) -> bool:
        """Whether it has a task."""
        return self._task is not None

    @property
    def next_local(self) -> str:
        """The name of the local activity that is its next step; empty if that is something else."""
        if self._task is None or self._task[2].has_jobs or not self._task[2].core.pending:
            return ""
        return next(iter(self._task[2].core.pending.values())).activity_type

    def has(self, execution: Execution) -> bool:
        """Whether an instance of this execution is in memory, and up to date."""
        core = self._cores.get(execution.run_id)
        return core is not None and core.tasks == len(execution.tasks)

    def take(self, execution: Execution) -> None:
        """Takes a task, and replays the history if the instance is not in memory, or out of date."""
        assert self._task is None
        started = self._cluster.take(execution)
        core = self._cores.get(execution.run_id)
        if core is not None and not self.has(execution):
            self.evict(execution.run_id)
            core = None
        if core is None:
            core = Core(execution.run_id, execution.first, is_single_batch=self._is_single_batch)
            self._cores[execution.run_id] = core
            core.replay(execution.tasks)
        run = TaskRun(core, started.jobs, started.at, started.history_length, started.history_bytes)
        self._task = execution, started, run
        self._attempts = 0

    def step(self) -> None:
        """The next step of its task: an activation, an attempt of a local activity, or the result."""
        assert self._task is not None
        execution, started, run = self._task
        if run.has_jobs:
            run.activate_all()
        elif run.core.pending and not run.is_closing:
            run.run_local(lambda command: self._attempt(execution, started, command), lambda: self._cluster.now)
        else:
            self._finish(self._cluster.complete(execution, started, run))

    def heartbeat(self) -> bool:
        """Completes the task while its local activity is still running, and asks for another one."""
        assert self._task is not None
        execution, started, run = self._task
        if run.has_jobs or not run.core.pending or run.is_closing:
            return False
        self._finish(self._cluster.complete(execution, started, run, is_continued=True))
        return True

    def evict(self, run_id: str) -> None:
        """Removes an instance from memory."""
        if self._task is None or self._task[0].run_id != run_id:
            self._cores.pop(run_id).evict()

    def evictable(self) -> list[str]:
        """The instances that could be removed."""
        busy = self._task[0].run_id if self._task is not None else ""
        return [run_id for run_id in self._cores if run_id != busy]

    def kill(self) -> None:
        """Ends without a word. The instances end, too, so that no coroutine of theirs remains."""
        self._task = None
        for run_id in list(self._cores):
            self._cores.pop(run_id).evict()

    def _finish(self, is_accepted: bool) -> None:
        assert self._task is not None
        execution, _, _ = self._task
        self._task = None
        if not is_accepted or not execution.is_running:
            self.evict(execution.run_id)

    def _attempt(self, execution: Execution, started: Started, command: ScheduleLocalActivity) -> bytes | None:
        self._attempts += 1
        [argument] = CONVERTER.payload_converter.from_payloads(command.arguments, [_ARGUMENTS[command.activity_type]])
        information = dataclasses.replace(
            _INFORMATION,
            workflow_id=execution.workflow_id,
            workflow_run_id=execution.run_id,
            task_token=started.token,
        )
        try:
            value = carried_out(self._call(command.activity_type, argument), information)
        except Violation:
            raise
        except Exception as error:  # noqa: BLE001  as Temporal's worker does
            is_final = isinstance(error, ApplicationError) and error.non_retryable
            if not is_final and self._attempts < command.retry_policy.maximum_attempts:
                self._cluster.advance(1000 * 2 ** (self._attempts - 1))
                return None
            failure = Failure()
            CONVERTER.failure_converter.to_failure(error, CONVERTER.payload_converter, failure)
            resolution = ActivityResolution(failed=Failed(failure=failure))
        else:
            [payload] = CONVERTER.payload_converter.to_payloads([value])
            resolution = ActivityResolution(completed=Success(result=payload))
        self._attempts = 0
        return resolution.SerializeToString(deterministic=True)

    def _call(self, name: str, argument: Any) -> Coroutine[Any, Any, Any]:
        return self._activities.turn(argument) if name == messages.TURN else self._activities.check_size(argument)


def carried_out(call: Coroutine[Any, Any, Any], information: temporalio.activity.Info) -> Any:
    """The result of an activity that waits for nothing."""
    context = temporalio.activity._Context(
        info=lambda: information,
        heartbeat=None,
        cancelled_event=None,  # type: ignore[arg-type]
        worker_shutdown_event=None,  # type: ignore[arg-type]
        shield_thread_cancel_exception=None,
        payload_converter_class_or_instance=CONVERTER.payload_converter,
        runtime_metric_meter=None,
        client=None,
        cancellation_details=None,  # type: ignore[arg-type]
    )
    token = temporalio.activity._Context.set(context)
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    finally:
        temporalio.activity._Context.reset(token)
        call.close()
    raise RuntimeError("a turn must not wait for anything")
