"""Statuses and conclusions of runs, jobs, steps and attempts, with the moves that are allowed between them.

Rules of this file: a status says what is happening, a conclusion how it ended, a `Reason` (reasons.py) why. "In doubt",
"held" and "stalled" are reasons, not statuses. The tables are the truth: `evolve` asserts every move against them,
the documentation's diagrams and a test that every non-terminal status has an owner and a deadline read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from waterflow_agent.attempts import Outcome as Outcome


class _Word(Enum):
    """An enum whose members are hashed as what they are, singletons; an `Enum` runs Python code to hash its name."""

    __hash__ = object.__hash__


class Status(_Word):
    """Where a run, a job or a step is."""

    #: Nothing of it has started; its turn has not come.
    QUEUED = "queued"
    #: Its turn has come, and something outside must happen first: a server, a timer, a person.
    WAITING = "waiting"
    #: An agent, a timer or a part of it is at work.
    RUNNING = "running"
    #: Ended; it has a conclusion and never changes again.
    COMPLETED = "completed"


class Conclusion(_Word):
    """How a run, a job or a step ended."""

    #: Did what it should.
    SUCCESS = "success"
    #: Ran and failed.
    FAILURE = "failure"
    #: It was cancelled.
    CANCELLED = "cancelled"
    #: Its time-out passed and it was stopped.
    TIMED_OUT = "timed-out"
    #: Never ran, by the file's own rules.
    SKIPPED = "skipped"
    #: The outcome is unknown.
    LOST = "lost"


class AttemptStatus(_Word):
    """Where one try of a step is."""

    #: Ready to go; waits for a slot on a server. Owner: the fleet; deadline: the job's start and run time-outs.
    PENDING = "pending"
    #: Committed to one agent and offered to it. Owner: the agent; deadline: the attempt's time-out.
    DISPATCHED = "dispatched"
    #: The agent has started it. Owner: the agent; deadline: the attempt's time-out.
    STARTED = "started"
    #: Ended; its result is in the log.
    FINISHED = "finished"


#: Allowed moves of runs, jobs and steps.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.WAITING, Status.RUNNING, Status.COMPLETED}),
    Status.WAITING: frozenset({Status.RUNNING, Status.COMPLETED}),
    Status.RUNNING: frozenset({Status.WAITING, Status.COMPLETED}),
    Status.COMPLETED: frozenset(),
}

#: Allowed moves of attempts. DISPATCHED goes straight to FINISHED when a result arrives before the start's report.
ATTEMPT_TRANSITIONS: dict[AttemptStatus, frozenset[AttemptStatus]] = {
    AttemptStatus.PENDING: frozenset({AttemptStatus.DISPATCHED, AttemptStatus.FINISHED}),
    AttemptStatus.DISPATCHED: frozenset({AttemptStatus.STARTED, AttemptStatus.FINISHED}),
    AttemptStatus.STARTED: frozenset({AttemptStatus.FINISHED}),
    AttemptStatus.FINISHED: frozenset(),
}

#: From worst to best, as a run takes the worst conclusion of its jobs.
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
    """The worst of `conclusions`; `SUCCESS` when there is none."""
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
    """The word that `needs.x.result` and `outcome` show: all three kinds of failure read `failure`."""
    return "failure" if conclusion in FAILURES else conclusion.value
