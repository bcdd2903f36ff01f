"""One execution in the memory of a worker, as Temporal's library keeps it: a workflow instance, its tasks and its replays.

A task is a sequence of steps: activations of the instance, and attempts of local activities between them. Its result is a list
of commands and markers. A replay repeats the activations of recorded tasks, and must produce the same list: `Violation` if not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import temporalio.common
from google.protobuf.message import Message
from temporalio import workflow
from temporalio.api.common.v1 import Payloads
from temporalio.api.failure.v1 import ActivityFailureInfo, ApplicationFailureInfo, CanceledFailureInfo, Failure
from temporalio.bridge.proto.activity_result.activity_result_pb2 import ActivityResolution, Cancellation
from temporalio.bridge.proto.workflow_activation import (
    ResolveActivity,
    ResolveSignalExternalWorkflow,
    WorkflowActivation,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_commands.workflow_commands_pb2 import ScheduleLocalActivity, WorkflowCommand
from temporalio.converter import decode_typed_search_attributes
from temporalio.worker._workflow_instance import (
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
    _WorkflowLogicFlag,
)

from tests.integration.temporal.server import KEYS
from waterflowd.temporal.sealing import converter
from waterflowd.temporal.workflow import shell

NAMESPACE = "twin"
QUEUE = "streams"
CONVERTER = converter.data_converter(KEYS)
#: A flag of Temporal's library that will become its default: all jobs of an activation are applied before any code runs.
SINGLE_BATCH = 2
#: Commands that end an execution.
CLOSING = ("complete_workflow_execution", "continue_as_new_workflow_execution")
_DEFINITION = workflow._Definition.must_from_class(shell.Stream)


class Violation(AssertionError):
    """Something happened that must never happen."""


@dataclass(frozen=True)
class Marker:
    """The recorded result of a local activity."""

    seq: int
    name: str
    result: bytes
    #: The time of its end in ms, which the workflow's time never precedes afterwards.
    at: int


Entry = bytes | Marker


@dataclass(frozen=True)
class Task:
    """A task that is part of the history: what the instance got, and what it returned."""

    jobs: tuple[WorkflowActivationJob, ...]
    at: int
    history_length: int
    history_bytes: int
    entries: tuple[Entry, ...]
    #: Flags of Temporal's library that changed what it did in this task.
    flags: frozenset[int]


class _Nowhere:
    """Stands in for the worker's event loop while an instance is made."""


class Core:
    """A workflow instance, and how much of the history it has seen."""

    def __init__(self, run_id: str, first: WorkflowActivationJob, *, is_single_batch: bool) -> None:
        self.run_id = run_id
        self._instance = _instance(run_id, first, is_single_batch)
        self._flags: frozenset[int] = frozenset()
        #: The number of recorded tasks that the instance has seen.
        self.tasks = 0
        #: Local activities without a result yet.
        self.pending: dict[int, ScheduleLocalActivity] = {}
        #: Activities and signals that were reported as cancelled; what the server says about them later is not passed on.
        self._cancelled: set[tuple[str, int]] = set()
        self.now = 0

    def evict(self) -> None:
        """Ends the instance; its tasks must end without a trace."""
        job = WorkflowActivationJob()
        job.remove_from_cache.SetInParent()
        completion = self._activate(WorkflowActivation(run_id=self.run_id, jobs=[job]))
        if completion.HasField("failed"):
            raise Violation(f"eviction failed: {completion.failed.failure.message}")

    def replay(self, tasks: Iterable[Task]) -> None:
        """Repeats recorded tasks."""
        for number, task in enumerate(tasks):
            self._flags |= task.flags
            run = TaskRun(self, task.jobs, task.at, task.history_length, task.history_bytes, is_replaying=True)
            markers = deque(entry for entry in task.entries if isinstance(entry, Marker))
            while True:
                run.activate_all()
                if not markers:
                    break
                marker = markers.popleft()
                if marker.seq not in self.pending:
                    raise Violation(f"replay of task {number}: the local activity {marker.seq} was not started")
                run.resolve(marker)
            if tuple(run.entries()) != task.entries:
                raise Violation(
                    f"replay of task {number} differs:\n{_described(run.entries())}\nrecorded:\n{_described(task.entries)}"
                )
            self.tasks += 1

    def recorded(self, task: Task) -> None:
        """A task that this instance has carried out is part of the history."""
        self._flags |= task.flags
        self.tasks += 1

    def activate(self, run: TaskRun, jobs: Iterable[WorkflowActivationJob]) -> list[WorkflowCommand]:
        """Passes jobs to the instance; returns its commands."""
        passed = [job for job in jobs if not self._is_late(job)]
        if not passed:
            # Temporal's library answers for the instance when nothing concerns it.
            return []
        activation = WorkflowActivation(
            run_id=self.run_id,
            jobs=passed,
            is_replaying=run.is_replaying,
            history_length=run.history_length,
            history_size_bytes=run.history_bytes,
            available_internal_flags=sorted(self._flags),
        )
        activation.timestamp.FromMilliseconds(self.now)
        completion = self._activate(activation)
        if completion.HasField("failed"):
            raise Violation(f"the task failed: {completion.failed.failure}")
        run.flags |= set(completion.successful.used_internal_flags)
        return list(completion.successful.commands)

    def cancelled(self, kind: str, seq: int) -> None:
        """Notes what was reported as cancelled."""
        self._cancelled.add((kind, seq))

    def _is_late(self, job: WorkflowActivationJob) -> bool:
        if job.HasField("resolve_activity") and not job.resolve_activity.is_local:
            return ("activity", job.resolve_activity.seq) in self._cancelled and not _is_own(job)
        return False

    def _activate(self, activation: WorkflowActivation) -> Any:
        # The instance is an event loop itself, and leaves none behind.
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return self._instance.activate(activation)
        finally:
            asyncio._set_running_loop(before)


@dataclass
class TaskRun:
    """A task that a worker is carrying out."""

    core: Core
    jobs: Iterable[WorkflowActivationJob]
    at: int
    history_length: int
    history_bytes: int
    is_replaying: bool = False
    flags: set[int] = field(default_factory=set)
    _entries: list[WorkflowCommand | Marker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core.now = max(self.core.now, self.at)
        self._next: list[WorkflowActivationJob] = list(self.jobs)

    @property
    def has_jobs(self) -> bool:
        """Whether the instance must be activated before anything else."""
        return bool(self._next)

    @property
    def is_closing(self) -> bool:
        """Whether a command ends the execution."""
        return any(
            isinstance(entry, WorkflowCommand) and entry.WhichOneof("variant") in CLOSING for entry in self._entries
        )

    def activate_all(self) -> None:
        """Activates the instance until no job is left."""
        while self._next:
            jobs, self._next = self._next, []
            for command in self.core.activate(self, jobs):
                self._apply(command)

    def run_local(self, carry_out: Callable[[ScheduleLocalActivity], bytes | None], now: Callable[[], int]) -> None:
        """Carries out an attempt of a local activity; None from it means that it will be tried again."""
        seq, command = next(iter(self.core.pending.items()))
        result = carry_out(command)
        if result is not None:
            marker = Marker(seq, command.activity_type, result, max(now(), self.core.now))
            self.resolve(marker)

    def resolve(self, marker: Marker) -> None:
        """Records a result of a local activity, and passes it on with the next activation."""
        del self.core.pending[marker.seq]
        self._entries.append(marker)
        self.core.now = max(self.core.now, marker.at)
        result = ActivityResolution.FromString(marker.result)
        self._next.append(
            WorkflowActivationJob(resolve_activity=ResolveActivity(seq=marker.seq, is_local=True, result=result))
        )

    def entries(self) -> list[Entry]:
        """Commands and markers, in order."""
        return [
            entry.SerializeToString(deterministic=True) if isinstance(entry, WorkflowCommand) else entry
            for entry in self._entries
        ]

    def all(self) -> list[WorkflowCommand | Marker]:
        """The same, not encoded."""
        return list(self._entries)

    def commands(self) -> list[WorkflowCommand]:
        """The commands alone."""
        return [entry for entry in self._entries if isinstance(entry, WorkflowCommand)]

    def _apply(self, command: WorkflowCommand) -> None:
        if self.is_closing:
            raise Violation(f"a command after the last one: {command}")
        match command.WhichOneof("variant"):
            case "schedule_local_activity":
                self.core.pending[command.schedule_local_activity.seq] = command.schedule_local_activity
            case "cancel_timer":
                if not self._take_back("start_timer", command.cancel_timer.seq):
                    self._entries.append(command)
            case "request_cancel_activity":
                self._cancel_activity(command)
            case "cancel_signal_workflow":
                seq = command.cancel_signal_workflow.seq
                if self._take_back("signal_external_workflow_execution", seq):
                    self._next.append(_signal_cancelled(seq))
            case "fail_workflow_execution" | "cancel_workflow_execution" | "request_cancel_local_activity":
                raise Violation(f"the shell never does this: {command}")
            case _:
                self._entries.append(command)

    def _cancel_activity(self, command: WorkflowCommand) -> None:
        seq = command.request_cancel_activity.seq
        if not self._take_back("schedule_activity", seq):
            self._entries.append(command)
        self.core.cancelled("activity", seq)
        self._next.append(_activity_cancelled(seq))

    def _take_back(self, kind: str, seq: int) -> bool:
        """Removes a command that has not left this task."""
        for index, entry in enumerate(self._entries):
            if (
                isinstance(entry, WorkflowCommand)
                and entry.WhichOneof("variant") == kind
                and getattr(entry, kind).seq == seq
            ):
                del self._entries[index]
                return True
        return False


def _activity_cancelled(seq: int) -> WorkflowActivationJob:
    failure = Failure(
        message="Activity cancelled",
        activity_failure_info=ActivityFailureInfo(),
        cause=Failure(message="Activity cancelled", canceled_failure_info=CanceledFailureInfo()),
    )
    return WorkflowActivationJob(
        resolve_activity=ResolveActivity(seq=seq, result=ActivityResolution(cancelled=Cancellation(failure=failure)))
    )


def _is_own(job: WorkflowActivationJob) -> bool:
    """Whether this library made the report of a cancelled activity itself, without the server."""
    result = job.resolve_activity.result
    return result.HasField("cancelled") and not result.cancelled.failure.activity_failure_info.activity_id


def _signal_cancelled(seq: int) -> WorkflowActivationJob:
    failure = Failure(message="Signal was cancelled before being sent", canceled_failure_info=CanceledFailureInfo())
    return WorkflowActivationJob(
        resolve_signal_external_workflow=ResolveSignalExternalWorkflow(seq=seq, failure=failure)
    )


def application_failure(message: str, kind: str = "", *, is_final: bool = False) -> Failure:
    """An error of an application, as it is stored."""
    return Failure(message=message, application_failure_info=ApplicationFailureInfo(type=kind, non_retryable=is_final))


def _instance(run_id: str, first: WorkflowActivationJob, is_single_batch: bool) -> WorkflowInstance:
    start = first.initialize_workflow
    moment = datetime.fromtimestamp(0, UTC)
    information = workflow.Info(
        attempt=1,
        continued_run_id=start.continued_from_execution_run_id or None,
        cron_schedule=None,
        execution_timeout=None,
        first_execution_run_id=start.first_execution_run_id,
        headers={},
        namespace=NAMESPACE,
        original_execution_run_id=start.original_execution_run_id,
        parent=None,
        root=None,
        raw_memo=dict(start.memo.fields),
        retry_policy=None,
        run_id=run_id,
        run_timeout=None,
        search_attributes={},
        start_time=moment,
        workflow_start_time=moment,
        task_queue=QUEUE,
        task_timeout=start.workflow_task_timeout.ToTimedelta(),
        typed_search_attributes=decode_typed_search_attributes(start.search_attributes),
        workflow_id=start.workflow_id,
        workflow_type=start.workflow_type,
        priority=temporalio.common.Priority(),
    )
    details = WorkflowInstanceDetails(
        payload_converter_factory=CONVERTER._new_payload_converter,
        failure_converter_class=CONVERTER.failure_converter_class,
        interceptor_classes=[],
        defn=_DEFINITION,
        info=information,
        randomness_seed=start.randomness_seed,
        extern_functions={"__temporal_assert_local_activity_valid": lambda name: None},
        disable_eager_activity_execution=True,
        worker_level_failure_exception_types=[],
        patch_activation_callback=None,
        last_completion_result=Payloads(),
        last_failure=None,
        default_workflow_logic_flags=frozenset({_WorkflowLogicFlag(SINGLE_BATCH)} if is_single_batch else ()),
    )
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(cast(asyncio.AbstractEventLoop, _Nowhere()))
    try:
        return UnsandboxedWorkflowRunner().create_instance(details)
    finally:
        asyncio._set_running_loop(before)


def _described(entries: Iterable[Entry]) -> str:
    return "\n".join(
        f"marker {entry.seq} {entry.name}"
        if isinstance(entry, Marker)
        else _one_line(WorkflowCommand.FromString(entry))
        for entry in entries
    )


def _one_line(message: Message) -> str:
    return " ".join(str(message).split())[:300]
