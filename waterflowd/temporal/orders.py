"""Orders: what the activities of a run tell its gateway to do; and the names of queues and activities.

Rules of this file: a turn writes an order, a gateway reads it, perhaps of another release, and perhaps many times. So new
fields have defaults, an order may be repeated without harm, and an id names one activity of a run for good. Recordings in
`tests/compat/values` show what is stored. No order contains the value of a secret.

    activity    queue                          content        result
    place       group/<group>, agent/<id>      `SlotOrder`    `SlotGranted` or `SlotDenied`, once there is an answer
    attempt     agent/<id>                     `TaskOrder`    `TaskFinished` or `TaskLost`
    cancel      agent/<id>                     `CancelOrder`  nothing
    release     agent/<id>                     `ReleaseOrder` nothing
    lock        streams                        `LockOrder`    nothing; the answer is a signal of the lock's stream
    unlock      streams                        `UnlockOrder`  nothing
    look        streams                        `LookOrder`    `EndedRuns`; the activity of a lock's stream
    start-child-run    streams                 `ChildRunOrder`   `ChildRunCreated` or `ChildRunNotCreated`
    keep        repositories                   `KeepOrder`    never; the activity of a repository's stream
    look-at-child-run  streams                 `ChildLookOrder`  `ChildRunEnded`, or nothing while the run is open

A result, and the content of a signal to a run, is one input of the engine (`INPUTS`). A signal to the stream of a lock contains
the order.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

import msgspec

from waterflow_agent.wire.messages import TaskId
from waterflowd.dispatch.lowering import Draft, SecretRequest
from waterflowd.engine.inputs import RunInput
from waterflowd.fleet.locks import Holder, LockRequest
from waterflowd.model.codec import ValueCodec
from waterflowd.model.ids import AgentId, AttemptId, JobId, RunId
from waterflowd.model.records import StartRequest

#: The queue on which daemons take the turns of all streams.
STREAMS_QUEUE = "streams"
#: The queue from which daemons take the repositories that they lead.
REPOSITORIES_QUEUE = "repositories"

#: Names of activities.
PLACE: Final = "place"
ATTEMPT: Final = "attempt"
CANCEL: Final = "cancel"
RELEASE: Final = "release"

LOCK: Final = "lock"
UNLOCK: Final = "unlock"
LOOK: Final = "look"
START_CHILD_RUN: Final = "start-child-run"
LOOK_AT_CHILD_RUN: Final = "look-at-child-run"
KEEP: Final = "keep"
#: The signal to a child run; not an activity.
CANCEL_CHILD_RUN: Final = "cancel-child-run"

#: Temporal refuses ids of more than 1,000 bytes.
_ID_BYTES_MAX = 900


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all orders."""


class SlotOrder(Order, frozen=True, kw_only=True, tag="slot-order"):
    """Grant a slot to an attempt as soon as one is free: on `agent` if it is set, else on any server of `group` that fits."""

    attempt: AttemptId
    group: str
    node: str
    agent: AgentId | None = None
    labels: tuple[tuple[str, str], ...] = ()
    #: Servers to use only if no other is available.
    avoid: tuple[AgentId, ...] = ()
    #: Nodes that later steps of the job need, sorted.
    later: tuple[str, ...] = ()
    #: The attempt's secrets: without a value for each of them the slot is denied. The job may read them.
    secrets: SecretRequest | None = None
    #: The job has containers.
    needs_docker: bool = False


class TaskOrder(Order, frozen=True, kw_only=True, tag="task-order"):
    """Have the agent carry out an attempt, and return its report."""

    agent: AgentId
    agent_name: str
    draft: Draft
    #: When the run recorded the dispatch, in ms.
    dispatched_at: int
    #: The run knows that the attempt has started: an agent without a record of it must not start it again.
    is_started: bool = False
    #: The run's repository, which the attempt's output is counted for; None for a workflow that was sent to the API.
    repository: str | None = None
    #: An earlier execution of the run has ordered it already, so its agent may have got it.
    is_repeated: bool = False


class CancelOrder(Order, frozen=True, kw_only=True, tag="cancel-order"):
    """Have the agent stop an attempt. Changes nothing if the agent does not have it, or has it no longer."""

    agent: AgentId
    task: TaskId
    is_forced: bool
    reason: str
    #: The run has given the attempt up, so its activity no longer arrives.
    is_ended: bool = False


class ReleaseOrder(Order, frozen=True, kw_only=True, tag="release-order"):
    """Tell the agent that it may remove or keep the job's directory."""

    agent: AgentId
    run: RunId
    job: JobId
    is_kept: bool = False


class LockOrder(Order, frozen=True, kw_only=True, tag="lock-order"):
    """A run or job requests a slot in its concurrency group. It repeats the request until it has ended."""

    request: LockRequest
    #: The facts of the run say that it holds the slot.
    is_held: bool = False
    #: Cancel those who hold the group's slots, if the request must wait.
    cancel_in_progress: bool = False


class UnlockOrder(Order, frozen=True, kw_only=True, tag="unlock-order"):
    """A run or job frees its slot in a concurrency group, or withdraws its request for it."""

    holder: Holder
    group: str
    repository: str


class LookOrder(Order, frozen=True, kw_only=True, tag="look-order"):
    """Find out which of these runs have ended."""

    runs: tuple[RunId, ...]


class EndedRuns(Order, frozen=True, kw_only=True, tag="ended-runs"):
    """The runs that have ended, or are unknown. The result of a `LookOrder`."""

    runs: tuple[RunId, ...]


class ChildRunOrder(Order, frozen=True, kw_only=True, tag="child-run-order"):
    """Compile the workflow of a step (`workflow/run`), and start it as the run `child`."""

    attempt: AttemptId
    child: RunId
    #: The workflow file, in the commit of the request.
    path: str
    #: Without the plan and the inputs.
    request: StartRequest
    arguments: dict[str, Any]


class ChildLookOrder(Order, frozen=True, kw_only=True, tag="child-look-order"):
    """Find out how the child run of an attempt has ended, if it has."""

    attempt: AttemptId
    child: RunId


class KeepOrder(Order, frozen=True, kw_only=True, tag="keep-order"):
    """Lead a repository; an empty name stands for the workflows that are sent to the API."""

    repository: str


class AttemptProgress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="progress"):
    """What a gateway leaves for the next one in the heartbeats of an attempt's activity."""

    #: When the agent reported the start, by its clock, in ms; 0 for not yet. And whether the run has heard of it.
    started_at: int = 0
    is_start_known: bool = False
    #: Why the attempt must be stopped; None for no cancel.
    cancel_reason: str | None = None
    is_forced: bool = False
    #: The boot of the server in which it may have been offered: "" for none yet, because it waits for a slot; None for the boot
    #: of the draft.
    boot_id: str | None = None


AnyOrder = (
    SlotOrder
    | TaskOrder
    | CancelOrder
    | ReleaseOrder
    | LockOrder
    | UnlockOrder
    | LookOrder
    | EndedRuns
    | ChildRunOrder
    | ChildLookOrder
    | KeepOrder
)

#: How orders, and the inputs of runs, are stored: `pack` and `unpack`.
ORDERS = ValueCodec("order", AnyOrder)
INPUTS = ValueCodec("input", RunInput)
PROGRESS = ValueCodec("progress", AttemptProgress)


def group_queue(group: str) -> str:
    """The queue that a gateway polls while one of its agents in the group has a free slot."""
    return f"group/{group}"


def agent_queue(agent: AgentId) -> str:
    """The queue that the gateway with the agent's session polls."""
    return f"agent/{agent}"


def lock_stream(repository: str, group: str) -> str:
    """The stream of a concurrency group.

    Workflow ids are readable for everyone who may use the namespace, and the name of a group may be computed from inputs. So
    it appears as a hash.
    """
    return _escaped_id(["lock", repository, hashlib.sha256(group.encode()).hexdigest()[:32]])


def task_activity(task: TaskId, agent: AgentId) -> str:
    """The id of the activity `attempt`. A gateway makes it of a report and the key of the connection that sent it.

    So no report of an agent can complete the attempt of another agent, or one of another lease.
    """
    attempt = task.attempt
    return _escaped_id([ATTEMPT, attempt.job, attempt.step, str(attempt.number), str(task.epoch), agent])


AttemptActivity = Literal["place", "cancel", "start-child-run", "look-at-child-run", "cancel-child-run"]


def attempt_activity(name: AttemptActivity, attempt: AttemptId, *, is_forced: bool = False) -> str:
    """The id of another activity or signal for one attempt. A forced cancel is another one."""
    parts = [name, attempt.job, attempt.step, str(attempt.number), *(["forced"] if is_forced else [])]
    return _escaped_id(parts)


def job_activity(name: str, job: JobId, agent: AgentId) -> str:
    """The id of an activity for one job on one server: `release`."""
    return _escaped_id([name, job, agent])


def lock_activity(name: Literal["lock", "unlock"], job: JobId | None) -> str:
    """The id of an activity for the slot of a run, or of one of its jobs, in its concurrency group."""
    return _escaped_id([name] if job is None else [name, job])


def _escaped_id(parts: list[str]) -> str:
    """The parts with slashes between them; a slash inside of a part is escaped, so that no two activities share an id."""
    identifier = "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)
    if len(identifier.encode()) <= _ID_BYTES_MAX:
        return identifier
    return f"{parts[0]}/sha256-{hashlib.sha256(identifier.encode()).hexdigest()}"
