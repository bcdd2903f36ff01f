"""Tokens, roles, the `Host` header and times: parts of the API that need no server."""

from __future__ import annotations

import pytest

from waterflowd.access.events import Fact, TokenCreated, TokenRevoked
from waterflowd.access.roles import Role
from waterflowd.access.tokens import TokenRegistry, hash_secret
from waterflowd.api.access.hosts import host_name
from waterflowd.api.timestamps import timestamp

SECRET = "wf_" + "s" * 43


def created(token: str = "t1", secret: str = SECRET, **changes: object) -> TokenCreated:
    fields = {
        "at": 1,
        "by": "uid:0",
        "token": token,
        "name": "ci",
        "role": "runner",
        "secret_sha256": hash_secret(secret),
    }
    return TokenCreated(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_registry_is_the_fold_of_its_facts() -> None:
    """The same events give the same registry, and a repeated event changes nothing."""
    facts: list[Fact] = [
        created(),
        created(),
        TokenRevoked(at=5, by="uid:0", token="t1"),
        TokenRevoked(at=9, by="x", token="t1"),
    ]
    access = TokenRegistry(facts)
    assert [(token.id, token.revoked_at) for token in access.tokens()] == [("t1", 5)]


def test_a_principal_has_the_token_s_name_role_and_groups() -> None:
    """The audit trail names the token, never its secret."""
    principal = TokenRegistry([created(groups=("web",))]).principal(SECRET, 2)
    assert principal is not None
    assert (principal.name, principal.role, principal.groups) == ("ci", Role.RUNNER, ("web",))


@pytest.mark.parametrize(
    "secret", ["", "wf_", SECRET[:-1], SECRET + "x", "s" * 46, SECRET.upper(), "wf_" + "é" * 43, "wf_" + "x" * 9000]
)
def test_another_secret_has_no_principal(secret: str) -> None:
    """A principal is identified only by the exact secret."""
    assert TokenRegistry([created()]).principal(secret, 2) is None


def test_expired_and_revoked_tokens_are_invalid() -> None:
    """They are invalid from the instant of expiry on; a revocation also affects open streams."""
    access = TokenRegistry([created(expires_at=10)])
    principal = access.principal(SECRET, 9)
    assert principal is not None
    assert access.principal(SECRET, 10) is None
    access.apply(TokenRevoked(at=9, by="x", token="t1"))
    assert access.principal(SECRET, 9) is None
    assert not access.is_current(principal, 9)


def test_an_unknown_role_of_a_later_release_is_the_least_one() -> None:
    """A log that a later release wrote must not grant more than intended."""
    principal = TokenRegistry([created(role="owner")]).principal(SECRET, 2)
    assert principal is not None
    assert principal.role is Role.VIEWER


@pytest.mark.parametrize(
    ("netloc", "expected"),
    [("localhost", "localhost"), ("LOCALHOST:80", "localhost"), ("[::1]:8080", "::1"), ("[::1]", "::1"), ("a.b.:1", "a.b"),
     ("", None), ("[::1", None), ("[]:1", None), ("a:b", None), ("a/b", None), ("u@h", None), (":80", None), ("[::1]x", None)],
)  # fmt: skip
def test_a_host_is_read_without_its_port(netloc: str, expected: str | None) -> None:
    """Other forms are not a host."""
    assert host_name(netloc) == expected


@pytest.mark.parametrize(
    ("at", "expected"),
    [(0, "1970-01-01T00:00:00.000Z"), (1_700_000_000_007, "2023-11-14T22:13:20.007Z"), (1 << 62, "9999-12-31T23:59:59.999Z"),
     (-5, "1970-01-01T00:00:00.000Z"), (None, None)],
)  # fmt: skip
def test_times_are_rfc_3339_in_utc_with_milliseconds(at: int | None, expected: str | None) -> None:
    """This holds for every value, including those of a wrong clock."""
    assert timestamp(at) == expected
