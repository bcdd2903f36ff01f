"""Statuses and conclusions of runs, jobs, steps and attempts, with the allowed transitions between them.

Rules of this file: a status says what is happening, a conclusion how it ended, and a `Reason` (reasons.py) why. "In doubt",
"held" and "stalled" are reasons, not statuses. The tables are authoritative: `evolve` checks every transition
against them, and so do the tests of the documentation's diagrams.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from waterflow_agent.attempts import Outcome as Outcome


class _Word(Enum):
    """An enum whose members are hashed by identity, which is fast; `Enum` runs Python code to hash the name."""

    __hash__ = object.__hash__


class Status(_Word):
    """The status of a run, a job or a step."""

    #: Not started; it is not its turn yet.
    QUEUED = "queued"
    #: It is its turn, but it waits for something outside: a server, a timer, a person.
    WAITING = "waiting"
    #: An agent, a timer or a part of it is active.
    RUNNING = "running"
    #: Ended; it has a conclusion and never changes again.
    COMPLETED = "completed"


class Conclusion(_Word):
    """How a run, a job or a step ended."""

    #: Succeeded.
    SUCCESS = "success"
    #: Ran and failed.
    FAILURE = "failure"
    #: It was cancelled.
    CANCELLED = "cancelled"
    #: It timed out and was stopped.
    TIMED_OUT = "timed-out"
    #: Never ran, by the file's own rules.
    SKIPPED = "skipped"
    #: The outcome is unknown.
    LOST = "lost"


class AttemptStatus(_Word):
    """The status of one try of a step."""

    #: Ready; waits for a slot on a server. Owner: the fleet; deadline: the job's start timeout and timeout.
    PENDING = "pending"
    #: Committed to one agent and offered to it. Owner: the agent; deadline: the attempt's timeout.
    DISPATCHED = "dispatched"
    #: The agent has started it. Owner: the agent; deadline: the attempt's timeout.
    STARTED = "started"
    #: Ended; its result is in the log.
    FINISHED = "finished"


#: Allowed transitions of runs, jobs and steps.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.WAITING, Status.RUNNING, Status.COMPLETED}),
    Status.WAITING: frozenset({Status.RUNNING, Status.COMPLETED}),
    Status.RUNNING: frozenset({Status.WAITING, Status.COMPLETED}),
    Status.COMPLETED: frozenset(),
}

#: Allowed transitions of attempts. DISPATCHED goes straight to FINISHED if a result arrives before the report of the start.
ATTEMPT_TRANSITIONS: dict[AttemptStatus, frozenset[AttemptStatus]] = {
    AttemptStatus.PENDING: frozenset({AttemptStatus.DISPATCHED, AttemptStatus.FINISHED}),
    AttemptStatus.DISPATCHED: frozenset({AttemptStatus.STARTED, AttemptStatus.FINISHED}),
    AttemptStatus.STARTED: frozenset({AttemptStatus.FINISHED}),
    AttemptStatus.FINISHED: frozenset(),
}

#: From worst to best; a run has the worst conclusion of its jobs.
SEVERITY: tuple[Conclusion, ...] = (
    Conclusion.LOST,
    Conclusion.TIMED_OUT,
    Conclusion.FAILURE,
    Conclusion.CANCELLED,
    Conclusion.SUCCESS,
    Conclusion.SKIPPED,
)

#: Conclusions for which `failure()` is true.
FAILURES = frozenset({Conclusion.FAILURE, Conclusion.TIMED_OUT, Conclusion.LOST})


def worst(conclusions: Iterable[Conclusion]) -> Conclusion:
    """Returns the worst of `conclusions`; `SUCCESS` if they are empty."""
    return min(conclusions, key=SEVERITY.index, default=Conclusion.SUCCESS)


_VERBS = {
    Conclusion.SUCCESS: "succeeded",
    Conclusion.FAILURE: "failed",
    Conclusion.CANCELLED: "was cancelled",
    Conclusion.TIMED_OUT: "timed out",
    Conclusion.SKIPPED: "was skipped",
    Conclusion.LOST: "was lost",
}


def verb(conclusion: Conclusion) -> str:
    """The conclusion as the end of a sentence: `job "build" failed`."""
    return _VERBS[conclusion]


def result_word(conclusion: Conclusion) -> str:
    """The value of `needs.x.result` and `outcome`: all three kinds of failure are `failure`."""
    return "failure" if conclusion in FAILURES else conclusion.value
