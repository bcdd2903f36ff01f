"""Why a thing is in the status it is in: a stable code, and one sentence with its facts.

Rules of this file: each code stands in `ReasonCode` with a `#:` line; the sentence is made when the decision is made, is
stored in the event, and reads the same in the CLI, the API and the UI. Facts are what a program would look for.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from waterflow_agent.display import single_line
from waterflow_agent.errors import Rejected
from waterflowd.model.inputs import WRONG_INPUT

#: A reason's sentence is cut here; the whole output is in the output log.
TEXT_LENGTH_MAX = 500


class ReasonCode(Enum):
    """The stable codes of reasons."""

    #: Just created; nothing has happened yet.
    CREATED = "created"
    #: All needs are met and work has begun.
    STARTED = "started"
    #: Everything in it ended well.
    SUCCEEDED = "succeeded"
    #: A step or job in it failed.
    FAILED = "failed"
    #: The process ended with an exit code other than 0.
    EXIT_CODE = "exit-code"
    #: The process was ended by a signal that Waterflow did not send.
    SIGNAL = "signal"
    #: The node reported an error of its own.
    NODE_ERROR = "node-error"
    #: The step's process could not be started.
    SPAWN_FAILED = "spawn-failed"
    #: The agent refused the task.
    REFUSED = "refused"
    #: A needed job did not succeed.
    NEEDS = "needs"
    #: The `if` was false.
    CONDITION_FALSE = "condition-false"
    #: An earlier step of the job failed.
    EARLIER_FAILURE = "earlier-failure"
    #: An expression could not be evaluated.
    EXPRESSION_ERROR = "expression-error"
    #: The value of an input does not fit its declaration.
    INPUT_INVALID = "input-invalid"
    #: Waits for the jobs in `needs`.
    WAITING_NEEDS = "waiting-needs"
    #: No server of the group is enrolled.
    NO_SERVER_IN_GROUP = "no-server-in-group"
    #: Servers of the group are enrolled, none is connected.
    NO_SERVER_CONNECTED = "no-server-connected"
    #: Connected servers of the group have no free slot.
    NO_FREE_SLOT = "no-free-slot"
    #: No connected server of the group has the node.
    NO_SERVER_WITH_NODE = "no-server-with-node"
    #: The job's own server is not connected.
    SERVER_UNREACHABLE = "server-unreachable"
    #: The job's server is gone for good: lost-after has passed, it rebooted, or it was revoked.
    SERVER_LOST = "server-lost"
    #: The job found no server in `start-timeout-minutes`.
    START_TIMEOUT = "start-timeout"
    #: Sent to an agent, not yet started there.
    DISPATCHED = "dispatched"
    #: Waits for its instant.
    SLEEPING = "sleeping"
    #: The instant has come.
    SLEPT = "slept"
    #: Waits before the next attempt.
    RETRY = "retry"
    #: A time-out of the step, job or run has passed.
    TIMEOUT = "timeout"
    #: Somebody asked for the cancel.
    CANCEL_REQUESTED = "cancel-requested"
    #: Somebody asked for the end without waiting for agents.
    TERMINATED = "terminated"
    #: Nobody can know how the attempt ended.
    OUTCOME_UNKNOWN = "outcome-unknown"
    #: The attempt's outcome is unknown and the file says that a person decides.
    HELD = "held"
    #: The run cannot go on: its log holds something that this version does not understand, or an invariant failed.
    STALLED = "stalled"
    #: Waits for a place in its concurrency group.
    WAITING_LOCK = "waiting-lock"
    #: Its concurrency group is full and takes nobody who waits.
    LOCK_REFUSED = "lock-refused"
    #: A newer one took its place in the concurrency group.
    SUPERSEDED = "superseded"
    #: Waits for people to approve it.
    WAITING_APPROVAL = "waiting-approval"
    #: Approved.
    APPROVED = "approved"
    #: Rejected.
    REJECTED = "rejected"
    #: Its ref may not enter the environment.
    REF_REFUSED = "ref-refused"
    #: Taken over from the run that this one is a re-run of.
    KEPT = "kept"
    #: Enough instances have failed: no new one starts.
    HALTED = "halted"
    #: The pause between two batches.
    BATCH_PAUSE = "batch-pause"
    #: Waits until an earlier instance or batch has ended.
    WAITING_TURN = "waiting-turn"
    #: No server has the labels that are asked for.
    NO_SERVER_WITH_LABELS = "no-server-with-labels"
    #: The repository may not use the group.
    GROUP_NOT_ALLOWED = "group-not-allowed"
    #: A secret has no value in any source.
    SECRET_MISSING = "secret-missing"
    #: Waits for a secret that is being read.
    SECRET_WAITING = "secret-waiting"
    #: A secret cannot be read.
    SECRET_UNREADABLE = "secret-unreadable"
    #: More than the bound allows.
    BOUND = "bound"
    #: The run that the step wants has not been started yet.
    CHILD_RUN_STARTING = "child-run-starting"
    #: Waits for the end of the run that it started.
    WAITING_CHILD_RUN = "waiting-child-run"
    #: The run that the step wants cannot be started.
    CHILD_RUN_REFUSED = "child-run-refused"
    #: The run that it started did not succeed.
    CHILD_RUN_FAILED = "child-run-failed"
    #: It failed, and `continue-on-error` lets what follows go on.
    CONTINUED = "continued"


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why something is as it is. `facts` hold what `text` says, for programs."""

    code: ReasonCode
    text: str
    facts: dict[str, str | int | float | bool | list[str] | None] = {}


def reason(code: ReasonCode, text: str, **facts: str | int | float | bool | list[str] | None) -> Reason:
    """Makes a reason; the text is bounded and free of control characters."""
    return Reason(code=code, text=single_line(text, TEXT_LENGTH_MAX), facts=facts)


def rejection(error: Rejected) -> Reason:
    """The reason of a step or job that an error ends before it begins."""
    code = ReasonCode.INPUT_INVALID if error.code == WRONG_INPUT else ReasonCode.EXPRESSION_ERROR
    return reason(code, error.text, error=error.code)


#: The reason of what has just been made.
CREATED = reason(ReasonCode.CREATED, "created")
