"""Ids of activities, by which gateways complete them."""

from __future__ import annotations

from waterflow_agent.wire.messages import TaskId
from waterflowd.model.ids import AgentId, AttemptId, AttemptNo, JobId, RunId, StepId
from waterflowd.temporal import orders


def attempt(job: str, step: str, number: int = 1) -> AttemptId:
    return AttemptId(RunId("01HZ"), JobId(job), StepId(step), AttemptNo(number))


def test_an_activity_is_named_after_its_attempt() -> None:
    """So a gateway can complete it without having started it."""
    assert orders.attempt_activity(orders.PLACE, attempt("build", "2", 3)) == "place/build/2/3"
    assert orders.attempt_activity(orders.CANCEL, attempt("build", "2"), is_forced=True) == "cancel/build/2/1/forced"
    assert orders.job_activity(orders.RELEASE, JobId("build"), AgentId("SHA256:a/b")) == "release/build/SHA256:a%2Fb"


def test_the_activity_of_a_task_belongs_to_one_agent_and_one_lease() -> None:
    """Another agent that reports about the task, or the same agent under another lease, names another activity."""
    tasks = [TaskId(attempt("build", "2", 3), epoch) for epoch in (1, 2)]
    agents = [AgentId("SHA256:a/b"), AgentId("SHA256:c")]
    assert orders.task_activity(tasks[0], agents[0]) == "attempt/build/2/3/1/SHA256:a%2Fb"
    assert len({orders.task_activity(task, agent) for task in tasks for agent in agents}) == 4


def test_no_two_attempts_share_an_activity() -> None:
    """Ids of called jobs and of steps in blocks contain slashes."""
    attempts = [
        attempt("a/b", "c"), attempt("a", "b/c"), attempt("a%2Fb", "c"), attempt("a", "b", 11), attempt("a", "b/1", 1),
    ]  # fmt: skip
    assert len({orders.attempt_activity(orders.PLACE, each) for each in attempts}) == len(attempts)


def test_a_long_id_becomes_a_hash() -> None:
    """Temporal refuses ids of more than 1,000 bytes; different ids remain different."""
    first, second = (orders.attempt_activity(orders.PLACE, attempt("ä" * 600, step)) for step in ("1", "2"))
    assert first != second
    assert first.startswith("place/sha256-")
    assert len(first) < 100
