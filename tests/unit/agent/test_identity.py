"""Keys, fingerprints and join tokens."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from waterflow_agent import agent, join_token, keys
from waterflow_agent.errors import Rejected, Stalled
from waterflow_agent.join_token import JoinToken

TOKEN = JoinToken(
    enroll_endpoint="tcp://[::1]:7234",
    work_endpoint="tcp://[::1]:7233",
    server_key="A" * 40,
    token_id="t1",
    secret="s" * 43,
)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_data_directory_that_cannot_be_created_is_one_clear_message(tmp_path: Path, name: str) -> None:
    """The error is WF317, with the path and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(Stalled, match=r"cannot use data-dir .*WF317"):
        agent.prepare_data_dir(tmp_path / name)


def test_key_is_created_once(tmp_path: Path) -> None:
    """It is a valid pair that only this user can read."""
    before = os.umask(0)
    try:
        first, second = keys.load_or_create(tmp_path), keys.load_or_create(tmp_path)
    finally:
        os.umask(before)

    assert first == second
    assert zmq.curve_public(first.secret.encode()) == first.public.encode()
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "keys" / "agent.key").stat().st_mode & 0o777 == 0o600


def test_secret_is_not_in_the_representation(tmp_path: Path) -> None:
    """Neither `repr` nor a log line with the pair contains the secret."""
    pair = keys.load_or_create(tmp_path)

    assert pair.secret not in repr(pair)
    assert pair.fingerprint in repr(pair)


def test_a_fingerprint_is_the_digest_of_the_key_bytes() -> None:
    """It is `SHA256:` and the unpadded base64 of the digest, as ssh-keygen prints it."""
    public, _ = zmq.curve_keypair()
    digest = base64.b64encode(hashlib.sha256(z85.decode(public)).digest()).decode().rstrip("=")

    assert keys.fingerprint(public.decode()) == f"SHA256:{digest}"
    assert len(keys.fingerprint(public.decode())) == 50


@pytest.mark.parametrize("text", ["", "a" * 39, "~" * 40, "#" * 40, "é" * 40, "a" * 45])
def test_an_invalid_key_has_no_fingerprint(text: str) -> None:
    """Anything that does not decode to 32 bytes is a ValueError."""
    with pytest.raises(ValueError, match="public key"):
        keys.fingerprint(text)


def test_damaged_key_is_reported(tmp_path: Path) -> None:
    """It is not replaced silently: the daemon knows the old one."""
    keys.load_or_create(tmp_path)
    (tmp_path / "keys" / "agent.key").write_text("{}")

    with pytest.raises(Stalled, match="damaged"):
        keys.load_or_create(tmp_path)


def test_token_round_trips_as_one_line() -> None:
    """Surrounding whitespace is ignored."""
    text = TOKEN.encode()

    assert text.startswith("wfj1.")
    assert text.isascii()
    assert text.split() == [text]
    assert join_token.decode(f"  {text}\n") == TOKEN


@given(st.text())
def test_any_text_is_a_token_or_an_error(text: str) -> None:
    """The error does not show the token."""
    with pytest.raises(Rejected) as caught:
        join_token.decode(join_token.PREFIX + text)

    assert caught.value.code == "WF230"


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_incomplete_token_is_refused(cut: int) -> None:
    """The message says that the token is damaged."""
    with pytest.raises(Rejected, match="damaged"):
        join_token.decode(TOKEN.encode()[:-cut])
