"""A key belongs to one machine, installation and boot; others with the key are refused until a person accepts them."""

from __future__ import annotations

from typing import Any

import pytest

from waterflow_agent.attempts import Outcome
from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import AttemptState, HeldAttempt
from waterflowd.fleet import events
from waterflowd.fleet.server_keys import ServerKey, agents_behind
from waterflowd.host.agents.identities import LABELS_LENGTH_MAX, REFUSED_MS, AgentIdentities
from waterflowd.model.ids import FLEET, AgentId
from waterflowd.testing.host import ONE_STEP, HostHarness

RETRIED = "jobs: {a: {runs-on: web, retry: {max-attempts: 2, on: [lost]}, steps: [{run: work}]}}"


def identities_of(host: HostHarness, server_key: str = "") -> AgentIdentities:
    return AgentIdentities(host.registry, host.state.placement, host.fleet, host.clock, server_key)


def hello(**changes: Any) -> messages.Hello:
    fields: dict[str, Any] = {
        "session": "0" * 32,
        "protocol": 1,
        "protocol_min": 1,
        "agent_version": "0",
        "instance": "instance-1",
        "machine_id": "machine-1",
        "boot_id": "boot-1",
        "slots": 4,
        "hostname": "host",
        "os": "linux",
        "arch": "x86_64",
        "labels": {},
        "nodes": [],
        "held": [],
        "installation": "installation-1",
    }
    return messages.Hello(**{**fields, **changes})


async def known(host: HostHarness) -> tuple[AgentIdentities, AgentId]:
    """Returns the identities, with an agent that has had a session."""
    agent = host.enroll("web-1", "web")
    identities = identities_of(host)
    assert identities.identify(agent, hello()) == ""
    await host.settle()
    return identities, agent


async def test_the_first_session_decides_and_the_log_remembers() -> None:
    """After a restart the same machine and installation are accepted, and nothing is recorded again."""
    async with HostHarness() as host:
        _, agent = await known(host)
        identified = [record.event for record in host.log.read(FLEET)]
    async with host.crashed() as again:
        again.enroll("web-1", "web")
        for fact in identified:
            again.registry.apply(fact)
        assert identities_of(again).identify(agent, hello(instance="instance-2")) == ""
        await again.settle()
        assert [record.event for record in again.log.read(FLEET)] == identified


async def test_labels_are_recorded_when_they_have_changed() -> None:
    """So daemons without a session of the agent know them too. Labels that are too long are not recorded."""
    async with HostHarness() as host:
        identities, agent = await known(host)
        labelled = hello(labels={"gpu": "a100"})
        for each in (labelled, labelled, hello(labels={"gpu": "x" * LABELS_LENGTH_MAX})):
            assert identities.identify(agent, each) == ""
            await host.settle()
            if each is labelled:
                assert host.registry.agents[agent].labels == {"gpu": "a100"}
        recorded = [record.event for record in host.log.read(FLEET)]
        found = [fact.labels for fact in recorded if isinstance(fact, events.AgentIdentified)]
        assert found == [{}, {"gpu": "a100"}, {}]
        assert host.registry.agents[agent].past_boots == ()


@pytest.mark.parametrize("changes", [{"machine_id": "machine-2"}, {"installation": "installation-2"}])
async def test_another_machine_or_installation_is_refused(changes: dict[str, str]) -> None:
    """Whether or not the agent is connected; its alarm disappears when the clone has not tried for a while."""
    async with HostHarness() as host:
        identities, agent = await known(host)

        text = identities.identify(agent, hello(**changes))

        assert "waterflowctl agents accept web-1" in text
        assert identities.refused(agent) is not None
        assert identities.identify(agent, hello()) == "", "the original is still accepted"
        host.clock.at += REFUSED_MS + 1
        assert identities.refused(agent) is None


async def test_the_machine_of_the_enrollment_counts() -> None:
    """A data directory that was copied between enrollment and first session is refused."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        host.registry.agents[agent].machine_id = "machine-0"

        assert "another machine" in identities_of(host).identify(agent, hello())


async def test_a_reboot_is_accepted_and_recorded() -> None:
    """The boot that was before it cannot come back: then the machine was cloned."""
    async with HostHarness() as host:
        identities, agent = await known(host)
        host.clock.at += 1_000

        assert identities.identify(agent, hello(boot_id="boot-2")) == ""

        entry = host.registry.agents[agent]
        assert (entry.boot_id, entry.boot_changed_at) == ("boot-2", host.clock.at)
        assert "cloned or set back" in identities.identify(agent, hello(boot_id="boot-1"))


async def test_other_groups_do_not_change_the_identity() -> None:
    """A repeated approval keeps what the key belongs to."""
    async with HostHarness() as host:
        identities, agent = await known(host)
        entry = host.registry.agents[agent]
        fact = events.AgentApproved(
            at=host.clock.at, by="ada", agent=agent, public_key=entry.public_key, name="web-1", groups=("db",)
        )

        host.registry.apply(fact)

        assert identities.identify(agent, hello(installation="installation-2")) != ""


async def test_a_person_accepts_the_refused_server() -> None:
    """From then on the former server is the one that is refused."""
    async with HostHarness() as host:
        identities, agent = await known(host)
        with pytest.raises(Rejected, match="no other server"):
            await identities.accept(agent, "ada")
        copy = hello(machine_id="machine-2", installation="installation-2", boot_id="boot-9")
        assert identities.identify(agent, copy) != ""

        await identities.accept(agent, "ada")

        assert identities.refused(agent) is None
        assert identities.identify(agent, copy) == ""
        assert identities.identify(agent, hello()) != ""


async def test_a_clone_of_a_connected_agent_is_not_accepted() -> None:
    """Two servers would share one key."""
    async with HostHarness() as host:
        identities, agent = await known(host)
        host.hello(agent)
        identities.clone_found(agent, hello())

        with pytest.raises(Rejected, match="stop that agent first"):
            await identities.accept(agent, "ada")


@pytest.mark.parametrize("workflow", [ONE_STEP, RETRIED])
@pytest.mark.parametrize("held", [None, AttemptState.FINISHED])
async def test_attempts_of_the_former_server_are_lost_when_their_lease_has_ended(
    workflow: str, held: AttemptState | None
) -> None:
    """The new server knows nothing about them, even if its copied journal claims so; it is not offered them either."""
    async with HostHarness() as host:
        identities, agent = await known(host)
        host.hello(agent)
        summary = await host.start(workflow)
        (key,) = host.link.offers()
        host.link.take()
        host.agents.disconnected(agent, "cut")
        host.clock.at += 1_000
        identities.identify(agent, hello(installation="installation-2"))
        await identities.accept(agent, "ada")

        host.hello(agent, held=[HeldAttempt(key, held)] if held else [])
        await host.settle()
        if held:
            host.finished(agent, key, outcome=Outcome.LOST)
        await host.settle()

        assert host.link.offers() == []
        assert ("AttemptFinished" in host.kinds(summary.id)) == (workflow == ONE_STEP)
        assert (key in host.agents._doubtful) == (workflow == RETRIED)


def new_key(created_at: int) -> ServerKey:
    return ServerKey(fingerprint="SHA256:new", created_at=created_at, accepted_until=0)


async def test_an_agent_has_followed_a_rotation_when_it_connects_with_the_new_key() -> None:
    """The fact is recorded once, survives a restart, and is not changed by an approval for other groups."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        assert identities_of(host, "SHA256:old").identify(agent, hello()) == ""
        await host.settle()
        created_at = host.clock.now() + 1
        await host.advance(10)
        assert [entry.name for entry in agents_behind(host.registry, new_key(created_at))] == ["web-1"]

        for _ in range(3):
            assert identities_of(host, "SHA256:new").identify(agent, hello()) == ""
        await host.settle()

        assert agents_behind(host.registry, new_key(created_at)) == []
        await host.enrollment.approve(agent, ("db",), "alice")
        recorded = [record.event for record in host.log.read(FLEET)]
    assert [event.server_key for event in recorded if isinstance(event, events.AgentIdentified)] == [
        "SHA256:old",
        "SHA256:new",
    ]
    async with host.crashed() as again:
        assert agents_behind(again.registry, new_key(created_at)) == []


async def test_an_agent_enrolled_after_a_rotation_has_the_new_key() -> None:
    """It has not connected yet, and got the key with the enrollment. One that was enrolled before has not followed yet."""
    async with HostHarness() as host:
        host.enroll("before", "web")
        await host.advance(10)
        created_at = host.clock.now()
        await host.advance(10)
        host.enroll("after", "web")

        assert [entry.name for entry in agents_behind(host.registry, new_key(created_at))] == ["before"]


async def test_another_daemon_was_faster_to_let_a_server_use_the_key() -> None:
    """What is recorded of a session is decided again: if the key belongs to another server by then, the session ends."""
    async with HostHarness() as host:
        agent = host.enroll("web-1", "web")
        writer = _SlowWriter()
        identities = AgentIdentities(host.registry, host.state.placement, writer, host.clock)
        ended: list[tuple[AgentId, str]] = []
        identities.on_foreign = lambda agent, text: ended.append((agent, text))
        assert identities.identify(agent, hello()) == ""
        host.registry.apply(
            events.AgentIdentified(
                at=1, by="waterflowd", agent=agent, machine_id="machine-2", installation="i", boot_id="b"
            )
        )
        [decide] = writer.decisions
        assert decide() == []
        [(name, text)] = ended
        assert name == agent
        assert "comes from another machine" in text
        assert identities.refused(agent) is not None


class _SlowWriter:
    """A writer of a stream that others write too: what is kept is decided later."""

    def __init__(self) -> None:
        self.decisions: list[Any] = []

    async def append(self, decide: Any) -> None:
        """See `ports.StreamWriter`."""
        self.decisions.append(decide)

    def keep(self, decide: Any) -> None:
        """See `ports.StreamWriter`."""
        self.decisions.append(decide)
