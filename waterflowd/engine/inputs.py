"""Inputs: requests and reports, things that happened outside one run. Nothing here is a fact of the log yet.

Rules of this file: an input may be stale, repeated or wrong; `decide` says what it means. What only the outside knows
(ids, random numbers, the agent that the fleet chose) stands in the input, and is recorded in the events.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from waterflowd.engine import events
from waterflowd.model.ids import AgentId, AttemptNo, JobId, RunId, StepId
from waterflowd.model.reasons import Reason
from waterflowd.model.records import Kept, Trigger
from waterflowd.model.statuses import Conclusion, Outcome


class TimerKind(Enum):
    """What a timer of a run is for."""

    #: The run's whole time is over.
    RUN_TIMEOUT = "run-timeout"
    #: The job has waited long enough for a server.
    JOB_START = "job-start"
    #: The job's time is over.
    JOB_TIMEOUT = "job-timeout"
    #: A `sleep` step's instant.
    STEP_SLEEP = "step-sleep"
    #: The next attempt of a step.
    STEP_RETRY = "step-retry"
    #: A stop that its agent has not answered.
    STEP_STOP = "step-stop"
    #: The time of a step with blocks is over.
    STEP_TIMEOUT = "step-timeout"
    #: Nobody has decided about an approval in time.
    APPROVAL = "approval"
    #: The next try of a job.
    JOB_RETRY = "job-retry"
    #: The pause between two batches.
    BATCH_PAUSE = "batch-pause"


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """Names one timer of a run. `due_at` is part of its name: a timer that was set anew is another one."""

    kind: TimerKind
    due_at: int
    job: JobId | None = None
    step: StepId | None = None


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all inputs."""


class StartRun(Input, frozen=True, kw_only=True):
    """Begin: the plan stands in the run already. `vars` are laid over the file's own."""

    plan_hash: str
    number: int
    trigger: Trigger
    repository: str | None
    revision: str | None
    inputs: dict[str, Any]
    vars: dict[str, Any]
    rerun_of: RunId | None = None
    kept: Kept | None = None
    hashes: dict[str, str] = {}
    environments: dict[str, events.Policy] = {}


class SlotGranted(Input, frozen=True, kw_only=True):
    """The fleet's answer to `RequestSlot`: this agent has taken a slot for the attempt."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId
    agent_name: str
    boot_id: str
    #: What the `agent` context of expressions shows.
    facts: dict[str, Any]
    #: The version of the node, where it is the server's own.
    node_version: str = ""


class SlotPending(Input, frozen=True, kw_only=True):
    """The fleet's other answer to `RequestSlot`: nobody yet, and why."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    reason: Reason


class SlotDenied(Input, frozen=True, kw_only=True):
    """The host's third answer to `RequestSlot`: never, and why; such as a secret that no source has."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    reason: Reason


class ChildRunCreated(Input, frozen=True, kw_only=True):
    """The host's answer to `StartChildRun`: this run exists from now on. `name` and `number` are for people."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    name: str
    number: int


class ChildRunNotCreated(Input, frozen=True, kw_only=True):
    """The other answers to `StartChildRun`: not yet, or (`is_refused`) never."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    is_refused: bool = False
    reason: Reason


class ChildRunEnded(Input, frozen=True, kw_only=True):
    """The answer to `WatchChildRun`, once the run has ended: how, why, and what it gives out."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    run: RunId
    conclusion: Conclusion
    why: str
    outputs: dict[str, Any] = {}


class ServersListed(Input, frozen=True, kw_only=True):
    """The answer to `ListServers`: the servers of the group as they are now, by name; or why there is none."""

    job: JobId
    servers: list[tuple[AgentId, str]]
    reason: Reason | None = None
    #: There never will be one, for `reason`.
    is_refused: bool = False


class LockAcquired(Input, frozen=True, kw_only=True):
    """The answer to `AcquireLock`: the place is theirs."""

    job: JobId | None


class LockNotAcquired(Input, frozen=True, kw_only=True):
    """The other answers to `AcquireLock`: not yet, or (`is_refused`) never."""

    job: JobId | None
    is_refused: bool = False
    reason: Reason


class DecideApproval(Input, frozen=True, kw_only=True):
    """A person decides about an approval. The host has checked that the person may."""

    job: JobId
    step: StepId | None = None
    by: str
    is_approved: bool
    comment: str = ""


class CancelJob(Input, frozen=True, kw_only=True):
    """One job must end."""

    job: JobId
    reason: Reason


class Report(Input, frozen=True, kw_only=True):
    """Base of what an agent says about one attempt; `agent` is the key that ZeroMQ reported, not a claim."""

    job: JobId
    step: StepId
    attempt: AttemptNo
    epoch: int
    agent: AgentId


class TaskStarted(Report, frozen=True, kw_only=True):
    """The attempt's process runs since `started_at` (ms, the agent's clock)."""

    started_at: int


class TaskFinished(Report, frozen=True, kw_only=True):
    """The attempt ended. Times are the agent's clock."""

    outcome: Outcome
    exit_code: int | None = None
    reason_code: str = ""
    reason_text: str = ""
    outputs: dict[str, Any] = {}
    env: dict[str, str] = {}
    started_at: int
    finished_at: int
    output_bytes: int = 0
    output_dropped: int = 0


class TaskLost(Report, frozen=True, kw_only=True):
    """Nobody can know any more how the attempt ended: its server rebooted, was revoked, or stayed away too long."""

    reason: Reason


class TimerFired(Input, frozen=True, kw_only=True):
    """The instant of a timer has come."""

    timer: Timer


class CancelRun(Input, frozen=True, kw_only=True):
    """Somebody wants the run to end; with `force` without waiting for agents."""

    by: str
    is_forced: bool = False
