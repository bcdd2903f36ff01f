"""The file with the keys that seal payloads."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.temporal.sealing import payload_keys

FIRST, SECOND = "11" * 32, "aB" * 32


def refusal(text: str) -> str:
    with pytest.raises(Rejected) as refused:
        payload_keys.parse(text, "/etc/waterflow/payload.keys")
    assert refused.value.code == "WF622"
    return refused.value.text


def test_the_first_key_seals_and_all_are_found() -> None:
    """Empty lines and spaces around a key do not matter."""
    keys = payload_keys.parse(f"\n {FIRST} \n\n{SECOND}\n", "file")
    ids = [payload_keys.key_id(bytes.fromhex(text)) for text in (FIRST, SECOND)]
    assert (keys.sealing, keys.sealing_id) == (bytes.fromhex(FIRST), ids[0])
    assert [keys.find(identifier) for identifier in ids] == [bytes.fromhex(FIRST), bytes.fromhex(SECOND)]
    assert keys.find("0" * 16) is None


def test_an_id_reveals_nothing_of_its_key() -> None:
    """It is a hash, so it may be stored beside what the key seals; the text of the object contains ids alone."""
    identifier = payload_keys.key_id(bytes.fromhex(FIRST))
    assert len(identifier) == 16
    assert identifier not in FIRST
    assert FIRST not in repr(payload_keys.parse(FIRST, "file"))


def test_an_invalid_line_is_named_but_never_shown() -> None:
    """The line may contain most of a key."""
    damaged = FIRST[:-1] + "x"
    text = refusal(f"{SECOND}\n\n{damaged}\n")
    assert text.startswith("/etc/waterflow/payload.keys:3: expected a key of 64 hexadecimal digits")
    assert damaged not in text
    assert "openssl rand -hex 32" in text


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_a_key_is_refused(text: str) -> None:
    """The message says how to create one."""
    assert (
        refusal(text) == "/etc/waterflow/payload.keys contains no key; next: create a key with `openssl rand -hex 32`"
    )


def test_too_many_keys_are_refused() -> None:
    """The limit is in the message."""
    lines = "\n".join(f"{number:064x}" for number in range(payload_keys.KEYS_MAX + 1))
    assert "has 101 keys, the limit is 100" in refusal(lines)
    payload_keys.parse(lines.partition("\n")[2], "file")


@pytest.mark.parametrize("keys", [[], [b"short"], [bytes(32), bytes(31)]])
def test_keys_of_another_length_are_a_bug(keys: list[bytes]) -> None:
    """`parse` never makes them."""
    with pytest.raises(ValueError, match="32 bytes"):
        payload_keys.PayloadKeys(keys)
