"""Which of the server's keys an agent uses, and what may change them."""

from __future__ import annotations

import zmq

from waterflow_agent.session.server_keys import ServerKeys
from waterflow_agent.wire.messages import KeyRotated, OldServerKey


def public() -> str:
    return zmq.curve_keypair()[0].decode()


FIRST, SECOND, THIRD, STRANGE = public(), public(), public(), public()


class Agent:
    """The keys of an agent, its clock and its file."""

    def __init__(self, current: str, *old: OldServerKey) -> None:
        self.now = 1_000
        self.stored: list[tuple[str, list[OldServerKey]]] = []
        self.is_disk_full = False
        self.keys = ServerKeys(current, old, wall_ms=lambda: self.now, store=self._store)

    def _store(self, current: str, old: list[OldServerKey]) -> None:
        if self.is_disk_full:
            raise OSError("no space left on device")
        self.stored.append((current, old))

    def choices(self, count: int) -> list[str]:
        """The keys of so many connections whose server does not prove them."""
        found = []
        for _ in range(count):
            found.append(self.keys.choose())
            self.keys.was_not_proven()
        return found


def rotated(key: str, *old: OldServerKey) -> KeyRotated:
    return KeyRotated("session", key, list(old))


def test_an_agent_follows_to_the_announced_key_and_stores_it() -> None:
    """The old key is kept until the time that the server says."""
    agent = Agent(FIRST)

    assert agent.keys.rotate(FIRST, rotated(SECOND, OldServerKey(FIRST, 2_000)))

    assert agent.keys.choose() == SECOND
    assert agent.stored == [(SECOND, [OldServerKey(FIRST, 2_000)])]
    assert agent.choices(3) == [SECOND, FIRST, SECOND]
    agent.now = 2_000
    assert agent.choices(3) == [SECOND, SECOND, SECOND]


def test_old_keys_are_tried_only_when_the_current_one_is_not_proven() -> None:
    """After each proof it begins with the current key again."""
    agent = Agent(SECOND, OldServerKey(FIRST, 2_000))
    assert agent.choices(2) == [SECOND, FIRST]

    agent.keys.was_proven()

    assert agent.keys.choose() == SECOND


def test_an_old_key_cannot_announce_another_one() -> None:
    """Anyone who has the leaked key would own the agent for good otherwise."""
    agent = Agent(SECOND, OldServerKey(FIRST, 2_000))

    assert not agent.keys.rotate(FIRST, rotated(STRANGE, OldServerKey(FIRST, 9_000), OldServerKey(SECOND, 9_000)))
    agent.keys.confirm(FIRST, [OldServerKey(FIRST, 9_000)])

    assert (agent.keys.current, agent.stored) == (SECOND, [])
    agent.now = 2_000
    assert agent.choices(2) == [SECOND, SECOND]


def test_the_real_server_may_answer_on_an_old_key() -> None:
    """It names the key that the agent has already; nothing changes."""
    agent = Agent(SECOND, OldServerKey(FIRST, 2_000))

    assert agent.keys.rotate(FIRST, rotated(SECOND, OldServerKey(FIRST, 2_000)))

    assert agent.stored == []


def test_a_text_that_is_no_key_is_not_accepted() -> None:
    """It would lock the agent out."""
    agent = Agent(FIRST)

    assert not any(agent.keys.rotate(FIRST, rotated(text)) for text in ("", "short", "\x00" * 40, "~" * 40))

    assert agent.keys.current == FIRST


def test_an_old_key_that_this_agent_never_used_is_not_accepted() -> None:
    """An agent that was enrolled after the rotation has no reason to trust the former key."""
    agent = Agent(SECOND)

    agent.keys.confirm(SECOND, [OldServerKey(FIRST, 2_000)])
    agent.keys.rotate(SECOND, rotated(THIRD, OldServerKey(SECOND, 3_000), OldServerKey(FIRST, 2_000)))

    assert agent.choices(3) == [THIRD, SECOND, THIRD]


def test_a_retired_key_is_dropped_with_the_next_session() -> None:
    """Long before its time, because the server does not list it any longer."""
    agent = Agent(SECOND, OldServerKey(FIRST, 2_000))

    agent.keys.confirm(SECOND, [OldServerKey(FIRST, 2_000)])
    assert agent.stored == []
    agent.keys.confirm(SECOND, [])

    assert agent.stored == [(SECOND, [])]
    assert agent.choices(2) == [SECOND, SECOND]


def test_a_full_disk_does_not_keep_an_agent_from_following() -> None:
    """The new key is used at once, and stored when a session opens."""
    agent = Agent(FIRST)
    agent.is_disk_full = True
    assert agent.keys.rotate(FIRST, rotated(SECOND, OldServerKey(FIRST, 2_000)))
    assert agent.keys.choose() == SECOND
    agent.keys.confirm(SECOND, [OldServerKey(FIRST, 2_000)])
    agent.is_disk_full = False

    agent.keys.confirm(SECOND, [OldServerKey(FIRST, 2_000)])

    assert agent.stored == [(SECOND, [OldServerKey(FIRST, 2_000)])]
