"""Why a run, job, step or attempt has its status: a stable code, and one sentence with its facts.

Rules of this file: each code has a `#:` line in `ReasonCode`. The sentence is written when the decision is made, stored in the
event, and the same in the CLI, the API and the UI. Facts contain the same for programs.
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
    #: The step exceeded a limit (`limits`), and was ended.
    LIMIT = "limit"
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
    #: The servers that could start the job are draining: they start no new jobs.
    SERVER_DRAINING = "server-draining"
    #: The job's own server is not connected.
    SERVER_UNREACHABLE = "server-unreachable"
    #: The job's server is lost: `lost-after` has passed, it rebooted, or it was revoked.
    SERVER_LOST = "server-lost"
    #: The server stopped the step, because it had no connection to the daemon for too long.
    LEASE_ENDED = "lease-ended"
    #: No server was found within `start-timeout-minutes`.
    START_TIMEOUT = "start-timeout"
    #: Sent to an agent, not yet started there.
    DISPATCHED = "dispatched"
    #: Sleeps until a set time.
    SLEEPING = "sleeping"
    #: The sleep has finished.
    SLEPT = "slept"
    #: Waits before the next attempt.
    RETRY = "retry"
    #: A timeout of the step, job or run has passed.
    TIMEOUT = "timeout"
    #: A cancel was requested.
    CANCEL_REQUESTED = "cancel-requested"
    #: A forced cancel was requested, without waiting for agents.
    TERMINATED = "terminated"
    #: The outcome of the attempt is unknown.
    OUTCOME_UNKNOWN = "outcome-unknown"
    #: The attempt's outcome is unknown and the file says that a person decides.
    HELD = "held"
    #: The run cannot continue: its log holds something that this version does not understand, or an invariant failed.
    STALLED = "stalled"
    #: Waits for a slot in its concurrency group.
    WAITING_LOCK = "waiting-lock"
    #: Its concurrency group is full and has no queue.
    LOCK_REFUSED = "lock-refused"
    #: A newer one replaced it in the queue for the concurrency group.
    SUPERSEDED = "superseded"
    #: Waits for people to approve it.
    WAITING_APPROVAL = "waiting-approval"
    #: Approved.
    APPROVED = "approved"
    #: Rejected.
    REJECTED = "rejected"
    #: Its ref may not deploy to the environment.
    REF_REFUSED = "ref-refused"
    #: The run has no authenticated starter, and the environment does not accept such runs.
    UNATTENDED_REFUSED = "unattended-refused"
    #: Reused from the run that this one re-runs.
    REUSED = "reused"
    #: Enough instances have failed: no new one starts.
    HALTED = "halted"
    #: The pause between two batches.
    BATCH_PAUSE = "batch-pause"
    #: Waits until an earlier instance or batch has ended.
    WAITING_TURN = "waiting-turn"
    #: No server has the requested labels.
    NO_SERVER_WITH_LABELS = "no-server-with-labels"
    #: The job has containers, and no server can run them.
    NO_SERVER_WITH_DOCKER = "no-server-with-docker"
    #: The repository may not use the group.
    GROUP_NOT_ALLOWED = "group-not-allowed"
    #: The group or secret belongs to an environment that the job does not have.
    ENVIRONMENT_REQUIRED = "environment-required"
    #: No grant of the configuration lets the job read the secret.
    SECRET_NOT_GRANTED = "secret-not-granted"
    #: A secret has no value in any source.
    SECRET_MISSING = "secret-missing"
    #: Waits for a secret that is being read.
    SECRET_WAITING = "secret-waiting"
    #: A secret cannot be read.
    SECRET_UNREADABLE = "secret-unreadable"
    #: A limit was exceeded.
    BOUND = "bound"
    #: The child run has not been started yet.
    CHILD_RUN_STARTING = "child-run-starting"
    #: Waits for its child run.
    WAITING_CHILD_RUN = "waiting-child-run"
    #: The child run cannot be started.
    CHILD_RUN_REFUSED = "child-run-refused"
    #: The child run did not succeed.
    CHILD_RUN_FAILED = "child-run-failed"
    #: It failed, but `continue-on-error` is set.
    CONTINUED = "continued"


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why something has its status. `facts` contain what `text` says, for programs."""

    code: ReasonCode
    text: str
    facts: dict[str, str | int | float | bool | list[str] | None] = {}


def reason(code: ReasonCode, text: str, **facts: str | int | float | bool | list[str] | None) -> Reason:
    """Makes a reason; the text is bounded and free of control characters."""
    return Reason(code=code, text=single_line(text, TEXT_LENGTH_MAX), facts=facts)


def rejection(error: Rejected) -> Reason:
    """The reason of a step or job that an error ends before it starts."""
    code = ReasonCode.INPUT_INVALID if error.code == WRONG_INPUT else ReasonCode.EXPRESSION_ERROR
    return reason(code, error.text, error=error.code)


#: The reason of a new run, job or step.
CREATED = reason(ReasonCode.CREATED, "created")
