"""Temporal's server: executions with their histories, tasks, activities, timers, signals, updates and resets.

Rules that matter here, as the real server has them:

- What arrives while a task is being carried out waits until that task has ended, and comes after its commands in the history.
- A task whose last command ends the execution is refused while something waits; it is repeated, with what waited. So is a task
  whose worker does not answer in time. What a local activity returned in such a task is lost.
- An activity is retried by the server, without a trace in the history, until it ends or its policy says so.
- An execution that ends takes its activities and timers with it, and the signals that it has not delivered yet.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import TimeoutType
from temporalio.api.failure.v1 import ActivityFailureInfo, CanceledFailureInfo, Failure, TimeoutFailureInfo
from temporalio.bridge.proto.activity_result.activity_result_pb2 import ActivityResolution, Cancellation, Success
from temporalio.bridge.proto.activity_result.activity_result_pb2 import Failure as Failed
from temporalio.bridge.proto.workflow_activation import (
    CancelWorkflow,
    DoUpdate,
    FireTimer,
    InitializeWorkflow,
    ResolveActivity,
    ResolveSignalExternalWorkflow,
    SignalWorkflow,
    UpdateRandomSeed,
    WorkflowActivationJob,
)
from temporalio.bridge.proto.workflow_commands.workflow_commands_pb2 import (
    ScheduleActivity,
    UpdateResponse,
    WorkflowCommand,
)

from tests.twin.core import CLOSING, Task, TaskRun, Violation, application_failure
from waterflowd.temporal.workflow import messages

#: How long the server waits for a worker's answer to a task.
TASK_TIMEOUT_MS = 10_000
#: Limits of the real server.
PENDING_ACTIVITIES_MAX = 2_000
PAYLOAD_BYTES_MAX = 2 << 20


class Status(Enum):
    """What an execution is."""

    RUNNING = "running"
    COMPLETED = "completed"
    CONTINUED = "continued as new"
    #: By a reset, which has started another one.
    TERMINATED = "terminated"


@dataclass
class Update:
    """A request of a client, which waits for its outcome."""

    id: str
    content: Payload
    is_accepted: bool = False
    answer: Payload | None = None
    #: Why there will be no answer: it was rejected, or the execution has ended.
    error: str = ""

    @property
    def is_open(self) -> bool:
        """Whether the client still waits."""
        return self.answer is None and not self.error


@dataclass
class Activity:
    """An activity that has not ended."""

    execution: Execution
    command: ScheduleActivity
    #: When this attempt was scheduled, and when a worker began it; 0 while none has.
    scheduled_at: int
    started_at: int = 0
    heartbeat_at: int = 0
    attempt: int = 1
    is_cancel_requested: bool = False

    @property
    def id(self) -> str:
        """Its id, unique among the open ones of an execution."""
        return self.command.activity_id

    @property
    def queue(self) -> str:
        """The queue from which workers take it."""
        return self.command.task_queue

    def due(self) -> Iterator[tuple[int, TimeoutType.ValueType]]:
        """When it times out, and why."""
        command = self.command
        if self.started_at:
            yield (
                self.started_at + command.start_to_close_timeout.ToMilliseconds(),
                TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE,
            )
            if beat := command.heartbeat_timeout.ToMilliseconds():
                yield max(self.started_at, self.heartbeat_at) + beat, TimeoutType.TIMEOUT_TYPE_HEARTBEAT
        elif wait := command.schedule_to_start_timeout.ToMilliseconds():
            yield self.scheduled_at + wait, TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START


@dataclass
class Started:
    """A task in the hands of a worker."""

    jobs: list[WorkflowActivationJob]
    updates: list[Update]
    at: int
    history_length: int
    history_bytes: int
    #: Names this task.
    token: bytes


@dataclass
class Execution:
    """One execution of a stream."""

    workflow_id: str
    run_id: str
    #: The first event.
    first: WorkflowActivationJob
    status: Status = Status.RUNNING
    result: Payload | None = None
    tasks: list[Task] = field(default_factory=list)
    #: Events that no task has seen, and those that came during the current task.
    unseen: list[WorkflowActivationJob] = field(default_factory=list)
    buffered: list[WorkflowActivationJob] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    #: How many tasks it has from the execution that was reset, if it is the result of a reset.
    kept: int | None = None
    started: Started | None = None
    #: The worker wants another task although nothing has happened, as a local activity is still running.
    is_continued: bool = False
    activities: dict[str, Activity] = field(default_factory=dict)
    timers: dict[int, int] = field(default_factory=dict)
    signals: dict[int, WorkflowCommand] = field(default_factory=dict)
    attributes: dict[str, Payload] = field(default_factory=dict)
    memo: dict[str, Payload] = field(default_factory=dict)
    events: int = 1
    bytes: int = 0

    @property
    def is_running(self) -> bool:
        """Whether it can still do something."""
        return self.status is Status.RUNNING

    @property
    def has_task(self) -> bool:
        """Whether a worker could take a task."""
        return (
            self.is_running
            and self.started is None
            and (
                self.is_continued
                or bool(self.unseen)
                or any(not update.is_accepted and update.is_open for update in self.updates)
            )
        )

    def add(self, job: WorkflowActivationJob, events: int = 1) -> None:
        """Something has happened."""
        self.events += events
        if job.HasField("signal_workflow"):
            job.signal_workflow.originating_event_id = self.events
        self.bytes += job.ByteSize()
        (self.unseen if self.started is None else self.buffered).append(job)


class Cluster:
    """The server. Time is virtual: it only passes in `advance`."""

    def __init__(self, *, now: int = 1_000_000) -> None:
        self.now = now
        #: All executions of a stream, the oldest first.
        self.streams: dict[str, list[Execution]] = {}
        self._run_ids = itertools.count(1)
        #: Called when a task was recorded.
        self.on_task: Callable[[Execution, Task], None] = lambda execution, task: None
        #: The contents of all signals that were accepted, by stream.
        self.accepted: dict[str, list[Payload]] = {}

    # Clients --------------------------------------------------------------------------------------------------------

    def start(self, workflow_id: str, argument: Payload) -> Execution:
        """Starts a stream."""
        if self.running(workflow_id) is not None:
            raise KeyError(f"{workflow_id} is running")
        return self._begin(workflow_id, [argument], None)

    def running(self, workflow_id: str) -> Execution | None:
        """The newest execution, if it is running."""
        executions = self.streams.get(workflow_id)
        return executions[-1] if executions and executions[-1].is_running else None

    def open(self) -> list[Execution]:
        """All executions that are running."""
        return [executions[-1] for executions in self.streams.values() if executions[-1].is_running]

    def signal(self, workflow_id: str, name: str, *content: Payload) -> bool:
        """Delivers a signal; False when nothing runs under this id."""
        execution = self.running(workflow_id)
        if execution is None:
            return False
        execution.add(WorkflowActivationJob(signal_workflow=SignalWorkflow(signal_name=name, input=content)))
        if name == messages.INPUT_SIGNAL:
            self.accepted.setdefault(workflow_id, []).extend(content)
        return True

    def update(self, workflow_id: str, identifier: str, content: Payload) -> Update | None:
        """Sends an update; None when nothing runs under this id."""
        execution = self.running(workflow_id)
        if execution is None:
            return None
        update = Update(identifier, content)
        execution.updates.append(update)
        return update

    def cancel(self, workflow_id: str, reason: str) -> bool:
        """Requests the cancellation of an execution; a second request has no effect."""
        execution = self.running(workflow_id)
        if execution is None:
            return False
        jobs = [*execution.unseen, *execution.buffered, *itertools.chain(*(task.jobs for task in execution.tasks))]
        if execution.started is not None:
            jobs += execution.started.jobs
        if not any(job.HasField("cancel_workflow") for job in jobs):
            execution.add(WorkflowActivationJob(cancel_workflow=CancelWorkflow(reason=reason)))
        return True

    def reset(self, execution: Execution, tasks: int) -> Execution:
        """Starts a new execution with the first `tasks` tasks of another one, and with the signals that came after them."""
        later = [job for task in execution.tasks[tasks + 1 :] for job in task.jobs]
        if execution.started is not None:
            later += execution.started.jobs
        later += execution.unseen + execution.buffered
        newest = self.streams[execution.workflow_id][-1]
        if newest.is_running:
            self._close(newest, Status.TERMINATED)
        made = self._new(execution.workflow_id, execution.first)
        made.unseen.clear()
        made.tasks, made.kept = execution.tasks[:tasks], tasks
        for task in made.tasks:
            for job in task.jobs:
                self._forget(made, job)
            for command in task_commands(task):
                self._repeat(made, command)
        reset_task = execution.tasks[tasks]
        made.events, made.bytes = reset_task.history_length + 1, reset_task.history_bytes
        made.add(WorkflowActivationJob(update_random_seed=UpdateRandomSeed(randomness_seed=made.events)))
        for job in reset_task.jobs:
            # The sender of an update has its answer already, or has to send it again.
            if not job.HasField("do_update"):
                made.add(job)
        for job in later:
            if job.HasField("signal_workflow"):
                made.add(job)
        for job in made.unseen:
            self._forget(made, job)
        return made

    # Workers of streams ---------------------------------------------------------------------------------------------

    def take(self, execution: Execution) -> Started:
        """A worker takes a task."""
        assert execution.has_task
        execution.events += 2
        waiting = [update for update in execution.updates if update.is_open and not update.is_accepted]
        jobs = [*execution.unseen, *(_update_job(update, is_new=True) for update in waiting)]
        execution.unseen = []
        execution.is_continued = False
        token = f"{execution.run_id} {execution.events}".encode()
        execution.started = Started(jobs, waiting, self.now, execution.events, execution.bytes, token)
        return execution.started

    def lose(self, execution: Execution, started: Started) -> None:
        """A task has failed, or timed out: its events are seen by the next one."""
        if execution.started is not started:
            return
        execution.started = None
        execution.events += 1
        execution.unseen = [job for job in started.jobs if not job.HasField("do_update")] + execution.buffered
        execution.buffered = []
        execution.is_continued = True

    def complete(self, execution: Execution, started: Started, run: TaskRun, *, is_continued: bool = False) -> bool:
        """A worker returns the result of a task. False when it is too late, or when something waits that must come first."""
        if execution.started is not started:
            return False
        commands = run.commands()
        responses = [command.update_response for command in commands if command.HasField("update_response")]
        waits = any(
            update.is_open and not update.is_accepted and update not in started.updates for update in execution.updates
        )
        if run.is_closing and (execution.buffered or waits):
            self.lose(execution, started)
            return False
        rejected = {response.protocol_instance_id for response in responses if response.HasField("rejected")}
        jobs = [
            _update_job(update, is_new=False) if (update := _updated(job, started)) is not None else job
            for job in started.jobs
            if not (job.HasField("do_update") and job.do_update.protocol_instance_id in rejected)
        ]
        kept = [
            entry
            for entry, command in zip(run.entries(), run.all(), strict=True)
            if not (isinstance(command, WorkflowCommand) and command.update_response.HasField("rejected"))
        ]
        task = Task(
            tuple(jobs), started.at, started.history_length, started.history_bytes, tuple(kept), frozenset(run.flags)
        )
        execution.started = None
        execution.tasks.append(task)
        run.core.recorded(task)
        execution.events += 1 + len(kept)
        execution.bytes += sum(len(entry) if isinstance(entry, bytes) else len(entry.result) for entry in kept)
        execution.unseen, execution.buffered = execution.buffered, []
        execution.is_continued = is_continued
        self.on_task(execution, task)
        for response in responses:
            self._respond(execution, response)
        for command in commands:
            self._carry_out(execution, command)
        return True

    # Workers of activities --------------------------------------------------------------------------------------------

    def activities(self, queue: str | None = None) -> list[Activity]:
        """The activities of running executions."""
        return [
            activity
            for execution in self.open()
            for activity in execution.activities.values()
            if queue is None or activity.queue == queue
        ]

    def begin_activity(self, activity: Activity) -> None:
        """A worker takes an activity."""
        activity.started_at = activity.heartbeat_at = self.now

    def find_activity(self, workflow_id: str, identifier: str) -> Activity | None:
        """An open activity by its name."""
        execution = self.running(workflow_id)
        return execution.activities.get(identifier) if execution is not None else None

    def complete_activity(self, activity: Activity, content: Payload) -> None:
        """An activity has a result."""
        self._end(activity, ActivityResolution(completed=Success(result=content)))

    def fail_activity(self, activity: Activity, failure: Failure) -> None:
        """An attempt of an activity has failed; it is tried again if its policy says so."""
        if failure.application_failure_info.non_retryable or not self._retry(activity):
            self._end(activity, ActivityResolution(failed=Failed(failure=_activity_failure(activity, failure))))

    # Time -----------------------------------------------------------------------------------------------------------

    def next_at(self) -> int | None:
        """When something happens by itself."""
        times = [
            due
            for execution in self.open()
            for due in (
                *execution.timers.values(),
                *(at for activity in execution.activities.values() for at, _ in activity.due()),
                *((execution.started.at + TASK_TIMEOUT_MS,) if execution.started is not None else ()),
            )
        ]
        return min(times, default=None)

    def advance(self, duration_ms: int) -> None:
        """Lets time pass; what is due happens in its order."""
        end = self.now + duration_ms
        while (due := self.next_at()) is not None and due <= end:
            self.now = max(self.now, due)
            for execution in self.open():
                self._expire(execution)
        self.now = end

    def deliver(self, execution: Execution, seq: int) -> None:
        """Delivers a signal that an execution has sent to another."""
        command = execution.signals.pop(seq).signal_external_workflow_execution
        target = command.workflow_execution.workflow_id
        resolution = ResolveSignalExternalWorkflow(seq=seq)
        if not self.signal(target, command.signal_name, *command.args):
            text = "Unable to signal external workflow because it was not found"
            resolution.failure.CopyFrom(application_failure(text))
        execution.add(WorkflowActivationJob(resolve_signal_external_workflow=resolution))

    # ----------------------------------------------------------------------------------------------------------------

    def _begin(self, workflow_id: str, arguments: list[Payload], before: Execution | None) -> Execution:
        run_id = f"run-{next(self._run_ids)}"
        first = InitializeWorkflow(
            workflow_type=messages.WORKFLOW_TYPE,
            workflow_id=workflow_id,
            arguments=arguments,
            randomness_seed=len(run_id),
            original_execution_run_id=run_id,
            first_execution_run_id=before.first.initialize_workflow.first_execution_run_id if before else run_id,
            continued_from_execution_run_id=before.run_id if before else "",
            attempt=1,
        )
        first.workflow_task_timeout.FromMilliseconds(TASK_TIMEOUT_MS)
        for name, value in before.attributes.items() if before else ():
            first.search_attributes.indexed_fields[name].CopyFrom(value)
        return self._new(workflow_id, WorkflowActivationJob(initialize_workflow=first), run_id)

    def _new(self, workflow_id: str, first: WorkflowActivationJob, run_id: str = "") -> Execution:
        made = Execution(workflow_id, run_id or f"run-{next(self._run_ids)}", first, bytes=first.ByteSize())
        made.unseen.append(first)
        self.streams.setdefault(workflow_id, []).append(made)
        return made

    def _carry_out(self, execution: Execution, command: WorkflowCommand) -> None:
        match command.WhichOneof("variant"):
            case "start_timer":
                timer = command.start_timer
                execution.timers[timer.seq] = self.now - -timer.start_to_fire_timeout.ToNanoseconds() // 1_000_000
            case "cancel_timer":
                execution.timers.pop(command.cancel_timer.seq, None)
                execution.unseen = [job for job in execution.unseen if job.fire_timer.seq != command.cancel_timer.seq]
            case "schedule_activity":
                activity = command.schedule_activity
                if activity.activity_id in execution.activities:
                    raise Violation(f"the activity {activity.activity_id} is already open")
                if len(execution.activities) >= PENDING_ACTIVITIES_MAX:
                    raise Violation(f"{len(execution.activities)} activities are open")
                execution.activities[activity.activity_id] = Activity(execution, activity, self.now)
            case "request_cancel_activity":
                self._request_cancel(execution, command.request_cancel_activity.seq)
            case "signal_external_workflow_execution":
                execution.signals[command.signal_external_workflow_execution.seq] = command
            case "upsert_workflow_search_attributes":
                self._upsert(
                    execution.attributes, command.upsert_workflow_search_attributes.search_attributes.indexed_fields
                )
            case "modify_workflow_properties":
                self._upsert(execution.memo, command.modify_workflow_properties.upserted_memo.fields)
            case "complete_workflow_execution":
                execution.result = command.complete_workflow_execution.result
                self._close(execution, Status.COMPLETED)
            case "continue_as_new_workflow_execution":
                following = command.continue_as_new_workflow_execution
                size = sum(argument.ByteSize() for argument in following.arguments)
                if size > PAYLOAD_BYTES_MAX:
                    raise Violation(f"the next execution would begin with {size} bytes")
                self._close(execution, Status.CONTINUED)
                execution.attributes = dict(following.search_attributes.indexed_fields)
                made = self._begin(execution.workflow_id, list(following.arguments), execution)
                made.attributes = dict(execution.attributes)

    def _upsert(self, into: dict[str, Payload], values: Mapping[str, Payload]) -> None:
        for name, value in values.items():
            if value.metadata.get("encoding") == b"binary/null" or value.data in (b"[]", b"null"):
                into.pop(name, None)
            else:
                into[name] = value

    def _close(self, execution: Execution, status: Status) -> None:
        execution.status = status
        execution.started = None
        for update in execution.updates:
            if update.is_open:
                update.error = "the execution has ended"

    def _respond(self, execution: Execution, response: UpdateResponse) -> None:
        [update] = [update for update in execution.updates if update.id == response.protocol_instance_id]
        match response.WhichOneof("response"):
            case "accepted":
                update.is_accepted = True
            case "rejected":
                update.error = response.rejected.message or "rejected"
            case "completed":
                update.answer = response.completed

    def _request_cancel(self, execution: Execution, seq: int) -> None:
        for activity in list(execution.activities.values()):
            if activity.command.seq == seq:
                if activity.started_at:
                    activity.is_cancel_requested = True
                else:
                    self.end_cancelled(activity)

    def end_cancelled(self, activity: Activity) -> None:
        """An activity ends because its execution has asked for that."""
        failure = Failure(message="Activity cancelled", canceled_failure_info=CanceledFailureInfo())
        self._end(activity, ActivityResolution(cancelled=Cancellation(failure=_activity_failure(activity, failure))))

    def _end(self, activity: Activity, resolution: ActivityResolution) -> None:
        execution = activity.execution
        if not execution.is_running or execution.activities.get(activity.id) is not activity:
            return
        del execution.activities[activity.id]
        job = ResolveActivity(seq=activity.command.seq, result=resolution)
        execution.add(WorkflowActivationJob(resolve_activity=job), events=2)

    def _retry(self, activity: Activity) -> bool:
        policy = activity.command.retry_policy
        if activity.is_cancel_requested or (policy.maximum_attempts and activity.attempt >= policy.maximum_attempts):
            return False
        wait = min(1000 * 2 ** min(activity.attempt - 1, 20), policy.maximum_interval.ToMilliseconds() or 100_000)
        activity.attempt += 1
        activity.scheduled_at, activity.started_at = self.now + wait, 0
        return True

    def _expire(self, execution: Execution) -> None:
        started = execution.started
        if started is not None and started.at + TASK_TIMEOUT_MS <= self.now:
            self.lose(execution, started)
        for seq, due in list(execution.timers.items()):
            if due <= self.now:
                del execution.timers[seq]
                execution.add(WorkflowActivationJob(fire_timer=FireTimer(seq=seq)))
        for activity in list(execution.activities.values()):
            for due, kind in activity.due():
                if due <= self.now:
                    self._time_out(activity, kind)
                    break

    def _time_out(self, activity: Activity, kind: TimeoutType.ValueType) -> None:
        if kind == TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START or not self._retry(activity):
            cause = Failure(message="activity timed out", timeout_failure_info=TimeoutFailureInfo(timeout_type=kind))
            self._end(activity, ActivityResolution(failed=Failed(failure=_activity_failure(activity, cause))))

    def _repeat(self, execution: Execution, command: WorkflowCommand) -> None:
        """A command in the history from which a reset begins: what it opened is open again."""
        if command.HasField("request_cancel_activity"):
            self._forget_activity(execution, command.request_cancel_activity.seq)
        else:
            self._carry_out(execution, command)

    def _forget(self, execution: Execution, job: WorkflowActivationJob) -> None:
        """What has ended in the history from which a reset begins is not open."""
        match job.WhichOneof("variant"):
            case "fire_timer":
                execution.timers.pop(job.fire_timer.seq, None)
            case "resolve_activity":
                self._forget_activity(execution, job.resolve_activity.seq)
            case "resolve_signal_external_workflow":
                execution.signals.pop(job.resolve_signal_external_workflow.seq, None)

    def _forget_activity(self, execution: Execution, seq: int) -> None:
        for activity in list(execution.activities.values()):
            if activity.command.seq == seq:
                del execution.activities[activity.id]


def task_commands(task: Task) -> list[WorkflowCommand]:
    """The commands of a recorded task, without those that end the execution."""
    commands = [WorkflowCommand.FromString(entry) for entry in task.entries if isinstance(entry, bytes)]
    return [command for command in commands if command.WhichOneof("variant") not in CLOSING]


def _update_job(update: Update, *, is_new: bool) -> WorkflowActivationJob:
    return WorkflowActivationJob(
        do_update=DoUpdate(
            id=update.id,
            protocol_instance_id=update.id,
            name=messages.REQUEST_UPDATE,
            input=[update.content],
            run_validator=is_new,
        )
    )


def _updated(job: WorkflowActivationJob, started: Started) -> Update | None:
    if not job.HasField("do_update"):
        return None
    return next(update for update in started.updates if update.id == job.do_update.id)


def _activity_failure(activity: Activity, cause: Failure) -> Failure:
    return Failure(
        message="activity error",
        activity_failure_info=ActivityFailureInfo(activity_id=activity.id),
        cause=cause,
    )
