"""Output of attempts that are not known to be the agent's: runs are asked, without any agent delaying others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from waterflow_agent.errors import Retryable
from waterflow_agent.testing import attempt_id
from waterflow_agent.wire.messages import TaskId
from waterflowd.host.agents import output_owners
from waterflowd.host.agents.output_owners import OutputOwners
from waterflowd.model.ids import AgentId
from waterflowd.model.records import HeldAttempt
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import agent_id

WEB, DB = agent_id("web"), agent_id("db")


def task(run: str, number: int = 1) -> TaskId:
    return TaskId(attempt_id(run, "a", "1", number), 1)


class Runs:
    """Answers questions when the test says so. Attempts of runs with `own` in their names are the agent's."""

    def __init__(self) -> None:
        self.asked: list[tuple[AgentId, list[TaskId]]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.is_away = False
        self.answers: list[tuple[AgentId, TaskId, bool, int]] = []
        self.owners = OutputOwners(self.confirm, self.answered)

    async def confirm(self, agent: AgentId, keys: Sequence[TaskId]) -> list[HeldAttempt | None]:
        """See `ports.Attempts`."""
        self.asked.append((agent, list(keys)))
        if "slow" in keys[0].attempt.run:
            await self.open.wait()
        if self.is_away:
            raise Retryable("WF802", "away")
        return [held(agent, key) if "own" in key.attempt.run else None for key in keys]

    def answered(self, agent: AgentId, key: TaskId, attempt: HeldAttempt | None, end: int) -> None:
        """Notes an answer."""
        self.answers.append((agent, key, attempt is not None, end))


def held(agent: AgentId, key: TaskId) -> HeldAttempt:
    return HeldAttempt(
        name=key.attempt,
        epoch=key.epoch,
        agent=agent,
        agent_name="",
        boot_id="",
        dispatched_at=0,
        repository=None,
        is_open=False,
        is_started=True,
        output_bytes=0,
        output_bytes_max=1 << 20,
        lease_over_ms=0,
    )


async def test_attempts_of_one_run_are_one_question() -> None:
    """However often the agent sends: reading a run costs time. The answer names the end of what was sent."""
    runs = Runs()
    first, second, other = task("own", 1), task("own", 2), task("own too")
    for end in (3, 9, 6):
        runs.owners.ask(WEB, first, end)
    runs.owners.ask(WEB, other, 1)
    runs.owners.ask(WEB, second, 5)
    await until(lambda: len(runs.answers) == 3)
    assert runs.asked == [(WEB, [first, second]), (WEB, [other])]
    assert runs.answers == [(WEB, first, True, 9), (WEB, second, True, 5), (WEB, other, True, 1)]


async def test_no_agent_delays_another() -> None:
    """One question of each agent at a time, and its own ones wait for it."""
    runs = Runs()
    runs.open.clear()
    runs.owners.ask(WEB, task("own slow"), 1)
    runs.owners.ask(WEB, task("own"), 1)
    runs.owners.ask(DB, task("own"), 1)
    await until(lambda: len(runs.answers) == 1)
    assert [agent for agent, *_ in runs.answers] == [DB]
    assert len(runs.asked) == 2
    runs.open.set()
    await until(lambda: len(runs.answers) == 3)


async def test_who_claims_foreign_attempts_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an agent costs one question in each pause, and others nothing."""
    monkeypatch.setattr(output_owners, "FOREIGN_PAUSE_S", 3600.0)
    runs = Runs()
    for number in range(5):
        runs.owners.ask(WEB, task(f"foreign {number}"), 7)
    runs.owners.ask(DB, task("own"), 1)
    await until(lambda: len(runs.answers) == 2)
    assert sorted(runs.answers) == sorted([(WEB, task("foreign 0"), False, 7), (DB, task("own"), True, 1)])
    assert len(runs.asked) == 2


async def test_without_an_answer_the_agent_has_to_send_again() -> None:
    """Nothing is kept, neither after an error nor beyond the bound."""
    runs = Runs()
    runs.is_away = True
    runs.owners.ask(WEB, task("own"), 1)
    await until(lambda: not runs.owners._waiting)
    assert runs.answers == []
    runs.is_away = False
    for number in range(output_owners.WAITING_MAX + 5):
        runs.owners.ask(WEB, task("own", number), 1)
    await until(lambda: not runs.owners._waiting)
    assert len(runs.answers) == output_owners.WAITING_MAX
