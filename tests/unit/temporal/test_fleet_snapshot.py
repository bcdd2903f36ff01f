"""A snapshot of the stream `fleet` says the same about agents and tokens as all facts before it."""

from __future__ import annotations

import random

import pytest

from waterflowd.access.events import TokenCreated, TokenRevoked
from waterflowd.access.tokens import TokenRegistry
from waterflowd.fleet import events
from waterflowd.fleet.registry import Enrolled, Registry
from waterflowd.model.ids import AgentId
from waterflowd.temporal.shared_streams.fleet_snapshot import (
    BOOTS_MAX,
    ENDED_MS,
    REQUEST_MS,
    AgentRequested,
    FleetStreamFact,
    kept,
)

NOW = 10 * ENDED_MS


def fact(dice: random.Random, at: int, registry: Registry) -> FleetStreamFact | None:
    """A fact that may be recorded at this point; None if this choice is impossible."""
    agent = AgentId(f"SHA256:{dice.randrange(4)}")
    match dice.randrange(12):
        case 0:
            tokens = [name for name, token in registry.tokens.items() if token.is_valid(at)]
            token = dice.choice(tokens) if tokens and dice.random() < 0.5 and agent not in registry.agents else None
            return events.AgentApproved(
                at=at,
                by="ada",
                agent=agent,
                public_key=agent,
                name=agent,
                groups=(dice.choice("abc"),),
                machine_id=dice.choice("mn"),
                token=token,
            )
        case 1 | 2:
            if agent not in registry.agents:
                return None
            accepted = dice.random() < 0.2
            machine = dice.choice("mn") if accepted else registry.agents[agent].machine_id
            boot = f"boot-{dice.randrange(5)}"
            return events.AgentIdentified(
                at=at,
                by="x",
                agent=agent,
                machine_id=machine,
                installation="i",
                boot_id=boot,
                is_accepted=accepted,
                labels=None if accepted else {"number": str(dice.randrange(3))},
            )
        case 3:
            revoked = events.AgentRevoked(at=at, by="ada", agent=agent, name="web")
            return revoked if agent in registry.agents else None
        case 4:
            token, ends_at = f"join-{at}", at + dice.randrange(2 * NOW)
            return events.JoinTokenCreated(
                at=at, by="a", token=token, secret_sha256=token, groups=("a",), expires_at=ends_at, uses=5
            )
        case 5:
            return events.JoinTokenRevoked(at=at, by="a", token=dice.choice([*registry.tokens, "forgotten"]))
        case 6:
            token = f"api-{at}"
            return TokenCreated(at=at, by="a", token=token, name=token, role="viewer", secret_sha256=token)
        case 7 if agent in registry.agents:
            return events.AgentDrained(at=at, by=dice.choice("ab"), agent=agent)
        case 8 if agent in registry.agents:
            return events.AgentUndrained(at=at, by="a", agent=agent)
        case 9 if agent in registry.agents:
            return events.AgentGroupsSet(at=at, by="a", agent=agent, groups=(dice.choice("xyz"),))
        case 10 if agent in registry.agents or agent in registry.revoked:
            return events.AgentRemoved(at=at, by="a", agent=agent)
        case _:
            return TokenRevoked(at=at, by="a", token=f"api-{at - dice.randrange(20)}")


def folded(facts: list[FleetStreamFact]) -> tuple[Registry, TokenRegistry]:
    """What a daemon knows."""
    registry, tokens = Registry(), TokenRegistry()
    for item in facts:
        if isinstance(item, TokenCreated | TokenRevoked):
            tokens.apply(item)
        elif not isinstance(item, AgentRequested):
            registry.apply(item)
    return registry, tokens


def without_boots(entry: Enrolled) -> list[object]:
    """An agent, except for its earlier boots and the times of changes."""
    return [
        entry.agent,
        entry.public_key,
        entry.groups,
        entry.machine_id,
        entry.installation,
        entry.boot_id,
        entry.accepted_at,
        entry.approved_at,
        entry.labels,
        entry.drained_at,
        entry.drained_by,
    ]


@pytest.mark.parametrize("seed", range(30))
def test_a_snapshot_says_the_same(seed: int) -> None:
    """Agents with their machines, revoked keys, and valid tokens with their uses are the same; so is a snapshot of one."""
    dice = random.Random(seed)
    facts: list[FleetStreamFact] = []
    for number in range(200):
        item = fact(dice, NOW - 200 + number, folded(facts)[0])
        if item is not None:
            facts.append(item)
    before, tokens = folded(facts)
    snapshot = [facts[index] for index in kept(facts, NOW)]
    assert len(snapshot) < len(facts)
    for again in (snapshot, [snapshot[index] for index in kept(snapshot, NOW)]):
        after, tokens_after = folded(again)
        assert list(map(without_boots, sorted(after.agents.values(), key=lambda entry: entry.agent))) == list(
            map(without_boots, sorted(before.agents.values(), key=lambda entry: entry.agent))
        )
        assert after.revoked == before.revoked
        for entry in after.agents.values():
            assert set(entry.past_boots) <= set(before.agents[entry.agent].past_boots)
        valid = {name: token for name, token in before.tokens.items() if token.is_valid(NOW)}
        assert {name: token for name, token in after.tokens.items() if token.is_valid(NOW)} == valid
        assert [token for token in tokens_after.tokens() if token.is_valid(NOW)] == [
            token for token in tokens.tokens() if token.is_valid(NOW)
        ]


def test_the_newest_boots_are_remembered() -> None:
    """Who comes back with one of them is a clone."""
    agent = AgentId("SHA256:1")
    facts: list[FleetStreamFact] = [
        events.AgentApproved(at=0, by="ada", agent=agent, public_key="k", name="n", groups=("web",)),
        *(
            events.AgentIdentified(
                at=number, by="x", agent=agent, machine_id="m", installation="i", boot_id=f"boot-{number}"
            )
            for number in range(20)
        ),
    ]
    registry, _ = folded([facts[index] for index in kept(facts, NOW)])
    assert registry.agents[agent].boot_id == "boot-19"
    assert registry.agents[agent].past_boots == tuple(f"boot-{number}" for number in range(20 - BOOTS_MAX, 19))


def test_what_is_forgotten() -> None:
    """Tokens that ended long ago, and requests that are old or were decided."""
    agent = AgentId("SHA256:1")
    request = AgentRequested(
        at=NOW, by=agent, agent=agent, public_key="k", name="n", groups=(), hostname="h", machine_id="m"
    )
    approval = events.AgentApproved(at=NOW, by="ada", agent=agent, public_key="k", name="n", groups=("web",))
    made = TokenCreated(at=1, by="a", token="t", name="t", role="viewer", secret_sha256="s", expires_at=2)
    assert kept([request], NOW) == [0]
    assert kept([request], NOW + REQUEST_MS + 1) == []
    assert kept([request, approval], NOW) == [1]
    assert kept([made], ENDED_MS) == [0]
    assert kept([made], ENDED_MS + 2) == []
