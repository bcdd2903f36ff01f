"""The registry: which agents are enrolled, in which groups, and which of them a join token enrolls."""

from __future__ import annotations

import hashlib

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.fleet import events
from waterflowd.fleet.registry import GROUPS_MAX, Registry, check_groups, free_name
from waterflowd.model.ids import AgentId

SECRET = "s3cret"


def token(name: str = "t", *, expires_at: int = 100, uses: int | None = None) -> events.JoinTokenCreated:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    return events.JoinTokenCreated(
        at=1, by="test", token=name, secret_sha256=digest, groups=("web",), expires_at=expires_at, uses=uses
    )


def approval(
    agent: str, *groups: str, name: str = "", by_token: str | None = None, key: str = ""
) -> events.AgentApproved:
    return events.AgentApproved(
        at=1,
        by="test",
        agent=AgentId(agent),
        public_key=key or f"key-{agent}",
        name=name or agent,
        groups=groups or ("web",),
        token=by_token,
    )


def fold(*facts: events.Fact) -> Registry:
    registry = Registry()
    for fact in facts:
        registry.apply(fact)
    return registry


def test_a_token_is_valid_until_it_expires() -> None:
    """The token is valid until the instant before it expires."""
    registry = fold(token(expires_at=100))
    assert registry.check_token(f"t.{SECRET}", 99).groups == ("web",)
    with pytest.raises(Rejected, match="expired"):
        registry.check_token(f"t.{SECRET}", 100)


def test_a_tokens_uses_are_the_approvals_that_name_it() -> None:
    """A token with two uses enrolls two agents; approvals by another token or by a person do not count."""
    registry = fold(token(uses=2), approval("a", by_token="t"), approval("b"), approval("c", by_token="other"))
    registry.check_token(f"t.{SECRET}", 1)
    registry.apply(approval("d", by_token="t"))
    with pytest.raises(Rejected, match="used up"):
        registry.check_token(f"t.{SECRET}", 1)


def test_a_token_without_a_number_of_uses_is_never_used_up() -> None:
    """Such a token enrolls any number of agents until it expires."""
    registry = fold(token(uses=None), *(approval(str(number), by_token="t") for number in range(50)))
    registry.check_token(f"t.{SECRET}", 1)


@pytest.mark.parametrize(
    "text", ["t.wrong", "t.", "t", "", ".", f"other.{SECRET}", f".{SECRET}", f"t.{SECRET} ", "t.é\x00"]
)
def test_a_wrong_secret_and_an_unknown_name_get_the_same_answer(text: str) -> None:
    """Unknown names and wrong secrets get the same answer, so that they cannot be told apart."""
    with pytest.raises(Rejected, match="not known here") as refused:
        fold(token()).check_token(text, 1)
    assert refused.value.code == "WF224"


def test_a_revoked_agent_has_no_groups_and_its_key_is_unknown() -> None:
    """A revoked agent has no groups and its key is unknown until it is approved again; revoking twice does no harm."""
    registry = fold(approval("a", "web", "db"), events.AgentRevoked(at=2, by="test", agent=AgentId("a")))
    registry.apply(events.AgentRevoked(at=3, by="test", agent=AgentId("a")))
    assert registry.agents == {}
    assert registry.groups == {}
    assert registry.agent_of_key("key-a") is None
    assert list(registry.revoked) == ["a"]
    registry.apply(approval("a", "web"))
    assert registry.agent_of_key("key-a") == "a"
    assert registry.revoked == {}


def test_an_approval_replaces_name_groups_and_key() -> None:
    """The agent leaves its old groups, and its old key is no longer valid."""
    registry = fold(approval("a", "web", "db"), approval("a", "db", "mail", name="new", key="key-2"))
    assert sorted(registry.groups) == ["db", "mail"]
    assert list(registry.group("db")) == ["a"]
    assert list(registry.group("web")) == []
    assert registry.agents[AgentId("a")].name == "new"
    assert registry.agent_of_key("key-a") is None
    assert registry.agent_of_key("key-2") == "a"


def test_the_fold_is_the_same_for_every_order_of_unrelated_facts() -> None:
    """Agents do not depend on each other."""
    one = fold(approval("a", "web"), approval("b", "web"), token())
    two = fold(token(), approval("b", "web"), approval("a", "web"))
    assert one.agents == two.agents
    assert one.tokens == two.tokens
    assert set(one.group("web")) == set(two.group("web"))


def test_groups_are_named_once_each() -> None:
    """Duplicates are removed, and the order is kept."""
    assert check_groups(("web", "db", "web")) == ("web", "db")


@pytest.mark.parametrize(
    "groups",
    [
        (),
        ("",),
        ("all-servers",),
        ("-web",),
        ("we b",),
        ("web/1",),
        ("wéb",),
        ("x" * 65,),
        ("web\n",),
        tuple(f"g{number}" for number in range(GROUPS_MAX + 1)),
    ],
)
def test_invalid_groups_are_refused(groups: tuple[str, ...]) -> None:
    """An empty list, too many groups, the built-in group and invalid names are refused."""
    with pytest.raises(Rejected) as refused:
        check_groups(groups)
    assert refused.value.code == "WF225"


def test_names_are_unique_and_plain() -> None:
    """A taken name gets a number; an agent keeps its own; unsafe characters are removed, and an empty name becomes `agent`."""
    registry = fold(approval("a", name="web"), approval("b", name="web-2"))
    assert free_name("web", AgentId("c"), registry) == "web-3"
    assert free_name("web", AgentId("a"), registry) == "web"
    assert free_name("wéb 1/x\x1b[31m", AgentId("c"), registry) == "w-b-1-x--31m"
    assert free_name("", AgentId("c"), registry) == "agent"
    assert free_name("-._", AgentId("c"), registry) == "agent"
    assert len(free_name("x" * 500, AgentId("c"), registry)) == 48
