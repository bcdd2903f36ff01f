"""The list of the server's keys: rotation, expiry and its bound."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflow_agent.wire.messages import OldServerKey
from waterflowd.dispatch.keys import ACCEPT_OLD_MS_MAX, KEYS_MAX, ServerKeyPair, ServerKeys


def pair(name: str, created_at: int, accepted_until: int = 0) -> ServerKeyPair:
    return ServerKeyPair(
        public=name * 40, secret=f"secret of {name}", created_at=created_at, accepted_until=accepted_until
    )


FIRST = ServerKeys((pair("a", 1_000),))


def test_a_rotation_accepts_the_former_key_for_the_given_time() -> None:
    """The new key comes first; the old one is announced until its time has passed, and not a moment longer."""
    rotated = FIRST.rotated(pair("b", 5_000), 100)

    assert [key.public[0] for key in rotated.pairs] == ["b", "a"]
    assert rotated.current.accepted_until == 0
    assert rotated.announced(5_099) == [OldServerKey("a" * 40, 5_100)]
    assert rotated.announced(5_100) == []


def test_each_old_key_keeps_its_own_time() -> None:
    """A later rotation neither extends nor shortens the time of an older key, and drops those that have expired."""
    rotated = FIRST.rotated(pair("b", 2_000), 10_000).rotated(pair("c", 3_000), 100)

    assert [(key.public[0], key.accepted_until) for key in rotated.pairs] == [("c", 0), ("b", 3_100), ("a", 12_000)]
    assert [key.public[0] for key in rotated.rotated(pair("d", 5_000), 1).pairs] == ["d", "c", "a"]


def test_without_a_time_the_old_key_ends_at_once() -> None:
    """As after a leak, when every agent is enrolled again."""
    assert len(FIRST.rotated(pair("b", 5_000), 0).pairs) == 1


def test_the_list_is_bounded() -> None:
    """A further rotation is refused, with what to do; nothing is dropped that agents may still need."""
    keys = FIRST
    for number in range(KEYS_MAX - 1):
        keys = keys.rotated(pair("bcd"[number], 2_000 + number), 10_000)

    with pytest.raises(Rejected, match="keys retire") as caught:
        keys.rotated(pair("x", 3_000), 10_000)

    assert caught.value.code == "WF234"
    assert len(keys.rotated(pair("x", 30_000), 10_000).pairs) == 2
    assert len(keys.retired().rotated(pair("x", 3_000), 10_000).pairs) == 2


@pytest.mark.parametrize("accept_old_ms", [-1, ACCEPT_OLD_MS_MAX + 1])
def test_the_time_is_bounded(accept_old_ms: int) -> None:
    """An old key that never ends would make the rotation useless."""
    with pytest.raises(Rejected, match="0s to 366d"):
        FIRST.rotated(pair("b", 5_000), accept_old_ms)


def test_the_secret_half_is_not_shown() -> None:
    """Neither in a repr nor in the text of an exception that contains it."""
    found = ServerKeyPair(
        public="rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        secret="D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs",
        created_at=1,
    )

    assert found.secret not in repr(ServerKeys((found,)))
