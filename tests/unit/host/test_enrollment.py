"""Enrollment: a token enrolls as many agents as it allows, a person approves the intended one, every answer is durable."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from waterflow_agent import join_token
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire import messages
from waterflowd.fleet import events
from waterflowd.host import driver as driver_module
from waterflowd.host.enrollment import PENDING_MAX, DaemonEndpoints
from waterflowd.model.ids import FLEET
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.testing.host import ONE_STEP, TWO_STEPS, HostWorld, agent_id, until

FULL = Retryable("WF302", "the disk is full")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "DISK_FULL_PAUSE_S", 0.0)


def ask(token: str = "", **changes: Any) -> messages.EnrollRequest:
    fields: dict[str, Any] = {
        "protocol": 1,
        "token": token,
        "name": "web",
        "groups": ["wanted"],
        "hostname": "host",
        "machine_id": "machine",
        "agent_version": "0",
    }
    return messages.EnrollRequest(**{**fields, **changes})


async def make_token(world: HostWorld, *, uses: int | None = 1, ttl_ms: int = 60_000) -> str:
    """Returns a token for group `web`, as the agent sends it."""
    world.enrollment.endpoints = DaemonEndpoints(
        work="tcp://127.0.0.1:7233", enroll="tcp://127.0.0.1:7234", server_key="x" * 40
    )
    return join_token.decode(await world.enrollment.create_token(("web",), ttl_ms, uses, "uid:0")).credential


async def test_a_token_lets_in_at_once_and_into_its_own_groups() -> None:
    """The groups come from the token, never from the agent's request; the fact is durable before the answer."""
    async with HostWorld() as world:
        answer = await world.enrollment.request("one", ask(await make_token(world)))
        assert (answer.state, answer.groups, answer.fingerprint) == ("approved", ["web"], agent_id("one"))
        assert world.enrollment.is_approved("one")
        assert isinstance(world.log.read(FLEET)[-1].event, events.AgentApproved)
        again = world.crashed()
        assert again.enrollment.is_approved("one")


async def test_a_token_for_one_lets_in_one_of_many_at_once() -> None:
    """Concurrent requests cannot use a single-use token twice."""
    async with HostWorld() as world:
        token = await make_token(world, uses=1)
        answers = await asyncio.gather(*(world.enrollment.request(f"key-{n}", ask(token)) for n in range(8)))
        assert sorted(answer.state for answer in answers) == ["approved"] + ["refused"] * 7
        assert len(world.registry.agents) == 1


async def test_one_key_that_asks_twice_at_once_is_approved_twice_by_one_use() -> None:
    """An agent that repeats its request is not refused because the first request used up the token."""
    async with HostWorld() as world:
        token = await make_token(world, uses=1)
        answers = await asyncio.gather(*(world.enrollment.request("one", ask(token)) for _ in range(3)))
        assert [answer.state for answer in answers] == ["approved"] * 3
        assert [entry.used for entry in world.registry.tokens.values()] == [1]


async def test_names_given_at_once_differ() -> None:
    """Two servers that both call themselves `web` get different names."""
    async with HostWorld() as world:
        token = await make_token(world, uses=None)
        await asyncio.gather(*(world.enrollment.request(f"key-{n}", ask(token)) for n in range(4)))
        assert sorted(entry.name for entry in world.registry.agents.values()) == ["web", "web-2", "web-3", "web-4"]


async def test_a_wrong_or_late_token_is_refused_with_a_sentence() -> None:
    """The key does not become pending, because it was meant to be enrolled by the token."""
    async with HostWorld() as world:
        token = await make_token(world, ttl_ms=5_000)
        world.clock.at += 5_000
        for text in (token, "nonsense", "x.y"):
            answer = await world.enrollment.request("one", ask(text))
            assert answer.state == "refused"
            assert "waterflowctl agents token" in answer.text
        assert world.enrollment.pending() == []


async def test_without_a_token_a_key_waits_for_a_person() -> None:
    """It may ask any number of times, and is told to retry until a person approves it for some groups."""
    async with HostWorld() as world:
        for _ in range(3):
            answer = await world.enrollment.request("one", ask())
            assert (answer.state, answer.after_ms > 0) == ("pending", True)
        assert [item.groups for item in world.enrollment.pending()] == [("wanted",)]
        await world.enrollment.approve(agent_id("one"), ("db",), "uid:0")
        assert world.enrollment.pending() == []
        answer = await world.enrollment.request("one", ask())
        assert (answer.state, answer.groups) == ("approved", ["db"])


async def test_those_that_wait_are_bounded() -> None:
    """Strangers can only displace each other, and their texts are truncated."""
    async with HostWorld() as world:
        for number in range(PENDING_MAX + 20):
            await world.enrollment.request(
                f"key-{number}", ask(name="n" * 999, groups=["g" * 999] * 99, hostname="h" * 999)
            )
        waiting = world.enrollment.pending()
        assert len(waiting) == PENDING_MAX
        assert waiting[-1].agent == agent_id(f"key-{PENDING_MAX + 19}")
        assert len(waiting[0].name) + len(waiting[0].hostname) + sum(map(len, waiting[0].groups)) < 2_000
        assert world.log.last_seq == 0


async def test_a_person_may_name_an_agent_by_fingerprint_its_beginning_or_name() -> None:
    """`SHA256:` is optional, and a prefix of the fingerprint has at least six characters."""
    async with HostWorld() as world:
        await world.enrollment.request("abcdefgh", ask())
        await world.enrollment.request("abcdefzz", ask())
        for text in (agent_id("abcdefgh"), "SHA256:abcdefg", "abcdefg"):
            assert world.enrollment.find(text) == agent_id("abcdefgh")
        for text in ("abcdef", "abcd", "", "SHA256:", "nobody", "*"):
            with pytest.raises(Rejected) as refused:
                world.enrollment.find(text)
            assert (refused.value.code, refused.value.status) == ("WF227", 404)
        await world.enrollment.approve("abcdefg", ("web",), "uid:0")
        name = world.registry.agents[agent_id("abcdefgh")].name
        await world.enrollment.revoke(name, "uid:0")
        assert not world.enrollment.is_approved("abcdefgh")


async def test_a_caller_that_goes_away_does_not_part_the_fact_from_the_registry() -> None:
    """The fact becomes durable, so the registry is updated even though the caller no longer waits for the answer."""
    async with HostWorld() as world:
        await world.enrollment.request("one", ask())
        world.log.hold()
        caller = asyncio.create_task(world.enrollment.approve(agent_id("one"), ("web",), "uid:0"))
        await until(lambda: bool(world.log._held))
        caller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await caller
        assert not world.enrollment.is_approved("one")
        world.log.release()
        await until(lambda: world.enrollment.is_approved("one"))
        assert world.enrollment.pending() == []


async def test_a_full_disk_lets_nobody_in() -> None:
    """The request fails, the registry does not know the key, and a retry with the same token succeeds."""
    async with HostWorld() as world:
        token = await make_token(world, uses=1)
        world.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await world.enrollment.request("one", ask(token))
        assert not world.enrollment.is_approved("one")
        assert (await world.enrollment.request("one", ask(token))).state == "approved"


async def test_a_revoked_key_does_not_come_back_by_a_token() -> None:
    """Not even a token with remaining uses enrolls it again: a person must approve it."""
    async with HostWorld() as world:
        token = await make_token(world, uses=None)
        await world.enrollment.request("one", ask(token))
        await world.enrollment.revoke(agent_id("one"), "uid:0")
        assert (await world.enrollment.request("one", ask(token))).state == "pending"
        await world.enrollment.approve(agent_id("one"), ("web",), "uid:0")
        assert (await world.enrollment.request("one", ask(token))).state == "approved"


async def test_revoking_a_key_that_waits_forgets_it() -> None:
    """The key was never an agent, so nothing is recorded."""
    async with HostWorld() as world:
        await world.enrollment.request("one", ask())
        await world.enrollment.revoke(agent_id("one"), "uid:0")
        assert world.enrollment.pending() == []
        assert world.log.last_seq == 0


async def test_what_runs_on_a_revoked_server_is_lost_at_once() -> None:
    """Its session is closed, its attempts are lost, and the daemon continues, also with steps that waited for the server."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "web")
        world.hello(agent, slots=1)
        first, second = await world.start(TWO_STEPS), await world.start(ONE_STEP)
        await world.enrollment.revoke("web-1", "uid:0")
        assert world.link.revoked == [agent]
        await until(lambda: (row := world.log.run(first.id)) is not None and row.status is Status.COMPLETED)
        row = world.log.run(first.id)
        assert row is not None
        assert row.conclusion is Conclusion.LOST
        await world.settle()
        waiting = world.world.runs[second.id].jobs[0].reason
        assert waiting.code.value == "no-server-in-group"
        assert world.is_alive


async def test_an_agent_moved_to_another_group_serves_that_one() -> None:
    """Approving an agent again moves it, and waiting requests of both groups are notified."""
    async with HostWorld() as world:
        agent = world.enroll("web-1", "db")
        world.hello(agent)
        summary = await world.start(ONE_STEP)
        await world.settle()
        assert world.world.runs[summary.id].jobs[0].reason.code.value == "no-server-in-group"
        await world.enrollment.approve("web-1", ("web",), "uid:0")
        await until(lambda: bool(world.link.offers()))


@pytest.mark.parametrize(
    ("ttl_ms", "uses"), [(999, 1), (31 * 86_400_000, 1), (60_000, 0), (60_000, -1), (60_000, 1 << 70)]
)
async def test_tokens_that_cannot_be_are_refused(ttl_ms: int, uses: int) -> None:
    """Values outside the limits are the caller's error."""
    async with HostWorld() as world:
        with pytest.raises(Rejected):
            await world.enrollment.create_token(("web",), ttl_ms, uses, "uid:0")
        assert world.is_alive
