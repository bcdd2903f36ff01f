"""Enrollment: a token approves as many agents as it has uses, a person approves chosen ones, and every answer is durable."""

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
from waterflowd.host.agents import enrollment as enrollment_module
from waterflowd.host.agents.enrollment import PENDING_MAX, DaemonEndpoints
from waterflowd.model.ids import FLEET
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, TWO_STEPS, HostHarness, agent_id

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


async def make_token(host: HostHarness, *, uses: int | None = 1, ttl_ms: int = 60_000) -> str:
    """A token for group `web`, as the agent sends it."""
    host.enrollment.endpoints = DaemonEndpoints(
        work="tcp://127.0.0.1:7233", enroll="tcp://127.0.0.1:7234", server_key="x" * 40
    )
    return join_token.decode(await host.enrollment.create_token(("web",), ttl_ms, uses, "uid:0")).credential


async def test_a_token_approves_at_once_for_its_own_groups() -> None:
    """The groups are the token's, never those that the agent requests; the fact is durable before the answer."""
    async with HostHarness() as host:
        answer = await host.enrollment.request("one", ask(await make_token(host)))
        assert (answer.state, answer.groups, answer.fingerprint) == ("approved", ["web"], agent_id("one"))
        assert host.enrollment.is_approved("one")
        assert isinstance(host.log.read(FLEET)[-1].event, events.AgentApproved)
        again = host.crashed()
        assert again.enrollment.is_approved("one")


async def test_a_token_with_one_use_approves_one_of_many_concurrent_requests() -> None:
    """Concurrent requests cannot use it twice."""
    async with HostHarness() as host:
        token = await make_token(host, uses=1)
        answers = await asyncio.gather(*(host.enrollment.request(f"key-{n}", ask(token)) for n in range(8)))
        assert sorted(answer.state for answer in answers) == ["approved"] + ["refused"] * 7
        assert len(host.registry.agents) == 1


async def test_an_approval_says_whether_its_token_lets_more_agents_in() -> None:
    """Also a repeated one, whose first answer was lost; a wrong secret says nothing about a token."""
    async with HostHarness() as host:
        token = await make_token(host, uses=2)
        answers = [await host.enrollment.request(key, ask(token)) for key in ("one", "two", "one")]
        assert [(answer.state, answer.is_token_spent) for answer in answers] == [
            ("approved", False),
            ("approved", True),
            ("approved", True),
        ]
        guessed = await host.enrollment.request("one", ask(token.partition(".")[0] + ".guess"))
        assert (guessed.state, guessed.is_token_spent) == ("approved", False)


async def test_a_repeated_request_of_one_key_uses_a_token_once() -> None:
    """An agent that repeats its request is not refused because its first request used up the token."""
    async with HostHarness() as host:
        token = await make_token(host, uses=1)
        answers = await asyncio.gather(*(host.enrollment.request("one", ask(token)) for _ in range(3)))
        assert [answer.state for answer in answers] == ["approved"] * 3
        assert [entry.used for entry in host.registry.tokens.values()] == [1]


async def test_concurrent_agents_get_different_names() -> None:
    """Two servers that both call themselves `web` can be told apart."""
    async with HostHarness() as host:
        token = await make_token(host, uses=None)
        await asyncio.gather(*(host.enrollment.request(f"key-{n}", ask(token)) for n in range(4)))
        assert sorted(entry.name for entry in host.registry.agents.values()) == ["web", "web-2", "web-3", "web-4"]


async def test_an_invalid_or_expired_token_is_refused_with_a_message() -> None:
    """The agent does not become pending, because it was meant to be enrolled by the token."""
    async with HostHarness() as host:
        token = await make_token(host, ttl_ms=5_000)
        host.clock.at += 5_000
        for text in (token, "nonsense", "x.y"):
            answer = await host.enrollment.request("one", ask(text))
            assert answer.state == "refused"
            assert "waterflowctl agents tokens create" in answer.text
        assert host.enrollment.pending() == []


async def test_a_revoked_token_enrolls_nobody() -> None:
    """Also after a restart; the agents that it has enrolled stay, and revoking it again changes nothing."""
    async with HostHarness() as host:
        token = await make_token(host, uses=None)
        assert (await host.enrollment.request("one", ask(token))).state == "approved"
        (row,) = host.enrollment.tokens()
        assert (row.used, row.is_valid(host.clock.now())) == (1, True)
        for _ in range(2):
            revoked = await host.enrollment.revoke_token(row.token, "uid:0")
            assert not revoked.is_valid(host.clock.now())
        assert [type(record.event).__name__ for record in host.log.read(FLEET)] == [
            "JoinTokenCreated",
            "AgentApproved",
            "JoinTokenRevoked",
        ]
        again = host.crashed()
        for other in (host, again):
            assert other.enrollment.is_approved("one")
        answer = await host.enrollment.request("two", ask(token))
        assert (answer.state, "has been revoked" in answer.text) == ("refused", True)
        assert again.enrollment.tokens()[0].revoked_at is not None
        with pytest.raises(Rejected) as unknown:
            await host.enrollment.revoke_token("nothing", "uid:0")
        assert unknown.value.status == 404


async def test_valid_join_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked or used one makes room."""
    monkeypatch.setattr(enrollment_module, "TOKENS_MAX", 2)
    async with HostHarness() as host:
        first = await make_token(host)
        await make_token(host)
        with pytest.raises(Rejected, match="WF609"):
            await make_token(host)
        await host.enrollment.request("one", ask(first))
        await make_token(host)


async def test_without_a_token_an_agent_waits_for_approval() -> None:
    """It may ask repeatedly, and gets `pending` until a person approves it for some groups."""
    async with HostHarness() as host:
        for _ in range(3):
            answer = await host.enrollment.request("one", ask())
            assert (answer.state, answer.after_ms > 0) == ("pending", True)
        assert [item.groups for item in host.enrollment.pending()] == [("wanted",)]
        await host.enrollment.approve(agent_id("one"), ("db",), "uid:0")
        assert host.enrollment.pending() == []
        answer = await host.enrollment.request("one", ask())
        assert (answer.state, answer.groups) == ("approved", ["db"])


async def test_pending_agents_are_bounded() -> None:
    """New requests can only push out older pending ones; texts are shortened."""
    async with HostHarness() as host:
        for number in range(PENDING_MAX + 20):
            await host.enrollment.request(
                f"key-{number}", ask(name="n" * 999, groups=["g" * 999] * 99, hostname="h" * 999)
            )
        waiting = host.enrollment.pending()
        assert len(waiting) == PENDING_MAX
        assert waiting[-1].agent == agent_id(f"key-{PENDING_MAX + 19}")
        assert len(waiting[0].name) + len(waiting[0].hostname) + sum(map(len, waiting[0].groups)) < 2_000
        assert host.log.last_seq == 0


async def test_an_agent_is_administered_by_its_whole_fingerprint() -> None:
    """Neither a name nor a prefix is enough here: the API finds the agent that a person names."""
    async with HostHarness() as host:
        await host.enrollment.request("abcdefgh", ask(name="web-1"))
        for text in ("SHA256:abcdefgh", "abcdefgh", "web-1", "", "SHA256:", "*"):
            with pytest.raises(Rejected) as refused:
                await host.enrollment.approve(text, ("web",), "uid:0")
            assert (refused.value.code, refused.value.status) == ("WF227", 404)
        await host.enrollment.approve(agent_id("abcdefgh"), ("web",), "uid:0")
        with pytest.raises(Rejected, match="WF227"):
            await host.enrollment.revoke("web-1", "uid:0")
        await host.enrollment.revoke(agent_id("abcdefgh"), "uid:0")
        assert not host.enrollment.is_approved("abcdefgh")


@pytest.mark.parametrize("name", ["SHA256:abcdefgh", "sha256-abcdefgh", " SHA-256:a", "A" * 43, "b/+" * 14 + "c="])
async def test_a_name_that_looks_like_a_fingerprint_is_refused(name: str) -> None:
    """Otherwise a person who reads the list of pending agents could take it for another agent's fingerprint."""
    async with HostHarness() as host:
        token = await make_token(host)
        for fields in ({"name": name}, {"name": "", "hostname": name}):
            for text in ("", token):
                answer = await host.enrollment.request("one", ask(text, **fields))
                assert answer.state == "refused"
                assert "looks like a fingerprint; set `name` of the agent" in answer.text
        assert host.enrollment.pending() == []
        assert not host.enrollment.is_approved("one")


async def test_a_cancelled_caller_does_not_separate_the_fact_from_the_registry() -> None:
    """The fact becomes durable, so the registry applies it although the caller no longer waits for the answer."""
    async with HostHarness() as host:
        await host.enrollment.request("one", ask())
        host.log.hold()
        caller = asyncio.create_task(host.enrollment.approve(agent_id("one"), ("web",), "uid:0"))
        await until(lambda: bool(host.log._held))
        caller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await caller
        assert not host.enrollment.is_approved("one")
        host.log.release()
        await until(lambda: host.enrollment.is_approved("one"))
        assert host.enrollment.pending() == []


async def test_a_full_disk_approves_nothing() -> None:
    """The request fails, the registry does not know the key, and a second request works with the same token."""
    async with HostHarness() as host:
        token = await make_token(host, uses=1)
        host.log.fail_next(FULL)
        with pytest.raises(Retryable):
            await host.enrollment.request("one", ask(token))
        assert not host.enrollment.is_approved("one")
        assert (await host.enrollment.request("one", ask(token))).state == "approved"


async def test_a_token_does_not_enroll_a_revoked_key_again() -> None:
    """Not even a token with remaining uses enrolls it again: a person must approve it."""
    async with HostHarness() as host:
        token = await make_token(host, uses=None)
        await host.enrollment.request("one", ask(token))
        await host.enrollment.revoke(agent_id("one"), "uid:0")
        assert (await host.enrollment.request("one", ask(token))).state == "pending"
        await host.enrollment.approve(agent_id("one"), ("web",), "uid:0")
        assert (await host.enrollment.request("one", ask(token))).state == "approved"


async def test_revoking_a_pending_agent_drops_its_request() -> None:
    """It was never an agent, so nothing is recorded."""
    async with HostHarness() as host:
        await host.enrollment.request("one", ask())
        await host.enrollment.revoke(agent_id("one"), "uid:0")
        assert host.enrollment.pending() == []
        assert host.log.last_seq == 0


async def test_attempts_on_a_revoked_server_are_lost_at_once() -> None:
    """Its session is closed, its attempts are lost, and steps that wait for the server end too."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.hello(agent, slots=1)
        first, second = await host.start(TWO_STEPS), await host.start(ONE_STEP)
        await host.enrollment.revoke(agent, "uid:0")
        assert host.link.revoked == [agent]
        await until(lambda: (row := host.log.run(first.id)) is not None and row.status is Status.COMPLETED)
        row = host.log.run(first.id)
        assert row is not None
        assert row.conclusion is Conclusion.LOST
        await host.settle()
        waiting = host.state.runs[second.id].jobs[0].reason
        assert waiting.code.value == "no-server-in-group"
        assert host.is_alive


async def test_an_agent_moved_to_another_group_serves_that_one() -> None:
    """A second approval changes its groups; waiting attempts of both groups are reconsidered."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "db")
        host.hello(agent)
        summary = await host.start(ONE_STEP)
        await host.settle()
        assert host.state.runs[summary.id].jobs[0].reason.code.value == "no-server-in-group"
        await host.enrollment.approve(agent, ("web",), "uid:0")
        await until(lambda: bool(host.link.offers()))


@pytest.mark.parametrize(
    ("ttl_ms", "uses"), [(999, 1), (31 * 86_400_000, 1), (60_000, 0), (60_000, -1), (60_000, 1 << 70)]
)
async def test_invalid_tokens_are_refused(ttl_ms: int, uses: int) -> None:
    """A value outside the limits is the caller's error."""
    async with HostHarness() as host:
        with pytest.raises(Rejected):
            await host.enrollment.create_token(("web",), ttl_ms, uses, "uid:0")
        assert host.is_alive
